"""Stage: the embedded study's facts, documents, questions and conversations."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from crane_lib.errors import CraneError
from crane_lib.files import fingerprint, write_json, write_text
from crane_lib.parallel import rank
from crane_study.data import wordings
from crane_study.data.cldr import LANGUAGES, Fact, FactReport, collect_facts
from crane_study.data.documents import make_conversations, write_conversations, write_documents
from crane_study.data.questions import (
    Question,
    answer_frequency,
    expected_accuracy,
    form_questions,
    longest,
    overlap,
    shortest,
)
from crane_study.frames import write_frame
from crane_study.hub import naming_mistakes
from crane_study.measure.questions import read_questions
from crane_study.profile import Knowledge
from crane_study.progress import progress


def _guesser_rows(facts: list[Fact], questions: dict[str, list[Question]], held_out: set[str]) -> pd.DataFrame:
    """Expected accuracy of every guesser in every language; the frequency guesser has seen the training questions."""
    rows = []
    for language, asked in questions.items():
        answers = [wordings.answer(fact, language) for fact in facts if fact.key not in held_out]
        guessers = {
            "overlap": overlap,
            "answer_frequency": answer_frequency(answers),
            "longest": longest,
            "shortest": shortest,
        }
        rows += [(language, name, expected_accuracy(asked, guesser), len(asked)) for name, guesser in guessers.items()]
    return pd.DataFrame(rows, columns=["language", "guesser", "accuracy", "n"])


def _count_rows(reports: list[FactReport], questions: list[Question]) -> pd.DataFrame:
    """How many facts of each subject CLDR states, cannot name in a language, and were kept, and asked about."""
    asked = Counter(question.subject for question in questions)
    return pd.DataFrame(
        {
            "subject": report.subject,
            "stated": report.stated,
            **{f"unnamed_{language}": report.unnamed.get(language, 0) for language in LANGUAGES},
            "kept": report.kept,
            "questions": asked[report.subject],
        }
        for report in reports
    )


def make_embedded_corpus(folder: Path, *, knowledge: dict[str, Any], random_seed: int) -> None:
    """Write facts.json, fact_counts.csv, documents.parquet, conversations.jsonl, questions.*.jsonl, guessers.csv."""
    options = Knowledge(**knowledge)
    facts, reports = collect_facts(
        per_subject=options.facts_per_subject, per_answer=options.facts_per_answer, random_seed=random_seed
    )
    questions = form_questions(facts, groups_per_subject=options.question_groups_per_subject, random_seed=random_seed)
    held_out = {question.key for question in questions[LANGUAGES[0]]}
    documents = write_documents(
        facts,
        held_out=held_out,
        train_passes={str(language): count for language, count in options.train_passes.items()},
        relevance_passes=options.relevance_passes,
        random_seed=random_seed,
    )
    conversations = make_conversations(facts, held_out=held_out, passes=options.chat_passes, random_seed=random_seed)
    write_json(folder / "facts.json", [asdict(fact) for fact in facts])
    write_frame(folder / "documents.parquet", documents)
    write_conversations(folder / "conversations.jsonl", conversations)
    for language, asked in questions.items():
        lines = (json.dumps(question.to_row(), ensure_ascii=False) for question in asked)
        write_text(folder / f"questions.{language}.jsonl", "\n".join(lines) + "\n")
    write_frame(folder / "guessers.csv", _guesser_rows(facts, questions, held_out))
    write_frame(folder / "fact_counts.csv", _count_rows(reports, questions[LANGUAGES[0]]))


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


_FEWEST = 8  # documents the statistics need
COLUMNS = ["place", "text"]


def open_stream(text: Mapping[str, Any]) -> Any:
    """The data set of a language as a stream; nothing but its list of files is fetched yet.

    Raises
    ------
    CraneError : it cannot be had, or has no such configuration or split
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    name, config = text["dataset"], text["config"]
    try:
        with naming_mistakes(f"dataset {name}", text["revision"]):
            return load_dataset(name, config, split=text["split"], revision=text["revision"], streaming=True)
    except DatasetNotFoundError as error:
        if "gated" in str(error):
            raise CraneError(
                f"dataset {name}: is gated; accept its terms on https://huggingface.co/datasets/{name} and log in (hf "
                "auth login, or the variable HF_TOKEN)"
            ) from error
        raise CraneError(
            f"dataset {name}: is not on the hub, or not to be seen without a token (hf auth login, HF_TOKEN); check "
            "its name"
        ) from error
    except (ValueError, FileNotFoundError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CraneError(
            f"dataset {name}: has no config {config!r} with a split {text['split']!r} ({reason})"
        ) from error


def sample_shard(
    rows: Iterator[Mapping[str, Any]], count: int, *, name: str, field: str, window: int, random_seed: list[int]
) -> pd.DataFrame:
    """Documents of one shard, each of the first `window` (0: of all) with the same chance (reservoir sampling).

    Returns
    -------
    frame of place (row in the shard) and text, in the shard's order

    Raises
    ------
    CraneError : the rows have no such field, or it is no text
    """
    generator = np.random.default_rng(random_seed)
    kept: list[tuple[int, str]] = []
    seen = 0
    for place, row in enumerate(rows):
        if window and place >= window:
            break
        if field not in row:
            raise CraneError(f"dataset {name}: has no field {field!r}; seen {', '.join(map(str, row))}")
        value = row[field]
        if not (value is None or isinstance(value, str)):
            raise CraneError(f"dataset {name}: field {field!r} holds no text but {type(value).__name__}; name another")
        text = (value or "").strip()
        if not text:
            continue
        seen += 1
        if len(kept) < count:
            kept.append((place, text))
        elif (slot := int(generator.integers(seen))) < count:
            kept[slot] = (place, text)
    return pd.DataFrame(sorted(kept), columns=COLUMNS)


def sample_stream(
    stream: Any, count: int, *, name: str, field: str, sampling: Mapping[str, Any], scratch: Path | None
) -> pd.DataFrame:
    """`count` different documents of a stream, drawn as `crane_study.profile.Sampling` says.

    Each shard's share is kept in `scratch` as soon as it is drawn, so that an interrupted sampling goes on from there.

    Returns
    -------
    frame of shard, place and text, in a random order
    """
    seed, total = sampling["random_seed"], stream.num_shards
    order = np.random.default_rng(seed).permutation(total)
    first = min(sampling["shards"], total)
    share = -(-count // first)
    parts: list[pd.DataFrame] = []
    found = 0
    with progress(f"Sampling {name}", count) as bar:
        # More shards than asked for only where texts were empty or stood there twice.
        for number, shard in enumerate(map(int, order)):
            if found >= count:
                break
            file = scratch / f"{shard:05d}.parquet" if scratch is not None else None
            if file is not None and file.is_file():
                drawn = pd.read_parquet(file)
            else:
                with naming_mistakes(f"dataset {name}", ""):
                    drawn = sample_shard(
                        iter(stream.shard(num_shards=total, index=shard)),
                        share,
                        name=name,
                        field=field,
                        window=sampling["window"],
                        random_seed=[seed, shard],
                    )
                if file is not None:
                    write_frame(file, drawn)
            parts.append(drawn.assign(shard=shard))
            if number + 1 >= first:
                found = pd.concat(parts)["text"].nunique()
            bar.advance(len(drawn))
    documents = pd.concat(parts, ignore_index=True).drop_duplicates("text", ignore_index=True)
    return documents.sample(frac=1, random_state=seed).head(count).reset_index(drop=True)


def _documents(text: Mapping[str, Any], count: int, *, sampling: Mapping[str, Any], scratch: Path) -> pd.DataFrame:
    """Documents of a language with their ids: where each of them comes from."""
    if text["file"] is not None:
        texts = list(dict.fromkeys(read_documents(Path(text["file"]))))
        order = np.random.default_rng(sampling["random_seed"]).permutation(len(texts))[:count]
        name = Path(text["file"]).name
        return pd.DataFrame({"text": [texts[i] for i in order], "id": [f"{name}#{i}" for i in order]})
    name = text["dataset"]
    folder = scratch / fingerprint({"text": dict(text), "count": count, "sampling": dict(sampling)})
    found = sample_stream(open_stream(text), count, name=name, field=text["field"], sampling=sampling, scratch=folder)
    label = "/".join(filter(None, [name, text["config"], text["split"]]))
    ids = [f"{label}#{shard}:{place}" for shard, place in zip(found["shard"], found["place"], strict=True)]
    return found[["text"]].assign(id=ids)


def make_hub_corpus(
    folder: Path,
    *,
    scratch: Path,
    texts: Mapping[str, Mapping[str, Any]],
    relevance_documents: int,
    perplexity_documents: int,
    sampling: Mapping[str, Any],
) -> None:
    """Write documents.parquet (with the place and hash of every document) and sample.json."""
    if rank() != 0:  # where several processes were started the first one draws
        return
    frames, about = [], {}
    for language, text in sorted(texts.items()):
        documents = _documents(text, relevance_documents + perplexity_documents, sampling=sampling, scratch=scratch)
        source = text["file"] or text["dataset"]
        if len(documents) < _FEWEST:
            raise CraneError(
                f"corpus {source}: has {len(documents)} different documents; the statistics need {_FEWEST} or more"
            )
        held_out = min(perplexity_documents, len(documents) // 2)
        split = ["perplexity"] * held_out + ["relevance"] * (len(documents) - held_out)
        hashes = [hashlib.sha256(document.encode()).hexdigest() for document in documents["text"]]
        frames.append(
            documents.assign(split=split, language=language, kind="text", sentences=[[] for _ in split], sha256=hashes)
        )
        about[language] = {
            "source": str(source),
            **{name: text[name] for name in ("config", "split", "field", "revision") if text["dataset"]},
            "documents": len(documents),
            "sha256": hashlib.sha256("".join(hashes).encode()).hexdigest(),
        }
    write_frame(folder / "documents.parquet", pd.concat(frames, ignore_index=True))
    write_json(folder / "sample.json", {"sampling": dict(sampling), "languages": about})


_SHORTEST = 2  # tokens of a document: below that there is nothing to predict
_AT_ONCE = 512  # documents whose tokens are Python objects at one time


def token_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> list[np.ndarray]:
    """Token ids of texts, int64 arrays cut at `max_length`; those under two tokens are left out."""
    kept: list[np.ndarray] = []
    for start in range(0, len(texts), _AT_ONCE):
        encoded = tokenizer(list(texts[start : start + _AT_ONCE]), truncation=True, max_length=max_length)["input_ids"]
        kept += [np.array(ids, dtype=np.int64) for ids in encoded if len(ids) >= _SHORTEST]
    return kept


def tokenized(
    frame: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, *, split: str, language: str, max_length: int
) -> list[np.ndarray]:
    """Token ids of a language's documents of a split, as `token_ids` gives them.

    Raises
    ------
    CraneError : nothing is left
    """
    chosen = frame[(frame["split"] == split) & (frame["language"] == language)]
    kept = token_ids(chosen["text"].tolist(), tokenizer, max_length=max_length)
    if not kept:
        raise CraneError(f"corpus: has no {split} documents in {language!r}; give it more text")
    return kept


def sample(count: int, *, of: int, generator: np.random.Generator) -> list[int]:
    """Numbers of so many items out of `of`, or of all of them; sorted."""
    return sorted(int(i) for i in generator.choice(of, size=min(count, of), replace=False))


def sampled_documents(
    corpus: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    languages: Sequence[str],
    documents: int,
    max_length: int,
    random_seed: int,
) -> tuple[dict[str, list[np.ndarray]], dict[str, list[int]]]:
    """A sample of each language's held-out documents as tokens, and their numbers among all of them."""
    frame = pd.read_parquet(corpus / "documents.parquet")
    tokens, numbers = {}, {}
    for place, language in enumerate(languages):
        found = tokenized(frame, tokenizer, split="perplexity", language=language, max_length=max_length)
        numbers[language] = sample(documents, of=len(found), generator=np.random.default_rng([random_seed, place]))
        tokens[language] = [found[i] for i in numbers[language]]
    return tokens, numbers
