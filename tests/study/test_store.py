import json
import threading
import time

import pytest

from crane_lib import parallel
from crane_lib.errors import CraneError
from crane_lib.files import read_json, sha256
from crane_study import locks
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


def make_other_text(folder, *, text):
    make_text(folder, text=text.upper())


def make_length(folder, *, source, unit):
    calls.append("length")
    (folder / "length.txt").write_text(f"{len((source / 'text.txt').read_text())} {unit}")


def quiet(root, say=lambda _line: None):
    return Store(root, say=say)


def run_text(root, text="abc", **options):
    return quiet(root).run("text", make_text, text=text, **options)


def chain(root, *, text="abc", unit="characters", say=calls.count):
    """Two stages, the second of which reads the first, as a new start of the program would run them."""
    store = Store(root, say=say)
    first = store.run("text", make_text, text=text)
    return first, store.run("length", make_length, source=first, unit=unit)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_stage_is_made_once(tmp_path):
    said = []
    first, second = chain(tmp_path, say=said.append)
    assert (second / "length.txt").read_text() == "3 characters"
    assert (first.reused, second.reused) == (False, False)
    again = chain(tmp_path, say=said.append)
    assert [(stage.key, stage.reused) for stage in again] == [(first.key, True), (second.key, True)]
    assert calls == ["text", "length"]
    assert said[0].startswith("text: made in ")
    assert said[2].startswith("text: reused")


def test_within_one_start_a_stage_is_looked_up_once(tmp_path):
    said = []
    store = quiet(tmp_path, said.append)
    stages = [store.run("text", make_text, text="abc") for _ in range(3)]
    assert len(said) == 1
    assert stages[0] is stages[1] is stages[2]
    assert not store.run("text", make_text, text="other").reused


@pytest.mark.parametrize("fails", [False, True])
def test_a_stage_that_another_section_makes_is_waited_for(tmp_path, monkeypatch, fails):
    monkeypatch.setenv("CRANE_START", "one")
    started, said, found = threading.Event(), [], []

    def make_slowly(folder):
        calls.append("slow")
        started.set()
        time.sleep(0.5)
        if fails:
            raise CraneError("no luck")
        (folder / "text.txt").write_text("made")

    def ask(say=lambda _line: None):
        try:
            found.append(quiet(tmp_path, say).run("text", make_slowly).reused)
        except CraneError as error:
            found.append(str(error))

    first = threading.Thread(target=ask)
    first.start()
    assert started.wait(30)
    ask(said.append)
    first.join()
    assert calls == ["slow"]
    assert said[0] == "text: waiting, another section is making it"
    if fails:
        assert found == ["no luck"] * 2
        assert said[1:] == ["text: failed in another section, not tried again in this start"]
    else:
        assert sorted(found) == [False, True]
        assert said[1].startswith("text: reused")
        assert names(tmp_path) == ["text"]


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


def test_other_code_functions_sources_and_libraries_make_it_again(tmp_path, monkeypatch):
    assert not run_text(tmp_path, sources={"file": "1"}).reused
    assert run_text(tmp_path, sources={"file": "1"}).reused
    assert not run_text(tmp_path, sources={"file": "2"}).reused
    assert (quiet(tmp_path).run("text", make_other_text, text="abc") / "text.txt").read_text() == "ABC"
    chain(tmp_path)
    monkeypatch.setattr(module, "code_fingerprint", lambda modules: f"changed {list(modules)}")
    assert [stage.reused for stage in chain(tmp_path)] == [False, False]
    monkeypatch.setattr(module, "code_fingerprint", lambda modules: f"changed {[__name__]}")
    assert [stage.reused for stage in chain(tmp_path)] == [True, True]
    monkeypatch.setattr(module, "library_versions", lambda: {"torch": "0"})
    assert not run_text(tmp_path).reused


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.txt", None),
        ("deep/more.txt", None),
        (RECORD, None),
        ("text.txt", "ab"),
        ("text.txt", "abd"),
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
    assert (again.reused, second.reused, again.key) == (False, True, first.key)
    assert (again / "text.txt").read_text() == "abc"


def test_no_flipped_bit_is_trusted(tmp_path):
    """Bits of every file of a stage: it is made again, or its record says the same in what matters."""
    first, _second = chain(tmp_path)
    whole = read_json(first / RECORD)
    for name in (RECORD, *whole["outputs"]):
        content = (first / name).read_bytes()
        for place in range(0, 8 * len(content), 31 if name == RECORD else 1):
            flipped = bytearray(content)
            flipped[place // 8] ^= 1 << place % 8
            (first / name).write_bytes(flipped)
            seen = module.complete(first.folder, first.key)
            if seen is not None:
                assert name == RECORD
                assert (seen["key"], seen["outputs"]) == (whole["key"], whole["outputs"])
        (first / name).write_bytes(content)


@pytest.mark.parametrize("problem", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_stage_leaves_nothing_that_is_trusted_and_the_one_before(tmp_path, problem):
    def interrupted(folder, *, text):
        make_text(folder, text=text)
        raise problem

    interrupted.__qualname__ = make_text.__qualname__
    with pytest.raises(problem):
        quiet(tmp_path).run("text", interrupted, text="abc")
    assert names(tmp_path) == []
    first, _second = chain(tmp_path)
    assert not first.reused
    with pytest.raises(problem):
        quiet(tmp_path).run("text", interrupted, text="new")
    assert (first / "text.txt").read_text() == "abc"
    assert chain(tmp_path)[0].reused


def test_a_full_disk(tmp_path):
    def full(folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(CraneError, match="text: the disk is full"):
        quiet(tmp_path).run("text", full)
    assert names(tmp_path) == []


# --- a stage that fails ------------------------------------------------------------------------------------------


def make_nothing(folder, *, text):
    calls.append("tried")
    (folder / "half.txt").write_text(text)
    raise CraneError(f"the loss became nan\nin {text}") if text == "abc" else ValueError(f"no {text}")


def fail(root, message, text="abc", **options):
    with pytest.raises((CraneError, ValueError), match=f"^{message}$"):
        quiet(root, **options).run("text", make_nothing, text=text)


def test_a_failure_is_tried_once_per_start_and_key(tmp_path, monkeypatch):
    said = []
    for start in ("one", "two"):
        monkeypatch.setenv("CRANE_START", start)
        fail(tmp_path, "the loss became nan in abc")
        for _section in range(2):
            fail(tmp_path, "the loss became nan in abc", say=said.append)
        assert names(tmp_path) == [".text.failed"]
    assert calls == ["tried"] * 2
    assert set(said) == {"text: failed in another section, not tried again in this start"}
    fail(tmp_path, "no xyz", "xyz")
    fail(tmp_path, "ValueError: no xyz", "xyz")
    monkeypatch.delenv("CRANE_START")
    fail(tmp_path, "no xyz", "xyz")
    assert len(calls) == 4
    forget(tmp_path)
    fail(tmp_path, "the loss became nan in abc")
    assert names(tmp_path) == []  # without a start nothing is recorded


@pytest.mark.parametrize("content", ["", "{half", "[]", '{"start": "one"}'])
def test_a_failure_that_cannot_be_read_is_none(tmp_path, monkeypatch, content):
    monkeypatch.setenv("CRANE_START", "one")
    (tmp_path / ".text.failed").write_text(content)
    assert not run_text(tmp_path).reused


def test_a_process_that_was_killed_leaves_a_partial_folder_that_is_removed(tmp_path):
    first, _second = chain(tmp_path)
    partial = tmp_path / ".text.12345678.partial"
    partial.mkdir()
    (partial / RECORD).write_text((first / RECORD).read_text())
    (tmp_path / "text" / ".x.json.12345678.partial").write_text("half")
    (tmp_path / ".00_setup.partial.ipynb").write_text("half")
    remove_partial(tmp_path)
    assert names(tmp_path) == ["length", "text"]
    assert chain(tmp_path)[0].reused


# --- scratch folders ---------------------------------------------------------------------------------------------


def make_in_parts(folder, *, text, scratch, stop_at=None, hurry=False):
    """Write one part per letter, each once; parts that exist are not written again."""
    for place, letter in enumerate(text):
        if place == stop_at:
            raise KeyboardInterrupt
        part = scratch / f"{place}.txt"
        if not part.exists():
            calls.append(letter)
            part.write_text(letter)
    (folder / "text.txt").write_text("".join(part.read_text() for part in sorted(scratch.iterdir())))


def in_parts(root, text="abc", **settings):
    return quiet(root).run("parts", make_in_parts, text=text, settings=settings, scratch=True)


def test_a_stage_with_a_scratch_folder_continues_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.setenv("CRANE_START", "one")  # an interruption is no failure
    with pytest.raises(KeyboardInterrupt):
        in_parts(tmp_path, stop_at=0)
    assert names(tmp_path) == []
    with pytest.raises(KeyboardInterrupt):
        in_parts(tmp_path, stop_at=2)
    (scratch,) = (tmp_path / ".scratch").iterdir()
    assert names(scratch) == ["0.txt", "1.txt"]
    remove_partial(tmp_path)
    stage = in_parts(tmp_path)
    assert calls == ["a", "b", "c"]
    assert (stage / "text.txt").read_text() == "abc"
    assert names(tmp_path) == ["parts"]


def test_the_scratch_folder_goes_even_if_the_start_that_made_the_stage_was_killed_before(tmp_path, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr(Store, "_remove_scratch", lambda *_, **__: None)
        assert not in_parts(tmp_path, text="abc").reused
    assert names(tmp_path / ".scratch") != []
    assert in_parts(tmp_path, text="abc").reused
    assert not (tmp_path / ".scratch").exists()


def test_the_scratch_folder_belongs_to_one_key(tmp_path):
    for text in ("xyz", "abc"):
        with pytest.raises(KeyboardInterrupt):
            in_parts(tmp_path, text, stop_at=1)
    assert len(names(tmp_path / ".scratch")) == 2
    (tmp_path / ".scratch" / "parts_of_another-0123456789abcdef").mkdir()
    assert (in_parts(tmp_path) / "text.txt").read_text() == "abc"
    assert names(tmp_path / ".scratch") == ["parts_of_another-0123456789abcdef"]


def test_settings_are_given_but_do_not_matter(tmp_path):
    first, again = in_parts(tmp_path, hurry=True), in_parts(tmp_path, hurry=False)
    assert (first.reused, again.reused) == (False, True)
    assert "hurry" not in (first / RECORD).read_text()


# --- several processes -------------------------------------------------------------------------------------------


@pytest.fixture
def process(monkeypatch):
    """Stands for process `number` of two; what the first one shares is taken from `given`."""

    def become(number, given=()):
        values = iter(given)
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setattr(parallel, "rank", lambda: number)
        monkeypatch.setattr(parallel, "share", lambda value: next(values, value) if number else value)

    return become


def test_the_first_process_makes_a_stage_and_the_others_find_it(tmp_path, process, monkeypatch):
    process(0)
    made = run_text(tmp_path)
    record = json.loads((made / RECORD).read_text())
    process(1, [made.key, None, None, record])  # it was not there when they started
    found = run_text(tmp_path)
    assert calls == ["text"]
    assert (found.key, found.seconds) == (made.key, made.seconds)
    monkeypatch.setattr(locks, "VISIBLE_SECONDS", -1.0)
    process(1, [made.key, record])
    with pytest.raises(CraneError, match=r"text: another process wrote it, but .* a disk that all machines share"):
        run_text(tmp_path / "elsewhere")


def test_a_stage_with_a_scratch_folder_is_made_by_all_and_written_by_the_first(tmp_path, process):
    folders = []

    def together(folder, *, scratch):
        folders.append((folder.exists(), scratch))

    process(0)
    made = quiet(tmp_path).run("parts", together, scratch=True)
    process(1, [made.key, None, None, json.loads((made / RECORD).read_text())])
    quiet(tmp_path).run("parts", together, scratch=True)
    assert folders == [(True, tmp_path / ".scratch" / f"parts-{made.key}")] * 2


def test_processes_with_other_code_are_refused(tmp_path, process):
    process(1, ["0123456789abcdef"])
    with pytest.raises(CraneError, match="text: the processes disagree on what to make"):
        run_text(tmp_path)
