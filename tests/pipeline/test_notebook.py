import os
from pathlib import Path

import pytest

from crane_lib.errors import CraneError
from crane_lib.pipeline.notebook import NotebookError, check_parameters, execute, known_parameters
from tests.pipeline.notebooks import outputs, write_notebook


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
        execute(path, tmp_path / "out" / "a.ipynb", {name: 1}, progress_file=tmp_path / "p.json")
    assert names(tmp_path) == ["a.ipynb"]


def test_a_notebook_that_fails_and_then_does_not(tmp_path):
    cell = (
        "import os, crane_lib\n"
        "print('value', value, crane_lib.__name__, os.path.basename(os.environ['CRANE_PROGRESS_FILE']))\n"
        "open(os.environ['CRANE_PROGRESS_FILE'], 'w').write('{}')\n"
        "from crane_lib.errors import CraneError\n"
        "if value == 2:\n"
        "    raise CraneError('the set is of another model; make it anew')\n"
        "if value == 3:\n"
        "    raise ValueError('first line\\nsecond line')"
    )
    path = write_notebook(tmp_path / "a.ipynb", cell, "print('after')")
    output, progress_file = tmp_path / "out" / "a.ipynb", tmp_path / "p.json"
    before = dict(os.environ)

    with pytest.raises(NotebookError) as error:
        execute(path, output, {"value": 2}, progress_file=progress_file)
    assert str(error.value) == "the set is of another model; make it anew"
    assert names(output.parent) == ["a.failed.ipynb"]
    assert "value 2 crane_lib p.json" in outputs(output.parent / "a.failed.ipynb")
    assert "after" not in outputs(output.parent / "a.failed.ipynb")

    execute(path, output, {"value": 7}, progress_file=progress_file)
    assert names(output.parent) == ["a.ipynb"]
    assert outputs(output) == "value 7 crane_lib p.json\nafter\n"
    assert dict(os.environ) == before
    assert names(tmp_path) == ["a.ipynb", "out"]

    with pytest.raises(NotebookError, match=r"^ValueError: first line$"):
        execute(path, output, {"value": 3}, progress_file=progress_file)
    assert names(output.parent) == ["a.failed.ipynb", "a.ipynb"]


def test_a_kernel_that_dies(tmp_path):
    path = write_notebook(tmp_path / "a.ipynb", "import os; os._exit(9)")
    clone = Path(__file__).parents[2]
    before = names(clone)
    with pytest.raises(NotebookError, match="its kernel died"):
        execute(path, tmp_path / "out" / "a.ipynb", {}, progress_file=tmp_path / "p.json")
    assert "a.ipynb" not in names(tmp_path / "out")
    assert not any("partial" in name for name in names(tmp_path / "out"))
    assert names(clone) == before  # its sockets lay elsewhere
