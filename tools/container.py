"""Builds and runs the image of the Dockerfile with buildah, where there is no Docker engine.

Needs Linux, root, buildah 1.28 or newer and any Python from 3.11 on:

    python tools/container.py build --torch cpu --wheels DIR      as `docker build`; DIR holds the CPU wheel of torch
    python tools/container.py run -v "$PWD/artifacts:/home/crane/study/artifacts" -- ./run_all.sh --profile smoke
    python tools/container.py test                                smoke study, JupyterLab and quick tests in the image
    python tools/container.py size                                size of the image

Where the base image cannot be pulled, `build --base-from-debootstrap` makes a bare Debian 12 with its Python 3.11 and
builds the same Dockerfile on it. Certificates, pip's settings and wheels are mounted for the time of the build; of them
only empty mount points stay in the image. STORAGE_DRIVER (default: overlay) and BUILDAH_ISOLATION (default: chroot) are
buildah's own settings.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from buildah import ContainerProblem, ask, exists, image_id, run_in
from container_build import STAND_IN, build_image, make_stand_in
from container_test import STRANGER, check_lab, check_smoke, check_tests


def say(text: str) -> None:
    """Print one line for the user; standard output is left to results."""
    print(f"container: {text}", file=sys.stderr, flush=True)


def build(options: argparse.Namespace) -> int:
    """Build the image, after its base where that is to be made."""
    if options.base_from_debootstrap and not exists(STAND_IN):
        say("making a stand-in for the base image with debootstrap, about a minute")
        make_stand_in()
    began = time.monotonic()
    build_image(
        options.image,
        torch=options.torch,
        stand_in=options.base_from_debootstrap,
        ca=options.ca,
        pip_conf=options.pip_conf,
        wheels=options.wheels,
    )
    seconds, load = time.monotonic() - began, os.getloadavg()[0]
    say(f"built {options.image} in {seconds:.0f} s (load {load:.1f} on {os.cpu_count()} cores)")
    return 0


def run(options: argparse.Namespace) -> int:
    """Run one command in the image and give its exit status."""
    command = options.command or ["./run_all.sh"]
    return run_in(options.image, command, user=options.user, volumes=options.volume, env=options.env)


def test(options: argparse.Namespace) -> int:
    """Run all checks, or those asked for."""
    image, user = options.image, options.user
    chosen = options.only or ["smoke", "lab", "tests"]
    if "smoke" in chosen:
        say(check_smoke(image, user=user))
    if "lab" in chosen:
        say(check_lab(image, user=user))
    if "tests" in chosen:
        say(check_tests(image, user=user, arguments=options.pytest or ["-m", "not slow"]))
    return 0


def size(options: argparse.Namespace) -> int:
    """Print the image's digest and size."""
    print(image_id(options.image), ask("images", "--format={{.Size}}", options.image))
    return 0


def arguments_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--image", default="crane", help="name of the image (crane)")
    commands = parser.add_subparsers(required=True)

    making = commands.add_parser("build", help="build the image")
    making.set_defaults(work=build)
    making.add_argument("--torch", choices=["cuda", "cpu"], default="cuda", help="build of torch (cuda)")
    making.add_argument("--base-from-debootstrap", action="store_true", help="make a local base instead of pulling it")
    making.add_argument("--ca", type=Path, metavar="FILE", help="certificates to trust during the build")
    making.add_argument("--pip-conf", type=Path, metavar="FILE", help="pip's settings during the build")
    making.add_argument("--wheels", type=Path, metavar="DIR", help="folder of wheels that pip may take")

    running = commands.add_parser("run", help="run a command in the image")
    running.set_defaults(work=run)
    running.add_argument("-v", "--volume", action="append", default=[], metavar="HOST:CONTAINER")
    running.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE")
    running.add_argument("--user", default="", metavar="UID:GID", help="run as this user (the image's own)")
    running.add_argument("command", nargs="*", help="the command, after -- (./run_all.sh)")

    testing = commands.add_parser("test", help="check the image: smoke study, JupyterLab, tests")
    testing.set_defaults(work=test)
    testing.add_argument("--only", action="append", choices=["smoke", "lab", "tests"], help="this check only")
    testing.add_argument("--user", default=STRANGER, metavar="UID:GID", help=f"run as this user ({STRANGER})")
    testing.add_argument("pytest", nargs="*", help="arguments for pytest, after -- (-m 'not slow')")

    sizing = commands.add_parser("size", help="print the image's digest and size")
    sizing.set_defaults(work=size)
    return parser


def main(arguments: list[str]) -> int:
    """Carry out one command; gives the exit status."""
    options = arguments_parser().parse_args(arguments)
    try:
        status: int = options.work(options)
        return status
    except ContainerProblem as problem:
        say(str(problem))
        return 2
    except KeyboardInterrupt:
        say("interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
