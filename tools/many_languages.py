"""Rehearse the commands for one's own model with many languages, on texts and a random model that need no network.

The documents are names of countries and languages from the CLDR, the same random draw in every language; the model
learns them in some seconds. What the run shows is whether the commands work and can be read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from babel import Locale
from transformers import LlamaConfig, LlamaForCausalLM

from crane_run.cli import app as crane
from crane_study.progress import seconds_text
from crane_study.training import train_tokenizer

# As FLORES writes them, in the order of their speakers on the web, roughly.
CODES = (
    *("eng_Latn", "rus_Cyrl", "zho_Hans", "deu_Latn", "spa_Latn", "fra_Latn", "jpn_Jpan", "ita_Latn", "por_Latn"),
    *("pol_Latn", "nld_Latn", "ind_Latn", "tur_Latn", "ces_Latn", "vie_Latn", "kor_Hang", "pes_Arab", "arb_Arab"),
    *("ell_Grek", "hun_Latn", "swe_Latn", "ron_Latn", "ukr_Cyrl", "dan_Latn", "tha_Thai", "fin_Latn", "bul_Cyrl"),
    *("hin_Deva", "ben_Beng", "swh_Latn", "tam_Taml", "amh_Ethi"),
)
_STEPS = 120  # of training
_DOCUMENTS = 32  # of a step


def write_texts(folder: Path, codes: Sequence[str], *, documents: int, names: int) -> dict[str, list[str]]:
    """Write parallel documents in every language, and return them."""
    from langcodes import Language

    tables = {}
    for code in codes:
        locale = Locale.parse(str(Language.get(code.replace("_", "-")).prefer_macrolanguage().language))
        tables[code] = {**locale.territories, **locale.languages}
    shared = sorted(set.intersection(*map(set, tables.values())))
    generator = np.random.default_rng(0)
    drawn = [generator.choice(shared, size=names, replace=False) for _ in range(documents)]
    found = {code: [", ".join(table[key] for key in keys) + "." for keys in drawn] for code, table in tables.items()}
    for code, texts in found.items():
        lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        (folder / f"{code}.jsonl").write_text(lines, encoding="utf-8")
    return found


def write_model(folder: Path, texts: dict[str, list[str]]) -> None:
    """Write a Llama of two layers that has seen the texts, with a tokenizer of them."""
    tokenizer = train_tokenizer([text for own in texts.values() for text in own], vocabulary=4000, max_length=256)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2}
    ids: dict[str, Any] = {
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        "num_attention_heads": 2,
        "vocab_size": len(tokenizer),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                **sizes,
                **ids,
                max_position_embeddings=256,
            )
        )
        adam = torch.optim.AdamW(model.parameters(), lr=0.01)
        everything = [text for own in texts.values() for text in own]
        for _step in range(_STEPS):
            some = [everything[number] for number in torch.randint(len(everything), (_DOCUMENTS,))]
            given = tokenizer(some, padding=True, truncation=True, max_length=96, return_tensors="pt")
            seen, mask = given["input_ids"], given["attention_mask"]
            loss = model(input_ids=seen, attention_mask=mask, labels=seen.where(mask.bool(), -100)).loss
            adam.zero_grad()
            loss.backward()
            adam.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(
    folder: Annotated[Path, typer.Argument(help="New folder for texts, model and results.")],
    languages: Annotated[int, typer.Option(min=2, max=32, help="Number of languages.")] = 32,
    documents: Annotated[int, typer.Option(min=8, help="Documents of each language.")] = 16,
    names: Annotated[int, typer.Option(min=2, help="Names in each document.")] = 8,
    methods: Annotated[str, typer.Option(help="Methods that bench compares.")] = "contrast,lape",
) -> None:
    """Write texts and a model, then call relevance, select, evaluate and bench on them."""
    if folder.exists():
        raise SystemExit(f"error: {folder}: is there already; name a new folder")
    folder.mkdir(parents=True)
    write_model(folder / "model", write_texts(folder, CODES[:languages], documents=documents, names=names))
    named = [part for code in CODES[:languages] for part in ("--corpus", f"{code}={folder / code}.jsonl")]
    of_model, half = ["--model", str(folder / "model"), *named, "--max-length", "96"], str(documents // 2)
    stats, sets = str(folder / "stats"), str(folder / "sets.json")
    compared = [part for method in methods.split(",") for part in ("--method", method)]
    for command in (
        ["relevance", *of_model, "--documents", half, "--out", stats],
        ["select", "--statistics", stats, "--out", sets],
        ["evaluate", *of_model, "--sets", sets, "--skip", half, "--out", str(folder / "effects.parquet")],
        ["bench", *of_model, *compared, "--held-out", str(documents // 4), "--out", str(folder / "bench")],
    ):
        started = time.monotonic()
        typer.echo(f"\n$ crane {command[0]} ...")
        crane(command, standalone_mode=False)
        typer.echo(f"crane {command[0]}: {seconds_text(time.monotonic() - started)}")


if __name__ == "__main__":
    typer.run(main)
