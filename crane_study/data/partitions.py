"""Partitions of one language's documents in place of languages: random thirds, and three subjects of the facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from crane_lib.files import read_json
from crane_study.data import wordings
from crane_study.data.cldr import Fact
from crane_study.data.documents import DOCUMENT_COLUMNS
from crane_study.frames import write_frame

THIRDS, SUBJECTS = "thirds", "subjects"  # kinds of partitions
COUNT = 3  # parts of a language, as many as languages in the paper
_SENTENCES = 4  # of a document about one subject


def third(language: str, number: int) -> str:
    """Name of a random third of a language's documents, as of a language; `number` is 1, 2 or 3."""
    return f"{language}-{number}"


def make_partitions(folder: Path, *, corpus: Path, random_seed: int) -> None:
    """Write documents.parquet, in which every part of a language is a language.

    There are random thirds of the held-out documents (`third`), and where documents are made of facts, new documents
    of the same sentences about one subject each, held out and for relevance (``en-currency``).
    """
    frame = pd.read_parquet(corpus / "documents.parquet")
    frame = frame[frame["split"] != "train"]
    held_out = frame[frame["split"] == "perplexity"]
    order = np.random.default_rng([random_seed, 11]).permutation
    parts = []
    for language, documents in held_out.groupby("language", sort=False):
        number = order(len(documents)) % COUNT + 1
        parts.append(documents.assign(language=[third(str(language), n) for n in number])[DOCUMENT_COLUMNS])
    documents = frame[frame["sentences"].map(len) > 0]
    if len(documents):
        facts = {row["key"]: Fact(**row) for row in read_json(corpus / "facts.json")}
        parts.append(_by_subject(documents, facts, random_seed=random_seed))
    write_frame(folder / "documents.parquet", pd.concat(parts, ignore_index=True))


def subjects(facts: Iterable[Fact]) -> list[str]:
    """Return the subjects with the most facts, as many as the parts of a language, in order of their names."""
    counts = Counter(fact.subject for fact in facts)
    return sorted(sorted(counts, key=lambda name: (-counts[name], name))[:COUNT])


def part_names(folder: Path, language: str, *, kind: str) -> list[str]:
    """Return the names of a language's random thirds (`kind` thirds) or of its subjects, as far as there are any."""
    found = pd.read_parquet(folder / "documents.parquet", columns=["language"])["language"].unique()
    parts = sorted(name.rpartition("-") for name in found)
    return [f"{own}-{part}" for own, _, part in parts if own == language and part.isdigit() == (kind == THIRDS)]


def _by_subject(documents: pd.DataFrame, facts: Mapping[str, Fact], *, random_seed: int) -> pd.DataFrame:
    """Put the sentences about each subject into documents of their own."""
    chosen, rows = subjects(facts.values()), []
    generator = np.random.default_rng([random_seed, 12])
    for (split, language), part in documents.groupby(["split", "language"], sort=False):
        keys = [key for sentences in part["sentences"] for key in sentences]
        for subject in chosen:
            own = [key for key in keys if facts[key.partition("#")[0]].subject == subject]
            own = [own[place] for place in generator.permutation(len(own))]
            for start in range(0, len(own), _SENTENCES):
                run = own[start : start + _SENTENCES]
                pairs = [(facts[key], int(wording)) for key, _mark, wording in (one.partition("#") for one in run)]
                texts = [wordings.statement(fact, str(language), wording) for fact, wording in pairs]
                text = wordings.answer_separator(str(language)).join(texts)
                rows.append((split, f"{language}-{subject}", "statements", text, run))
    return pd.DataFrame(rows, columns=DOCUMENT_COLUMNS)
