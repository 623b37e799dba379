import re

import pytest

from crane_run import notebook as module
from crane_run.notebook import SectionLog


@pytest.fixture
def path(tmp_path):
    return tmp_path / "logs" / "03_x.log"


def lines(path):
    """The log without the times of day."""
    return [re.sub(r"^\[[-\d]+ [:\d]+\] ", "@ ", line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_whole_log(path):
    with SectionLog(path, heading="03  Masks") as log:
        log.note("cell 2: print()")
        log.write("one\ntw")
        log.write("o\n\nthree \x1b[31mred\x1b[0m\r\nfour")
        log.end("done after 3.0 s")
    assert lines(path) == [
        "@ start: 03  Masks",
        "@ cell 2: print()",
        *("one", "two", "", "three red", "four"),
        "@ end: done after 3.0 s",
    ]


def test_each_line_is_there_as_soon_as_it_is_whole(path):
    log = SectionLog(path, heading="03")
    log.write("one\nhalf")
    assert lines(path) == ["@ start: 03", "one"]
    assert log.last == "one"
    log.close()
    assert lines(path)[-1] == "half"


def test_a_bar_leaves_its_last_state_and_one_now_and_then(path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    with SectionLog(path, heading="03") as log:
        for percent in range(101):
            log.write(f"\rRequests: {percent:3d}%|#####|")
            clock[0] += 0.4
        assert log.last == "Requests:  99%|#####|"
        log.write("\nafter\n")
    assert lines(path)[1:] == [
        *("Requests:  37%|#####|", "Requests:  75%|#####|", "Requests: 100%|#####|"),
        "after",
    ]


def test_what_an_interrupted_start_left_stays_above_the_next_one(path):
    SectionLog(path, heading="first").close()
    with SectionLog(path, heading="second") as log:
        log.end("done after 1.0 s")
    assert lines(path) == ["@ start: first", "", "@ start: second", "@ end: done after 1.0 s"]
    SectionLog(path, heading="third").close()
    assert lines(path) == ["@ start: third"]


def test_output_that_only_looks_like_an_end_does_not_finish_a_log(path):
    with SectionLog(path, heading="first") as log:
        log.write("end: of the cell\n")
    SectionLog(path, heading="second").close()
    assert lines(path)[:2] == ["@ start: first", "end: of the cell"]
