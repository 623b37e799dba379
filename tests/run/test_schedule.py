import itertools
from types import SimpleNamespace

import pytest

from crane_lib.errors import CraneError
from crane_run import schedule
from crane_run.schedule import REST, Board, Row, check_disk, disk_needed, size_text
from crane_study.profile import Needs, load_profile
from crane_study.progress import Report

SMOKE = load_profile("smoke")


def board(seconds, after=None, jobs=2):
    return Board(
        [Row(number, f"Section {number}", {REST: left}) for number, left in seconds.items()], after or {}, jobs
    )


def start_all(found):
    started = []
    while (row := found.next()) is not None:
        row.start(Report)
        started.append(row.number)
    return started


def test_sections_start_as_soon_as_what_they_wait_for_has_ended():
    found = board(dict.fromkeys(("00", "01", "02", "03"), 10.0), {"01": {"00"}, "03": {"00", "01"}})
    assert start_all(found) == ["00", "02"]
    found.row("02").stop("done")
    assert start_all(found) == []
    found.row("00").stop("failed")  # the others make what it did not
    assert start_all(found) == ["01"]
    found.row("01").stop("done")
    assert start_all(found) == ["03"]
    reused = board({"00": 10.0, "01": 10.0}, {"01": {"00", "99"}})  # 99 is not asked for
    reused.row("00").state = "reused"
    assert start_all(reused) == ["01"]
    # Several at once: the longest chain first. 03 is the longest by itself, but 02 has 04 after it.
    seconds, after = {"00": 10.0, "01": 10.0, "02": 20.0, "03": 25.0, "04": 10.0}, {"04": {"02"}}
    found = board(seconds, after)
    assert start_all(found) == ["02", "03"]
    found.row("02").stop("done")
    found.row("03").stop("done")
    assert start_all(found) == ["00", "01"]
    assert start_all(board(seconds, after, jobs=1)) == ["00"]


@pytest.mark.parametrize(
    ("seconds", "after", "jobs", "expected"),
    [
        ({}, {}, 2, 0),
        ({"00": 3, "01": 2, "02": 2}, {}, 1, 7),
        ({"00": 3, "01": 2, "02": 2}, {}, 2, 4),
        ({"00": 3, "01": 2, "02": 2}, {"01": {"00"}, "02": {"00"}}, 2, 5),
        ({"00": 3, "01": 2, "02": 2}, {"01": {"00"}, "02": {"00", "01"}}, 2, 7),
        ({"00": 3, "01": 2}, {"01": {"99"}}, 2, 3),
    ],
)
def test_seconds_until_all_is_done(seconds, after, jobs, expected):
    assert board(seconds, after, jobs).left == expected


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when the test says so."""
    now = [100.0]
    monkeypatch.setattr(schedule.time, "monotonic", lambda: now[0])
    return now


def test_the_time_left_counts_what_runs_and_is_unknown_where_a_section_is(clock):
    found = board({"00": 30.0, "01": 10.0}, {"01": {"00"}})
    row = found.row("00")
    assert (row.elapsed, row.left, found.left) == (0.0, 30.0, 40.0)
    row.start(Report)
    found.look()
    clock[0] += 12
    found.look()
    assert (row.elapsed, row.left, found.left) == (12.0, 18.0, 28.0)
    row.work, known = None, row.work
    assert found.left is None
    found.look()
    row.work = known
    clock[0] += 100
    found.look()
    assert row.left == 0.0
    assert 20 < found.left < 100  # what took too long is taken for slowness
    row.stop("done")
    clock[0] += 5
    assert (row.elapsed, row.left, row.state) == (112.0, 0.0, "done")
    found.later = 30.0
    assert found.left == pytest.approx(40 / found.speed)


def reports(found, number, share=None, skipped=None, **stages):
    row = found.row(number)
    if row.state == "waiting":
        row.start(Report)
    row.look = lambda: Report("", stages, share, skipped)
    found.look()


def test_a_stage_counts_where_it_is_made_and_not_where_it_is_reused(clock):
    rows = [
        Row("00", "Models", {REST: 5.0, "corpus": 10.0, "model": 100.0}),
        Row("01", "Relevance", {REST: 5.0, "relevance": 50.0}),
        Row("02", "Selection", {REST: 5.0}, kept={"selection": 20.0}),
        Row("03", "Masks", {REST: 5.0}, kept={"masks": 200.0}),
    ]
    found = Board(rows, jobs=2)
    assert (found.left, found.most) == (115.0, 205.0)
    reports(found, "00", corpus="reused")
    assert found.row("00").left == 105.0
    reports(found, "01", corpus="reused", model="making")  # the other one was expected to
    assert (found.row("00").left, found.row("01").left) == (5.0, 155.0)
    assert (found.row("02").left, found.row("03").left) == (5.0, 5.0)
    reports(found, "01", corpus="reused", model="made", relevance="made", selection="making")
    assert (found.row("01").left, found.row("02").left) == (25.0, 5.0)
    assert found.row("03").left == 205.0  # what lay there is out of date
    assert found.most == found._span(lambda row: row.left)


def test_what_an_earlier_start_did_is_no_speed(clock):
    found = Board([Row("00", "Masks", {"masks": 100.0})])
    reports(found, "00", masks="making")
    clock[0] += 1
    reports(found, "00", 0.5, 0.5, masks="making")
    assert found.row("00").left == 50.0
    assert 0.9 < found.speed <= 1.0
    clock[0] += 10
    reports(found, "00", 0.7, 0.5, masks="making")
    assert found.row("00").left == pytest.approx(30.0)
    assert found.speed > 1.2


SECTIONS = {  # what a simulated run needs, in seconds of the reference machine; stages with a * report their share
    "00": {REST: 4, "corpus": 3, "model*": 2},
    "01": {REST: 8, "relevance*": 30},
    "02": {REST: 10, "selection": 2},
    "03": {REST: 15, "perplexity*": 90},
    "04": {REST: 15, "questions*": 110},
    "05": {REST: 10, "answers*": 40},
    "06": {REST: 20, "controls": 1, "control_perplexity*": 60, "control_questions*": 70},
    "07": {REST: 20, "relevance_chat*": 20, "perplexity_chat*": 60, "questions_chat*": 60},
    "08": {REST: 8},
    "10": {REST: 10, "ablation*": 90},
}
AFTER = {
    "01": {"00"},
    "02": {"00", "01"},
    "06": {"00", "01"},
    **{number: {"00", "01", "02"} for number in ("03", "04", "05", "10")},
    "07": {"00", "01", "02", "03", "04", "05"},
    "08": {"00", "01", "02", "03", "04", "05", "07"},
}


class Simulated:
    """A section that is being done: half of what is outside stages comes before them."""

    def __init__(self, number, rough):
        parts = {name: seconds for name, seconds in SECTIONS[number].items() if name}
        rest = SECTIONS[number][REST] / 2
        # The reference's seconds are never quite those of another machine.
        self.queue = [(REST, rest), *((name, seconds * next(rough)) for name, seconds in parts.items()), (REST, rest)]
        self.stages, self.gone = {}, 0.0

    def pass_by(self, work):
        while self.queue and work > 0:
            step = min(work, self.queue[0][1] - self.gone)
            work, self.gone = work - step, self.gone + step
            name, seconds = self.queue[0]
            done = self.gone >= seconds - 1e-9
            if name:
                self.stages[name.rstrip("*")] = "made" if done else "making"
            if done:
                self.queue.pop(0)
                self.gone = 0.0

    def look(self):
        name, seconds = self.queue[0] if self.queue else ("", 1.0)
        said = name.endswith("*") and self.gone > 0.1 * seconds  # it loads its model first
        share = int(20 * (self.gone / seconds - 0.1) / 0.9) / 20 if said else None
        return Report("", dict(self.stages), share, 0.0 if said else None)


def simulate(clock, *, jobs, speed, pace=()):
    """Run everything; gives pairs of seconds since the start and of the time left that was told then, and the end."""
    rough = itertools.cycle([1.1, 0.95, 1.0, 1.05, 0.9])
    rows = [
        Row(number, number, {name.rstrip("*"): float(seconds) for name, seconds in parts.items()})
        for number, parts in SECTIONS.items()
    ]
    found, began, at_work, told = Board(rows, AFTER, jobs, pace), clock[0], {}, []
    while found.count("waiting", "running"):
        while (row := found.next()) is not None:
            at_work[row.number] = Simulated(row.number, rough)
            row.start(at_work[row.number].look)
        clock[0] += 2.0
        for number, section in list(at_work.items()):
            section.pass_by(2.0 * speed(clock[0] - began, len(at_work)))
            if not section.queue:
                found.row(number).stop("done")
                del at_work[number]
        found.look()
        if int(clock[0]) % 10 == 0:
            told.append((clock[0] - began, found.left))
    return told, clock[0] - began


@pytest.mark.parametrize(
    ("jobs", "speed", "pace", "since"),
    [
        (2, lambda _now, _running: 1.0, (), 60),
        (1, lambda _now, _running: 1.2, (), 60),
        (2, lambda _now, _running: 1 / 3, (), 60),
        (1, lambda _now, _running: 3.0, (), 60),
        (2, lambda _now, running: 1.0 if running == 1 else 2 / 3, (1.5, 1.0), 60),
        (2, lambda now, _running: 1 / 3 if now < 700 else 2 / 9, (), 760),
        (2, lambda now, _running: 0.5 if now < 250 else 1.0, (), 310),
    ],
    ids=["reference", "one core", "slow", "fast", "one of two cores is busy", "one becomes busy", "one becomes free"],
)
def test_after_the_first_minute_the_time_left_is_within_a_quarter_of_the_truth(clock, jobs, speed, pace, since):
    told, end = simulate(clock, jobs=jobs, speed=speed, pace=pace)
    later = [(now, left, end - now) for now, left in told if since <= now <= end - 10]
    assert len(later) > 15
    assert [one for one in later if abs(one[1] / one[2] - 1) > 0.25] == []


def changed(**values):
    return SMOKE.model_copy(update=values)


def test_a_disk_that_is_too_small_is_refused(tmp_path, monkeypatch):
    assert [size_text(size) for size in (0.04, 1.26, 14.4)] == ["40 MB", "1.3 GB", "14 GB"]
    monkeypatch.setattr(schedule.shutil, "disk_usage", lambda _path: SimpleNamespace(free=2e9))
    folder = tmp_path / "deep" / "smoke"
    for needs in (Needs(disk_gb=1.9), Needs()):
        check_disk(changed(needs=needs), folder)
    with pytest.raises(CraneError, match=r"smoke: profile smoke needs 3\.0 GB more disk, 2\.0 GB are free; free some"):
        check_disk(changed(needs=Needs(disk_gb=3)), folder)
    assert not folder.parent.exists()
    profile = changed(needs=Needs(disk_gb=0.000003))
    folder.mkdir(parents=True)
    for name, needed in (("a", 0.000001), ("b", 0)):  # the files of an earlier run need no more disk
        (folder / name).write_bytes(b"x" * 2000)
        assert disk_needed(profile, folder) == pytest.approx(needed)
