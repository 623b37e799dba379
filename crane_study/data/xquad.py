"""XQuAD: 240 paragraphs in parallel translations with 1,190 questions, from the hub or a folder of its JSON files.

The paragraphs 0 to 119 are for development, 120 to 239 for a final test; the ids of the questions join the languages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.files import fingerprint, read_json, sha256, write_json, write_text
from crane_study import hub
from crane_study.data import wordings
from crane_study.data.corpora import make_embedded_corpus
from crane_study.data.documents import DOCUMENT_COLUMNS, write_lines
from crane_study.data.user_files import read_questions
from crane_study.frames import write_frame
from crane_study.loading.gguf_files import crane_cache
from crane_study.profile import XQuad

DATASET = "google/xquad"
HALVES = {"development": range(120), "test": range(120, 240)}
SUBJECT = "xquad"  # of its questions in a file of questions
_OPTIONS = 4
_TOGETHER = 5  # most questions about one paragraph


def patterns(languages: Sequence[str]) -> list[str]:
    """Return the patterns of the files of languages in the data set of the hub."""
    return [f"xquad.{language}/*.parquet" for language in languages]


def json_file(folder: Path, language: str) -> Path:
    """Return the published JSON file of a language in a folder."""
    return folder / f"xquad.{language}.json"


def locate_xquad(given: XQuad, languages: Sequence[str]) -> tuple[dict[str, Path], str]:
    """Find the file or folder of every language, without a request, and where they are from.

    In the folder that the profile names, else where `keep_xquad` put them, else in the hub's cache. None is found where
    all of these lack some.
    """
    if given.path is not None:
        for language in languages:
            if not json_file(given.path, language).is_file():
                raise CraneError(f"source.xquad.path: {given.path} has no xquad.{language}.json; name another folder")
        return {language: json_file(given.path, language) for language in languages}, "a folder"
    kept = {language: json_file(_kept(), language) for language in languages}
    if all(path.is_file() for path in kept.values()):
        return kept, "a folder, kept by crane fetch"
    cached = hub.cached_dataset(DATASET, revision=given.revision, patterns=patterns(languages))
    if cached is not None:
        return {language: cached / f"xquad.{language}" for language in languages}, f"the hub, {DATASET}"
    return {}, "neither a folder nor the hub's cache has XQuAD"


def content_key(path: Path) -> str:
    """Hash of a file, or of the files in a folder."""
    files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    return fingerprint([sha256(file) for file in files])


def _kept() -> Path:
    return crane_cache() / "xquad"


def keep_xquad(folder: Path | None, languages: Sequence[str], *, revision: str = "main") -> str:
    """Put XQuAD where every study finds it: JSON files of a folder into the cache, else the hub's into its own.

    Returns a line for the user; without folder and hub it says what is used in their place.
    """
    if folder is None:
        try:
            hub.dataset_files(DATASET, revision=revision, patterns=patterns(languages))
        except CraneError as error:
            return f"XQuAD: not fetched ({error}); embedded documents serve in its place, or give a folder (--xquad)"
        return f"XQuAD: in the hub's cache ({DATASET})"
    given = {language: json_file(folder, language) for language in languages}
    for path in given.values():
        if not path.is_file():
            raise CraneError(f"--xquad {folder}: has no {path.name}; give the folder of its published JSON files")
    read_xquad(given)
    for path in given.values():
        write_text(_kept() / path.name, path.read_text(encoding="utf-8"))
    return f"XQuAD: kept in {_kept()}"


@dataclass(frozen=True)
class Asked:
    """A question with its answer, and the number of its paragraph."""

    paragraph: int
    text: str
    answer: str


@dataclass(frozen=True)
class Language:
    """Paragraphs of one language, and its questions by id."""

    paragraphs: list[str]
    questions: dict[str, Asked]


def read_language(path: Path) -> Language:
    """Read one language: a published JSON file (SQuAD's layout), or the folder of the hub's Parquet files."""
    try:
        triples = _from_json(path) if path.suffix == ".json" else _from_parquet(path)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise CraneError(f"XQuAD {path}: has not the layout of SQuAD ({type(error).__name__}: {error})") from error
    paragraphs: dict[str, int] = {}
    questions: dict[str, Asked] = {}
    for context, key, question, answer in triples:
        number = paragraphs.setdefault(context, len(paragraphs))
        if key in questions:
            raise CraneError(f"XQuAD {path}: question {key!r} is there twice; is it the published file?")
        questions[key] = Asked(number, question, answer)
    if not questions:
        raise CraneError(f"XQuAD {path}: has no questions")
    return Language(list(paragraphs), questions)


def _from_json(path: Path) -> list[tuple[str, str, str, str]]:
    return [
        (paragraph["context"], str(asked["id"]), asked["question"], asked["answers"][0]["text"])
        for article in read_json(path)["data"]
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]


def _from_parquet(folder: Path) -> list[tuple[str, str, str, str]]:
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise CraneError(f"XQuAD {folder}: has no Parquet files; fetch {DATASET} again")
    frame = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    rows = zip(frame["context"], frame["id"], frame["question"], frame["answers"], strict=True)
    return [(context, str(key), question, str(answers["text"][0])) for context, key, question, answers in rows]


def read_xquad(files: Mapping[str, Path]) -> dict[str, Language]:
    """Read all languages and check that they are translations of one another: equal questions in every paragraph."""
    found = {language: read_language(path) for language, path in files.items()}
    first, *others = found
    asked = {key: one.paragraph for key, one in found[first].questions.items()}
    for language in others:
        here = {key: one.paragraph for key, one in found[language].questions.items()}
        if here != asked:
            odd = next(key for key in [*asked, *here] if asked.get(key) != here.get(key))
            raise CraneError(f"XQuAD: question {odd!r} is in other paragraphs of {first} and {language}; is one cut?")
    return found


def comprehension_questions(
    found: Mapping[str, Language], paragraphs: Sequence[int], *, count: int, random_seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Form four-way questions about paragraphs, the same in every language: the right answer and three others.

    The others are answers to other questions about the same paragraph. All four differ, whatever their case, in every
    language, and none contains another. The shortest paragraphs come first, each with at most `_TOGETHER` questions in
    a row, so that a model reads few tokens, and a paragraph once. Returns rows of a file of questions.
    """
    first = next(iter(found.values()))
    by_paragraph: dict[int, list[str]] = {number: [] for number in paragraphs}
    for key, one in first.questions.items():
        if one.paragraph in by_paragraph:
            by_paragraph[one.paragraph].append(key)
    generator = np.random.default_rng([random_seed, 7])
    waiting = {n: [keys[i] for i in generator.permutation(len(keys))] for n, keys in by_paragraph.items() if keys}
    rows: dict[str, list[dict[str, Any]]] = {language: [] for language in found}
    shortest = sorted(waiting, key=lambda number: sum(len(own.paragraphs[number].encode()) for own in found.values()))
    in_order = chain.from_iterable(islice(_possible(found, waiting[number]), _TOGETHER) for number in shortest)
    for key, chosen in islice(in_order, count):
        order = generator.permutation(_OPTIONS)
        for language, own in found.items():
            answers = [own.questions[name].answer for name in (key, *chosen)]
            rows[language].append(_row(own, key, language, [answers[i] for i in order], int(np.argmin(order))))
    return rows


def _possible(found: Mapping[str, Language], keys: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the questions with three wrong answers each, as far as a paragraph has them."""
    for key in keys:
        chosen = _others(found, key, [other for other in keys if other != key])
        if chosen is not None:
            yield key, chosen


def _others(found: Mapping[str, Language], key: str, candidates: Sequence[str]) -> tuple[str, ...] | None:
    """Choose three questions whose answers differ from that of `key` and from one another in every language."""
    chosen = [key]
    for candidate in candidates:
        if all(
            _apart(own.questions[candidate].answer, own.questions[name].answer)
            for own in found.values()
            for name in chosen
        ):
            chosen.append(candidate)
            if len(chosen) == _OPTIONS:
                return tuple(chosen[1:])
    return None


def _apart(one: str, other: str) -> bool:
    one, other = (re.sub(r"\W+", " ", text.casefold()).strip() for text in (one, other))
    return bool(one) and bool(other) and one not in other and other not in one


def _row(own: Language, key: str, language: str, options: list[str], gold: int) -> dict[str, Any]:
    asked = own.questions[key]
    prompt = f"{own.paragraphs[asked.paragraph]}\n\n{wordings.prompt(asked.text, language)}"
    about = {"subject": SUBJECT, "group": f"paragraph {asked.paragraph}"}
    return {"key": key, "question": asked.text, "prompt": prompt, "options": options, "gold": gold, **about}


def make_xquad_corpus(
    folder: Path,
    *,
    files: Mapping[str, str],
    origin: str,
    knowledge: dict[str, Any],
    counts: Mapping[str, int],
    random_seed: int,
) -> None:
    """Write documents.parquet, questions.*.jsonl and sample.json, of the half for development.

    The first paragraphs are for relevance, the last ones for perplexity; the questions are about paragraphs that are
    not for relevance, followed by embedded questions about facts. Without `files` the embedded documents are taken.
    `counts` has relevance, perplexity (documents), questions and knowledge_questions, per language.
    """
    make_embedded_corpus(folder, knowledge=knowledge, random_seed=random_seed)
    languages = sorted(path.name.split(".")[1] for path in folder.glob("questions.*.jsonl"))
    embedded = {k: read_questions(folder / f"questions.{k}.jsonl").to_dict("records") for k in languages}
    embedded = {language: rows[: counts["knowledge_questions"]] for language, rows in embedded.items()}
    wanted = {split: counts[split] for split in ("relevance", "perplexity")}
    about: dict[str, Any] = {"source": "XQuAD", "origin": origin}
    if files:
        found = read_xquad({language: Path(path) for language, path in files.items()})
        own = [n for n in HALVES["development"] if n < len(next(iter(found.values())).paragraphs)]
        if len(own) < sum(wanted.values()):
            raise CraneError(
                f"source.xquad: {wanted['relevance']} + {wanted['perplexity']} documents are asked for, the half for "
                f"development has {len(own)} paragraphs; ask for fewer"
            )
        places = {"relevance": own[: wanted["relevance"]], "perplexity": own[-wanted["perplexity"] :]}
        rows: list[tuple[Any, ...]] = [
            (split, language, "text", one.paragraphs[number], [])
            for language, one in found.items()
            for split, numbers in places.items()
            for number in numbers
        ]
        frame = pd.DataFrame(rows, columns=DOCUMENT_COLUMNS)
        asked = comprehension_questions(
            found, own[wanted["relevance"] :], count=counts["questions"], random_seed=random_seed
        )
        about |= {"paragraphs": {k: f"{v[0]} to {v[-1]}" for k, v in places.items() if v}}
        about["content"] = {language: content_key(Path(path)) for language, path in files.items()}
    else:
        frame = pd.read_parquet(folder / "documents.parquet")
        frame = frame[frame["split"].isin(list(wanted))]
        parts = [part.head(wanted[str(split)]) for (split, _language), part in frame.groupby(["split", "language"])]
        frame = pd.concat(parts, ignore_index=True)
        asked = {language: [] for language in languages}
        about = {"source": "embedded documents (CLDR), in place of XQuAD", "origin": origin}
    write_frame(folder / "documents.parquet", frame)
    for language in languages:
        write_lines(folder / f"questions.{language}.jsonl", [*asked[language], *embedded[language]])
    write_json(folder / "sample.json", about)
