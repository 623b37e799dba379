"""The Python environment of the study: is this one right, and if there is none, make `.venv` from the lock files.

Called by tools/environment.sh, with the standard library only and before anything is installed:

    python tools/environment.py matches LABEL    do the running Python's packages match the locks? (exit status 0: yes)
    python tools/environment.py fresh            is the running Python the .venv made from the present locks?
    python tools/environment.py install          make .venv, or bring it up to the locks

`install` takes the CUDA build of torch where an NVIDIA GPU is present, else the CPU build, else (where no CPU wheel is
to be had) the CUDA build, which runs on a CPU as well. CRANE_TORCH=cpu or CRANE_TORCH=cuda decides it by hand.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = (3, 11)
STAMP = "crane-stamp.json"  # written last: an environment with it is complete
STARTED = "crane-install-started"  # there while an installation runs; left behind by an interrupted one
IMPORTS = (  # that the others follow from
    "crane_run.cli",
    "crane_study.study",
    "crane_run.notebook",
    "datasets",
    "ipykernel.kernelapp",
    "lm_eval.models.huggingface",
    "lm_eval.tasks",
    "matplotlib_inline.backend_inline",
    "pytest",
    "transformers.models.llama.modeling_llama",
)
GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))  # the second under WSL


class EnvironmentProblem(Exception):
    """Something the user has to know, in one line."""


def say(text: str) -> None:
    """Print one line for the user; standard output is left to the caller's program."""
    print(f"crane: {text}", file=sys.stderr, flush=True)


# ---- locks ----------------------------------------------------------------------------------------------------------


def lock(name: str) -> Path:
    """Give the path of a lock file."""
    return ROOT / "requirements" / f"{name}.lock"


def read_lock(path: Path) -> dict[str, str]:
    """Read {normalised name: version} of the packages that a lock asks for on this platform."""
    pins = re.findall(r"^([\w.-]+)==([^\s;]+)(?: ; sys_platform == '(\w+)')?", path.read_text(encoding="utf-8"), re.M)
    return {normalised(name): version for name, version, platform in pins if platform in ("", sys.platform)}


def normalised(name: str) -> str:
    """Normalise a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(paths: list[str] | None = None) -> dict[str, str]:
    """Read {normalised name: version} of what stands in the given import folders (default: the running Python's)."""
    found: dict[str, str] = {}
    for folder in sys.path if paths is None else paths:
        for entry in Path(folder).glob("*-*.dist-info"):
            name, _, version = entry.name[: -len(".dist-info")].rpartition("-")
            found.setdefault(normalised(name), version)
    return found


def difference(have: dict[str, str]) -> str:
    """Say in a few words how packages differ from the locks; empty where they do not.

    Which build of torch it is, the part of its version after the `+`, makes no difference.
    """
    wanted = {**read_lock(lock("base")), "torch": read_lock(lock("torch-cuda"))["torch"]}
    wrong = [name for name, version in wanted.items() if have.get(name, "").split("+")[0] != version]
    if not wrong:
        return ""
    first = "torch" if "torch" in wrong else wrong[0]
    text = f"{first} is {have[first]}" if first in have else f"{first} is missing"
    more = f" ({len(wrong)} packages differ)" if len(wrong) > 1 else ""
    return f"{text}, the lock says {wanted[first]}{more}"


def python_difference() -> str:
    """Say how the running Python differs from the one that the locks are for; empty where it does not."""
    if sys.version_info[:2] == PYTHON:
        return ""
    return f"it is Python {sys.version_info[0]}.{sys.version_info[1]}, the locks are for {PYTHON[0]}.{PYTHON[1]}"


# ---- the stamp ------------------------------------------------------------------------------------------------------


def locks_digest() -> str:
    """Hash the lock files."""
    digest = hashlib.sha256()
    for name in ("installer", "torch-cpu", "torch-cuda", "base"):
        digest.update(lock(name).read_bytes())
    return digest.hexdigest()


def read_stamp() -> dict[str, str]:
    """Read the stamp of `.venv`; empty where there is none."""
    with contextlib.suppress(OSError, ValueError):
        stamp = json.loads((VENV / STAMP).read_text(encoding="utf-8"))
        if isinstance(stamp, dict):
            return stamp
    return {}


def write_stamp(build: str) -> None:
    """Mark `.venv` as complete; `build` is the build of torch in it, "cpu" or "cuda"."""
    temporary = VENV / f"{STAMP}.partial"
    stamp = {"locks": locks_digest(), "root": str(ROOT), "torch": build}
    temporary.write_text(json.dumps(stamp) + "\n", encoding="utf-8")
    temporary.replace(VENV / STAMP)


def is_fresh() -> bool:
    """Tell whether `.venv` was completed from the present locks, in this place, with the build of torch to be used."""
    stamp = read_stamp()
    if stamp.get("locks") != locks_digest() or stamp.get("root") != str(ROOT):
        return False
    chosen = chosen_build()
    return stamp.get("torch") == chosen if chosen else stamp.get("torch") == "cuda" or not has_gpu()


def chosen_build() -> str:
    """Name the build of torch that the user asked for: "cpu", "cuda" or "" (whatever fits)."""
    choice = os.environ.get("CRANE_TORCH", "")
    if choice not in ("", "cpu", "cuda"):
        raise EnvironmentProblem(f"CRANE_TORCH is {choice!r}; set it to cpu or cuda, or not at all")
    return choice


def has_gpu() -> bool:
    """Tell whether this machine has an NVIDIA GPU with a working driver."""
    if not any(device.exists() for device in GPU_DEVICES) or not shutil.which("nvidia-smi"):
        return False
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
        return answer.returncode == 0 and "GPU " in answer.stdout
    return False


# ---- installation ---------------------------------------------------------------------------------------------------


def install() -> None:
    """Make `.venv`, or bring it up to the locks. Two starts at once wait for one another."""
    chosen_build()  # refused before anything is touched
    with only_one():
        task = what_to_do()
        if not task:
            return
        say(f"{task} from requirements/*.lock; takes one to three minutes, plus the download of torch")
        began = time.monotonic()
        VENV.mkdir(exist_ok=True)
        (VENV / STARTED).touch()
        (VENV / STAMP).unlink(missing_ok=True)
        # Not sys.executable: with .venv active that is the very file that may just have been removed.
        run([getattr(sys, "_base_executable", sys.executable), "-m", "venv", str(VENV)])
        venv_python("-m", "pip", "install", "--require-hashes", "--no-deps", "-r", str(lock("installer")))
        build = install_torch()
        install_base()
        make_importable()
        compile_imports()
        write_stamp(build)
        (VENV / STARTED).unlink()
        say(f".venv is ready after {time.monotonic() - began:.0f} s ({build.upper()} build of torch)")


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Hold the lock against a second installation in the same clone."""
    import fcntl

    with open(ROOT / ".venv.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another start is making .venv; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def what_to_do() -> str:
    """Say in words what an installation will do, "" for nothing; removes a `.venv` of no further use."""
    if not VENV.exists():
        return "making .venv"
    version = venv_version()
    if (VENV / STARTED).exists() and not (VENV / STAMP).exists():
        shutil.rmtree(VENV)
        return "making .venv anew (the last installation was interrupted)"
    if (VENV / STAMP).exists():
        if version == PYTHON:
            return "" if is_fresh() else "bringing .venv up to date"
        shutil.rmtree(VENV)
        return "making .venv anew (its Python is gone)"
    if version != PYTHON:  # made by someone else
        raise EnvironmentProblem(f"{VENV} is no environment of Python 3.11; move it away and start again")
    have = installed(venv_paths())
    problem = difference(have)
    if problem:
        return f"bringing .venv up to date ({problem})"
    make_importable()
    write_stamp("cpu" if "+cpu" in have["torch"] else "cuda")
    return "" if is_fresh() else "changing the build of torch in .venv"


def venv_version() -> tuple[int, ...]:
    """Give the Python version of `.venv`; empty where it does not run."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        code = "import sys; print(*sys.version_info[:2])"
        command = [str(VENV / "bin" / "python"), "-I", "-S", "-c", code]
        return tuple(int(part) for part in subprocess.run(command, capture_output=True, check=True).stdout.split())
    return ()


def venv_paths() -> list[str]:
    """Name the folders with the packages of `.venv`."""
    return [str(path) for path in VENV.glob("lib/python3.11/site-packages")]


def install_torch() -> str:
    """Install the build of torch that fits this machine; gives "cpu" or "cuda"."""
    chosen = chosen_build()
    before = installed(venv_paths()).get("torch", "")
    if chosen == "cpu" or not (chosen or has_gpu()):
        pinned = read_lock(lock("torch-cpu"))["torch"]
        # Only pip is asked: a CPU wheel is found where pip's configuration says (find-links, further indexes).
        command = ["-m", "pip", "install", "--require-hashes", "--no-deps", "-r", str(lock("torch-cpu"))]
        if before == pinned or venv_python(*command, check=chosen == "cpu"):
            return "cpu"
        say(f"pip finds no wheel of torch {pinned} for this machine; taking the package index's build")
    say("installing torch; on Linux it comes with CUDA, about 3 GB to download")
    again = ["--reinstall-package", "torch"] if "+" in before else []
    arguments = ["install", "--require-hashes", "--no-deps", "-r", str(lock("torch-cuda"))]
    if not uv(*arguments, *again):
        # `===` keeps pip from taking another build of the same version.
        pins = lock("torch-cuda").read_text(encoding="utf-8")
        exact = VENV / "torch-cuda.txt"
        exact.write_text(re.sub(r"^torch==", "torch===", pins, flags=re.M), encoding="utf-8")
        arguments[-1] = str(exact)
        venv_python("-m", "pip", *arguments, *(["--force-reinstall"] if again else []))
    return "cuda"


def install_base() -> None:
    """Install everything but torch: by uv, or by pip where uv does not get through."""
    arguments = ["install", "--require-hashes", "--no-deps", "--no-build-isolation", "-r", str(lock("base"))]
    if not uv(*arguments):
        say("uv did not get through; installing with pip, which takes about four minutes")
        venv_python("-m", "pip", *arguments)


def make_importable() -> None:
    """Put crane_lib on the import path of `.venv` and a `crane` command into its bin folder."""
    for folder in venv_paths():
        Path(folder, "crane_lib.pth").write_text(f"{ROOT}\n", encoding="utf-8")
    command = VENV / "bin" / "crane"
    command.write_text(f'#!/bin/sh\nexec "{VENV}/bin/python" -m crane_run.cli "$@"\n', encoding="utf-8")
    command.chmod(0o755)


def compile_imports() -> None:
    """Import once what a run imports, so that it is compiled once.

    Neither uv nor every user's settings (PYTHONDONTWRITEBYTECODE, which `-I` ignores) have it compiled later, and then
    each kernel would compile it anew, for seven seconds. Five sixths of what is installed are never imported.
    """
    venv_python("-c", f"import {', '.join(IMPORTS)}", check=False)


def uv(*arguments: str) -> bool:
    """Run `uv pip`; tells whether that went well."""
    verb, *rest = arguments
    return venv_python("-m", "uv", "pip", verb, "--python", str(VENV / "bin" / "python"), *rest, check=False)


def venv_python(*arguments: str, check: bool = True) -> bool:
    """Run the Python of `.venv`; tells whether that went well, or with `check` raises where it did not."""
    return run([str(VENV / "bin" / "python"), "-I", *arguments], check=check)


def run(command: list[str], *, check: bool = True) -> bool:
    """Run a program in silence; where it fails and `check` is set, its last lines come with the error."""
    settings = {
        **os.environ,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_USER": "0",
        "VIRTUAL_ENV": str(VENV),
    }
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    answer = subprocess.run(command, env=settings, stdout=pipe, stderr=both, text=True, check=False)
    if answer.returncode and check:
        lines = answer.stdout.strip().splitlines()[-15:]
        print(*lines, sep="\n", file=sys.stderr)
        raise EnvironmentProblem(f"the installation failed (last lines above) at: {' '.join(command)}")
    return answer.returncode == 0


# ---- command line ---------------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Carry out one command; gives the exit status."""
    command, *rest = arguments
    try:
        if command == "matches":
            problem = python_difference() or difference(installed())
            if problem:
                say(f"{rest[0]}: {problem}; {rest[1]}")
            return 1 if problem else 0
        if command == "fresh":
            with contextlib.suppress(EnvironmentProblem):  # `install`, called next, will tell
                return 0 if is_fresh() else 1
            return 1
        install()
        return 0
    except EnvironmentProblem as problem:
        say(str(problem))
        return 2
    except OSError as error:
        say(f"{error.filename}: {error.strerror}")
        return 2
    except KeyboardInterrupt:
        say("interrupted; the next start makes .venv anew")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
