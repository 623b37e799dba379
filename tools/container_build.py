"""Building the image with buildah: the base, and what the build may see of this machine."""

from __future__ import annotations

import configparser
import subprocess
import sys
import tempfile
from pathlib import Path

from buildah import ROOT, ContainerProblem, ask, buildah, program

STAND_IN = "localhost/crane-stand-in-base"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
WHEELS = "/run/crane-wheels"
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def make_stand_in() -> None:
    """Make a base of Debian 12 with what the real base brings: Python 3.11, venv and certificates."""
    debootstrap = program("debootstrap")
    container = ask("from", "scratch")
    try:
        folder = ask("mount", container)
        packages = "--include=ca-certificates,python3.11,python3.11-venv,python3-distutils"
        command = [debootstrap, "--variant=minbase", packages, "bookworm", folder]
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
            raise ContainerProblem("debootstrap failed, its last lines are above")
        for name in ("python", "python3"):
            Path(folder, "usr/local/bin", name).symlink_to("/usr/bin/python3.11")
        for archive in Path(folder, "var/cache/apt/archives").glob("*.deb"):
            archive.unlink()
        ask("config", f"--env=PATH={SEARCH}", "--cmd=python3", container)
        ask("commit", "--quiet", container, STAND_IN)
    finally:
        ask("rm", container)


def pip_settings(given: str, *, certificates: bool, wheels: bool) -> str:
    """Add the mounted certificates and wheels to the text of a pip.conf."""
    parser = configparser.RawConfigParser()
    parser.read_string(given)
    if not parser.has_section("global"):
        parser.add_section("global")
    if certificates:
        parser.set("global", "cert", CERTIFICATES)
    if wheels:
        before = parser.get("global", "find-links", fallback="")
        parser.set("global", "find-links", f"{before} {WHEELS}".strip())
    lines = []
    for section in parser.sections():
        lines += [f"[{section}]", *(f"{name} = {value}" for name, value in parser.items(section))]
    return "\n".join(lines) + "\n"


def mounts(folder: Path, *, ca: Path | None, pip_conf: Path | None, wheels: Path | None) -> list[str]:
    """Write a build's settings into a folder and give the options that mount them; nothing mounted stays in a layer."""
    for path in (ca, pip_conf, wheels):
        if path is not None and not path.exists():
            raise ContainerProblem(f"{path} does not exist")
    options = []
    if ca is not None:
        uv = folder / "uv.toml"
        uv.write_text("system-certs = true\n", encoding="utf-8")
        options += [f"--volume={ca.resolve()}:{CERTIFICATES}:ro", f"--volume={uv}:/etc/uv/uv.toml:ro"]
    if wheels is not None:
        options += [f"--volume={wheels.resolve()}:{WHEELS}:ro"]
    if ca or pip_conf or wheels:
        given = pip_conf.read_text(encoding="utf-8") if pip_conf else ""
        pip = folder / "pip.conf"
        pip.write_text(pip_settings(given, certificates=ca is not None, wheels=wheels is not None), encoding="utf-8")
        options += [f"--secret=id=pip.conf,src={pip}"]
    return options


def commit() -> str:
    """Name the commit of the source, with `-dirty` where files differ from it; empty where git does not know."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def build_image(
    image: str, *, torch: str, stand_in: bool, ca: Path | None, pip_conf: Path | None, wheels: Path | None
) -> None:
    """Build the image from the Dockerfile as it stands, on the real base or on the stand-in."""
    base = ["--pull-never", f"--build-arg=BASE={STAND_IN}"] if stand_in else []
    with tempfile.TemporaryDirectory() as folder:
        given = [f"--build-arg=TORCH={torch}", f"--build-arg=COMMIT={commit()}"]
        given += mounts(Path(folder), ca=ca, pip_conf=pip_conf, wheels=wheels)
        # No cache: buildah 1.28 takes a cached layer for one whose build argument (the commit) has changed since.
        buildah("bud", "--layers", "--no-cache", "--format=docker", f"--tag={image}", *base, *given, str(ROOT))
