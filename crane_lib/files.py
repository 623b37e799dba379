"""Atomic writing of files, JSON, and hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crane_lib.errors import CraneError

if TYPE_CHECKING:
    import numpy as np

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_WORDS = ("No space left", "Not enough free space", "unexpected pos", "requested and")  # the last: torch, numpy
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name beside `path`; the file or directory written there is renamed to `path` at the end.

    If the block fails, the temporary file is removed and what `path` held stays.

    Raises
    ------
    CraneError : the folder cannot be written to, or the disk is full
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if target.is_dir() and temporary.is_dir():
            shutil.rmtree(target)
        os.replace(temporary, target)
    except Exception as error:  # safetensors, torch and numpy have words of their own for a full disk
        seen = getattr(error, "errno", None)
        if seen in _FULL or any(words in str(error) for words in _FULL_WORDS):
            advice = "free some space (df -h) or some files (df -i) and start again"
            raise CraneError(f"{target}: the disk is full; {advice}") from error
        if seen in _UNWRITABLE:
            raise CraneError(f"{target}: cannot be written ({os.strerror(seen)}); choose another folder") from error
        raise
    finally:
        # A read-only folder may refuse this too; the caller should see the first error.
        with suppress(OSError):
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a JSON file, keys in the given order; NaN is refused, because other readers reject it."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises
    ------
    CraneError : the file is missing or is not JSON
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise CraneError(f"{path}: no such file") from error
    except (ValueError, RecursionError) as error:  # also of bytes that are no text, or of very long numbers
        raise CraneError(f"{path}: is not JSON ({error})") from error
    except OSError as error:
        raise CraneError(f"{path}: cannot be read ({error.strerror})") from error


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(value: Any) -> str:
    """Short hash of a JSON-like value, the same for equal values on every machine."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_arrays(arrays: Mapping[str, np.ndarray], *, about: str = "") -> str:
    """SHA-256 of named arrays, their types and shapes, and a text about them, in hexadecimal."""
    digest = hashlib.sha256(about.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(arrays[name].data)
    return digest.hexdigest()
