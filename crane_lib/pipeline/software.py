"""What a run was made with: commit, container image, packages and whether they are the locked ones."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from crane_lib.files import sha256

ROOT = Path(__file__).resolve().parents[2]
COMMIT_VARIABLE = "CRANE_COMMIT"  # set where there is no git: in the container image
IMAGE_VARIABLE = "CRANE_IMAGE"
DIGEST_VARIABLE = "CRANE_IMAGE_DIGEST"
ARCHIVED = ".git_archival.txt"  # git fills it in when it packs an archive
_DIRTY = "-dirty"
_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "safetensors",
    "accelerate",
    "lm_eval",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "seaborn",
    "matplotlib",
    "babel",
    "papermill",
    "jupyterlab",
)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def describe_commit() -> dict[str, Any]:
    """``commit`` and ``uncommitted_changes`` of the source, and ``commit_from``: git, the image, an archive, or None.

    A git repository that only contains the source (an archive unpacked inside another project) is not believed.
    """
    top = _git("rev-parse", "--show-toplevel")
    if top is not None and Path(top).resolve() == ROOT:
        status = _git("status", "--porcelain")
        changed = None if status is None else bool(status)
        return {"commit": _git("rev-parse", "HEAD"), "uncommitted_changes": changed, "commit_from": "git"}
    given = os.environ.get(COMMIT_VARIABLE, "").strip()
    if given:
        changed = given.endswith(_DIRTY)
        return {
            "commit": given.removesuffix(_DIRTY),
            "uncommitted_changes": changed,
            "commit_from": COMMIT_VARIABLE,
        }
    try:
        found = re.search(r"^commit: ([0-9a-f]{40,64})$", (ROOT / ARCHIVED).read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        found = None
    source = ARCHIVED if found else None
    return {"commit": found[1] if found else None, "uncommitted_changes": None, "commit_from": source}


def describe_image() -> dict[str, str | None] | None:
    """Name and digest of the container image, as the environment tells them; None outside of one."""
    name, digest = os.environ.get(IMAGE_VARIABLE) or None, os.environ.get(DIGEST_VARIABLE) or None
    return {"name": name, "digest": digest} if name or digest else None


def missing_in_container() -> str:
    """One line on what a manifest made in this container cannot name and how to tell it; empty where nothing lacks."""
    image = describe_image()
    if image is None:
        return ""
    ways = {
        "the commit": (describe_commit()["commit"], "build the image with --build-arg COMMIT=..."),
        "the image's digest": (image["digest"], f"start the container with -e {DIGEST_VARIABLE}=..."),
    }
    lacking = {what: way for what, (known, way) in ways.items() if not known}
    if not lacking:
        return ""
    return (
        f"note: the manifest will not name {' nor '.join(lacking)}; to have it there, {' and '.join(lacking.values())} "
        "(README.md, section Docker, has the commands)"
    )


def installed_version(package: str) -> str | None:
    """Version of an installed package, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe_packages() -> dict[str, str | None]:
    """Versions of the packages that the results rest on."""
    return {package: installed_version(package) for package in _PACKAGES}


def describe_locks(folder: Path = ROOT / "requirements") -> dict[str, Any]:
    """Hashes of the lock files and every locked package whose installed version is another.

    With both, the version of every installed package can be told from the repository. Packages of the lock that are
    not installed (another system's, another build of torch) are left out; the local part of a version, such as
    ``+cpu``, is no difference.
    """
    differing = {}
    files = sorted(folder.glob("*.lock"))
    for path in files:
        for name, locked in re.findall(r"^([\w.-]+)==([^\s;\\]+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            found = installed_version(name)
            if found is not None and found.partition("+")[0] != locked.partition("+")[0]:
                differing[name] = {"locked": locked, "installed": found}
    return {"files": {path.name: sha256(path) for path in files}, "differing": dict(sorted(differing.items()))}
