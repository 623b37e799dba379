"""JupyterLab on the inspection notebook: how it is started, and that a person can use it."""

import shutil
import sys
import urllib.error
import urllib.request

import pytest

from crane_lib import cli
from crane_lib.errors import CraneError
from crane_lib.pipeline import lab
from tests.inspection.browser import chromium, free_port, jupyter, page_on, run_all_cells


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


@pytest.mark.parametrize("words", [("lab",), ("run", "--lab")])
def test_both_commands_start_it_for_the_profile_given(started, tmp_path, words, capsys):
    command, environment = started(*words, "--profile", "smoke", "--artifacts", tmp_path)
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert "--LabApp.default_url=/lab/tree/notebooks/inspect.ipynb" in command
    assert "--ServerApp.ip=127.0.0.1" in command
    assert environment == {"CRANE_PROFILE": "smoke", "CRANE_ARTIFACTS": str(tmp_path)}
    assert capsys.readouterr().err.startswith(f"note: {tmp_path / 'smoke'}: nothing has been run there yet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("lab",), ("run", "--lab")])
def test_in_a_container_it_listens_where_it_is_told_and_keeps_its_token(started, words):
    command, _ = started(*words, "--ip", "0.0.0.0", "--port", "9123")
    assert "--ServerApp.ip=0.0.0.0" in command
    assert {"--ServerApp.port=9123", "--ServerApp.port_retries=0"} <= set(command)
    assert not [argument for argument in command if "token" in argument.lower() or "password" in argument.lower()]


def test_a_profile_by_file_is_found_from_the_folder_of_the_notebook(started, study_root, monkeypatch):
    monkeypatch.chdir(study_root)
    _, environment = started("lab", "--profile", "small.yaml", "--artifacts", "artifacts")
    assert environment["CRANE_PROFILE"] == str(study_root / "small.yaml")
    assert environment["CRANE_ARTIFACTS"] == str(study_root / "artifacts")


@pytest.mark.parametrize("words", [("lab",), ("run", "--lab")])
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
    assert "--no-browser" in lab.lab_command()
    assert "--no-browser" not in lab.lab_command(browser=True)
    monkeypatch.setattr(lab, "NOTEBOOK", tmp_path / "inspect.ipynb")
    with pytest.raises(CraneError, match=r"inspect\.ipynb: no such notebook; run from a clone"):
        lab.open_lab("mini", tmp_path, run_folder=tmp_path)


@pytest.mark.slow
def test_a_person_chooses_another_language_and_another_neuron(study_root, tmp_path, monkeypatch):
    """The whole way: server with its token, notebook run in a browser, controls turned."""
    executable = chromium()
    copied = tmp_path / "notebooks" / "inspect.ipynb"  # JupyterLab saves what it shows
    copied.parent.mkdir()
    shutil.copy(lab.NOTEBOOK, copied)
    monkeypatch.setattr(lab, "NOTEBOOKS", copied.parent)
    monkeypatch.setattr(lab, "NOTEBOOK", copied)
    environment = lab.lab_environment(str(study_root / "small.yaml"), study_root / "artifacts")
    with jupyter(lab.lab_command(port=free_port()), environment, folder=tmp_path) as address:
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
