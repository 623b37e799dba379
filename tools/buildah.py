"""Calls of the program buildah, for tools/container.py."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STUDY = "/home/crane/study"  # the repository's place in the image


class ContainerProblem(Exception):
    """Something the user has to know, in one line."""


def program(name: str) -> str:
    """Find a program that Debian packages under its own name."""
    path = shutil.which(name)
    if path is None:
        raise ContainerProblem(f"{name} is not installed; Debian has it in the package {name}")
    return path


def settings() -> dict[str, str]:
    """Give the environment for buildah: the caller's, over defaults that need no service and no cgroups."""
    return {"STORAGE_DRIVER": "overlay", "BUILDAH_ISOLATION": "chroot", **os.environ}


def buildah(*arguments: str) -> None:
    """Run buildah in sight of the user."""
    if subprocess.run([program("buildah"), *arguments], env=settings(), check=False).returncode:
        raise ContainerProblem(f"buildah {arguments[0]} failed, its last lines are above")


def ask(*arguments: str) -> str:
    """Run buildah and give what it prints."""
    done = subprocess.run([program("buildah"), *arguments], env=settings(), capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "it gave no message").splitlines()[-1]
        raise ContainerProblem(f"buildah {arguments[0]}: {last}")
    return done.stdout.strip()


def exists(image: str) -> bool:
    """Tell whether the image is in buildah's storage."""
    command = [program("buildah"), "inspect", "--type=image", image]
    return subprocess.run(command, env=settings(), capture_output=True, check=False).returncode == 0


def image_id(image: str) -> str:
    """Give the digest that names the image, as `docker image inspect --format '{{.Id}}'` does."""
    if not exists(image):
        raise ContainerProblem(f"there is no image '{image}'; make it with: python tools/container.py build")
    return "sha256:" + ask("inspect", "--type=image", "--format={{.FromImageID}}", image)


def run_options(*, user: str, volumes: list[str], env: list[str]) -> list[str]:
    """Give the options of `buildah run` that stand for those of `docker run`."""
    chosen = [f"--user={user}"] if user else []
    return chosen + [f"--volume={volume}" for volume in volumes] + [f"--env={setting}" for setting in env]


def run_in(image: str, command: list[str], *, user: str, volumes: list[str], env: list[str]) -> int:
    """Run a command in a new container of the image, which is removed afterwards; gives its exit status.

    The command finds the image's name and digest in its environment, for the manifest.
    """
    digest = image_id(image)
    container = ask("from", "--pull-never", image)
    try:
        named = [f"CRANE_IMAGE={image}", f"CRANE_IMAGE_DIGEST={digest}"]
        options = run_options(user=user, volumes=volumes, env=[*named, *env])
        # An engine gives the container's name an address, chroot isolation does not, and torchrun looks for it.
        line = [program("buildah"), "run", "--hostname=localhost", *options, container, "--", *command]
        return subprocess.run(line, env=settings(), check=False).returncode
    finally:
        ask("rm", container)
