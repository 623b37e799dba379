from crane_run import schedule as module
from crane_run.schedule import Board, Row


def rows(*numbers, expected=10.0):
    return [Row(number, f"Section {number}", expected) for number in numbers]


def start_all(board):
    started = []
    while (row := board.next()) is not None:
        row.start(str)
        started.append(row.number)
    return started


def test_sections_start_in_order_as_soon_as_what_they_wait_for_has_ended():
    board = Board(rows("00", "01", "02", "03"), {"01": {"00"}, "03": {"00", "01"}}, jobs=2)
    assert start_all(board) == ["00", "02"]
    board.row("02").stop("done")
    assert start_all(board) == []
    board.row("00").stop("failed")  # the others make what it did not
    assert start_all(board) == ["01"]
    board.row("01").stop("done")
    assert start_all(board) == ["03"]


def test_what_the_longest_chain_begins_with_starts_first():
    """03 is the longest by itself, but 02 has 04 after it."""
    board = Board(rows("00", "01", "02", "03", "04"), {"04": {"02"}}, jobs=2)
    for number, seconds in (("02", 20.0), ("03", 25.0)):
        board.row(number).expected = seconds
    assert start_all(board) == ["02", "03"]
    board.row("02").stop("done")
    board.row("03").stop("done")
    assert start_all(board) == ["00", "01"]
    assert start_all(Board(board.rows, board.after, jobs=1)) == []
    one_by_one = Board(rows("00", "01", "02"), {}, jobs=1)
    one_by_one.row("02").expected = 99.0
    assert start_all(one_by_one) == ["00"]


def test_no_more_than_the_jobs_at_once():
    board = Board(rows("00", "01", "02"), {}, jobs=2)
    assert start_all(board) == ["00", "01"]
    assert start_all(Board(rows("00", "01"), {})) == ["00"]


def test_nobody_waits_for_a_section_that_is_reused_or_not_asked_for():
    board = Board(rows("00", "01"), {"01": {"00", "99"}}, jobs=2)
    board.row("00").state = "reused"
    assert start_all(board) == ["01"]


def test_elapsed_and_left(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    row = Row("00", "Title", 30.0)
    assert (row.elapsed, row.left) == (0.0, 30.0)
    row.start(str)
    clock[0] += 12
    assert (row.elapsed, row.left) == (12.0, 18.0)
    clock[0] += 100
    assert row.left == 0.0
    row.stop("done")
    clock[0] += 5
    assert (row.elapsed, row.left, row.state) == (112.0, 0.0, "done")


def test_the_time_left_of_all():
    assert Board(rows("00", "01", "02"), {}, jobs=1).left == 30
    assert Board(rows("00", "01", "02"), {}, jobs=2).left == 20
    assert Board(rows("00", "01", "02"), {"01": {"00"}, "02": {"00", "01"}}, jobs=2).left == 30
    board = Board(rows("00", "01"), {})
    board.row("01").expected = None
    assert board.left is None
    board.row("01").state = "reused"
    assert board.left == 10
