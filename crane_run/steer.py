"""The command `steer`: answers of a model that is steered towards a language, and the vectors for other tools."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crane_lib.errors import CraneError
from crane_run.own import Device, Dtype, Json, Length, Model, OtherModel, check_outputs, sets_of
from crane_study.data.text_choice import CorpusOptions

if TYPE_CHECKING:
    from crane_lib.neurons import NeuronSet

_SHOWN = 300  # characters of an answer on the terminal


def steer(
    model: Model,
    language: Annotated[str, typer.Option(help="Language to steer towards.")],
    sets: Annotated[
        Path | None,
        typer.Option("--sets", metavar="FILE", help="Neuron sets (crane select); without: difference of means."),
    ] = None,
    corpus: Annotated[
        list[str], typer.Option("--corpus", metavar="LANGUAGE=FILE", help="Texts, of which means are taken.")
    ] = [],  # noqa: B006 (typer copies it)
    prompt: Annotated[list[str], typer.Option("--prompt", help="A prompt; may be repeated.")] = [],  # noqa: B006
    prompts: Annotated[Path | None, typer.Option("--prompts", metavar="FILE", help="One per line, or .jsonl.")] = None,
    strength: Annotated[
        list[float], typer.Option("--strength", help="May be repeated. With --sets alone: the factor.")
    ] = [],  # noqa: B006
    layer: Annotated[
        int | None, typer.Option("--layer", help="Of the difference of means, from 0 (default: the middle one).")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask prompts in the chat template.")] = False,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Of an answer.")] = 40,
    output: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Answers to write (.jsonl).")] = None,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help="Vectors to write: .pt, .safetensors or .gguf.")
    ] = None,
    documents: Annotated[
        int, typer.Option("--documents", metavar="N", min=0, help="First N texts of each language (0: all).")
    ] = 64,
    max_length: Length = 128,
    dtype: Dtype = "auto",
    device: Device = "auto",
    other_model: OtherModel = False,
    as_json: Json = False,
) -> None:
    """Steer a model towards a language, and show its answers without steering and at every strength.

    Three ways: --sets alone multiplies the activations of the set; --sets and --corpus of the language add multiples of
    their mean on its texts; --corpus of two languages or more, without --sets, adds the difference of means to the
    output of one layer. Prompts are continued greedily.

    --export writes the vectors at one --strength: .pt for lm-eval (--model steered), the same as .safetensors, or
    .gguf, a control vector of llama.cpp, which cannot steer layer 0. Factors are no vectors: crane mask --as ia3 --gain
    writes those.

    Examples: crane steer --model M --sets sets.json --language vi --corpus vi=vi.jsonl --prompt "The river"
    --strength 1 --strength 2;  crane steer --model M --corpus en=en.jsonl --corpus vi=vi.jsonl --language vi
    --prompts prompts.txt --out answers.jsonl;  crane steer --model M --sets sets.json --language vi
    --corpus vi=vi.jsonl --strength 2 --export steer.pt
    """
    strengths = list(strength) or ([2.0, 5.0] if sets is not None and not corpus else [1.0, 2.0])
    _check_call(sets, corpus, strengths, export, bool(prompt) or prompts is not None)
    from crane_study.data.user_files import read_open_questions
    from crane_study.loading.models import load_model
    from crane_study.own.corpus_files import encoded, named_sources, read_corpora
    from crane_study.own.steerers import steer_difference, steer_set, steered_answers
    from crane_study.progress import SOON, progress

    check_outputs(output, export)
    sources = named_sources(corpus)
    if sources and language not in sources:
        raise CraneError(f"--language {language!r}: no --corpus has its texts; there are {', '.join(sources)}")
    read = sources if sets is None else {k: source for k, source in sources.items() if k == language}
    texts = read_corpora(read, CorpusOptions(documents=documents))
    asked = [*prompt, *(read_open_questions({language: prompts})["text"] if prompts is not None else [])]
    with progress(f"Loading {model}", delay=SOON):
        network, tokenizer = load_model(model, device=device, dtype=dtype)
    if chat and tokenizer.chat_template is None:
        raise CraneError(f"--chat: {model} has no chat template; leave it out")
    tokens = encoded(texts, tokenizer, max_length=max_length)
    with progress("Mean activations", None, delay=SOON):
        if sets is not None:
            chosen = _of_language(sets_of(sets, network, tokenizer, other_model=other_model), language, sets)
            steerer = steer_set(network, chosen, tokens.get(language, []))
        else:
            steerer = steer_difference(network, tokens, language=language, layer=layer)
    said: dict[str, Any] = {"language": language, "by": steerer.kind}
    if asked:
        with progress("Answers", 1 + len(strengths), delay=SOON) as bar:
            given: dict[str, Any] = {"max_new_tokens": max_new_tokens, "chat": chat, "advance": bar.advance}
            found = steered_answers(network, tokenizer, asked, steerer, strengths, **given)
        rows = [
            {**row, "strength": None if math.isnan(row["strength"]) else row["strength"], **said}
            for row in found.to_dict("records")
        ]
        _tell(rows, output, as_json=as_json)
    if export is not None:
        from crane_study.own.exchange import write_vectors

        of_neurons = sets is not None
        lacks = write_vectors(export, network, steerer.vectors, strength=strengths[0], of_neurons=of_neurons)
        note = f"; {lacks}" if lacks else ""
        typer.echo(f"{export}: {steerer.kind}, strength {strengths[0]:g}, towards {language}{note}", err=as_json)


def _check_call(sets: Path | None, corpus: list[str], strengths: list[float], export: Path | None, asked: bool) -> None:
    """Refuse calls that say too little or too much, before the model is loaded."""
    if sets is None and len(corpus) < 2:
        raise CraneError("steer: give --sets FILE, or --corpus LANGUAGE=FILE for two languages or more")
    if not asked and export is None:
        raise CraneError("steer: give --prompt TEXT, --prompts FILE or --export FILE")
    if strange := [value for value in strengths if not math.isfinite(value)]:
        raise CraneError(f"--strength {strange[0]}: expected a finite number")
    if export is not None and sets is not None and not corpus:
        raise CraneError(
            "--export: a factor is no vector; give --corpus of the language, or use crane mask --as ia3 --gain"
        )
    if export is not None and len(strengths) != 1:
        raise CraneError(f"--export: is for one --strength, there are {len(strengths)}")
    if export is not None and export.suffix not in (".pt", ".safetensors", ".gguf"):
        raise CraneError(
            f"--export {export}: expected a name that ends in .pt (lm-eval), .safetensors or .gguf (llama.cpp)"
        )


def _of_language(found: Sequence[NeuronSet], language: str, path: Path) -> NeuronSet:
    """Set of a language among those of a file."""
    chosen = [item for item in found if item.language == language]
    if len(chosen) != 1:
        known = ", ".join(sorted({item.language for item in found}))
        raise CraneError(f"{path}: has {len(chosen)} sets of {language!r}, one is expected; its languages are {known}")
    return chosen[0]


def _tell(rows: list[dict[str, Any]], output: Path | None, *, as_json: bool) -> None:
    """Print answers, and write them as JSON lines."""
    if output is not None:
        from crane_lib.files import write_text

        write_text(output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    if as_json:
        typer.echo(json.dumps({"answers": rows}, ensure_ascii=False))
        return
    for text in dict.fromkeys(row["prompt"] for row in rows):
        typer.echo(f"\n{text}")
        for row in (row for row in rows if row["prompt"] == text):
            name = "not steered" if row["strength"] is None else f"strength {row['strength']:g}"
            typer.echo(f"  {name:<12}  {' '.join(row['answer'].split())[:_SHOWN] or '(empty)'}")
    if output is not None:
        typer.echo(f"\n{output}: {len(rows)} answers")
