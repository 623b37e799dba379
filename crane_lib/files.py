"""Reading and writing files so that nothing half-written is ever left under its final name."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crane_lib.errors import CraneError

if TYPE_CHECKING:
    import pandas as pd

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside `path`; what stands there at the end takes the name `path`.

    Works for a file and for a directory. If the block fails, nothing remains and what `path` held stays.

    Raises
    ------
    CraneError : the place cannot be written to, or the disk is full
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if target.is_dir() and temporary.is_dir():
            shutil.rmtree(target)
        os.replace(temporary, target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise CraneError(f"{target}: the disk is full; free some space and start again") from error
        if error.errno in _UNWRITABLE:
            raise CraneError(f"{target}: cannot be written ({error.strerror}); choose another --artifacts") from error
        raise
    finally:
        # A place that cannot be written to may refuse this too; what the caller should hear is the first error.
        with suppress(OSError):
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: str | os.PathLike[str], *, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock that other processes, and other threads, wait for; a process that dies lets go of it.

    Parameters
    ----------
    path : file that stands for the lock; it is gone when nobody holds it
    waiting : called once if somebody else holds the lock

    Raises
    ------
    CraneError : the place cannot be written to
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("w")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is not None:
                waiting()
            fcntl.flock(stream, fcntl.LOCK_EX)
        # Who held it has taken the file away: the next one must hold the file that stands there now.
        while not _is_at(path, stream.fileno()):
            stream.close()
            stream = path.open("w")
            fcntl.flock(stream, fcntl.LOCK_EX)
    except OSError as error:
        raise CraneError(f"{path.parent}: cannot be written ({error.strerror}); choose another --artifacts") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        fcntl.flock(stream, fcntl.LOCK_UN)  # not by closing alone: processes started meanwhile may hold it open
        stream.close()


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is the one that stands at `path`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a JSON file, keys in the given order; NaN is refused, for other readers would not take it."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises
    ------
    CraneError : the file is missing or is not JSON
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CraneError(f"{path}: no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CraneError(f"{path}: is not JSON ({error})") from error


def write_frame(path: str | os.PathLike[str], frame: pd.DataFrame) -> None:
    """Write a table as Parquet or as CSV at full precision, by the name's ending."""
    with atomic(path) as temporary:
        if Path(path).suffix == ".parquet":
            frame.to_parquet(temporary, index=False)
        else:
            frame.to_csv(temporary, index=False, na_rep="NaN")


def read_frame(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table written by `write_frame`; in CSV an empty field is an empty text in a text column.

    Raises
    ------
    CraneError : the file is missing
    """
    import pandas as pd  # here, so that the command line starts without it

    if not Path(path).is_file():
        raise CraneError(f"{path}: no such file; run the section that makes it first")
    if Path(path).suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path, keep_default_na=False, na_values=["NaN"])


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
