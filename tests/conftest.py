from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data beside the repository, which it does not carry."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared beside the repository")
    return folder


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    """Nothing of the caller's own settings reaches a test."""
    for name in ("ARTIFACTS", "PROFILE", "PROGRESS_FILE", "PROGRAM", "START", "THREADS"):
        monkeypatch.delenv(f"CRANE_{name}", raising=False)


_LONGEST = ("test_study.py", "test_rehearsal.py", "test_benchmarks.py")  # minutes each; begun first, none is waited for


def pytest_collection_modifyitems(items):
    """Put the longest files first, so that they run beside all the others."""
    place = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
