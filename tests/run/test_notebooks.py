"""Notebooks with kept outputs: a number or a picture that changed is found, and named with its notebook and cell."""

import re
from base64 import b64decode, b64encode
from io import BytesIO

import nbformat
import papermill
import pytest
from nbformat.v4 import new_output
from PIL import Image

from crane_lib.errors import CraneError
from crane_run.sections import all_sections
from crane_study import ROOT
from tests.run.notebooks import write_notebook
from tools import notebooks

PICTURE = """from base64 import b64encode
from io import BytesIO
from IPython.display import Markdown, display
from PIL import Image
buffer = BytesIO()
Image.new("RGB", (1600, 400), "navy").save(buffer, "PNG")
words = "Panel 1 of 1: Drops\\n  English (bars): en: 0.714"
both = {"image/png": b64encode(buffer.getvalue()).decode(), "text/plain": words}
display(both, raw=True, metadata={"image/png": {"alt": "Drops"}})
display(Markdown("| value |\\n| --: |\\n| 0.125 |"))
"""
CELLS = ('print("corpus: made in 3.2 s")', PICTURE, 'print(profile.endswith("profile.yaml"), value)')


def displays(path):
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    return [output for output in outputs if "data" in output]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run of one tiny notebook, and the notebook with the run's outputs."""
    folder = tmp_path_factory.mktemp("kept")
    run = folder / "artifacts" / "tiny"
    path = write_notebook(folder / "00_tiny.ipynb", *CELLS)
    parameters = {"profile": str(run / "profile.yaml"), "artifacts": str(run.parent)}
    (run / "notebooks").mkdir(parents=True)
    (run / "profile.yaml").write_text("name: tiny\n")
    executed = str(run / "notebooks" / path.name)
    papermill.execute_notebook(str(path), executed, parameters, kernel_name="python3", progress_bar=False)
    assert notebooks.keep_outputs(run, [path]) == [path]
    return run, path


def altered(path, name, changes):
    """A copy of a notebook in whose outputs, not in whose code, something else stands."""
    book = nbformat.read(path, as_version=4)
    texts = [(output, "text") for cell in book.cells for output in cell.get("outputs", []) if "text" in output]
    texts += [
        (output.data, kind)
        for cell in book.cells
        for output in cell.get("outputs", [])
        for kind in output.get("data", {})
        if kind in ("text/plain", "text/markdown", "image/png")
    ]
    for old, new in changes.items():
        ((held, kind),) = [(held, kind) for held, kind in texts if old in held[kind]]
        held[kind] = held[kind].replace(old, new)
    copy = path.with_name(name)
    nbformat.write(book, copy)
    return copy


def test_kept_outputs_are_complete_and_without_times_and_machine(kept):
    run, path = kept
    book = nbformat.read(path, as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4]
    assert [cell.source for cell in code[1:]] == list(CELLS)
    assert code[1].outputs[0].text == "corpus: made or reused\n"
    assert code[3].outputs[0].text == "True 1\n"
    text = path.read_text()
    assert 'profile = "mini"' in code[0].source
    assert not [word for word in ("injected", "papermill", str(path.parent)) if word in text]
    assert code[2].outputs[0].metadata == {"image/png": {"alt": "Drops"}}
    (png,) = [output.data["image/png"] for output in displays(path) if "image/png" in output.data]
    assert Image.open(BytesIO(b64decode(png))).size == (notebooks.PICTURE_WIDTH, notebooks.PICTURE_WIDTH // 4)
    assert notebooks.keep_outputs(run, [path]) == []
    assert path.read_text() == text


def test_what_changed_is_found_and_named(kept):
    run, path = kept
    (png,) = [output.data["image/png"] for output in displays(path) if "image/png" in output.data]
    # The bytes of a picture depend on libraries and fonts: what it shows is compared.
    repainted = altered(path, "01_repainted.ipynb", {png: b64encode(b"another picture").decode()})
    number, words, stage = ("| 0.125 |", "| 0.126 |"), ("en: 0.714", "en: 0.715"), ("corpus: made", "texts: made")
    changed = altered(path, "02_changed.ipynb", dict([stage, words]))
    rounded = altered(path, "03_rounded.ipynb", dict([number]))
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    found = notebooks.check_outputs(run, [repainted, changed, rounded])
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before
    assert list(found) == ["02_changed.ipynb", "03_rounded.ipynb"]
    for name, cells in {"02_changed.ipynb": [1, 2], "03_rounded.ipynb": [2]}.items():
        assert re.findall(r"FAILED (\S+::Cell \d+)", found[name]) == [f"{name}::Cell {cell}" for cell in cells]
    for seen, name in ((number, "03_rounded.ipynb"), (words, "02_changed.ipynb"), (stage, "02_changed.ipynb")):
        assert all(text in found[name] for text in seen)


def test_what_a_run_gave_is_compared_without_executing(kept):
    run, path = kept
    executed = (run / "notebooks" / path.name).read_bytes()
    (png,) = [output.data["image/png"] for output in displays(path) if "image/png" in output.data]
    changes = [{png: "other"}, {"| 0.125 |": "| 0.126 |"}, {"corpus: made": "texts: made"}, {"en: 0.714": "en: 0.715"}]
    for number, change in enumerate(changes):
        copy = altered(path, f"0{number}_altered.ipynb", change)
        (run / "notebooks" / copy.name).write_bytes(executed)
        found = notebooks.compare_outputs(run, [copy])
        assert list(found) == ([copy.name] if number else [])  # the bytes of a picture may differ
        assert all(text in found[copy.name] for text in (*change, *change.values()) if number)
        (run / "notebooks" / copy.name).unlink()


def test_outputs_that_are_missing_or_of_other_code_are_refused(kept, tmp_path):
    run, path = kept
    bare = write_notebook(tmp_path / "00_bare.ipynb", "1")
    with pytest.raises(CraneError, match=r"00_bare\.ipynb: cell cell-1 has no kept output; use python -m tools\.noteb"):
        notebooks.check_outputs(run, [bare])
    with pytest.raises(CraneError, match=r"05_absent\.ipynb: no executed copy"):
        notebooks.keep_outputs(run, [tmp_path / "05_absent.ipynb"])
    changed = write_notebook(tmp_path / path.name, "print(1)", *CELLS[1:])
    with pytest.raises(CraneError, match=r"00_tiny\.ipynb: cell cell-2: the executed copy has other code"):
        notebooks.keep_outputs(run, [changed])


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (new_output("stream", name="stdout", text=f"see {ROOT}/x"), f"its output names the folder {ROOT}"),
        (new_output("display_data", {notebooks.WIDGET: {}, "text/plain": "0 %"}), "shows a widget"),
        (new_output("error", ename="ValueError", evalue="no", traceback=[]), "failed with ValueError: no"),
    ],
)
def test_errors_widgets_and_folders_of_the_machine_are_not_kept(tmp_path, output, problem):
    path = write_notebook(tmp_path / "00_a.ipynb", "x")
    executed = nbformat.read(path, as_version=4)
    executed.cells[2].outputs = [output]
    with pytest.raises(CraneError, match=f"cell cell-2: {problem}"):
        notebooks.with_outputs(nbformat.read(path, as_version=4), executed)


@pytest.mark.parametrize("section", all_sections(), ids=lambda section: section.name)
def test_the_repository_keeps_small_outputs_of_every_cell(section):
    assert section.path.stat().st_size < 500_000
    code = [cell for cell in section.cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    tags = {tag for cell in code for tag in cell["metadata"].get("tags", [])}
    assert tags == {"parameters"}  # none that keeps nbval from comparing
    assert 'profile = "mini"' in "".join(code[0]["source"])
