"""Checks inside the image: the smoke study, JupyterLab, the tests."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from buildah import STUDY, ContainerProblem, image_id, run_in

STRANGER = "23456:23456"  # a user that neither the image nor, most likely, the host knows
LAB = ["./run_all.sh", "--lab", "--ip", "0.0.0.0", "--port", "8888"]
LAB_STATUS = "http://127.0.0.1:8888/api/status"


def check_smoke(image: str, *, user: str) -> str:
    """Run and verify the smoke study; its outputs must lie in the mounted folder, be the user's, and name the image."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        artifacts = Path(folder, "artifacts")
        artifacts.mkdir()
        owner = tuple(int(part) for part in user.split(":"))
        os.chown(artifacts, *owner)
        command = ["./run_all.sh", "--profile", "smoke"]
        volumes = [f"{artifacts}:{STUDY}/artifacts"]
        if run_in(image, command, user=user, volumes=volumes, env=[]):
            raise ContainerProblem("the smoke study failed in the image, its last lines are above")
        if run_in(image, ["crane", "verify", "artifacts/smoke"], user=user, volumes=volumes, env=[]):
            raise ContainerProblem("the smoke study of the image is not as its manifest or the reference run says")
        files = [path for path in artifacts.rglob("*") if path.is_file()]
        for path in files:
            if (path.stat().st_uid, path.stat().st_gid) != owner:
                raise ContainerProblem(f"{path.relative_to(folder)} does not belong to {user}")
        if image_id(image) not in (artifacts / "smoke" / "manifest.json").read_text(encoding="utf-8"):
            raise ContainerProblem("the manifest of the smoke study does not name the image")
        return f"the smoke study is as its reference, its {len(files)} files are {user}'s, its manifest names the image"


def lab_answer(token: str) -> int:
    """Give the HTTP status with which JupyterLab answers; 0 while it does not."""
    request = urllib.request.Request(LAB_STATUS, headers={"Authorization": f"token {token}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def check_lab(image: str, *, user: str, patience: float = 180) -> str:
    """Start JupyterLab as the service `lab` of compose.yaml does; it must ask for its token and take it."""
    if lab_answer(""):
        raise ContainerProblem("something else answers on port 8888; end it first")
    token = secrets.token_hex(16)
    own = Path(__file__).with_name("container.py")
    command = [sys.executable, str(own), "--image", image, "run", "--user", user, "-e", f"JUPYTER_TOKEN={token}"]
    process = subprocess.Popen([*command, "--", *LAB], start_new_session=True)
    try:
        began = time.monotonic()
        while not lab_answer(token) and process.poll() is None and time.monotonic() - began < patience:
            time.sleep(1)
        seconds = time.monotonic() - began
        answers = lab_answer(token), lab_answer("wrong")
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    if answers != (200, 403):
        raise ContainerProblem(f"JupyterLab answered {answers} with its token and with a wrong one, not (200, 403)")
    return f"JupyterLab answered after {seconds:.0f} s, with its token only"


def check_tests(image: str, *, user: str, arguments: list[str]) -> str:
    """Run the tests of the repository."""
    if run_in(image, ["./run_tests.sh", *arguments], user=user, volumes=[], env=[]):
        raise ContainerProblem("style, types or tests failed in the image, see above")
    return f"the tests passed: ./run_tests.sh {' '.join(arguments)}"
