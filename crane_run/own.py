"""Commands for a model and texts of one's own, without a profile: relevance, sets, effects, methods side by side."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from crane_lib.errors import CraneError
from crane_study.data.text_choice import CorpusOptions

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from crane_lib.neurons import NeuronSet

Model = Annotated[str, typer.Option("--model", metavar="DIR", help="Hugging Face directory, or a GGUF file.")]
Corpus = Annotated[
    list[str],
    typer.Option(
        "--corpus", metavar="LANGUAGE=FILE", help="Texts of a language, or hf://OWNER/NAME; give it for each of them."
    ),
]
Dtype = Annotated[str, typer.Option("--dtype", help="float32, bfloat16, float64, or auto: as stored.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, or map: one model over all GPUs here.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Length = Annotated[int, typer.Option("--max-length", min=2, help="Texts are cut after so many tokens.")]
Budget = Annotated[int, typer.Option("--token-budget", min=1, help="Tokens of a batch, pads too.")]
OtherModel = Annotated[bool, typer.Option("--other-model", help="Use sets of another model or tokenizer, too.")]
Unit = Annotated[Literal["neuron", "head"], typer.Option("--unit", help="MLP neurons, or attention heads.")]
_SHOWN = 24  # rows of a table that a terminal is shown


def reads_texts(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every field of `CorpusOptions`, which it gets as its argument `texts`."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    options = []
    for one in fields(CorpusOptions):
        kind: Any = Annotated[type(one.default), typer.Option(rich_help_panel="Texts of --corpus", **one.metadata)]
        options.append(inspect.Parameter(one.name, keyword, default=one.default, annotation=kind))

    def called(**given: Any) -> None:
        texts = CorpusOptions(**{one.name: given.pop(one.name) for one in options})
        command(**given, texts=texts)

    called.__name__, called.__doc__ = command.__name__, command.__doc__
    own = inspect.signature(command, eval_str=True).parameters.values()
    kept = [one.replace(kind=keyword) for one in own if one.name != "texts"]
    called.__signature__ = inspect.Signature([*kept, *options])  # type: ignore[attr-defined]
    return called


def relevance_of(
    model: str, corpus: list[str], output: Path, texts: CorpusOptions, *, settings: dict[str, Any], **loading: str
) -> None:
    """Write the statistics of a model on texts to a folder; see the command `relevance`."""
    import pandas as pd

    from crane_lib.parallel import processes, rank, share
    from crane_lib.relevance.corpus import fingerprint_weights
    from crane_run.runner import alone
    from crane_study.labels import language_name
    from crane_study.own.statistics_folder import (
        PassSettings,
        check_free,
        close_folder,
        described,
        open_folder,
        revision_of,
        write_statistics,
    )
    from crane_study.progress import progress

    check_outputs(output / "statistics.json")
    reading = PassSettings(**settings)
    with processes():
        network, tokenizer, corpora, tokens = _read(model, corpus, texts, max_length=reading.max_length, **loading)
        weights = fingerprint_weights(network)
        given: dict[str, Any] = {"model": model, "weights": weights, "revision": revision_of(network)}
        about = described(**given, tokenizer=tokenizer, reading=reading, corpora=corpora)
        first = rank() == 0
        check_free(output)
        with alone(output) if first else nullcontext():
            if share(open_folder(output, about) if first else False):
                if first:
                    typer.echo(f"{output}: has these statistics already")
                return
            total = 2 * sum(len(text) for own in tokens.values() for text in own)
            with progress("Relevance (tokens)", total) if first else nullcontext() as bar:
                write_statistics(output, network, tokens, reading, progress=bar.advance if bar else lambda _done: None)
            if first:
                close_folder(output, about)
        if first:
            sizes = pd.DataFrame.from_dict(corpora, orient="index")[["documents", "tokens"]]
            sizes.insert(0, "language", [f"{key} ({language_name(key)})" for key in corpora])
            show_table(sizes, rows=len(corpora))
            documents = sum(map(len, tokens.values()))
            typer.echo(f"{output}: statistics of {documents} documents; next: crane select --statistics {output}")


def select(
    output: Annotated[Path, typer.Option("--out", metavar="FILE", help="File of neuron sets to write (.json).")],
    statistics: Annotated[
        Path | None, typer.Option("--statistics", metavar="DIR", help="Folder that crane relevance wrote.")
    ] = None,
    method: Annotated[str, typer.Option(help="A method's name, or file.py:name (default: contrast).")] = "",
    budget: Annotated[float, typer.Option(help="Share of the neurons that each set takes.")] = 0.01,
    unit: Unit = "neuron",
    scores: Annotated[
        Path | None, typer.Option("--scores", metavar="FILE", help="Also write the scores of all units (.parquet).")
    ] = None,
    scores_from: Annotated[
        Path | None, typer.Option("--scores-from", metavar="FILE", help="Choose by such scores, without statistics.")
    ] = None,
    lape: Annotated[
        Path | None, typer.Option("--lape", metavar="FILE", help="Also write the sets as LAPE does (.neuron.pth).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Select a set of neurons, or of attention heads, for every language by a method's scores.

    A method of your own is a function from `crane_lib.UnitScores` to scores: a dictionary from language to an array
    (layers, width), of which the largest are selected. The file is run, so name only files that you trust.

    Examples: crane select --statistics stats --method penalized --budget 0.01 --out sets.json;
    crane select --statistics stats --method mine.py:mine --out mine.json --scores mine.parquet;
    crane select --scores-from mine.parquet --budget 0.05 --out larger.json
    """
    from crane_lib.neurons import HEAD
    from crane_study.frames import write_frame
    from crane_study.own.named_methods import for_unit, method_of
    from crane_study.own.sets import missing_needs, select_sets, sets_of_scores, write_sets
    from crane_study.own.statistics_folder import read_units

    if (statistics is None) == (scores_from is None):
        raise CraneError("select: give --statistics, or --scores-from with scores that were written before")
    if scores is not None and scores.suffix != ".parquet":
        raise CraneError(f"--scores {scores}: scores are written as .parquet")
    check_outputs(output, scores, lape)
    table = None
    if statistics is not None:
        chosen = method_of(method or "contrast")
        for_unit(unit, [chosen])
        missing_needs(read_units(statistics, site=unit), [chosen])
        sets, table = select_sets(statistics, chosen, budget, unit=unit)
    elif scores_from is not None:
        if method or scores is not None or unit != "neuron":
            raise CraneError("--scores-from: has the scores of a method; leave --method, --unit and --scores out")
        sets = sets_of_scores(scores_from, budget)
    write_sets(output, sets)
    if scores is not None and table is not None:
        write_frame(scores, table, checksums=True)
    if lape is not None:
        from crane_study.own.exchange import write_lape_list

        write_lape_list(lape, sets)
    name = sets[0].method
    found = [{"language": item.language, "units": item.count(), "killed_neurons": item.killed()} for item in sets]
    _say(as_json, {"sets": str(output), "method": name, "budget": budget, "languages": found})
    if not as_json:
        counts = {item.language: item.count() for item in sets}
        listed = ", ".join(f"{language} {count}" for language, count in counts.items())
        if len(counts) > 8 and len(set(counts.values())) == 1:
            listed = f"{sets[0].count()} in each of {len(counts)} languages"
        kind = "heads" if HEAD in sets[0].sites else "neurons"
        typer.echo(f"{output}: {name}, {budget:.2%} of the {kind}: {listed}")


@reads_texts
def evaluate(
    texts: CorpusOptions,
    model: Model,
    sets: Annotated[Path, typer.Option("--sets", metavar="FILE", help="File of neuron sets (crane select).")],
    output: Annotated[Path, typer.Option("--out", metavar="FILE", help="Results to write: .parquet or .csv.")],
    corpus: Corpus = [],  # noqa: B006 (typer copies it)
    questions: Annotated[
        list[str], typer.Option("--questions", metavar="LANGUAGE=FILE", help="Four-way questions of a language.")
    ] = [],  # noqa: B006
    tasks: Annotated[str, typer.Option("--tasks", metavar="A,B", help="Tasks of lm-evaluation-harness, by name.")] = "",
    include_path: Annotated[
        Path | None, typer.Option("--include-path", metavar="DIR", help="Task definitions of your own (.yaml).")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="First questions of each task of --tasks (0: all).")] = 0,
    languages: Annotated[
        str, typer.Option("--languages", metavar="A,B", help="Languages of a LAPE list (.pth), in its order.")
    ] = "",
    max_length: Length = 2048,
    token_budget: Budget = 8192,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions at once.")] = 16,
    dtype: Dtype = "auto",
    device: Device = "auto",
    other_model: OtherModel = False,
    as_json: Json = False,
) -> None:
    """Mask every set and measure texts (negative log-likelihood, NLL), questions and tasks.

    Writes every document and question without a mask and under each, one row per metric, and shows the rises with
    95 % intervals over them. Use texts that took no part in the selection: other files, or the same with --skip.
    A task's metric that is no mean over questions has one row (item -1) and no interval.

    SETS is a file of crane select, a list of LAPE (.pth; it does not hold its languages, so give --languages), or
    kinit's file of selected neurons (.pt).

    Examples: crane evaluate --model M --sets sets.json --corpus en=en.jsonl --corpus sw=sw.parquet --skip 100
    --out results.parquet;  crane evaluate --model M --sets list.neuron.pth --languages en,zh,fr --corpus ...;
    crane evaluate --model M --sets sets.json --questions en=q.en.jsonl --tasks belebele_eng_Latn --out results.parquet
    """
    from crane_study.frames import write_frame
    from crane_study.own.corpus_files import named_files
    from crane_study.own.measure import effect_summary, effect_table, set_effects

    named = [name.strip() for name in tasks.split(",") if name.strip()]
    files = named_files(questions, option="--questions")
    if not (corpus or files or named):
        raise CraneError("evaluate: give what to measure: --corpus, --questions or --tasks")
    _check_table(output)
    loading = {"dtype": dtype, "device": device}
    tokens: dict[str, list[np.ndarray]] = {}
    if corpus:
        network, tokenizer, _corpora, tokens = _read(model, corpus, texts, max_length=max_length, **loading)
    else:
        network, tokenizer = _load(model, **loading)
    if sets.suffix in (".pt", ".pth"):
        from crane_study.own.exchange import read_listed

        given = read_listed(sets, network, [name.strip() for name in languages.split(",") if name.strip()])
    else:
        given = sets_of(sets, network, tokenizer, other_model=other_model)
    more = []
    if files or named:
        from crane_study.own.harness_tasks import questions_measure, tasks_measure

        asked: dict[str, Any] = {"batch_size": batch_size}
        more += [questions_measure(network, tokenizer, files, **asked)] if files else []
        more += [tasks_measure(network, tokenizer, named, folder=include_path, limit=limit, **asked)] if named else []
    found = set_effects(network, given, tokens, token_budget=token_budget, more=more)
    write_frame(output, found, checksums=True)
    table = effect_table(found)
    _say(as_json, {"results": str(output), "effects": json.loads(table.to_json(orient="records"))})
    if not as_json:
        many = len(table) > _SHOWN  # one row for each set, task and metric, then; --json has all
        shown = effect_summary(table) if many else table
        shown = shown.assign(draw=shown["draw"].where(shown["draw"] >= 0, ""))
        empty = [name for name in ("draw", "language") if name in shown and (shown[name] == "").all()]
        show_table(shown.drop(columns=empty), rows=max(_SHOWN, len(tokens)))
        told = "rise: masked less unmasked (nll: nats per token)" + ("; --json: all" if many else "")
        typer.echo(f"{output}: every document and question; {told}")


@reads_texts
def bench(
    texts: CorpusOptions,
    model: Model,
    corpus: Corpus,
    output: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the tables and the figure.")],
    method: Annotated[
        list[str], typer.Option("--method", help="A method's name or file.py:name; may be repeated (default: all).")
    ] = [],  # noqa: B006 (typer copies it)
    unit: Unit = "neuron",
    held_out: Annotated[int, typer.Option("--held-out", min=2, help="Last texts of each file, for the masks.")] = 16,
    max_length: Length = 128,
    token_budget: Budget = 2048,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Compare methods at matched damage: what a mask costs the other languages when it does its own equal harm.

    Statistics are computed on the texts but the last ones, masks of .01 to 30 % of the neurons (or heads) are measured
    on those. Writes bench.csv, summary.csv, bench.md and the figure bench.png. What is done is kept in the folder:
    started again, the same command goes on from there. Give parallel texts in the same order, if you have them.

    Example: crane bench --model M --corpus en=en.jsonl --corpus sw=sw.jsonl --method contrast --method mine.py:mine
    --out bench
    """
    from crane_lib.files import write_text
    from crane_lib.relevance.corpus import fingerprint_weights
    from crane_run.runner import alone
    from crane_study.figures.matched_damage import collateral_curves
    from crane_study.frames import write_frame
    from crane_study.own.judge import Judge
    from crane_study.own.measure import bench as run_bench
    from crane_study.own.measure import bench_masks, of_neurons
    from crane_study.own.named_methods import for_unit, methods_of
    from crane_study.own.statistics_folder import (
        PassSettings,
        check_free,
        close_folder,
        described,
        open_folder,
        read_units,
        revision_of,
        write_statistics,
    )
    from crane_study.progress import progress

    methods = methods_of(method)
    for_unit(unit, methods if method else [])
    methods = [one for one in of_neurons(methods) if unit == "neuron" or one.of_heads]
    check_outputs(output / "bench.csv")
    network, tokenizer, corpora, tokens = _read(model, corpus, texts, dtype=dtype, device=device, max_length=max_length)
    fewest = min(map(len, tokens.values()))
    if fewest < 2 * held_out:
        raise CraneError(f"--held-out {held_out}: the smallest corpus has {fewest} texts; twice as many are needed")
    reading = PassSettings(token_budget=token_budget, max_length=max_length)
    given: dict[str, Any] = {"model": model, "weights": fingerprint_weights(network), "tokenizer": tokenizer}
    given["revision"] = revision_of(network)
    about = described(**given, reading=reading, corpora=corpora) | {"held_out": held_out, "unit": unit}
    folder = output / "statistics"
    check_free(folder)
    with alone(folder):
        if not open_folder(folder, about):
            own = {language: documents[:-held_out] for language, documents in tokens.items()}
            total = 2 * sum(len(text) for documents in own.values() for text in documents)
            with progress("Relevance (tokens)", total) as bar:
                write_statistics(folder, network, own, reading, progress=bar.advance)
            close_folder(folder, about)
    units, last = (
        read_units(folder, site=unit),
        {language: documents[-held_out:] for language, documents in tokens.items()},
    )
    judge = Judge(network, last, token_budget=token_budget, kept=output / "masks", site=unit)
    with progress("Masks", bench_masks(len(methods), len(tokens))) as bar:
        found = run_bench(judge, units, methods, advance=bar.advance)
    write_frame(output / "bench.csv", found.table)
    write_frame(output / "summary.csv", found.summary)
    write_text(output / "bench.md", found.summary.to_markdown(index=False, floatfmt=".3f") + "\n")
    collateral_curves(found.responses, output / "bench", everything=found.everything)
    _say(as_json, {"folder": str(output), "summary": json.loads(found.summary.to_json(orient="records"))})
    if not as_json:
        columns = ["method", "damage", "languages", "worst", "worst_low", "worst_high"]
        at_one = found.summary[found.summary["damage"] == 1.0].sort_values("worst")
        show_table(at_one[columns])
        typer.echo(
            f"{output}: worst: rise of the worst other language (nats per token) where the masked one lost 1 nat"
        )


@reads_texts
def ablate(
    texts: CorpusOptions,
    model: Model,
    corpus: Corpus,
    output: Annotated[Path, typer.Option("--out", metavar="FILE", help="Effects to write: .parquet or .csv.")],
    sample: Annotated[int, typer.Option(min=0, help="Neurons drawn at random (0: those of --sets, or all).")] = 0,
    sets: Annotated[Path | None, typer.Option("--sets", metavar="FILE", help="Only the neurons of these sets.")] = None,
    max_length: Length = 64,
    token_budget: Budget = 4096,
    dtype: Dtype = "auto",
    device: Device = "auto",
    other_model: OtherModel = False,
) -> None:
    """Ablate neurons one by one: the ground truth that methods are meant to find.

    Each effect is the rise of the NLL per token in a language when that neuron alone is zeroed, the difference of two
    forward passes, with a 95 % interval over documents. All neurons of a large model take very long: draw some.

    Example: crane ablate --model M --corpus en=en.jsonl --corpus sw=sw.jsonl --documents 8 --sample 500
    --out effects.parquet
    """
    import numpy as np

    from crane_lib.relevance.modules import parts_of
    from crane_study.frames import write_frame
    from crane_study.own.measure import single_effects
    from crane_study.own.sets import marked_neurons
    from crane_study.progress import progress

    if sample and sets is not None:
        raise CraneError("--sample and --sets: give one of them")
    _check_table(output)
    network, tokenizer, _corpora, tokens = _read(
        model, corpus, texts, dtype=dtype, device=device, max_length=max_length
    )
    parts = parts_of(network)
    shape = len(parts.layers), parts.widths["neuron"]
    if sets is not None:
        chosen = marked_neurons(sets_of(sets, network, tokenizer, other_model=other_model), shape)
    else:
        chosen = np.ones(shape, dtype=bool)
    if sample:
        drawn = np.random.default_rng(texts.random_seed).permutation(chosen.size)[:sample]
        chosen = np.isin(np.arange(chosen.size), drawn).reshape(shape)
    with progress("Ablating single neurons", int(chosen.sum()) * sum(map(len, tokens.values()))) as bar:
        found = single_effects(network, tokens, chosen, token_budget=token_budget, advance=bar.advance)
    write_frame(output, found, checksums=True)
    largest = found.sort_values("effect", ascending=False).groupby("language", sort=False).head(3)
    show_table(largest)
    typer.echo(f"{output}: {int(chosen.sum())} neurons in {len(tokens)} languages; the three largest of each above")


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run, such as artifacts/mini.")],
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Show where a run's report is, made again if it is missing; with --open in a browser.

    Example: crane report artifacts/mini --open
    """
    import webbrowser

    from crane_run.manifest import HTML_REPORT, read_manifest
    from crane_run.report import write_reports

    page = (run / HTML_REPORT).resolve()
    if not page.is_file():
        read_manifest(run)  # refuses what is no run
        write_reports(run)
    typer.echo(str(page))
    if show and not webbrowser.open(page.as_uri()):
        raise CraneError(f"{page}: no browser could be started; open the file by hand")


def doctor(as_json: Json = False) -> None:
    """Tell what this machine has: Python, packages, processor, memory, disk, GPUs, and which profiles could run.

    Example: crane doctor
    """
    import platform
    import shutil
    import sys

    import psutil

    from crane_lib import __version__
    from crane_run.manifest import describe_commit, describe_locks, installed_version
    from crane_study import ROOT
    from crane_study.hub import cache_folder
    from crane_study.loading.gguf_files import crane_cache
    from crane_study.machine import describe_machine, granted_cores, granted_memory
    from crane_study.profile import load_profile, profile_names

    def free(path: Path) -> float:
        return shutil.disk_usage(next(one for one in (path, *path.parents) if one.exists())).free / 1e9

    machine, commit, other = describe_machine(), describe_commit(), describe_locks()["differing"]
    gpus = [f"{gpu['name']}, {gpu['memory_mib'] / 1024:.0f} GiB" for gpu in machine["gpus"]]
    memory, gpu_memory = granted_memory() / 1e9, sum(gpu["memory_mib"] for gpu in machine["gpus"]) / 954
    needs = {name: load_profile(name).needs for name in profile_names()}
    fitting = [
        name
        for name, need in needs.items()
        if need.memory_gb <= memory and need.disk_gb <= free(ROOT) and need.gpu_memory_gb <= gpu_memory
    ]
    names = ("torch", "transformers", "numpy", "lm-eval", "datasets", "huggingface-hub", "peft", "jupyterlab")
    differing = ", ".join(f"{name} {seen['installed']} (locked: {seen['locked']})" for name, seen in other.items())
    found = {
        "crane": f"{__version__}, commit {(commit['commit'] or 'unknown')[:12]}"
        + (", with uncommitted changes" if commit["uncommitted_changes"] else ""),
        "python": f"{platform.python_version()} ({sys.executable})",
        **{name: installed_version(name) or "missing" for name in names},
        "locks": f"other versions than locked: {differing}" if differing else "what is installed is as locked",
        "system": machine["system"],
        "processor": f"{machine['processor']}, {granted_cores()} cores",
        "memory": f"{psutil.virtual_memory().available / 1e9:.1f} of {memory:.1f} GB free",
        "gpu": "; ".join(gpus) + f", driver {machine['gpu_driver']}" if gpus else "none",
        "cuda": f"{machine['cuda_runtime']} in torch" if machine["cuda_runtime"] else "none, torch is for CPUs",
        **{
            name: f"{free(path):.0f} GB free in {path}"
            for name, path in (("disk", ROOT), ("cache", crane_cache()), ("hub cache", cache_folder()))
        },
        "hub": "offline (HF_HUB_OFFLINE)" if os.environ.get("HF_HUB_OFFLINE") else "as the network allows",
        "token": "HF_TOKEN is set" if os.environ.get("HF_TOKEN") else "HF_TOKEN is not set (gated models need one)",
        "profiles": ", ".join(fitting) + " (by memory, disk and GPU)",
        "not here": ", ".join(name for name in needs if name not in fitting) or "none",
    }
    _say(as_json, found)
    if not as_json:
        width = max(map(len, found))
        typer.echo("\n".join(f"{name:<{width}}  {value}" for name, value in found.items()))
        typer.echo(
            "crane preflight --profile NAME says what a profile lacks here; crane relevance --model M --corpus ... "
            "needs no profile."
        )


def _read(
    model: str, corpus: list[str], texts: CorpusOptions, *, max_length: int, **loading: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any], dict[str, list[np.ndarray]]]:
    """Read texts and load a model: model, tokenizer, facts about the texts and token ids by language."""
    from crane_lib.parallel import rank, share
    from crane_study.own.corpus_files import encoded, named_sources, read_corpora, remarks

    sources = named_sources(corpus)
    if len(sources) < 2:
        raise CraneError("--corpus: two languages or more are compared; give --corpus LANGUAGE=FILE for each")
    corpora = share(read_corpora(sources, texts) if rank() == 0 else None)  # the same in every process
    for line in remarks(corpora) if rank() == 0 else []:
        typer.echo(line, err=True)
    network, tokenizer = _load(model, **loading)
    tokens = encoded(corpora, tokenizer, max_length=max_length)
    return network, tokenizer, {language: one.facts(tokens[language]) for language, one in corpora.items()}, tokens


def _load(model: str, **loading: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from crane_study.loading.models import load_model
    from crane_study.progress import SOON, progress

    with progress(f"Loading {model}", delay=SOON):
        return load_model(model, **loading)


def sets_of(
    path: Path, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, other_model: bool
) -> list[NeuronSet]:
    """Read the sets of a file, which must be of this model and tokenizer, unless others are asked for, and fit it."""
    from crane_lib.relevance.corpus import fingerprint_weights
    from crane_study.own.sets import sets_for
    from crane_study.own.statistics_folder import revision_of, tokenizer_hash

    given: dict[str, Any] = {
        "tokenizer": tokenizer_hash(tokenizer),
        "revision": revision_of(network),
        "other_model": other_model,
    }
    found = sets_for(path, weights=fingerprint_weights(network), **given)
    for item in found:
        item.check(network, source=str(path))
    return found


def check_outputs(*paths: Path | None) -> None:
    """Refuse files that cannot be written, before the work of hours: folders, and files below a file."""
    for path in filter(None, paths):
        place = next(folder for folder in path.absolute().parents if folder.exists())
        if path.is_dir() or not place.is_dir() or not os.access(place, os.W_OK):
            why = "is a folder" if path.is_dir() else f"{place} is no folder that can be written to"
            raise CraneError(f"{path}: cannot be written ({why}); name another file")


def _check_table(path: Path) -> None:
    if path.suffix not in (".parquet", ".csv"):
        raise CraneError(f"--out {path}: give a name that ends in .parquet or .csv")
    check_outputs(path)


def _say(as_json: bool, value: dict[str, Any]) -> None:
    if as_json:
        typer.echo(json.dumps(value, ensure_ascii=False))


def show_table(table: pd.DataFrame, *, rows: int = _SHOWN, digits: int = 3) -> None:
    """Print the first rows of a table."""
    shown = table.head(rows).to_string(index=False, float_format=lambda value: f"{value:.{digits}f}", na_rep="-")
    typer.echo(shown + (f"\n... {len(table) - rows} rows more" if len(table) > rows else ""))


COMMANDS = (select, evaluate, bench, ablate, report, doctor)
