"""Stages that make a study's corpus: embedded facts, a user's own files, or samples of published data sets."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from crane_lib.errors import CraneError
from crane_lib.files import fingerprint, write_json
from crane_lib.parallel import rank
from crane_study.data import wordings
from crane_study.data.cldr import LANGUAGES, collect_facts
from crane_study.data.documents import (
    DOCUMENT_COLUMNS,
    make_conversations,
    write_conversations,
    write_documents,
    write_lines,
)
from crane_study.data.questions import (
    answer_frequency,
    expected_accuracy,
    form_questions,
    longest,
    overlap,
    shortest,
)
from crane_study.data.text_choice import CorpusOptions, choose_texts
from crane_study.data.user_files import SEPARATED, read_questions, read_texts, split_name
from crane_study.frames import keep_frame, kept_frame, write_frame
from crane_study.hub import absent, gated, naming_mistakes
from crane_study.loading.tokenization import check_round_trip, encode
from crane_study.profile import Knowledge
from crane_study.progress import progress

_FEWEST = 8  # documents that the statistics need
_SHORTEST = 2  # tokens of a document: with fewer there is nothing to predict
_AT_ONCE = 512  # documents whose tokens are Python objects at the same time


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
    guesses = []
    for language, own in questions.items():
        write_lines(folder / f"questions.{language}.jsonl", [question.to_row() for question in own])
        # The frequency guesser knows the training questions.
        known = answer_frequency([wordings.answer(fact, language) for fact in facts if fact.key not in held_out])
        guessers = {"overlap": overlap, "answer_frequency": known, "longest": longest, "shortest": shortest}
        guesses += [(language, name, expected_accuracy(own, guesser), len(own)) for name, guesser in guessers.items()]
    write_frame(folder / "guessers.csv", pd.DataFrame(guesses, columns=["language", "guesser", "accuracy", "n"]))
    asked = Counter(question.subject for question in questions[LANGUAGES[0]])
    counts = pd.DataFrame(reports)
    write_frame(folder / "fact_counts.csv", counts.assign(questions=[asked[subject] for subject in counts["subject"]]))


def _held_out(source: object, documents: int, wanted: int) -> int:
    """Number of documents to reserve for perplexity, at most half of them."""
    if documents < _FEWEST:
        hint = f"; {SEPARATED}" if split_name(Path(str(source)))[1] == ".txt" else ""
        problem = f"has {documents} different documents; the statistics need {_FEWEST} or more{hint}"
        raise CraneError(f"corpus {source}: {problem}")
    return min(wanted, documents // 2)


def make_local_corpus(
    folder: Path,
    *,
    texts: Mapping[str, str],
    questions: Mapping[str, str] | None,
    relevance_documents: int,
    perplexity_documents: int,
    random_seed: int,
    min_length: int = 0,
    near_copies: float = 0.0,
) -> None:
    """Write documents.parquet with disjoint relevance and perplexity documents, and questions.*.jsonl if given.

    A text that occurs twice in a file, in whichever Unicode form, counts once, so that no document is in both splits;
    `min_length` and `near_copies` leave out more (`crane_study.data.text_choice`).
    """
    choice = CorpusOptions(min_length=min_length, near_copies=near_copies)
    rows: list[tuple[Any, ...]] = []
    for number, (language, path) in enumerate(sorted(texts.items())):
        documents = choose_texts(read_texts(Path(path)), choice).texts
        held_out = _held_out(path, len(documents), perplexity_documents)
        order = np.random.default_rng([random_seed, number]).permutation(len(documents))
        splits = {"perplexity": order[:held_out], "relevance": order[held_out:][:relevance_documents]}
        for split, chosen in splits.items():
            rows += [(split, language, "text", documents[i], []) for i in chosen]
    write_frame(folder / "documents.parquet", pd.DataFrame(rows, columns=DOCUMENT_COLUMNS))
    for language, path in (questions or {}).items():
        write_lines(folder / f"questions.{language}.jsonl", read_questions(Path(path)).to_dict("records"))


def open_stream(text: Mapping[str, Any]) -> Any:
    """Open the data set of a language as a stream; only its list of files is fetched."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    name, config = text["dataset"], text["config"]
    if pattern := re.search(r"[*?\[]|::", name):
        reason = f"its path contains {pattern[0]!r}, which datasets takes for a pattern"
        raise CraneError(f"dataset {name}: {reason}; rename the folder, or name a file")
    try:
        with naming_mistakes(f"dataset {name}", text["revision"]):
            return load_dataset(name, config, split=text["split"], revision=text["revision"], streaming=True)
    except DatasetNotFoundError as error:
        raise (gated if "gated" in str(error) else absent)(f"dataset {name}") from error
    except (ValueError, FileNotFoundError) as error:
        split, reason = text["split"], " ".join(str(error).split())[:200]
        raise CraneError(f"dataset {name}: has no config {config!r} with a split {split!r} ({reason})") from error


def text_of(row: Mapping[str, Any], *, name: str, field: str) -> str:
    """Return the text in a field of a row of the data set `name`, stripped; "" where it is missing."""
    if field not in row:
        raise CraneError(f"dataset {name}: has no field {field!r}; seen {', '.join(map(str, row))}")
    value = row[field]
    if not (value is None or isinstance(value, str)):
        raise CraneError(f"dataset {name}: field {field!r} is not a text but {type(value).__name__}; name another")
    return (value or "").strip()


def sample_shard(
    rows: Iterator[Mapping[str, Any]], count: int, *, name: str, field: str, window: int, random_seed: list[int]
) -> pd.DataFrame:
    """Draw documents of one shard: each of the first `window` (0: of all) with the same chance (reservoir sampling).

    Returns place (row in the shard) and text, in the order of the shard.
    """
    generator = np.random.default_rng(random_seed)
    kept: list[tuple[int, str]] = []
    seen = 0
    for place, row in enumerate(rows):
        if window and place >= window:
            break
        text = text_of(row, name=name, field=field)
        if not text:
            continue
        seen += 1
        if len(kept) < count:
            kept.append((place, text))
        elif (slot := int(generator.integers(seen))) < count:
            kept[slot] = (place, text)
    return pd.DataFrame(sorted(kept), columns=["place", "text"])


def sample_stream(
    stream: Any, count: int, *, name: str, field: str, sampling: Mapping[str, Any], scratch: Path | None
) -> pd.DataFrame:
    """Draw `count` different documents of a stream as described in `crane_study.profile.Sampling`, in a random order.

    Each shard's share is saved in `scratch` as soon as it is drawn, so that an interrupted draw continues from there.
    Returns shard, place and text.
    """
    seed, total = sampling["random_seed"], stream.num_shards
    order = np.random.default_rng(seed).permutation(total)
    first = min(sampling["shards"], total)
    share = -(-count // first)
    parts: list[pd.DataFrame] = []
    found = 0
    with progress(f"Sampling {name}", count) as bar:
        # More shards than requested are read only if texts were empty or repeated.
        for number, shard in enumerate(map(int, order)):
            if found >= count:
                break
            file = scratch / f"{shard:05d}.parquet" if scratch is not None else None
            drawn = None if file is None else kept_frame(file, state=file.stem)
            if drawn is None:
                rows, window = iter(stream.shard(num_shards=total, index=shard)), sampling["window"]
                with naming_mistakes(f"dataset {name}", ""):
                    drawn = sample_shard(rows, share, name=name, field=field, window=window, random_seed=[seed, shard])
                if file is not None:
                    keep_frame(file, drawn, state=file.stem)
            parts.append(drawn.assign(shard=shard))
            if number + 1 >= first:
                found = pd.concat(parts)["text"].str.normalize("NFC").nunique()
            bar.advance(len(drawn))
    documents = pd.concat(parts, ignore_index=True)
    documents = documents[~documents["text"].str.normalize("NFC").duplicated()].reset_index(drop=True)
    return documents.sample(frac=1, random_state=seed).head(count).reset_index(drop=True)


def _documents(text: Mapping[str, Any], count: int, *, sampling: Mapping[str, Any], scratch: Path) -> pd.DataFrame:
    """Documents of a language with ids that name their place in the source."""
    if text["file"] is not None:
        texts = choose_texts(read_texts(Path(text["file"]), field=text["field"])).texts
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
    if rank() != 0:  # of several processes the first one draws
        return
    frames, about = [], {}
    for language, text in sorted(texts.items()):
        documents = _documents(text, relevance_documents + perplexity_documents, sampling=sampling, scratch=scratch)
        source = text["file"] or text["dataset"]
        held_out = _held_out(source, len(documents), perplexity_documents)
        split = ["perplexity"] * held_out + ["relevance"] * (len(documents) - held_out)
        hashes = [hashlib.sha256(document.encode()).hexdigest() for document in documents["text"]]
        rest = {"kind": "text", "sentences": [[] for _ in split], "sha256": hashes}
        frames.append(documents.assign(split=split, language=language, **rest))
        about[language] = {
            "source": str(source),
            **{name: text[name] for name in ("config", "split", "field", "revision") if text["dataset"]},
            "documents": len(documents),
            "sha256": hashlib.sha256("".join(hashes).encode()).hexdigest(),
        }
    write_frame(folder / "documents.parquet", pd.concat(frames, ignore_index=True))
    write_json(folder / "sample.json", {"sampling": dict(sampling), "languages": about})


def token_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> list[np.ndarray]:
    """First `max_length` token ids of texts, int64 arrays; texts of fewer than two tokens are left out."""
    check_round_trip(tokenizer, texts)
    kept: list[np.ndarray] = []
    for start in range(0, len(texts), _AT_ONCE):
        cut = [ids[:max_length] for ids in encode(tokenizer, texts[start : start + _AT_ONCE])]
        kept += [np.array(ids, dtype=np.int64) for ids in cut if len(ids) >= _SHORTEST]
    return kept


def tokenized(
    frame: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, *, split: str, language: str, max_length: int
) -> list[np.ndarray]:
    """Token ids of a language's documents of a split, as returned by `token_ids`."""
    chosen = frame[(frame["split"] == split) & (frame["language"] == language)]
    kept = token_ids(chosen["text"].tolist(), tokenizer, max_length=max_length)
    if not kept:
        raise CraneError(f"corpus: has no {split} documents in {language!r}; give it more text")
    return kept


def sample(count: int, *, of: int, generator: np.random.Generator) -> list[int]:
    """Draw `count` different numbers below `of`, or all of them if there are fewer; sorted."""
    return sorted(int(i) for i in generator.choice(of, size=min(count, of), replace=False))


def sampled_documents(
    corpus: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    languages: Sequence[str],
    documents: int,
    max_length: int,
    random_seed: int,
    change: Callable[[str, str], str] | None = None,
) -> tuple[dict[str, list[np.ndarray]], dict[str, list[int]]]:
    """Draw held-out documents of each language; returns their token ids and their numbers among all of them.

    Languages with as many documents get the same numbers, so that parallel documents stay together. `change` takes a
    text and its language and returns what the model reads in its place.
    """
    frame = pd.read_parquet(corpus / "documents.parquet")
    if change is not None:
        frame = frame[frame["split"] == "perplexity"]
        frame = frame.assign(text=[change(*pair) for pair in zip(frame["text"], frame["language"], strict=True)])
    tokens, numbers = {}, {}
    for language in languages:
        found = tokenized(frame, tokenizer, split="perplexity", language=language, max_length=max_length)
        numbers[language] = sample(documents, of=len(found), generator=np.random.default_rng([random_seed, 0]))
        tokens[language] = [found[i] for i in numbers[language]]
    return tokens, numbers
