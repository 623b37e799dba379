"""Files that users bring: documents, open questions and multiple-choice questions, checked entry by entry.

Read by json, csv and pyarrow, which change nothing. pandas and datasets would read "NA" as missing and dates as times,
rename a repeated column, drop the surplus fields of a row, and take "[3]" in a path for a pattern.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from crane_lib.errors import CraneError

OPEN_COLUMNS = ("language", "question", "key", "subject", "text", "answer", "answer_key")
SEPARATED = "blank lines separate documents in a .txt file (`sed G old.txt > new.txt` inserts one after every line)"
_FIELDS = ("question", "options", "gold")
_DAMAGED = (OSError, EOFError, RecursionError, lzma.LZMAError, zlib.error, pa.ArrowException)

_Entry = tuple[str, Any]  # place in a file ("line 3"), and what is there
_Reader = Callable[[bytes], Iterator[_Entry]]


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start}); convert it first") from error


def _refuse_repeated(names: Sequence[str]) -> None:
    """Refuse a repeated name, because only the last of its values would be kept."""
    if len(set(names)) < len(names):
        raise ValueError(f"has two fields {next(name for name in names if names.count(name) > 1)!r}; remove one")


def _parsed(text: str) -> Any:
    """Parse JSON."""

    def different(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _refuse_repeated([name for name, _value in pairs])
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=different)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error})") from error


def _lines(data: bytes) -> Iterator[_Entry]:
    """Lines that are not blank."""
    # Not splitlines(), which also splits a text at the line separators of Unicode.
    lines = _decoded(data).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return ((f"line {number}", line) for number, line in enumerate(lines, start=1) if line.strip())


def _paragraphs(data: bytes) -> Iterator[_Entry]:
    """Texts separated by blank lines."""
    text = _decoded(data).replace("\r\n", "\n").replace("\r", "\n")
    return ((f"text {number}", part) for number, part in enumerate(re.split(r"\n[^\S\n]*\n", text), start=1))


def _json_lines(data: bytes) -> Iterator[_Entry]:
    for place, line in _lines(data):
        try:
            yield place, _parsed(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place}: {error}") from error


def _json_entries(data: bytes) -> Iterator[_Entry]:
    """Entries of a list or of an object of lists; many files with this ending contain JSON lines."""
    text = _decoded(data)
    try:
        whole = _parsed(text) if text.strip() else []
    except ValueError as error:
        if "Extra data" not in str(error):
            raise
        yield from _json_lines(data)
        return
    whole = _contexts(whole)
    if isinstance(whole, dict) and whole and all(isinstance(values, list) for values in whole.values()):
        if len({len(values) for values in whole.values()}) > 1:
            raise ValueError(f"its lists differ in length ({', '.join(f'{n} {len(v)}' for n, v in whole.items())})")
        whole = [dict(zip(whole, values, strict=True)) for values in zip(*whole.values(), strict=True)]
    entries = whole if isinstance(whole, list) else [whole]
    yield from ((f"entry {number}", entry) for number, entry in enumerate(entries, start=1))


def _contexts(whole: Any) -> Any:
    """Paragraphs of a file that has the form of SQuAD, such as those of XQuAD; anything else as it is."""
    try:
        return [{"text": part["context"]} for article in whole["data"] for part in article["paragraphs"]]
    except (KeyError, TypeError):
        return whole


def _csv_rows(data: bytes) -> Iterator[_Entry]:
    text, header, place = _decoded(data), None, "line 1"
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in rows:
            if header is None:
                _refuse_repeated(header := row)
            elif row and len(row) != len(header):
                raise ValueError(f"has {len(row)} fields, the first line has {len(header)}; put texts in quotes")
            elif row:
                yield place, dict(zip(header, row, strict=True))
            place = f"line {rows.line_num + 1}"
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{place}: {error}") from error


def _parquet_rows(data: bytes) -> Iterator[_Entry]:
    table = pq.ParquetFile(pa.BufferReader(data)).read()
    _refuse_repeated(table.column_names)
    return ((f"row {number}", row) for number, row in enumerate(table.to_pylist(), start=1))


def _unzstd(data: bytes) -> bytes:
    return bytes(pa.input_stream(io.BytesIO(data), compression="zstd").read())


TABLES: dict[str, _Reader] = {
    ".json": _json_entries,
    ".jsonl": _json_lines,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
_COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
    ".zst": _unzstd,
}


def split_name(path: Path) -> tuple[str, str, str]:
    """Split a file's name into the name itself and the endings of format and compression (lower case, may be empty)."""
    compression = path.suffix.lower() if path.suffix.lower() in _COMPRESSIONS else ""
    rest = path.with_suffix("") if compression else path
    return rest.stem, rest.suffix.lower(), compression


def read_entries(
    path: str | os.PathLike[str], kind: str, check: Callable[[Any], Any], *, plain: _Reader | None = None
) -> list[Any]:
    """Read and check every entry of a file; `plain` reads text files, which are refused without it.

    A ValueError of `check` says what is wrong with an entry; the error that users see names file and place, too.
    """
    path = Path(path)
    readers = TABLES if plain is None else {".txt": plain, **TABLES}
    _name, ending, compression = split_name(path)
    if not path.is_file():
        raise CraneError(f"{kind} {path}: no such file")
    if ending not in readers:
        expected = f"{', '.join(readers)}, also compressed ({', '.join(_COMPRESSIONS)})"
        raise CraneError(f"{kind} {path}: is of no known format; its name must end in {expected}")
    found, place = [], ""
    try:
        data = path.read_bytes()
        for at, entry in readers[ending](_COMPRESSIONS[compression](data) if compression else data):
            place = f"{at}: "
            found.append(check(entry))
            place = ""
    except _DAMAGED as error:
        raise CraneError(f"{kind} {path}: cannot be read ({' '.join(str(error).split())[:160]})") from error
    except ValueError as error:
        raise CraneError(f"{kind} {path}: {place}{error}") from error
    return found


def whole(text: str) -> str:
    """Return a text unless it contains half a character, which no UTF-8 file can."""
    if half := re.search("[\ud800-\udfff]", text):
        raise ValueError(f"contains half a character (\\u{ord(half[0]):x}), as of an emoji cut in two; correct it")
    return text


def _text(entry: Any, *, field: str) -> str:
    """Return the text of an entry, which is a text or has a field of text; stripped."""
    text = entry.get(field) if isinstance(entry, dict) else entry
    if not isinstance(text, str):
        raise ValueError(f"is not an object with a field {field!r} that is a text; seen {repr(entry)[:80]}")
    return whole(text).strip()


def read_texts(path: str | os.PathLike[str], *, field: str = "text") -> list[str]:
    """Read entries that are texts or have a `field` of text, or paragraphs of a text file; some may be empty."""
    texts = read_entries(path, "corpus", partial(_text, field=field), plain=_paragraphs)
    if not any(texts):
        raise CraneError(f"corpus {path}: has no text")
    return texts


def read_documents(path: str | os.PathLike[str], *, field: str = "text") -> list[str]:
    """Read documents: texts as `read_texts` does, without empty ones."""
    return list(filter(None, read_texts(path, field=field)))


def _open_questions(path: Path) -> list[str]:
    kind = "open questions"
    questions = list(filter(None, read_entries(path, kind, partial(_text, field="question"), plain=_lines)))
    if not questions:
        raise CraneError(f"{kind} {path}: has no questions; put one on each line")
    for number, question in enumerate(questions, start=1):
        first = questions.index(question) + 1
        if first < number:
            raise CraneError(f"{kind} {path}: question {number} repeats question {first}; remove one")
    return questions


def read_open_questions(paths: Mapping[str, Path]) -> pd.DataFrame:
    """Read one file per language, one question per line or entry; number n means the same in every language.

    Returns `OPEN_COLUMNS`; subject, answer and answer_key are empty, because no expected answer is known.
    """
    by_language = {language: _open_questions(Path(path)) for language, path in paths.items()}
    if len({len(questions) for questions in by_language.values()}) > 1:
        counts = ", ".join(f"{language} {len(questions)}" for language, questions in by_language.items())
        raise CraneError(f"open questions: languages have different numbers of questions ({counts}); align the files")
    rows = [
        (language, number, f"question/{number + 1}", "", text, "", "")
        for language, questions in by_language.items()
        for number, text in enumerate(questions)
    ]
    return pd.DataFrame(rows, columns=list(OPEN_COLUMNS))


def _checked_options(options: Any) -> list[str]:
    """Return the options, all different; a CSV file contains them as a JSON list."""
    options = _parsed(options) if isinstance(options, str) and options.startswith("[") else options
    if not isinstance(options, list) or len(options) < 2 or not all(isinstance(o, str) and o.strip() for o in options):
        raise ValueError("its options are not a list of two or more texts (write numbers in quotes)")
    compared = [unicodedata.normalize("NFC", whole(option)).strip() for option in options]
    for number, option in enumerate(compared):
        first = compared.index(option)
        if first < number:
            but = "" if options[first] == options[number] else ", but for white space or Unicode form"
            raise ValueError(f"its options {first + 1} and {number + 1} are the same{but}: {option[:60]!r}")
    return options


def _checked_question(row: Any) -> dict[str, Any]:
    """Return the fields of one question."""
    if not isinstance(row, dict):
        raise ValueError("is not an object of question, options and gold")
    for name in _FIELDS:
        if name not in row:
            raise ValueError(f"has no field {name!r}; needs {', '.join(_FIELDS)}, seen {', '.join(row)[:60]}")
    question, gold, prompt = (row.get(name) for name in ("question", "gold", "prompt"))
    # In Parquet a missing value is null.
    prompt = question if prompt is None else prompt
    labels = {name: "" if row.get(name) is None else row[name] for name in ("subject", "group")}
    if not all(isinstance(text, str) and whole(text).strip() for text in (question, prompt)):
        raise ValueError("its question or prompt is not a text")
    for name, label in labels.items():
        if not isinstance(label, str):
            raise ValueError(f"{name} is {label!r}, expected a text")
        labels[name] = whole(label)
    options = _checked_options(row["options"])
    gold = int(gold) if isinstance(gold, str) and re.fullmatch("[0-9]+", gold) else gold
    if type(gold) is not int or not 0 <= gold < len(options):
        raise ValueError(f"gold is {gold!r}, expected the index of one of its {len(options)} options, from 0")
    return {"question": question, "prompt": prompt, "options": options, "gold": gold, **labels}


def read_questions(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read multiple-choice questions from a JSON, JSON-lines, CSV or Parquet file.

    Returns question, prompt (the question unless given), options (list of texts), gold (index), subject and
    group (of questions that belong together, by the same name in every language; empty: to none).
    """
    rows = read_entries(path, "questions", _checked_question)
    if not rows:
        raise CraneError(f"questions {path}: has no questions")
    return pd.DataFrame(rows)
