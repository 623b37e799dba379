import shutil

import pytest

from crane_lib.files import write_json
from crane_study import figures
from crane_study.paper.claims import Results, judge
from crane_study.paper.verdicts import write_claims
from crane_study.publish import write_table
from crane_study.tables import effects as tables
from crane_study.tables.models import guesser_table
from crane_study.tables.overlap import overlaps, set_counts
from tests.study.outputs import synthetic


@pytest.fixture(scope="session")
def rows():
    return synthetic.make_rows()


@pytest.fixture(scope="session")
def langspec(rows):
    return synthetic.make_langspec(rows)


@pytest.fixture(scope="session")
def shared_units():
    return overlaps(synthetic.make_sets())


@pytest.fixture(scope="session")
def counts():
    return set_counts(synthetic.make_sets())


@pytest.fixture(scope="session")
def made(tmp_path_factory, rows, langspec, shared_units):
    """A run's folder with two sections done and one failed."""
    folder = tmp_path_factory.mktemp("run")
    guessers, captions = synthetic.make_guessers(), {"figures/05_gone": "No longer there."}
    for name, table, caption in (
        ("00_guessers", guesser_table(guessers), "Guessers."),
        ("03_perplexity", tables.perplexity_table(rows), "Perplexity."),
    ):
        captions[f"tables/{name}"] = write_table(table, folder / "tables" / name, caption=caption)
    captions["figures/00_guessers"] = figures.guessers(guessers, folder / "figures" / "00_guessers")
    write_json(folder / "captions.json", captions)
    scores = synthetic.make_resampled(rows[rows["method"] != "lape"], error=0.001)
    found = judge(Results(scores, shared_units), budget="0.1")
    write_claims(folder / "claims.json", found, profile="mini")
    sections = [
        {"section": "00_models", "title": "Models", "status": "done", "seconds": 12.25},
        {"section": "03_perplexity", "title": "Perplexity", "status": "done", "seconds": 3.0},
        {"section": "05_transfer", "title": "Chat", "status": "failed", "error": "E: x", "seconds": 1.0},
    ]
    manifest = {
        "profile": {"name": "mini", "description": "a small study"},
        "random_seed": 7,
        "commit": "abc123",
        "uncommitted_changes": True,
        "python": "3.11",
        "packages": {"torch": "2.13", "absent": None},
        "machine": {"processor": "a processor", "cores": 2},
        "sections": [{"error": None, "key": "k", "outputs": [], **section} for section in sections],
        "stages": [{"name": "base_model", "key": "k", "seconds": 99.5, "outputs": {}}],
    }
    write_json(folder / "manifest.json", manifest)
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run's folder for one test."""
    return shutil.copytree(made, tmp_path / "mini")
