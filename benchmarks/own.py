"""Relevance through the command for one's own model, against the library's calls alone, in processor time."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from transformers import LlamaConfig, LlamaForCausalLM

from crane_lib.models import load_model
from crane_lib.relevance import fingerprint_weights, stream_statistics
from crane_run.cli import app as crane
from crane_study.data.corpora import token_ids
from crane_study.training import train_tokenizer


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main(
    documents: Annotated[int, typer.Option(min=8, help="Of both languages together.")] = 400,
    hidden: Annotated[int, typer.Option(min=16, help="Width of the model.")] = 384,
    layers: Annotated[int, typer.Option(min=1, help="Layers of the model.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Both, in turns.")] = 3,
) -> None:
    """Print the ratio of the two, and what the command does once: read, hash, and activations of 64 documents each."""
    generator = np.random.default_rng(0)
    words = ["".join(generator.choice(list("abcdefghijklmnop"), size=5)) for _ in range(500)]
    texts = {key: [" ".join(generator.choice(words, size=25)) for _ in range(documents // 2)] for key in ("one", "two")}
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = train_tokenizer([text for own in texts.values() for text in own], vocabulary=1000, max_length=256)
        config = LlamaConfig(hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers)
        config.update({"num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": len(tokenizer)})
        LlamaForCausalLM(config).save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        for key, own in texts.items():
            lines = "".join(json.dumps({"text": text}) + "\n" for text in own)
            (folder / f"{key}.jsonl").write_text(lines, encoding="utf-8")
        model, tokenizer = load_model(folder / "model", device="cpu", dtype="float32")
        tokens = {key: token_ids(own, tokenizer, max_length=2048) for key, own in texts.items()}
        print(f"{sum(map(torch.numel, model.parameters())) / 1e6:.1f} million parameters, {documents} documents")

        def library() -> None:
            fingerprint = fingerprint_weights(model)
            for own in tokens.values():
                for rule in ("attnlrp", "gradient"):
                    stream_statistics(model, own, rule=rule, model_fingerprint=fingerprint)

        named = [part for key in texts for part in ("--corpus", f"{key}={folder / key}.jsonl")]
        of_all = ["relevance", "--model", str(folder / "model"), *named, "--device", "cpu"]

        def command(place: str, *more: str) -> None:
            crane([*of_all, *more, "--out", str(folder / place)], standalone_mode=False)

        command("first", "--documents", "4")  # imports
        for number in range(rounds):
            start = _seconds(lambda number=number: command(f"start{number}", "--documents", "4"))
            ours, alone = _seconds(lambda number=number: command(f"all{number}")), _seconds(library)
            ratios.append((ours - start) / alone)
            print(f"command {ours:.1f} s, of four documents {start:.1f} s; library {alone:.1f} s: {ratios[-1]:.3f}")
    print(f"ratio of the command, less its start: {np.median(ratios):.3f} (goal: at most 1.05)")


if __name__ == "__main__":
    typer.run(main)
