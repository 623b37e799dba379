"""JupyterLab on the inspection notebook, for one profile's run."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from crane_lib.errors import CraneError
from crane_lib.pipeline.sections import NOTEBOOKS
from crane_lib.profile import ARTIFACTS_VARIABLE

NOTEBOOK = NOTEBOOKS / "inspect.ipynb"
PROFILE_VARIABLE = "CRANE_PROFILE"  # tells the notebook which run to open
_LOOPBACK = "127.0.0.1"


def lab_command(*, ip: str = "", port: int = 0, browser: bool = False) -> list[str]:
    """The command that starts JupyterLab on the inspection notebook; it keeps Jupyter's token.

    Parameters
    ----------
    ip : address to listen on; the loopback one if none is given
    port : 0 for 8888, or the next free one
    browser : open a browser on it
    """
    root = NOTEBOOKS.parent
    command = [
        *(sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={root}", f"--ServerApp.ip={ip or _LOOPBACK}"),
        f"--LabApp.default_url=/lab/tree/{NOTEBOOK.relative_to(root)}",
        # Nothing from outside: no look for updates, no news, no list of extensions.
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        *("--LabApp.news_url=None", "--LabApp.extension_manager=readonly"),
    ]
    if port:  # exactly this one: whoever maps a port into a container needs it
        command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    if not browser:
        command.append("--no-browser")
    if os.geteuid() == 0:  # Jupyter asks whether that is meant; a run as root has executed its notebooks so already
        command.append("--allow-root")
    return command


def lab_environment(profile: str, artifacts: Path) -> dict[str, str]:
    """Variables by which the notebook finds the run."""
    name = str(Path(profile).resolve()) if profile.endswith((".yaml", ".yml")) else profile
    path = os.pathsep.join(filter(None, [str(NOTEBOOKS.parent), os.environ.get("PYTHONPATH")]))
    return {PROFILE_VARIABLE: name, ARTIFACTS_VARIABLE: str(artifacts), "PYTHONPATH": path}


def has_screen() -> bool:
    """Whether there is a screen to open a browser on."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def open_lab(profile: str, artifacts: Path, *, run_folder: Path, ip: str = "", port: int = 0) -> NoReturn:
    """Become JupyterLab on the inspection notebook; its address, with the token, is printed by Jupyter.

    Parameters
    ----------
    profile : name or YAML file of the profile
    artifacts : folder of all runs
    run_folder : the profile's own; said on the error stream if nothing has been run there yet

    Raises
    ------
    CraneError : the notebook or JupyterLab is not there
    """
    if not NOTEBOOK.is_file():
        raise CraneError(f"{NOTEBOOK}: no such notebook; run from a clone of the repository")
    if find_spec("jupyterlab") is None:
        raise CraneError("JupyterLab is not installed; use the environment that ./run_all.sh makes")
    if not (run_folder / "stages").is_dir():
        print(f"note: {run_folder}: nothing has been run there yet, the notebook will say so", file=sys.stderr)
    os.environ.update(lab_environment(profile, artifacts))
    command = lab_command(ip=ip, port=port, browser=has_screen())
    sys.stdout.flush()
    os.execv(command[0], command)
