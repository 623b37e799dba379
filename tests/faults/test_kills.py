"""The harness that kills commands notices what may go wrong; test_smoke.py kills a study with it."""

import random
import signal
import sys
import tempfile

import pytest

from tests.faults import kills
from tests.faults.kills import Killer, Scenario

# Writes a file a step, and goes on after the last one.
PROGRAM = """
import os, pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
begun, stages = pathlib.Path(sys.argv[1]) / "begun", pathlib.Path(sys.argv[1]) / "run" / "stages"
again = begun.exists()
begun.touch()
signals = [signal.SIGTERM, signal.SIGINT]
signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # until there is a name for the child
child = subprocess.Popen(["sleep", "10"], start_new_session=True)
try:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    for number in range(4):
        file = stages / str(number) / "stage.json"
        if not file.is_file():
            time.sleep(0.1)
            file.parent.mkdir(parents=True, exist_ok=True)
            (file.parent / "result").write_text({result})
            file.write_text("")
finally:
    {end}
"""


@pytest.fixture(autouse=True)
def _folders(tmp_path, monkeypatch):
    """Folders of failures stay with the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def killer(monkeypatch, *, result="str(number)", end="child.kill()", count=6) -> Killer:
    monkeypatch.setattr(kills, "SIGNALS", (signal.SIGTERM, signal.SIGINT))  # nothing ends a child after SIGKILL
    monkeypatch.setattr(kills, "_SECONDS_TO_END", 2.0)
    program = PROGRAM.format(result=result, end=end)
    scenario = Scenario(
        lambda folder: [sys.executable, "-c", program, str(folder)],
        ("the program", "its child"),
        pieces="run/stages/*/stage.json",
        longest=0.5,
        spared=("its child",),
    )
    return Killer(scenario, count, random.Random(0))


def test_a_program_that_goes_on_and_ends_its_processes_survives(monkeypatch, capsys):
    one = killer(monkeypatch)
    one.survive()
    assert one.done == {"SIGTERM to the program": 3, "SIGINT to the program": 3}
    assert one.starts > 6
    assert one.pending == set()
    assert one.files % 4 == 0
    assert "6 of 6: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ({"end": "pass"}, r"left behind: \['its child"),
        ({"end": "child.kill(); time.sleep(4)"}, "has not ended after 2 s"),
        ({"result": "str(number) + str(child.pid)"}, "files differ: .*run/stages/0/result"),
        ({"result": "1 / 0 if again else ''"}, "exit code 1 after no kill"),
    ],
)
def test_what_goes_wrong_is_noticed(monkeypatch, faults, words):
    one = killer(monkeypatch, **faults)
    with pytest.raises(AssertionError, match=words):
        one.survive()
