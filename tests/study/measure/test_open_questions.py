"""Open questions from files."""

import pytest

from crane_lib.errors import CraneError
from crane_study.data.user_files import OPEN_COLUMNS as COLUMNS
from crane_study.data.user_files import read_open_questions as read_question_files


def written(folder, **contents):
    paths = {}
    for language, content in contents.items():
        paths[language] = folder / f"{language}.txt"
        paths[language].write_bytes(content if isinstance(content, bytes) else content.encode())
    return paths


def test_one_question_a_line(tmp_path):
    frame = read_question_files(written(tmp_path, en="\ufeffWho?\r\n\n  Where?  \n", vi="Ai?\nỞ đâu?"))
    assert tuple(frame) == COLUMNS
    assert frame[["language", "question", "text"]].to_numpy().tolist() == [
        ["en", 0, "Who?"],
        ["en", 1, "Where?"],
        ["vi", 0, "Ai?"],
        ["vi", 1, "Ở đâu?"],
    ]
    assert (frame[["answer", "answer_key", "subject"]] == "").all(axis=None)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"en": "Who?\nWhere?", "vi": "Ai?"}, r"different numbers of questions \(en 2, vi 1\); align the files"),
        ({"en": "\n \n"}, "en.txt: has no questions; put one on each line"),
        ({"en": "Who?\n\nWhere?\nWho?"}, "en.txt: question 3 repeats question 1; remove one"),
        ({"en": b"caf\xe9?"}, r"en.txt: is not UTF-8 \(byte 3\); convert it first"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, contents, message):
    with pytest.raises(CraneError, match=message):
        read_question_files(written(tmp_path, **contents))


def test_a_missing_file(tmp_path):
    with pytest.raises(CraneError, match=r"open questions .*no\.txt: no such file"):
        read_question_files({"en": tmp_path / "no.txt"})


def test_the_papers_questions(shared):
    folder = shared / "reference" / "open_ended"
    if not folder.is_dir():
        pytest.skip("no ../shared/reference/open_ended")
    frame = read_question_files({language: folder / f"{language}.txt" for language in ("en", "zh", "vi")})
    assert frame.groupby("language").size().to_dict() == {"en": 70, "zh": 70, "vi": 70}
