"""Relevance through the command for one's own model, against the calls of the library in it, in processor time."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import typer
from transformers import LlamaConfig, LlamaForCausalLM

from crane_lib import relevance
from crane_run.cli import app as crane
from crane_study.steps import activations
from crane_study.training import train_tokenizer


@contextmanager
def _clock(module: ModuleType, name: str) -> Iterator[list[float]]:
    """Seconds of processor time of every call of a function of a module."""
    real, found = getattr(module, name), []

    def timed(*given: Any, **named: Any) -> Any:
        started = time.process_time()
        result = real(*given, **named)
        found.append(time.process_time() - started)
        return result

    with patch.object(module, name, timed):
        yield found


def main(
    documents: Annotated[int, typer.Option(min=8, help="Of both languages together.")] = 400,
    hidden: Annotated[int, typer.Option(min=16, help="Width of the model.")] = 384,
    layers: Annotated[int, typer.Option(min=1, help="Layers of the model.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Of which the median is taken.")] = 3,
) -> None:
    """Print the ratio of the two, less what the command does once: start, and activations of 64 documents each."""
    generator = np.random.default_rng(0)
    words = ["".join(generator.choice(list("abcdefghijklmnop"), size=5)) for _ in range(500)]
    texts = {key: [" ".join(generator.choice(words, size=25)) for _ in range(documents // 2)] for key in ("one", "two")}
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = train_tokenizer([text for own in texts.values() for text in own], vocabulary=1000, max_length=256)
        sizes: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": len(tokenizer)}
        sizes |= {"hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers}
        config = LlamaConfig(**sizes)
        LlamaForCausalLM(config).save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        for key, own in texts.items():
            lines = "".join(json.dumps({"text": text}) + "\n" for text in own)
            (folder / f"{key}.jsonl").write_text(lines, encoding="utf-8")
        named = [part for key in texts for part in ("--corpus", f"{key}={folder / key}.jsonl")]
        of_all = ["relevance", "--model", str(folder / "model"), *named, "--device", "cpu"]

        def command(place: str, *more: str) -> float:
            started = time.process_time()
            crane([*of_all, *more, "--out", str(folder / place)], standalone_mode=False)
            return time.process_time() - started

        command("first", "--documents", "4")  # imports
        for number in range(rounds):
            start = command(f"start{number}", "--documents", "4")
            with _clock(relevance, "stream_statistics") as calls, _clock(activations, "document_activations") as kept:
                whole = command(f"all{number}")
            library, once = sum(calls), start + sum(kept)
            ratios.append((whole - once) / library)
            print(
                f"command {whole:.2f} s; its calls of the library {library:.2f} s; start and activations {once:.2f} s"
            )
    print(f"ratio of the command, less start and activations: {np.median(ratios):.3f} (goal: at most 1.05)")


if __name__ == "__main__":
    typer.run(main)
