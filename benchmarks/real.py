"""Relevance and evaluation under masks with a large vocabulary, on a user's model or on random weights.

`python -m benchmarks.real --help`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from benchmarks.contest import FLOOR, OURS, Contest
from benchmarks.masks import random_masks, under
from benchmarks.measurement import Measurement, alternate, machine_facts, peak_memory, ratio, run_command, times
from benchmarks.workloads import RANDOM_SEED
from crane_lib.batches import pad_batch, rope_section, token_batches
from crane_lib.nll import document_nll
from crane_lib.relevance import stream_statistics
from crane_lib.scores import unit_means
from crane_lib.selection import normalized_contrast, select_top
from crane_study.data.corpora import token_ids
from crane_study.data.user_files import read_documents
from crane_study.loading.models import load_model
from crane_study.profile import HubSource, load_profile

PASSES, EVALUATION = "bare forward passes and loss", "NLL under masks"
MEMORY_GOAL = "<= 6000"
BUDGET = 0.01

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def random_gemma(*, layers: int = 18, vocabulary: int = 262_144) -> PreTrainedModel:
    """A model of the shape of Gemma 3 270M with random weights."""
    source = load_profile("gemma3-270m").source
    assert isinstance(source, HubSource)
    shape: dict[str, Any] = dict(source.architecture or {})
    config = AutoConfig.for_model(**{**shape, "num_hidden_layers": layers, "vocab_size": vocabulary})
    with torch.random.fork_rng():
        torch.manual_seed(RANDOM_SEED)
        return AutoModelForCausalLM.from_config(config).requires_grad_(False).eval()


def random_tokens(model: PreTrainedModel, *, count: int, length: int) -> list[np.ndarray]:
    """Documents of random tokens, of half to the whole length."""
    generator = np.random.default_rng(RANDOM_SEED)
    vocabulary = model.config.get_text_config().vocab_size
    lengths = generator.integers(length // 2, length, count, endpoint=True)
    return [generator.integers(1, vocabulary, size=size, dtype=np.int64) for size in lengths]


@torch.no_grad()
def bare_loss(model: PreTrainedModel, documents: Sequence[np.ndarray], token_budget: int) -> None:
    """Forward pass with full logits and loss, over the batches of `document_nll`."""
    lengths = [len(document) for document in documents]
    for batch in token_batches(lengths, token_budget=token_budget, section=rope_section(model)):
        tokens, mask = pad_batch([documents[index] for index in batch])
        logits = model(input_ids=tokens.to(model.device), use_cache=False).logits[:, :-1]
        torch.nn.functional.cross_entropy(logits[mask[:, 1:]].float(), tokens[:, 1:][mask[:, 1:]].to(model.device))


def measure(
    model: PreTrainedModel, documents: Sequence[np.ndarray], *, token_budget: int, masks: int, rounds: int
) -> list[Measurement]:
    """Time and memory of relevance and of evaluation under masks, each against plain passes in the same run."""
    contest = Contest(model, documents, token_budget)  # type: ignore[arg-type]
    chosen = random_masks(model, masks)
    evaluation: dict[str, Callable[[], object]] = {
        EVALUATION: under(model, chosen, lambda: document_nll(model, documents, token_budget=token_budget)),
        PASSES: under(model, chosen, lambda: bare_loss(model, documents, token_budget)),
    }
    rows = []
    for name, run in {"relevance": contest.ours, "evaluation": evaluation[EVALUATION]}.items():
        with peak_memory() as peak:
            run()
        total = (peak.own + peak.added) / 1e6
        rows.append(Measurement("real", f"peak memory of {name}, with the model", total, "MB", goal=MEMORY_GOAL))
    passes = alternate([{OURS: contest.ours, FLOOR: contest.floor}] * rounds)
    masked = alternate([evaluation] * rounds)
    tokens = sum(map(len, documents))
    rate = [tokens / seconds[OURS] for seconds in passes]
    return [
        *rows,
        *times("real", passes),
        ratio("real", passes, OURS, FLOOR, goal="<= 1"),
        Measurement("real", "relevance", float(np.median(rate)), "tokens/s", min(rate), max(rate), ">= 200"),
        *times("real", masked),
        ratio("real", masked, PASSES, EVALUATION, goal=">= 0.9"),
    ]


def contrast_sets(
    model: PreTrainedModel, texts: dict[str, list[np.ndarray]], *, token_budget: int
) -> dict[str, np.ndarray]:
    """Neurons of the relevance contrast, as numbers, for each text."""
    given: dict[str, Any] = {"token_budget": token_budget, "model_fingerprint": "any"}
    found = {name: stream_statistics(model, documents, **given) for name, documents in texts.items()}
    width = next(iter(found.values())).moments["neuron"].shape[-1]
    sets = select_top(normalized_contrast(unit_means(found, "neuron")), budget=BUDGET)
    return {
        name: np.concatenate([layer * width + one for layer, one in enumerate(chosen["neuron"])])
        for name, chosen in sets.items()
    }


def agreement(
    load: Callable[[str], PreTrainedModel], texts: dict[str, list[np.ndarray]], *, token_budget: int
) -> list[Measurement]:
    """Shared neurons of contrast sets at 1 % between two sizes of batches, and between float32 and bfloat16."""
    whole, rows = load("float32"), []
    sets = {
        "one batch size and half of it": contrast_sets(whole, texts, token_budget=token_budget // 2),
        "float32 and bfloat16": contrast_sets(load("bfloat16"), texts, token_budget=token_budget),
    }
    first = contrast_sets(whole, texts, token_budget=token_budget)
    for what, second in sets.items():
        goal = "" if "bfloat16" in what else ">= 1"
        shares = [float(np.isin(first[name], second[name]).mean()) for name in texts]
        rows.append(Measurement("real", f"sets shared, {what}", min(shares), "share", min(shares), max(shares), goal))
    return rows


@app.command()
def run(
    model: Annotated[str, typer.Argument(help="Directory or GGUF file; default: random weights.")] = "",
    texts: Annotated[list[Path], typer.Option("--texts", help="Texts of one language; at least twice for sets.")] = [],  # noqa: B006
    documents: Annotated[int, typer.Option(help="Documents, and per language for the sets.")] = 8,
    rounds: Annotated[int, typer.Option(help="How often everything is timed.")] = 3,
) -> None:
    """Time, memory and agreement of relevance and of evaluation under masks; the default is Gemma 3 270M's shape."""
    network = load_model(model, device="cpu")[0].requires_grad_(False) if model else random_gemma()
    length, budget = 128, 1024
    rows = measure(
        network, random_tokens(network, count=documents, length=length), token_budget=budget, masks=2, rounds=rounds
    )
    if model and len(texts) > 1:
        tokenizer = load_model(model, device="cpu")[1]
        corpora = {
            str(path): token_ids(read_documents(path)[:documents], tokenizer, max_length=length) for path in texts
        }
        rows += agreement(lambda dtype: load_model(model, device="cpu", dtype=dtype)[0], corpora, token_budget=budget)
    print(machine_facts().processor)
    frame = pd.DataFrame([{**vars(row), "met": "" if row.met is None else row.met} for row in rows])
    print(frame[["what", "value", "low", "high", "unit", "goal", "met"]].to_string(index=False))


if __name__ == "__main__":
    run_command(app)
