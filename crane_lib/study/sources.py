"""Keys of the user's own files, so that a stage is made anew when one of them changes."""

from __future__ import annotations

from pathlib import Path

from crane_lib.files import sha256


def file_key(path: Path) -> str:
    """Hash of a file of the user's, or that it is missing (the stage then says so)."""
    return sha256(path) if path.is_file() else "missing"


def folder_key(folder: Path) -> dict[str, str]:
    """Hashes of the files of a folder of the user's; none where it is missing (the stage then says so)."""
    return {str(path.relative_to(folder)): file_key(path) for path in sorted(folder.rglob("*")) if path.is_file()}
