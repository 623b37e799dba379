"""Documents, open questions and multiple-choice questions from files of the user."""

import bz2
import csv
import gzip
import io
import json
import lzma
import unicodedata
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crane_lib.errors import CraneError
from crane_study.data.text_choice import CorpusOptions, choose_texts
from crane_study.data.user_files import (
    OPEN_COLUMNS,
    read_documents,
    read_open_questions,
    read_questions,
)
from crane_study.own.corpus_files import read_corpora
from tests.small import write_lines

GOOD = {"question": "Where?", "options": ["here", "there"], "gold": 1}


def line(value):
    return json.dumps(value).encode() + b"\n"


def test_documents_of_a_text_file_and_of_json_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffOne\nline two\r\n\r\n\r\nZwei\n \t\nDrei\u2028bis\n\n   \n".encode())
    assert read_documents(path) == ["One\nline two", "Zwei", "Drei\u2028bis"]
    texts = ["One\n\nparagraph", "Zwei\u2028Zeilen\x85und\x0bmehr", "日本"]
    path = write_lines(tmp_path / "a.jsonl", [{"text": f" {text}\n", "id": 3} for text in texts])
    path.write_text(path.read_text("utf-8") + '\n{"text": "   "}\n', "utf-8")
    assert read_documents(path) == texts


# Texts that pandas or datasets would change: missing values, numbers, dates, lists, quotes, line ends, long ones.
HARD = ["NA", "null", "NaN", "None", "007", "1e5", "2024-01-01", "True", "١٢٣", "\ufeffBOM", "[3]", '{"text": 1}', "-"]
HARD += ['One\n\n"quoted", with\r\na comma\rand NUL\0.', "x" * 200_000]


def as_json(value):
    return json.dumps(value, indent=1).encode()


def as_lines(rows):
    return b"".join(map(line, rows))


def as_csv(rows):
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)
    return file.getvalue().encode()


def as_parquet(columns):
    file = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), file)
    return file.getvalue().to_pybytes()


def zstandard(data):
    file = pa.BufferOutputStream()
    with pa.CompressedOutputStream(file, "zstd") as stream:
        stream.write(data)
    return file.getvalue().to_pybytes()


OBJECTS = [{"id": f"0{number}", "text": text} for number, text in enumerate(HARD)]
CSV = as_csv([["id", "text"], *(row.values() for row in OBJECTS)])
FORMATS = {
    "list.json": as_json(HARD),
    "objects.json": as_json(OBJECTS),
    "columns.json": as_json({"id": [row["id"] for row in OBJECTS], "text": HARD}),
    "lines.json": as_lines(OBJECTS),
    "a.JSONL": as_lines(OBJECTS),
    "texts.jsonl": as_lines(HARD),
    "a.csv": CSV,
    "BOM.CSV": b"\xef\xbb\xbf" + as_csv([["text"], [], *([text] for text in HARD), []]),
    "v1.2.Parquet": as_parquet({"id": list(range(len(HARD))), "text": pa.array(HARD).dictionary_encode()}),
    "pbs.123[3].csv": CSV,
    "a.json.gz": gzip.compress(as_json(HARD)),
    "a.csv.BZ2": bz2.compress(CSV),
    "a.jsonl.xz": lzma.compress(as_lines(OBJECTS)),
    "a.parquet.zst": zstandard(as_parquet({"text": HARD})),
}


@pytest.mark.parametrize("name", FORMATS)
def test_texts_of_every_format_are_exact(tmp_path, name):
    (tmp_path / name).write_bytes(FORMATS[name])
    assert read_documents(tmp_path / name) == HARD


@pytest.mark.parametrize(("ending", "pack"), [(".TXT", bytes), (".txt.Gz", gzip.compress), (".txt.zst", zstandard)])
def test_text_files_in_any_spelling_and_compressed(tmp_path, ending, pack):
    path = tmp_path / f"two{ending}"
    path.write_bytes(pack(b"One\rline two\r\rTwo\r"))
    assert read_documents(path) == ["One\nline two", "Two"]
    assert read_open_questions({"en": path})["text"].tolist() == ["One", "line two", "Two"]


def test_another_field_and_another_form_of_the_same_text(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"body": "Hà Nội"}, {"body": unicodedata.normalize("NFD", "Hà Nội")}])
    composed, decomposed = read_documents(path, field="body")
    assert composed != decomposed
    assert choose_texts([composed, "x", decomposed, "x"]).texts == [composed, "x"]


def test_questions_of_every_format_are_the_same(tmp_path):
    rows = [GOOD | {"subject": "NA"}, {"question": "007", "options": ["1", "02"], "gold": 0, "subject": "null"}]
    rows = [row | {"group": group} for row, group in zip(rows, ("text 1", "007"), strict=True)]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    table = [columns, *([*row.values()] for row in rows)]
    for row in table[1:]:
        row[1] = json.dumps(row[1])
    contents = {"a.jsonl": as_lines(rows), "a.json": as_json(rows), "columns.json": as_json(columns)}
    contents |= {"a.csv": as_csv(table), "a.parquet": as_parquet(columns | {"prompt": ["Q?", None]})}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        found = read_questions(tmp_path / name)
        assert found[list(columns)].to_dict("records") == rows, name
        assert found["prompt"].tolist() == ["Q?" if "parquet" in name else "Where?", "007"]
        listed = [row["question"] for row in rows]
        assert read_open_questions({"en": tmp_path / name})["text"].tolist() == listed


def test_open_questions_are_read_from_one_file_per_language(tmp_path):
    paths = {"en": tmp_path / "en.txt", "vi": tmp_path / "vi.txt"}
    paths["en"].write_text("\ufeffWho?\r\n\n  Where?  \n", encoding="utf-8")
    paths["vi"].write_text("Ai?\nỞ đâu?", encoding="utf-8")
    frame = read_open_questions(paths)
    assert tuple(frame) == OPEN_COLUMNS
    expected = [["en", 0, "Who?"], ["en", 1, "Where?"], ["vi", 0, "Ai?"], ["vi", 1, "Ở đâu?"]]
    assert frame[["language", "question", "text"]].to_numpy().tolist() == expected
    assert (frame[["answer", "answer_key", "subject"]] == "").all(axis=None)
    paths["vi"].write_text("Ai?")
    with pytest.raises(CraneError, match=r"different numbers of questions \(en 2, vi 1\); align the files"):
        read_open_questions(paths)


def test_the_papers_questions(shared):
    folder = shared / "reference" / "open_ended"
    if not folder.is_dir():
        pytest.skip("no ../shared/reference/open_ended")
    frame = read_open_questions({language: folder / f"{language}.txt" for language in ("en", "zh", "vi")})
    assert frame.groupby("language").size().to_dict() == {"en": 70, "zh": 70, "vi": 70}


def test_questions_keep_their_text(tmp_path):
    odd = GOOD | {"question": "007", "options": ["1", "02\u2028"], "subject": "NA", "prompt": "Q: 007", "gold": 0}
    frame = read_questions(write_lines(tmp_path / "q.jsonl", [GOOD, odd]))
    assert frame["gold"].tolist() == [1, 0]
    assert frame["prompt"].tolist() == ["Where?", "Q: 007"]
    assert frame["options"].tolist() == [["here", "there"], ["1", "02\u2028"]]
    assert frame.loc[1, ["question", "subject"]].tolist() == ["007", "NA"]


def read_one_language(path):
    return read_open_questions({"en": path})


@pytest.mark.parametrize(
    ("read", "name", "content", "message"),
    [
        (read_documents, "a.txt", None, "corpus .*: no such file"),
        (read_documents, "a.txt", b"", "has no text"),
        (read_documents, "a.txt", b" \n\n \n", "has no text"),
        (read_documents, "a.jsonl", b"\n\n", "has no text"),
        (read_documents, "a.jsonl", b'{"text": ""}\n', "has no text"),
        (read_documents, "a.txt", b"good\n\nb\xe9d", r"is not UTF-8 \(byte 7\); convert it first"),
        (read_documents, "a.jsonl", b'{"text": "b\xe9d"}', r"is not UTF-8 \(byte 11\)"),
        (read_documents, "a.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "line 2: is not an object with a field 'text'"),
        (read_documents, "a.jsonl", b'{"text": "a"}\n\nplain\n', "line 3: is not JSON"),
        *(
            (read_documents, "a.jsonl", row, "corpus .*: line 1: is not an object")
            for row in (b'["text"]\n', b'{"text": 5}\n', b'{"text": null}\n')
        ),
        (
            read_documents,
            "a.docx",
            b"",
            r"is of no known format; its name must end in \.txt, \.json, .*\.parquet, also",
        ),
        (read_documents, "a.tar.gz", b"", r"is of no known format; .* also compressed \(\.gz, \.bz2, \.xz, \.zst\)"),
        (read_documents, "a", b"One\n\nTwo", "is of no known format"),
        (read_questions, "a.txt", b"Who?", r"is of no known format; its name must end in \.json"),
        *(
            (read_documents, f"a.txt{ending}", content, r"cannot be read|Compressed data ended")
            for ending, pack in (
                (".gz", partial(gzip.compress, mtime=0)),
                (".bz2", bz2.compress),
                (".xz", lzma.compress),
                (".zst", zstandard),
            )
            for content in (b"not compressed", pack(b"cut off" * 99)[:-3])
        ),
        (read_documents, "a.json", b'[{"text": "a"},\n{"text": }]', r"is not JSON \(.*line 2"),
        (read_documents, "a.json", b'{"text": "a"}\n{"text": }', "line 2: is not JSON"),
        (read_documents, "a.json", b'{"text": ["a", "b"], "id": [1]}', r"lists differ in length \(text 2, id 1\)"),
        (read_documents, "a.json", b'["a", ["b"]]', "entry 2: is not an object with a field 'text' that is a text"),
        (read_documents, "a.json", b"[" * 100_000, "cannot be read"),
        (read_documents, "a.jsonl", b'{"text": "a", "text": "b"}', "line 1: has two fields 'text'; remove one"),
        (read_documents, "a.csv", b"id,text,text\n1,a,b\n", "line 1: has two fields 'text'; remove one"),
        (
            read_documents,
            "a.csv",
            b'id,text\n1,"a\nb"\n2,c, d\n',
            "line 4: has 3 fields, the first line has 2; put texts",
        ),
        (read_documents, "a.csv", b"id,text\n\n1\n", "line 3: has 1 fields"),
        (read_documents, "a.csv", b'text\na\n"b\n\nc\n', "line 3: unexpected end of data"),
        (read_documents, "a.csv", b'text\n"a"b\n', "line 2: ',' expected after"),
        (read_documents, "a.csv", b"id;text\n1;a\n", "line 2: .* field 'text' that is a text; seen {'id;text': '1;a'}"),
        (read_documents, "a.csv", b"text\ncaf\xe9\n", r"is not UTF-8 \(byte 8\); convert it first"),
        (read_documents, "a.parquet", b"text", "cannot be read"),
        (read_documents, "a.parquet", as_parquet({"text": [7]}), "row 1: .* seen {'text': 7}"),
        (read_documents, "a.parquet", as_parquet({"text": ["a", None]}), "row 2: .* seen {'text': None}"),
        (
            read_documents,
            "a.parquet",
            as_parquet(pa.Table.from_arrays([pa.array(["a"])] * 2, names=["text", "text"])),
            "has two fields 'text'",
        ),
        (read_documents, "a.jsonl", b'{"text": "a"}\n{"text": "\\ud83d"}\n', r"line 2: contains half .*\(\\ud83d\)"),
        (read_documents, "a.json", b'["\\ude00 b"]', r"entry 1: contains half .*\(\\ude00\)"),
        (read_one_language, "a.jsonl", b'"Who?"\n"\\ud83d?"\n', r"line 2: contains half .*\(\\ud83d\)"),
        (read_one_language, "a.txt", None, "open questions .*: no such file"),
        (read_one_language, "a.txt", b"\n \n", "has no questions; put one on each line"),
        (read_one_language, "a.txt", b"Who?\n\nWhere?\nWho?", "question 3 repeats question 1; remove one"),
        (read_one_language, "a.txt", b"caf\xe9?", r"is not UTF-8 \(byte 3\); convert it first"),
        (read_questions, "a.jsonl", None, "questions .*: no such file"),
        (read_questions, "a.jsonl", b"", "has no questions"),
        (read_questions, "a.jsonl", b'{"question": "half', "line 1: is not JSON"),
        (read_questions, "a.jsonl", b"[1, 2]", "line 1: is not an object"),
        (read_questions, "a.jsonl", json.dumps(GOOD).encode("utf-16"), "is not UTF-8"),
        *(
            (
                read_questions,
                "a.jsonl",
                line(GOOD) + line({key: value for key, value in GOOD.items() if key != field}),
                rf"line 2: has no field '{field}'; needs question, options, gold",
            )
            for field in GOOD
        ),
        *(
            (read_questions, "a.jsonl", 2 * line(GOOD) + line(GOOD | change), r"questions .*a\.jsonl: line 3: ")
            for change in (
                *({"gold": gold} for gold in (2, -1, "B", 0.5, None, True)),
                *({"options": options} for options in ("here or there", [], ["here", 2])),
                *({"question": question} for question in (5, None, " ", "half \ud83d")),
                *({"options": ["here", option]} for option in ("here", "here ", "\u3000here", "\ud83d", " ", 1)),
                {"options": ["Hà Nội", unicodedata.normalize("NFD", "Hà Nội")]},
                {"subject": 5},
                {"group": 5},
                {"subject": "\ud83d"},
                {"gold": "١"},
                {"options": ["here"], "gold": 0},
                {"prompt": ""},
            )
        ),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path, read, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CraneError, match=message) as caught:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_text_file_with_a_document_a_line_says_what_separates_them(tmp_path):
    path = tmp_path / "en.txt"
    path.write_text("One.\nTwo.\nThree.\n")
    with pytest.raises(
        CraneError, match=r"of 1 texts 1 are taken; .*; blank lines separate documents in a \.txt file \(`sed G"
    ):
        read_corpora({"en": path}, CorpusOptions())
    path.write_text("One.\n\nTwo.\n\nThree.\n")
    assert read_corpora({"en": path}, CorpusOptions())["en"].texts == ["One.", "Two.", "Three."]


def test_the_paragraphs_of_a_file_of_the_form_of_squad_are_texts(tmp_path):
    paragraphs = [{"context": text, "qas": [{"id": text, "question": "?", "answers": []}]} for text in ("One", "Two")]
    file = tmp_path / "xquad.en.json"
    file.write_text(json.dumps({"data": [{"title": "a", "paragraphs": paragraphs}, {"paragraphs": paragraphs[:1]}]}))
    assert read_documents(file) == ["One", "Two", "One"]
    file.write_text(json.dumps({"data": [{"paragraphs": [{"qas": []}]}]}))
    with pytest.raises(CraneError, match="entry 1"):
        read_documents(file)
