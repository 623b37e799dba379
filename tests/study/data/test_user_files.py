"""Documents, open questions and multiple-choice questions from files of the user."""

import json

import pytest

from crane_lib.errors import CraneError
from crane_study.data.user_files import OPEN_COLUMNS, read_documents, read_open_questions, read_questions
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
        (read_documents, "a.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "line 2 is not an object with a field 'text'"),
        (read_documents, "a.jsonl", b'{"text": "a"}\n\nplain\n', "line 3 is not an object with a field 'text'"),
        *(
            (read_documents, "a.jsonl", row, "corpus .*: line 1 is not an object")
            for row in (b'["text"]\n', b'{"text": 5}\n', b'{"text": null}\n')
        ),
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
                *({"question": question} for question in (5, None, " ")),
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
