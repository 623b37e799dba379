import shutil
import subprocess
from pathlib import Path

import pytest

from crane_study import ROOT, labels


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data beside the repository, which it does not carry."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared beside the repository")
    return folder


@pytest.fixture(scope="session")
def git():
    """Make a repository with one commit of a folder; skips where there is no git, as in the container image."""
    if shutil.which("git") is None:
        pytest.skip("no git on this machine; the container image has none")

    def commit(folder, *more):
        first = ["-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-q", "-m", "first"]
        for command in (["init", "-q"], ["add", "-A"], first, *more):
            subprocess.run(["git", "-C", str(folder), *command], check=True)

    return commit


_SETTINGS = (
    "CRANE_ARTIFACTS",
    "CRANE_COMMIT",
    "CRANE_IMAGE",
    "CRANE_IMAGE_DIGEST",
    "CRANE_PROFILE",
    "CRANE_PROGRAM",
    "CRANE_PROGRESS_FILE",
    "CRANE_START",
    "CRANE_THREADS",
)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    """Nothing of the caller's own settings, of the container image's or of other tests' profiles reaches a test."""
    labels.name_languages({})
    for name in _SETTINGS:
        monkeypatch.delenv(name, raising=False)


_LONGEST = ("test_smoke.py", "test_rehearsal.py", "test_benchmarks.py")  # minutes each; begun first, none is waited for


def pytest_addoption(parser):
    parser.addoption("--real", action="store_true", help="also the tests on published weights, which are fetched once")


def pytest_collection_modifyitems(config, items):
    """Put the longest files first, so that they run beside all the others; leave out tests on published weights."""
    if not config.getoption("--real"):
        left_out = pytest.mark.skip(reason="published weights: only with --real")
        for item in items:
            if item.get_closest_marker("real"):
                item.add_marker(left_out)
    place = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
