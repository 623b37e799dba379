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
    for name in ("CRANE_ARTIFACTS", "CRANE_PROGRESS_FILE", "CRANE_PROGRAM"):
        monkeypatch.delenv(name, raising=False)
