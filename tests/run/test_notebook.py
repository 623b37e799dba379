import os
import re
import threading
import time
from pathlib import Path

import pytest

from crane_lib.errors import CraneError
from crane_run.notebook import Kernels, NotebookError, SectionLog, check_parameters, execute, known_parameters
from crane_study import ROOT
from tests.run.notebooks import is_alive, outputs, write_notebook


def run(path, output, parameters=None, *, variables=None, kernels=None):
    """Execute with a log beside the notebook; returns the log."""
    log_path = path.with_name("log.txt")
    with SectionLog(log_path, heading="run") as log:
        execute(path, output, parameters or {}, variables=variables or {}, log=log, kernels=kernels or Kernels())
    return log_path.read_text()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_parameters_of_a_notebook(tmp_path):
    path = write_notebook(tmp_path / "a.ipynb")
    assert known_parameters(path) == ["profile", "artifacts", "value"]
    check_parameters(path, {"value": 3})


@pytest.mark.parametrize(
    ("name", "right"), [("valeu", r"did you mean 'value'\?"), ("zzz", "known: profile, artifacts, value")]
)
def test_an_unknown_parameter_names_the_nearest(tmp_path, name, right):
    path = write_notebook(tmp_path / "a.ipynb")
    with pytest.raises(CraneError, match=rf"a\.ipynb: unknown parameter '{name}'; {right}"):
        run(path, tmp_path / "out" / "a.ipynb", {name: 1})
    assert names(tmp_path) == ["a.ipynb", "log.txt"]


def test_a_notebook_that_fails_and_then_does_not(tmp_path):
    cell = (
        "import os, crane_lib\n"
        "print('value', value, crane_lib.__name__, os.environ['CRANE_SECTION'])\n"
        "from crane_lib.errors import CraneError\n"
        "if value == 2:\n"
        "    raise CraneError('the set is of another model; make it anew')\n"
        "if value == 3:\n"
        "    raise ValueError('first line\\nsecond line')"
    )
    path = write_notebook(tmp_path / "a.ipynb", cell, "print('after')")
    output, variables = tmp_path / "out" / "a.ipynb", {"CRANE_SECTION": "07"}
    before = dict(os.environ)
    folder = Path.cwd()

    with pytest.raises(NotebookError) as error:
        run(path, output, {"value": 2}, variables=variables)
    assert str(error.value) == "the set is of another model; make it anew"
    assert names(output.parent) == ["a.failed.ipynb"]
    assert "value 2 crane_lib 07" in outputs(output.parent / "a.failed.ipynb")
    assert "after" not in outputs(output.parent / "a.failed.ipynb")

    log = run(path, output, {"value": 7}, variables=variables)
    assert names(output.parent) == ["a.ipynb"]
    assert outputs(output) == "value 7 crane_lib 07\nafter\n"
    assert (dict(os.environ), Path.cwd()) == (before, folder)
    assert names(tmp_path) == ["a.ipynb", "log.txt", "out"]
    assert re.findall(r"\] (cell \d+: \w+)", log)[-2:] == ["cell 3: import", "cell 4: print"]
    assert log.index("value 7 crane_lib 07\n") < log.index("] cell 4") < log.index("\nafter\n")

    with pytest.raises(NotebookError, match=r"^ValueError: first line$"):
        run(path, output, {"value": 3}, variables=variables)
    assert names(output.parent) == ["a.failed.ipynb", "a.ipynb"]
    log = path.with_name("log.txt").read_text()
    assert "ValueError" in log.splitlines()[-2]
    assert log.endswith("first line\nsecond line\n")
    assert "\x1b" not in log


def test_a_kernel_that_dies(tmp_path):
    path = write_notebook(tmp_path / "a.ipynb", "import os; os.write(2, b'last words'); os._exit(9)")
    clone = ROOT
    before = names(clone)
    with pytest.raises(NotebookError, match="its kernel died"):
        run(path, tmp_path / "out" / "a.ipynb")
    assert "a.ipynb" not in names(tmp_path / "out")
    assert not any("partial" in name for name in names(tmp_path / "out"))
    assert names(clone) == before  # its sockets lay elsewhere


def test_kernels_at_work_are_ended_with_all_they_started(tmp_path):
    pids = tmp_path / "pids"
    cell = (
        "import os, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(pids)!r} + '.partial', 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        f"os.rename({str(pids)!r} + '.partial', {str(pids)!r})\n"
        "time.sleep(600)"
    )
    path, kernels, errors = write_notebook(tmp_path / "a.ipynb", cell), Kernels(), []

    def work():
        try:
            run(path, tmp_path / "out" / "a.ipynb", kernels=kernels)
        except NotebookError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive() and not pids.is_file():
        time.sleep(0.05)
    kernels.stop()
    thread.join(60)
    assert not thread.is_alive()
    assert "its kernel died" in errors[0]
    assert not [number for number in pids.read_text().split() if is_alive(int(number))]
    with pytest.raises(NotebookError, match="its kernel did not start"):  # one that starts after the end was called for
        run(path, tmp_path / "out" / "a.ipynb", kernels=kernels)
