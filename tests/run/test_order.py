import pytest

from crane_run import schedule as order
from crane_run import sections
from crane_run.schedule import Plan, by_urgency, reachable, stages_read, waits_for
from crane_run.sections import all_sections
from tests.run.notebooks import write_notebook


def test_every_section_waits_for_those_that_make_what_it_reads():
    """If this fails after a change of the notebooks or of `Study`: is the new order what their code means?"""
    before_masks = {"00", "01", "02"}
    assert waits_for(all_sections()) == {
        "00": set(),
        "01": {"00"},
        "02": {"00", "01"},
        "03": before_masks,
        "04": before_masks,
        "05": before_masks,
        "06": {"00", "01"},
        "07": before_masks | {"03", "04", "05"},
        "08": before_masks | {"03", "04", "05", "07"},
        "09": before_masks | {"03", "04", "05", "07"},
        "10": before_masks,
    }


@pytest.mark.parametrize(
    ("code", "read"),
    [
        ("print(1)", set()),
        ("print(study.languages, study.folder)", set()),
        ("study.corpus", {"corpus"}),
        ("%time study.relevance('base')", set()),  # a line that only IPython understands
        ("study.unmasked_accuracy()", {"unmasked_accuracy", "questions", "corpus", "model"}),
        (
            "from crane_study.tables import overlap\noverlap.main_sets(study)",
            {"selection", "relevance", "corpus", "model"},
        ),
        (
            "from crane_study.tables.overlap import main_sets\nmain_sets(study)",
            {"selection", "relevance", "corpus", "model"},
        ),
        ("from crane_study.tables import paper\npaper.RELEASED_RULE", set()),
    ],
)
def test_what_a_section_reads(tmp_path, code, read):
    path = write_notebook(tmp_path / "00_x.ipynb", code)
    assert stages_read(sections.Section(path)) == read


def test_sections_without_a_study_wait_for_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(order, "_members", None)  # and the study is not even loaded
    found = [sections.Section(write_notebook(tmp_path / f"0{n}_x.ipynb", "pass")) for n in range(2)]
    assert waits_for(found) == {"00": set(), "01": set()}


def test_reachable_follows_circles_once_and_keeps_unknown_names():
    assert reachable(["a", "z"], {"a": {"b"}, "b": {"a", "c"}}) == {"a", "b", "c", "z"}


@pytest.mark.parametrize(
    ("left", "after", "jobs", "expected"),
    [
        ({}, {}, 2, 0),
        ({"a": 3, "b": 2, "c": 2}, {}, 1, 7),
        ({"a": 3, "b": 2, "c": 2}, {}, 2, 4),
        ({"a": 3, "b": 2, "c": 2}, {"b": {"a"}, "c": {"a"}}, 2, 5),
        ({"a": 3, "b": 2}, {"b": {"done before"}}, 2, 3),
        ({"a": 3, "b": 2}, {}, 9, 3),
    ],
)
def test_seconds_left(left, after, jobs, expected):
    assert Plan(list(left), after, jobs).seconds(left, {}) == expected


def test_what_is_at_work_counts_with_what_is_left_of_it():
    plan = Plan(["a", "b", "c"], {"c": {"a"}}, 2)
    assert plan.seconds({"c": 5}, {"a": 1, "b": 2}) == 6
    assert plan.next({"c": 5}, {"a": 1, "b": 2}) is None  # no place
    assert plan.next({"c": 5}, {"b": 2}) == "c"


def test_a_place_is_left_free_where_all_ends_sooner_then():
    after = {"b": {"a"}, "c": {"a"}, "d": {"b", "c"}}
    times = {"b": 200, "c": 200, "d": 200, "e": 150, "f": 50}
    plan = Plan(["a", "b", "c", "d", "e", "f"], after, 2)
    assert plan.next(times, {"a": 10}) is None  # e would delay b or c, and d with it
    assert plan.seconds(times, {"a": 10}) == 410
    assert plan.next(times, {"a": 150}) == "e"  # to wait so long would cost more than it gains
    assert plan.next({"e": 150}, {"b": 10}) == "e"  # and here it would gain nothing


def test_the_start_is_chosen_by_when_all_ends():
    """With the first in order, c, all would end at 427: d and e would follow one another at the end."""
    after = {"last": {"a", "b", "c"}}
    times = {"c": 73, "last": 210, "d": 205, "e": 160}
    plan = Plan(["a", "b", "c", "last", "d", "e"], after, 2)
    assert plan.next(times, {"a": 62}) == "d"
    assert plan.seconds(times, {"a": 62}) == 365


def test_the_order_of_urgency():
    after = {"c": {"a"}, "d": {"a", "c"}}
    assert by_urgency({"a": 1, "b": 9, "c": 5, "d": 4}, after) == ["a", "b", "c", "d"]
    assert by_urgency({"a": 1, "b": 11, "c": 5, "d": 4}, after) == ["b", "a", "c", "d"]
    assert by_urgency({"a": 1, "b": 1}, {}) == ["a", "b"]
