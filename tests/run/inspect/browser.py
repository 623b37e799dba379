"""A JupyterLab of one's own and a headless Chromium on it."""

import os
import re
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import pytest

from crane_study import ROOT

_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/lab/tree/_lab/\w+/inspect\.ipynb\?token=\w+")
_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)


def chromium():
    """Path of a Chromium, or the test is skipped."""
    pytest.importorskip("playwright")
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium on this machine")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def jupyter(command, environment, *, folder):
    """Run a JupyterLab server; gives the address that it prints."""
    log = folder / "jupyter.log"
    private = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    private |= {"IPYTHONDIR": str(folder / "ipython"), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    private["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    with log.open("w") as stream:
        server = subprocess.Popen(command, env=os.environ | environment | private, stdout=stream, stderr=stream)
        try:
            yield _address(server, log)
        finally:
            server.terminate()
            server.wait(60)


def _address(server, log):
    patience = time.monotonic() + 300
    while time.monotonic() < patience and server.poll() is None:
        if found := _ADDRESS.search(log.read_text()):
            return found.group()
        time.sleep(0.2)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


@contextmanager
def page_on(address, *, executable):
    """A page of a headless Chromium that has opened an address, and the addresses that it asks for."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=executable, args=list(_FLAGS))
        page = browser.new_page(viewport={"width": 1280, "height": 1500})
        page.set_default_timeout(120_000)
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        try:
            yield page, asked
        finally:
            browser.close()


def run_all_cells(page):
    """Run the whole notebook by the menu, and wait for its last picture."""
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.locator(".jp-Toolbar-kernelName").get_by_text("Python 3").wait_for()
    page.wait_for_timeout(2000)
    if (select := page.get_by_role("button", name="Select", exact=True)).is_visible():  # of a kernel: the one offered
        select.click()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_selector(".widget-tab .crane-inspect table")
