"""JupyterLab on the inspection notebook: how it is started, its copies, and that a person can use it."""

import sys
import time
import urllib.error
import urllib.request

import nbformat
import pytest

from crane_lib.errors import CraneError
from crane_run import cli
from crane_run.inspect import lab
from crane_study.profile import load_profile
from tests.run.inspect.browser import chromium, free_port, jupyter, page_on, run_all_cells

BOTH = pytest.mark.parametrize("words", [("lab",), ("run", "--lab")])


class Started(Exception):
    """Raised in place of becoming JupyterLab."""


@pytest.fixture
def started(monkeypatch):
    """Arguments of the JupyterLab that would be started, and its environment."""

    def start(_program, command):
        raise Started(command, {name: lab.os.environ.get(name) for name in ("CRANE_PROFILE", "CRANE_ARTIFACTS")})

    for name in ("CRANE_PROFILE", "CRANE_ARTIFACTS", "PYTHONPATH"):  # put back at the end, for they will be set
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(lab.os, "execv", start)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["crane", *map(str, arguments)])
        with pytest.raises(Started) as caught:
            cli.main()
        return caught.value.args

    return call


@BOTH
def test_both_commands_start_it_for_the_profile_given(started, study_root, tmp_path, words, capsys, monkeypatch):
    command, environment = started(*words, "--profile", "smoke", "--artifacts", tmp_path)
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    shown = {f"--ServerApp.root_dir={tmp_path}", "--LabApp.default_url=/lab/tree/_lab/smoke/inspect.ipynb"}
    assert {*shown, "--ServerApp.ip=127.0.0.1"} <= set(command)
    assert (tmp_path / "_lab" / "smoke" / "inspect.ipynb").is_file()
    assert environment == {"CRANE_PROFILE": "smoke", "CRANE_ARTIFACTS": str(tmp_path)}
    assert capsys.readouterr().err.startswith(f"note: {tmp_path / 'smoke'}: nothing has been run there yet")
    assert [path.name for path in tmp_path.iterdir()] == ["_lab"]
    # In a container it listens where it is told, and keeps its token.
    command, _ = started(*words, "--artifacts", tmp_path, "--ip", "0.0.0.0", "--port", "9123")
    assert {"--ServerApp.ip=0.0.0.0", "--ServerApp.port=9123", "--ServerApp.port_retries=0"} <= set(command)
    assert not [argument for argument in command if "token" in argument.lower() or "password" in argument.lower()]
    # A profile by file is found from the folder of the notebook.
    monkeypatch.chdir(study_root)
    _, environment = started(*words, "--profile", "small.yaml", "--artifacts", tmp_path)
    assert environment["CRANE_PROFILE"] == str(study_root / "small.yaml")


@BOTH
def test_a_misspelt_profile_starts_nothing(monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", ["crane", *words, "--profile", "minni"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: unknown profile 'minni'; did you mean 'mini'?\n"


def test_without_a_notebook_or_a_screen(monkeypatch, tmp_path):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert not lab.has_screen()
    monkeypatch.setenv("DISPLAY", ":0")
    assert lab.has_screen()
    for browser in (False, True):
        command = lab.lab_command(lab.NOTEBOOK, root=lab.NOTEBOOKS, browser=browser)
        assert ("--no-browser" in command) != browser
    monkeypatch.setattr(lab, "NOTEBOOK", tmp_path / "inspect.ipynb")
    with pytest.raises(CraneError, match=r"inspect\.ipynb: no such notebook; run from a clone"):
        lab.open_lab("mini", tmp_path, run_folder=tmp_path)


@pytest.fixture
def original(tmp_path, monkeypatch):
    """A notebook in the place of the repository's; gives a function that changes it."""
    path = tmp_path / "notebooks" / "inspect.ipynb"
    monkeypatch.setattr(lab, "NOTEBOOK", path)

    def write(*sources):
        cells = [nbformat.v4.new_code_cell(source, execution_count=1) for source in sources]
        cells[0].outputs = [nbformat.v4.new_output("stream", text="of smoke")]
        path.parent.mkdir(exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)

    write("a = 1")
    return write


def change(path, **changes):
    """Save a copy as JupyterLab does when its first cell is changed."""
    book = nbformat.read(path, as_version=4)
    book.cells[0].update(changes)
    nbformat.write(book, path)


def sources(path):
    return [cell.source for cell in nbformat.read(path, as_version=4).cells]


def test_a_copy_follows_the_original_until_it_is_changed(original, tmp_path, capsys):
    before = lab.NOTEBOOK.read_bytes()
    copy = lab.working_copy(tmp_path, "mini")
    assert lab.working_copy(tmp_path, "smoke") != copy
    assert lab.NOTEBOOK.read_bytes() == before
    (cell,) = nbformat.read(copy, as_version=4).cells
    assert (cell.source, cell.outputs, cell.execution_count) == ("a = 1", [], None)
    change(copy, outputs=[nbformat.v4.new_output("stream", text="of mini")], execution_count=3)
    executed = copy.read_bytes()
    assert lab.working_copy(tmp_path, "mini").read_bytes() == executed
    original("a = 2", "b = 3")
    assert sources(lab.working_copy(tmp_path, "mini")) == ["a = 2", "b = 3"]
    change(copy, source="a = 'mine'")
    assert sources(lab.working_copy(tmp_path, "mini")) == ["a = 'mine'", "b = 3"]
    assert capsys.readouterr().err == ""
    original("a = 4")
    assert sources(lab.working_copy(tmp_path, "mini")) == ["a = 'mine'", "b = 3"]
    assert capsys.readouterr().err.startswith(f"note: {copy}: has changes of yours and is kept; ")


def test_a_copy_that_cannot_be_read_or_written_is_one_line(original, study_root, tmp_path):
    lab.working_copy(tmp_path, "mini").write_text("{")
    with pytest.raises(CraneError, match=r"inspect\.ipynb: is no notebook; move it away"):
        lab.working_copy(tmp_path, "mini")
    (tmp_path / "file").touch()
    with pytest.raises(CraneError, match="cannot be written"):
        lab.working_copy(tmp_path / "file", "mini")
    profile = load_profile(str(study_root / "small.yaml"))
    with pytest.raises(ValueError, match="name"):  # no run can take the folder of the copies
        type(profile).model_validate({**profile.model_dump(), "name": lab.COPIES})


@pytest.mark.slow
def test_a_person_chooses_another_language_and_another_neuron(study_root, tmp_path, monkeypatch):
    """The whole way: server with its token, notebook run in a browser, controls turned."""
    executable = chromium()
    before, artifacts = lab.NOTEBOOK.read_bytes(), study_root / "artifacts"
    command = lab.lab_command(lab.working_copy(artifacts, "small"), root=artifacts, port=free_port())
    environment = lab.lab_environment(str(study_root / "small.yaml"), artifacts)
    with jupyter(command, environment, folder=tmp_path) as address:
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(address.partition("/lab")[0] + "/api/contents")
        with page_on(address, executable=executable) as (page, asked):
            run_all_cells(page)
            panel = page.locator(".jp-OutputArea .widget-vbox").first
            tabs = panel.get_by_role("tab")
            assert "Computing" not in panel.inner_text()
            tabs.get_by_text("Texts", exact=True).click()
            panel.get_by_text("Top documents of 12 read in Vietnamese").wait_for()
            assert panel.locator("p.crane-text[lang=vi] span.piece").count() > 20
            panel.get_by_label("Language").select_option(label="Chinese")
            panel.get_by_text("Top documents of 12 read in Chinese").wait_for()
            chinese = panel.locator("p.crane-text[lang=zh]").first.inner_text()
            assert "饕餮纹" in chinese
            assert "\ufffd" not in chinese
            panel.get_by_label("Layer").fill("7")
            panel.get_by_label("Layer").press("Enter")
            message = "layer 7: the base model has the layers 0 to 1"
            panel.get_by_role("alert").filter(has_text=message).wait_for()
            panel.locator("p.crane-text").first.wait_for(state="detached")
            page.screenshot(path=tmp_path / "panel.png")
            assert not [url for url in asked if url.startswith("http") and "//127.0.0.1:" not in url]
            page.get_by_role("menuitem", name="File", exact=True).click()
            page.locator(".lm-Menu-item[data-command='docmanager:save']").click()
            copy = artifacts / "_lab" / "small" / "inspect.ipynb"
            patience = time.monotonic() + 60
            while '"output_type"' not in copy.read_text() and time.monotonic() < patience:
                page.wait_for_timeout(200)
    assert '"output_type"' in copy.read_text()
    assert lab.NOTEBOOK.read_bytes() == before
    other = tmp_path / lab.NOTEBOOK.name
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("a = 2")]), other)
    monkeypatch.setattr(lab, "NOTEBOOK", other)
    assert sources(lab.working_copy(artifacts, "small")) == ["a = 2"]  # nobody had changed what JupyterLab saved


def test_a_user_without_a_home_folder_has_jupyters_folders_among_the_results(tmp_path, monkeypatch):
    for name in lab._OWN_FOLDERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", "/mine")
    found = lab.lab_environment("mini", tmp_path)
    assert "JUPYTER_CONFIG_DIR" not in found
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        assert found[name].startswith(str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "JUPYTER_DATA_DIR" not in lab.lab_environment("mini", tmp_path)
