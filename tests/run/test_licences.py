"""docs/licences.md names every asset: files of data, models and data sets of profiles, and every locked package."""

import re
import subprocess

import pytest
import yaml

from crane_run.manifest import describe_locks
from crane_study import ROOT
from tools import licences

TEXT = licences.PAGE.read_text(encoding="utf-8")
DATA = ("artifacts", "configs", "expected", "crane_study/data", "crane_study/measure")
PLACES = re.findall(
    r"`([\w./-]+)`", "".join(re.findall(r"^\| (`.*?) \|", TEXT.partition("## Not in")[0], re.MULTILINE))
)


def test_every_file_of_data_has_a_row():
    command = ["git", "-C", str(ROOT), "ls-files", *DATA]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("needs a git repository")
    own = [place for place in PLACES if place.startswith(DATA)]
    files = [name for name in listed.stdout.splitlines() if not name.endswith((".py", ".md", ".gitkeep"))]
    assert len(files) > 20
    assert [name for name in files if not name.startswith(tuple(own))] == []
    assert [place for place in PLACES if not (ROOT / place).exists()] == []
    assert all((ROOT / folder).is_dir() for folder in DATA)


def named(value):
    """Models and data sets that a profile or a table names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("id", "dataset", "path") and re.fullmatch(r"[\w.-]+/[\w.-]+", str(inner)):
                yield inner
            yield from named(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from named(inner)


def test_every_model_and_data_set_of_a_profile_has_a_row():
    pages = [*(ROOT / "configs").glob("*.yaml"), ROOT / "crane_study" / "measure" / "benchmarks.yaml"]
    found = {name for page in pages for name in named(yaml.safe_load(page.read_text("utf-8")))}
    assert len(found) >= 10
    assert [name for name in sorted(found) if f"`{name}`" not in TEXT] == []
    packages = re.findall(r"packages? `([\w-]+)`", TEXT)
    assert packages
    assert set(packages) <= set(licences.locked())


def test_every_locked_package_has_its_licence():
    if describe_locks()["differing"]:
        pytest.skip("another version of a locked package is installed")
    assert licences.filled(TEXT) == TEXT, "run python -m tools.licences write"
    assert "unknown" not in licences.packages()
    assert all(f"`{name}`" in TEXT for name in licences.locked())


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("MIT", "permissive"),
        ("GPL-3.0", "strong copyleft"),
        ("GNU Lesser General Public License v2 or later (LGPLv2+)", "weak copyleft"),
        ("MPL-2.0 AND MIT", "weak copyleft"),
        ("GPL-2.0 OR MIT", "permissive"),
        ("SIL Open Font License 1.1 (OFL-1.1)", "fonts"),
        ("house rules", "unknown"),
        (licences.NVIDIA, "proprietary"),
    ],
)
def test_classes(licence, expected):
    assert licences.class_of(licence) == expected
