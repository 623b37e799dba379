"""Write the lock files of this folder from its *.in files.

One resolution covers all of them, so that a package in two locks has one version. It reads metadata only; no package is
downloaded. Run it in the project's environment:

    python requirements/update.py                    keeps every version that still fits
    python requirements/update.py --upgrade          takes the newest that the *.in files allow
    python requirements/update.py --cpu-wheel FILE   locks the CPU build of torch to this wheel

The last form is needed whenever the version of torch changes.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker
from packaging.utils import parse_wheel_filename

FOLDER = Path(__file__).resolve().parent
PYTHON = "3.11"
INPUTS = ("base", "torch", "installer")
CUDA = re.compile(r"torch|triton|nvidia-.+|cuda-.+")
PLATFORMS = {
    "linux": [
        {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
        {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64"},
    ],
    "darwin": [{"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"}],
}
PYTHON_MARKERS = {
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.0",
}


@dataclass(frozen=True)
class Pin:
    """One locked package: its version, where it is needed (empty: everywhere) and the hashes of its files."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]

    def __str__(self) -> str:
        head = f"{self.name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")
        return " \\\n    ".join([head, *(f"--hash=sha256:{value}" for value in self.hashes)])


def parse(text: str) -> list[Pin]:
    """Read pins from the text of a lock file; packages that no supported platform needs are left out."""
    pins = []
    for entry in re.sub(r"\\\n", " ", text).splitlines():
        match = re.match(r"([\w.-]+)==(\S+)(?: *; *(.+?))?(?= +--hash|$)", entry)
        if not match:
            continue
        name, version, condition = match.groups(default="")
        needed = platforms(condition)
        if needed:
            marker = "" if len(needed) == len(PLATFORMS) else f"sys_platform == '{needed[0]}'"
            hashes = tuple(sorted(re.findall(r"--hash=sha256:(\w+)", entry)))
            pins.append(Pin(name, version, marker, hashes))
    return pins


def platforms(marker: str) -> list[str]:
    """Name the supported platforms on which a marker holds."""
    if not marker:
        return list(PLATFORMS)
    parsed = Marker(marker)
    return [name for name, machines in PLATFORMS.items() if any(parsed.evaluate(PYTHON_MARKERS | m) for m in machines)]


def resolve(*, upgrade: bool) -> list[Pin]:
    """Resolve all inputs together, for every supported platform."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "all.lock")
        locks = [path for path in sorted(FOLDER.glob("*.lock")) if path.name != "torch-cpu.lock"]
        output.write_text("".join(path.read_text() for path in locks))
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--fork-strategy=fewest"]
        command += [f"--python-version={PYTHON}", "--generate-hashes", "--no-header", "--no-annotate", "--strip-extras"]
        command += ["--no-emit-index-url", "--no-emit-find-links", f"--output-file={output}"]
        command += ["--upgrade"] * upgrade
        subprocess.run(command + [str(FOLDER / f"{name}.in") for name in INPUTS], check=True)
        return parse(output.read_text())


def requested(name: str) -> set[str]:
    """Name the packages that an input file asks for."""
    lines = (FOLDER / f"{name}.in").read_text().splitlines()
    return {re.split(r"[=<>~! \[]", line)[0] for line in lines if line and not line.startswith("#")}


def cpu_pin(torch: Pin, wheel: Path | None) -> Pin:
    """Pin the CPU build of torch: from its wheel, or from the present lock file."""
    if wheel is not None:
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        pin = Pin("torch", str(parse_wheel_filename(wheel.name)[1]), "", (digest,))
    else:
        pin = parse((FOLDER / "torch-cpu.lock").read_text())[0]
    if pin.version.split("+")[0] != torch.version:
        sys.exit(f"torch is now {torch.version}, the CPU build is {pin.version}: give its wheel with --cpu-wheel")
    return pin


def write(name: str, pins: list[Pin], *, note: str) -> None:
    """Write one lock file."""
    header = f"# {note}\n# Written by requirements/update.py from requirements/*.in.\n"
    (FOLDER / f"{name}.lock").write_text(header + "".join(f"{pin}\n" for pin in pins))
    print(f"{name}.lock: {len(pins)} packages")


def main() -> None:
    """Resolve and write the four lock files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that the *.in files allow")
    parser.add_argument("--cpu-wheel", type=Path, help="wheel of the CPU build of torch")
    arguments = parser.parse_args()
    pins = resolve(upgrade=arguments.upgrade)
    cuda = [pin for pin in pins if CUDA.fullmatch(pin.name)]
    torch = next(pin for pin in cuda if pin.name == "torch")
    others = [pin for pin in pins if pin not in cuda]
    first = requested("installer")
    base = [pin for pin in others if pin.name != "uv"]
    write("base", base, note="Everything but torch and what only its CUDA build needs.")
    write("torch-cpu", [cpu_pin(torch, arguments.cpu_wheel)], note="torch, CPU build (Linux x86_64).")
    write("torch-cuda", cuda, note="torch as the package index has it: the CUDA build on Linux, with CUDA's libraries.")
    write("installer", [pin for pin in others if pin.name in first], note="Installed first, by pip.")


if __name__ == "__main__":
    main()
