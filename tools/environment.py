"""Check a Python environment against the lock files, or make `.venv` from them.

Called by tools/environment.sh, with the standard library only, before anything is installed:

    python tools/environment.py matches LABEL THEN   do the running Python's packages match the locks? (exit status 0)
    python tools/environment.py fresh                is the running Python the .venv made from the present locks?
    python tools/environment.py install              make .venv, or bring it up to date

The CUDA build of torch is installed where an NVIDIA GPU is present, else the CPU build where pip finds its wheel, else
the CUDA build, which runs on a CPU as well. CRANE_TORCH=cpu or CRANE_TORCH=cuda overrides this.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = {name: ROOT / "requirements" / f"{name}.lock" for name in ("installer", "torch-cpu", "torch-cuda", "base")}
VENV = ROOT / ".venv"
VENV_PYTHON = str(VENV / "bin" / "python")
SITE_PACKAGES = VENV / "lib" / "python3.11" / "site-packages"
PYTHON = (3, 11)
STAMP = VENV / "crane-stamp"  # says which locks an installation completed, or that one has started
STARTED = "started"
HASHED = ("--require-hashes", "--no-deps")
IMPORTS = (  # everything that a run imports follows from these
    "crane_run.cli, crane_run.cells, crane_run.report, crane_run.server, crane_study.figures, crane_study.study, "
    "crane_study.tables.paper, datasets, ipykernel.kernelapp, lm_eval.models.huggingface, lm_eval.tasks, "
    "matplotlib_inline.backend_inline, papermill, pytest, transformers.models.llama.modeling_llama"
)
TELL_SECONDS = 30.0  # between lines while a program works
GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))  # the second under WSL


class EnvironmentProblem(Exception):
    """A message for the user, one line."""


def say(text: str) -> None:
    """Print one line on standard error."""
    print(f"crane: {text}", file=sys.stderr, flush=True)


def normalised(pins: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return {normalised name: version} of packages."""
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins}


def read_lock(path: Path) -> dict[str, str]:
    """Read the packages that a lock lists for this platform."""
    pins = re.findall(r"^([\w.-]+)==([^\s;]+)(?: ; sys_platform == '(\w+)')?", path.read_text(encoding="utf-8"), re.M)
    return normalised((name, version) for name, version, platform in pins if platform in ("", sys.platform))


def installed(folders: list[str]) -> dict[str, str]:
    """Read the packages in import folders; the first of a name counts."""
    found = [entry.stem.rpartition("-") for folder in folders for entry in Path(folder).glob("*-*.dist-info")]
    return normalised((name, version) for name, _, version in reversed(found))


def difference(have: dict[str, str]) -> str:
    """Describe how packages differ from the locks; empty if they match. Either build of torch matches."""
    wanted = {"torch": read_lock(LOCKS["torch-cuda"])["torch"], **read_lock(LOCKS["base"])}
    wrong = [name for name, version in wanted.items() if have.get(name, "").split("+")[0] != version]
    if not wrong:
        return ""
    seen = f"is {have[wrong[0]]}" if wrong[0] in have else "is missing"
    more = f" ({len(wrong)} packages differ)" if len(wrong) > 1 else ""
    return f"{wrong[0]} {seen}, the lock says {wanted[wrong[0]]}{more}"


def stamp(build: str) -> str:
    """Return the stamp of a complete `.venv` with a build of torch: its place and the hash of its locks."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in LOCKS.values())).hexdigest()
    return f"{build} {digest} {ROOT}\n"


def is_fresh() -> bool:
    """Return whether `.venv` was completed from the present locks, here, with the build of torch to be used."""
    if not STAMP.exists():
        return False
    found, chosen = STAMP.read_text(encoding="utf-8"), chosen_build()
    if chosen:
        return found == stamp(chosen)
    return found == stamp("cuda") or (found == stamp("cpu") and not has_gpu())


def chosen_build() -> str:
    """Return the build of torch that the user asked for: "cpu", "cuda", or "" for the one that fits."""
    choice = os.environ.get("CRANE_TORCH", "")
    if choice not in ("", "cpu", "cuda"):
        raise EnvironmentProblem(f"CRANE_TORCH is {choice!r}; set it to cpu or cuda, or unset it")
    return choice


def has_gpu() -> bool:
    """Return whether this machine has an NVIDIA GPU with a working driver."""
    if any(device.exists() for device in GPU_DEVICES):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
            return answer.returncode == 0 and "GPU " in answer.stdout
    return False


def install() -> None:
    """Make `.venv`, or bring it up to date. A second start in the same clone waits for the first."""
    chosen = chosen_build()  # refused before anything is touched
    with open(ROOT / ".venv.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another start is making .venv; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        work = work_left()
        if not work:
            return
        say(f"{work} from requirements/*.lock; takes one to three minutes, plus the download of torch")
        began = time.monotonic()
        VENV.mkdir(exist_ok=True)
        STAMP.write_text(STARTED)
        # Not sys.executable: with .venv active that is the very file that may just have been removed.
        run([getattr(sys, "_base_executable", sys.executable), "-m", "venv", str(VENV)], what="making an empty .venv")
        pip_install("installer")
        build = install_torch(chosen)
        uv_install("base", "--no-build-isolation")
        make_importable()
        # uv does not compile what it installs; without this, the first run would, and it would take seconds longer.
        run([VENV_PYTHON, "-I", "-c", f"import {IMPORTS}"], what="compiling what a run imports", check=False)
        STAMP.write_text(stamp(build))
        say(f".venv is ready after {time.monotonic() - began:.0f} s ({build.upper()} build of torch)")


def work_left() -> str:
    """Describe what an installation will do, "" for nothing; removes a `.venv` that cannot be used."""
    if not VENV.exists():
        return "making .venv"
    found = STAMP.read_text(encoding="utf-8") if STAMP.exists() else ""
    check = ["-I", "-S", "-c", f"import sys; sys.exit(sys.version_info[:2] != {PYTHON})"]
    usable = os.path.exists(VENV_PYTHON) and not subprocess.run([VENV_PYTHON, *check], capture_output=True).returncode
    if not found:  # made by someone else
        if not usable:
            raise EnvironmentProblem(f"{VENV} is no environment of Python 3.11; move it away and start again")
        have = installed([str(SITE_PACKAGES)])
        problem = difference(have)
        if problem:
            return f"bringing .venv up to date ({problem})"
        make_importable()
        STAMP.write_text(stamp("cpu" if "+cpu" in have["torch"] else "cuda"))
    elif found == STARTED or not usable:
        shutil.rmtree(VENV)
        return f"making .venv again ({'the last installation was interrupted' if usable else 'its Python is gone'})"
    return "" if is_fresh() else "bringing .venv up to date"


def install_torch(chosen: str) -> str:
    """Install the build of torch that fits this machine; returns "cpu" or "cuda"."""
    before = installed([str(SITE_PACKAGES)]).get("torch", "")
    if chosen == "cpu" or not (chosen or has_gpu()):
        pinned = read_lock(LOCKS["torch-cpu"])["torch"]
        # Only pip knows where a CPU wheel is: its configuration names folders and further indexes (uv reads neither).
        if before == pinned or pip_install("torch-cpu", check=chosen == "cpu"):
            return "cpu"
        say(f"pip finds no wheel of torch {pinned} for this machine; taking the package index's build")
    say("installing torch; on Linux it comes with CUDA, about 3 GB to download")
    uv_install("torch-cuda", *(["--reinstall-package=torch"] if "+" in before else []))
    return "cuda"


def uv_install(name: str, *options: str) -> None:
    """Install a lock by uv, or by pip, with the user's configuration, where uv cannot download."""
    command = [VENV_PYTHON, "-I", "-m", "uv", "pip", "install", "--python", VENV_PYTHON, *HASHED, *options]
    if not run([*command, "-r", str(LOCKS[name])], what=f"installing {counted(name)} with uv", check=False):
        say("uv cannot download the packages; installing with pip, which takes about four minutes")
        pip_install(name, *(option.replace("--reinstall-package=torch", "--force-reinstall") for option in options))


def pip_install(name: str, *options: str, check: bool = True) -> bool:
    """Install a lock by pip; returns whether that succeeded."""
    command = [VENV_PYTHON, "-I", "-m", "pip", "install", *HASHED, *options, "-r", str(LOCKS[name])]
    return run(command, what=f"installing {counted(name)} with pip", check=check)


def counted(name: str) -> str:
    """Name a lock with the number of its packages."""
    count = len(read_lock(LOCKS[name]))
    return f"{name}.lock ({count} package{'s' if count > 1 else ''})"


def make_importable() -> None:
    """Put the three packages on the import path of `.venv` and the command `crane` into its bin folder."""
    (SITE_PACKAGES / "crane.pth").write_text(f"{ROOT}\n", encoding="utf-8")
    command = VENV / "bin" / "crane"
    command.write_text(f'#!/bin/sh\nexec "{VENV}/bin/python" -m crane_run.cli "$@"\n', encoding="utf-8")
    command.chmod(0o755)


def run(command: list[str], *, what: str, check: bool = True) -> bool:
    """Run a program and return whether it succeeded; a failure with `check` is an EnvironmentProblem.

    Only `what` it does is said, when it starts and from time to time; its own words only if it fails.
    """
    settings = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_USER": "0", "VIRTUAL_ENV": str(VENV)}
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    began, said = time.monotonic(), None
    say(what)
    with subprocess.Popen(command, env=os.environ | settings, stdout=pipe, stderr=both, text=True) as program:
        while said is None:
            try:
                said, _nothing = program.communicate(timeout=TELL_SECONDS)
            except subprocess.TimeoutExpired:
                say(f"{what}, {time.monotonic() - began:.0f} s so far")
            except BaseException:
                program.kill()
                raise
    if program.returncode and check:
        print(*said.strip().splitlines()[-15:], sep="\n", file=sys.stderr)
        raise EnvironmentProblem(
            f"the installation failed (last lines above) at: {' '.join(command)}; without a package index, "
            "set CRANE_PYTHON to a Python 3.11 that has the packages of requirements/"
        )
    return program.returncode == 0


def main(arguments: list[str]) -> int:
    """Run one command; returns the exit status."""
    command, *rest = arguments
    try:
        if command == "matches":
            problem = difference(installed(sys.path))
            if sys.version_info[:2] != PYTHON:
                problem = f"it is Python {sys.version_info[0]}.{sys.version_info[1]}, the locks are for 3.11"
            if problem:
                say(f"{rest[0]}: {problem}; {rest[1]}")
            return bool(problem)
        if command == "fresh":
            return not is_fresh()
        install()
        return 0
    except EnvironmentProblem as problem:
        if command != "fresh":  # `install`, called next, reports it
            say(str(problem))
        return 2
    except OSError as error:
        say(f"{error.filename}: {error.strerror}")
        return 2
    except KeyboardInterrupt:
        say("interrupted; the next start makes .venv again")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
