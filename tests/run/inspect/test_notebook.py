"""The notebook, run from top to bottom without a browser, as papermill and the runner do it."""

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from crane_run.inspect.lab import NOTEBOOK
from crane_run.notebook import known_parameters


@pytest.fixture(autouse=True)
def _library(monkeypatch):
    """Kernels find the library of this clone."""
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))


def executed(study_root, output, **parameters):
    given = {"profile": str(study_root / "small.yaml"), "artifacts": str(study_root / "artifacts"), **parameters}
    papermill.execute_notebook(str(NOTEBOOK), str(output), given, kernel_name="python3", progress_bar=False)
    return nbformat.read(output, as_version=4)


def outputs(book, cell):
    (found,) = (one for one in book.cells if one["id"] == cell)
    return found.outputs


@pytest.mark.slow
def test_it_reads_well_without_a_kernel(study_root, tmp_path):
    book = executed(study_root, tmp_path / "inspect.ipynb", documents=6)
    (panel,) = outputs(book, "inspect-panel")
    assert "application/vnd.jupyter.widget-view+json" in panel.data
    assert "./run_all.sh --lab" in panel.data["text/plain"]
    facts, texts, others = (outputs(book, f"inspect-{cell}")[0].data for cell in ("facts", "texts", "others"))
    assert "Rank under every method" in facts["text/html"]
    assert "kurtosis_gate" in facts["text/plain"]
    assert "Top documents of 6 read in Vietnamese" in texts["text/html"]
    assert 'lang="zh"' in others["text/html"]
    for cell in ("inspect-cost", "inspect-files", "inspect-sets"):
        assert any("image/png" in one.get("data", {}) for one in outputs(book, cell))
    assert not [one for cell in book.cells for one in cell.get("outputs", []) if one.output_type == "stream"]


def test_parameters_are_honoured_and_a_mistake_is_one_line(study_root, tmp_path):
    names = {"profile", "artifacts", "model", "language", "layer", "neuron", "documents", "panel"}
    assert set(known_parameters(NOTEBOOK)) == names
    message = "neuron 99: a layer of the base model has the neurons 0 to 23"
    with pytest.raises(PapermillExecutionError) as error:
        executed(study_root, tmp_path / "inspect.ipynb", layer=0, neuron=99)
    assert error.value.evalue == message
    failed = nbformat.read(tmp_path / "inspect.ipynb", as_version=4)
    (shown,) = (one for one in outputs(failed, "inspect-open") if one.output_type == "error")
    assert shown.traceback == [f"error: {message}"]
