from pathlib import Path

import pytest
import torch

from crane_study import ROOT


@pytest.fixture(autouse=True)
def _one_thread():
    """Models this small run faster on one thread, and the same on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def oracles() -> Path:
    folder = ROOT.parent / "shared" / "reference" / "attnlrp"
    if not folder.is_dir():
        pytest.skip("no ../shared/reference/attnlrp beside the repository")
    return folder
