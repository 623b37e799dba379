"""Stage: documents and questions from a user's own files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.evaluation.nlu import read_questions
from crane_lib.files import write_frame, write_text


def read_documents(path: Path) -> list[str]:
    """Documents of a text file (parted by blank lines) or of a JSON-lines file (field ``text``).

    Raises
    ------
    CraneError : no such file, not UTF-8, a line without text, or no document at all
    """
    if not path.is_file():
        raise CraneError(f"corpus {path}: no such file")
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CraneError(f"corpus {path}: is not UTF-8 (byte {error.start}); convert it first") from error
    if path.suffix == ".jsonl":
        texts = []
        # Not splitlines(), which also parts a text at the line separators of Unicode.
        for number, line in enumerate(content.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                texts.append(json.loads(line)["text"].strip())
            except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
                raise CraneError(f"corpus {path}: line {number} is not an object with a field 'text'") from error
    else:
        texts = [part.strip() for part in re.split(r"\n[^\S\n]*\n", content.replace("\r\n", "\n"))]
    texts = [text for text in texts if text]
    if not texts:
        raise CraneError(f"corpus {path}: holds no text")
    return texts


def make_local_corpus(
    folder: Path,
    *,
    texts: Mapping[str, str],
    questions: Mapping[str, str] | None,
    relevance_documents: int,
    perplexity_documents: int,
    random_seed: int,
) -> None:
    """Write documents.parquet, relevance and perplexity documents drawn disjoint, and questions.*.jsonl if given.

    A text that occurs twice in a file counts once, so that no document stands in both splits.
    """
    rows = []
    for number, (language, path) in enumerate(sorted(texts.items())):
        documents = list(dict.fromkeys(read_documents(Path(path))))
        if len(documents) < 8:
            raise CraneError(f"corpus {path}: has {len(documents)} different documents; the statistics need 8 or more")
        held_out = min(perplexity_documents, len(documents) // 2)
        order = np.random.default_rng([random_seed, number]).permutation(len(documents))
        splits = {"perplexity": order[:held_out], "relevance": order[held_out:][:relevance_documents]}
        for split, chosen in splits.items():
            rows += [
                {"split": split, "language": language, "kind": "text", "text": documents[i], "sentences": []}
                for i in chosen
            ]
    write_frame(folder / "documents.parquet", pd.DataFrame(rows))
    for language, path in (questions or {}).items():
        frame = read_questions(Path(path))
        lines = (json.dumps(row, ensure_ascii=False) for row in frame.to_dict("records"))
        write_text(folder / f"questions.{language}.jsonl", "\n".join(lines) + "\n")
