"""Commands with a read-only root file system and without a network, as in the container that `study-sealed` runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

_SEAL = """
mount --make-rprivate /
mount --bind "$1" "$1"
mount -o remount,bind,ro /
shift
exec "$@"
"""


def sealed(folder: Path, *command: str) -> list[str]:
    """Return a command that can write to this folder only, and reach nobody."""
    return ["unshare", "--mount", "--net", "sh", "-euc", _SEAL, "sealed", str(folder), *command]


def can_seal(folder: Path) -> bool:
    """Return whether such commands can be started here: that takes Linux and root."""
    try:
        done = subprocess.run(sealed(folder, "test", "!", "-w", "/"), capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0
