import json
import threading
import time

import pytest

from crane_lib import parallel as distributed
from crane_lib.errors import CraneError
from crane_lib.files import sha256
from crane_study import store as module
from crane_study.store import RECORD, Store, forget, remove_partial

calls = []


@pytest.fixture(autouse=True)
def _no_calls():
    calls.clear()


def make_text(folder, *, text, repeat=1):
    calls.append("text")
    (folder / "text.txt").write_text(text * repeat)
    (folder / "deep").mkdir()
    (folder / "deep" / "more.txt").write_text("more")


def make_other_text(folder, *, text, repeat=1):
    make_text(folder, text=text.upper(), repeat=repeat)


def make_length(folder, *, source, unit):
    calls.append("length")
    (folder / "length.txt").write_text(f"{len((source / 'text.txt').read_text())} {unit}")


def chain(root, *, text="abc", unit="characters", say=None):
    """Two stages, the second of which reads the first, as a new start of the program would run them."""
    store = Store(root, say=say or (lambda _line: None))
    first = store.run("text", make_text, parameters={"text": text})
    return first, store.run("length", make_length, inputs={"source": first}, parameters={"unit": unit})


def test_a_stage_is_made_once(tmp_path):
    said = []
    first, second = chain(tmp_path, say=said.append)
    assert (second / "length.txt").read_text() == "3 characters"
    assert (first.reused, second.reused) == (False, False)
    assert calls == ["text", "length"]
    again = chain(tmp_path, say=said.append)
    assert [stage.reused for stage in again] == [True, True]
    assert [stage.key for stage in again] == [first.key, second.key]
    assert calls == ["text", "length"]
    assert said[0].startswith("text: made in ")
    assert said[2].startswith("text: reused")


def test_a_stage_that_another_makes_is_waited_for_and_used(tmp_path):
    started, said, found = threading.Event(), [], []

    def make_slowly(folder):
        calls.append("slow")
        started.set()
        time.sleep(0.5)
        (folder / "text.txt").write_text("made")

    def ask(say):
        found.append(Store(tmp_path, say=say).run("text", make_slowly))

    first = threading.Thread(target=ask, args=(lambda _line: None,))
    first.start()
    assert started.wait(30)
    ask(said.append)
    first.join()
    assert calls == ["slow"]
    assert sorted(stage.reused for stage in found) == [False, True]
    assert said[0] == "text: waiting, another section is making it"
    assert said[1].startswith("text: reused")
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_the_record_lists_origin_section_and_outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("CRANE_SECTION", "04")
    first, second = chain(tmp_path)
    monkeypatch.setenv("CRANE_SECTION", "05")
    assert chain(tmp_path)[0].reused
    record = json.loads((second / RECORD).read_text())
    assert (record["section"], record["inputs"]) == ("04", {"source": first.key})
    assert record["parameters"] == {"unit": "characters"}
    assert record["libraries"]["torch"]
    record = json.loads((first / RECORD).read_text())
    assert set(record["outputs"]) == {"text.txt", "deep/more.txt"}
    assert record["outputs"]["text.txt"] == {"bytes": 3, "sha256": sha256(first / "text.txt")}
    assert [record["name"] for record in Store(tmp_path).records()] == ["length", "text"]


@pytest.mark.parametrize(
    ("change", "made", "content"),
    [({"text": "abcdef"}, ["text", "length"], "6 characters"), ({"unit": "letters"}, ["length"], "3 letters")],
)
def test_other_parameters_make_a_stage_and_its_readers_again(tmp_path, change, made, content):
    chain(tmp_path)
    _first, second = chain(tmp_path, **change)
    assert calls == ["text", "length", *made]
    assert (second / "length.txt").read_text() == content


def test_other_code_of_the_module_makes_it_again(tmp_path, monkeypatch):
    chain(tmp_path)
    monkeypatch.setattr(module, "code_fingerprint", lambda modules: f"changed {list(modules)}")
    first, second = chain(tmp_path)
    assert (first.reused, second.reused) == (False, False)
    monkeypatch.setattr(module, "code_fingerprint", lambda modules: f"changed {[__name__]}")
    assert [stage.reused for stage in chain(tmp_path)] == [True, True]


def test_another_function_of_the_module_is_another_stage(tmp_path):
    Store(tmp_path, say=calls.append).run("text", make_text, parameters={"text": "abc"})
    stage = Store(tmp_path, say=calls.append).run("text", make_other_text, parameters={"text": "abc"})
    assert (stage / "text.txt").read_text() == "ABC"


def test_other_libraries_data_files_and_files_from_outside_make_it_again(tmp_path, monkeypatch):
    data = tmp_path / "words.yaml"

    def run(sources):
        return Store(tmp_path / "stages", say=lambda _: None).run(
            "text", make_text, parameters={"text": "a"}, data=[data], sources={"file": sources}
        )

    data.write_text("a: 1")
    assert not run("1").reused
    assert run("1").reused
    assert not run("2").reused
    data.write_text("a: 2")
    assert not run("2").reused
    monkeypatch.setattr(module, "library_versions", lambda: {"torch": "0"})
    assert not run("2").reused


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.txt", None),
        ("deep/more.txt", None),
        (RECORD, None),
        ("text.txt", "ab"),
        *((RECORD, text) for text in ("", "{half", "[]", '{"schema": "crane.stage/0"}', '"text"', "{}")),
    ],
)
def test_a_missing_or_damaged_output_is_made_again(tmp_path, name, content):
    first, _second = chain(tmp_path)
    if content is None:
        (first / name).unlink()
    else:
        (first / name).write_text(content)
    again, second = chain(tmp_path)
    assert (again.reused, second.reused) == (False, True)
    assert (again / "text.txt").read_text() == "abc"
    assert again.key == first.key


@pytest.mark.parametrize("problem", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_stage_leaves_nothing_that_is_trusted(tmp_path, problem):
    def interrupted(folder, *, text):
        make_text(folder, text=text)
        raise problem

    interrupted.__qualname__ = make_text.__qualname__
    with pytest.raises(problem):
        Store(tmp_path).run("text", interrupted, parameters={"text": "abc"})
    assert list(tmp_path.iterdir()) == []
    assert not chain(tmp_path)[0].reused


def test_a_stage_that_fails_leaves_the_one_before(tmp_path):
    first, _second = chain(tmp_path)

    def failing(folder, *, text):
        raise RuntimeError(text)

    with pytest.raises(RuntimeError, match="new"):
        Store(tmp_path).run("text", failing, parameters={"text": "new"})
    assert (first / "text.txt").read_text() == "abc"
    assert chain(tmp_path)[0].reused


# --- a stage that fails ------------------------------------------------------------------------------------------


def make_nothing(folder, *, text):
    calls.append("tried")
    (folder / "half.txt").write_text(text)
    raise CraneError(f"the loss became nan\nin {text}") if text == "abc" else ValueError(f"no {text}")


def fail(root, text="abc", say=None):
    return Store(root, say=say or (lambda _line: None)).run("text", make_nothing, parameters={"text": text})


def test_a_failure_is_tried_once_a_start(tmp_path, monkeypatch):
    said = []
    monkeypatch.setenv("CRANE_START", "one")
    with pytest.raises(CraneError, match=r"^the loss became nan\nin abc$"):
        fail(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".text.failed"]
    for _section in range(2):
        with pytest.raises(CraneError, match=r"^the loss became nan$"):
            fail(tmp_path, say=said.append)
    assert calls == ["tried"]
    assert said == ["text: failed in another section, not tried again in this start"] * 2
    assert [path.name for path in tmp_path.iterdir()] == [".text.failed"]


def test_the_next_start_another_key_and_no_start_at_all_try_again(tmp_path, monkeypatch):
    for start in ("one", "two"):
        monkeypatch.setenv("CRANE_START", start)
        with pytest.raises(CraneError):
            fail(tmp_path)
    with pytest.raises(ValueError, match="no xyz"):
        fail(tmp_path, "xyz")
    with pytest.raises(CraneError, match=r"^ValueError: no xyz$"):
        fail(tmp_path, "xyz")
    monkeypatch.delenv("CRANE_START")
    with pytest.raises(ValueError, match="no xyz"):
        fail(tmp_path, "xyz")
    assert len(calls) == 4
    forget(tmp_path)
    with pytest.raises(CraneError):
        fail(tmp_path)
    assert list(tmp_path.iterdir()) == []  # without a start nothing is recorded


@pytest.mark.parametrize("content", ["", "{half", "[]", '{"start": "one"}'])
def test_a_failure_that_cannot_be_read_is_none(tmp_path, monkeypatch, content):
    monkeypatch.setenv("CRANE_START", "one")
    (tmp_path / ".text.failed").write_text(content)
    assert not Store(tmp_path).run("text", make_text, parameters={"text": "abc"}).reused


def test_an_interruption_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.setenv("CRANE_START", "one")
    with pytest.raises(KeyboardInterrupt):
        in_parts(tmp_path, stop_at=0)
    assert list(tmp_path.iterdir()) == []
    assert not in_parts(tmp_path).reused


def test_who_waits_for_a_stage_that_fails_fails_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("CRANE_START", "one")
    started, seen = threading.Event(), []

    def make_slowly(folder):
        calls.append("slow")
        started.set()
        time.sleep(0.5)
        raise CraneError("no luck")

    def ask():
        with pytest.raises(CraneError, match=r"^no luck$"):
            Store(tmp_path, say=seen.append).run("text", make_slowly)

    first = threading.Thread(target=ask)
    first.start()
    assert started.wait(30)
    ask()
    first.join()
    assert calls == ["slow"]
    assert seen == [
        "text: waiting, another section is making it",
        "text: failed in another section, not tried again in this start",
    ]


def test_a_process_that_was_killed_leaves_a_partial_folder_that_goes(tmp_path):
    first, _second = chain(tmp_path)
    partial = tmp_path / ".text.12345678.partial"
    partial.mkdir()
    (partial / RECORD).write_text((first / RECORD).read_text())
    (tmp_path / "text" / ".x.json.12345678.partial").write_text("half")
    (tmp_path / ".00_setup.partial.ipynb").write_text("half")
    assert [record["name"] for record in Store(tmp_path).records() if record] != []
    remove_partial(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["length", "text"]
    assert chain(tmp_path)[0].reused


def test_within_one_start_a_stage_is_looked_up_once(tmp_path):
    said = []
    store = Store(tmp_path, say=said.append)
    stages = [store.run("text", make_text, parameters={"text": "abc"}) for _ in range(3)]
    assert len(said) == 1
    assert stages[0] is stages[1] is stages[2]
    assert not store.run("text", make_text, parameters={"text": "other"}).reused


# --- scratch folders ---------------------------------------------------------------------------------------------


def make_in_parts(folder, *, text, scratch, stop_at=None, hurry=False):
    """Writes one part a letter, each once; what is there already is not done again."""
    for place, letter in enumerate(text):
        if place == stop_at:
            raise KeyboardInterrupt
        part = scratch / f"{place}.txt"
        if not part.exists():
            calls.append(letter)
            part.write_text(letter)
    (folder / "text.txt").write_text("".join(part.read_text() for part in sorted(scratch.iterdir())))


def in_parts(root, text="abc", **settings):
    store = Store(root, say=lambda _line: None)
    return store.run("parts", make_in_parts, parameters={"text": text}, settings=settings, scratch=True)


def test_a_stage_with_a_scratch_folder_goes_on_after_a_kill(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        in_parts(tmp_path, stop_at=2)
    (scratch,) = (tmp_path / ".scratch").iterdir()
    assert sorted(path.name for path in scratch.iterdir()) == ["0.txt", "1.txt"]
    remove_partial(tmp_path)
    stage = in_parts(tmp_path)
    assert calls == ["a", "b", "c"]
    assert (stage / "text.txt").read_text() == "abc"
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]
    assert Store(tmp_path).records()[0]["name"] == "parts"


def test_the_scratch_folder_belongs_to_one_key(tmp_path):
    for text in ("xyz", "abc"):
        with pytest.raises(KeyboardInterrupt):
            in_parts(tmp_path, text, stop_at=1)
    assert len(list((tmp_path / ".scratch").iterdir())) == 2
    (tmp_path / ".scratch" / "parts_of_another-0123456789abcdef").mkdir()
    assert (in_parts(tmp_path) / "text.txt").read_text() == "abc"
    left = [path.name for path in (tmp_path / ".scratch").iterdir()]
    assert left == ["parts_of_another-0123456789abcdef"]


def test_settings_are_given_but_do_not_matter(tmp_path):
    first = in_parts(tmp_path, hurry=True)
    again = in_parts(tmp_path, hurry=False)
    assert (first.reused, again.reused) == (False, True)
    assert "hurry" not in (first / RECORD).read_text()


# --- several processes -------------------------------------------------------------------------------------------


@pytest.fixture
def process(monkeypatch):
    """Stands for process `number` of two; what the first one shares is taken from `given`."""

    def become(number, given=()):
        values = iter(given)
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setattr(distributed, "rank", lambda: number)
        monkeypatch.setattr(distributed, "share", lambda value: next(values, value) if number else value)

    return become


def test_the_first_process_makes_a_stage_and_the_others_find_it(tmp_path, process):
    process(0)
    made = Store(tmp_path, say=calls.append).run("text", make_text, parameters={"text": "abc"})
    record = json.loads((made / RECORD).read_text())
    calls.clear()
    process(1, [made.key, None, None, record])  # it was not there when they started
    found = Store(tmp_path, say=lambda _line: None).run("text", make_text, parameters={"text": "abc"})
    assert calls == []
    assert (found.key, found.seconds) == (made.key, made.seconds)


def test_a_stage_with_a_scratch_folder_is_made_by_all_and_written_by_the_first(tmp_path, process):
    folders = []

    def together(folder, *, scratch):
        folders.append((folder.exists(), scratch))

    process(0)
    made = Store(tmp_path, say=calls.append).run("parts", together, scratch=True)
    process(1, [made.key, None, None, json.loads((made / RECORD).read_text())])
    Store(tmp_path, say=calls.append).run("parts", together, scratch=True)
    assert folders == [(True, tmp_path / ".scratch" / f"parts-{made.key}")] * 2


def test_a_stage_that_another_machine_does_not_see(tmp_path, process, monkeypatch):
    monkeypatch.setattr(module, "VISIBLE_SECONDS", -1.0)
    process(0)
    made = Store(tmp_path / "here").run("text", make_text, parameters={"text": "abc"})
    process(1, [made.key, json.loads((made / RECORD).read_text())])
    with pytest.raises(CraneError, match=r"text: the first process made it, but .* a disk that all machines share"):
        Store(tmp_path / "there").run("text", make_text, parameters={"text": "abc"})


def test_processes_with_other_code_are_refused(tmp_path, process):
    process(1, ["0123456789abcdef"])
    with pytest.raises(CraneError, match="text: the processes disagree on what to make"):
        Store(tmp_path).run("text", make_text, parameters={"text": "abc"})


def test_a_full_disk(tmp_path):
    def full(folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(CraneError, match="text: the disk is full"):
        Store(tmp_path).run("text", full)
    assert list(tmp_path.iterdir()) == []
