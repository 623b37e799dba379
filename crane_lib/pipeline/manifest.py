"""manifest.json: what a run was made with and what it made."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from crane_lib.files import sha256, write_json
from crane_lib.pipeline.store import RECORD, Store
from crane_lib.profile import Profile

SCHEMA = "crane.manifest/1"
_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "safetensors",
    "lm_eval",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "seaborn",
    "matplotlib",
    "babel",
    "papermill",
    "jupyterlab",
)
_RESULTS = ("tables", "figures", "notebooks")
_FILES = ("claims.json", "results.csv", "langspec.csv", "report.md", "report.html", "profile.yaml")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def write_manifest(folder: Path, profile: Profile, sections: list[dict[str, Any]]) -> None:
    """Write manifest.json: versions, commit, seeds, machine, seconds of sections and stages, hashes of outputs.

    Parameters
    ----------
    folder : the run's folder
    sections : a record a section, as the runner keeps them
    """
    status = _git("status", "--porcelain")
    outputs = [path for name in _RESULTS for path in sorted((folder / name).glob("*")) if path.is_file()]
    outputs += [folder / name for name in _FILES if (folder / name).is_file()]
    stages = Store(folder / "stages").records()
    write_json(
        folder / "manifest.json",
        {
            "schema": SCHEMA,
            "profile": profile.resolved(),
            "random_seed": profile.random_seed,
            "commit": _git("rev-parse", "HEAD"),
            "uncommitted_changes": None if status is None else bool(status),
            "python": platform.python_version(),
            "packages": {package: _version(package) for package in _PACKAGES},
            "machine": {
                "system": platform.platform(),
                "processor": _processor(),
                "cores": os.cpu_count(),
                "memory_bytes": _memory(),
            },
            "sections": sections,
            "stages": [
                {
                    "name": record["name"],
                    "key": record["key"],
                    "seconds": round(record["seconds"], 2),
                    "outputs": {f"stages/{record['name']}/{k}": v["sha256"] for k, v in record["outputs"].items()},
                }
                for record in stages
            ],
            "outputs": {str(path.relative_to(folder)): sha256(path) for path in outputs if path.name != RECORD},
        },
    )


def _processor() -> str:
    """Name of the processor, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
