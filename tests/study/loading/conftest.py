"""A small model in a directory, and a copy of it that a test may change."""

import shutil

import pytest

from tests.small import write_model


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Directory of a small model, not to be changed."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(original, tmp_path):
    """Copy of the directory."""
    return shutil.copytree(original, tmp_path / "model")
