"""JupyterLab on a copy of the inspection notebook, for one profile's run.

JupyterLab saves what it shows, and the notebook of the repository must stay as it is, so a copy is opened.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import nbformat
from nbformat import NotebookNode

from crane_lib.errors import CraneError
from crane_lib.files import fingerprint, write_text
from crane_run.sections import NOTEBOOKS
from crane_study.profile import ARTIFACTS_VARIABLE

NOTEBOOK = NOTEBOOKS / "inspect.ipynb"
PROFILE_VARIABLE = "CRANE_PROFILE"  # tells the notebook which run to open
COPIES = "_lab"  # in the folder of all runs; no profile can have this name
_OWN_FOLDERS = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
_COPIED = "copied_cells"  # in the copy's metadata: which cells it was made of


def working_copy(artifacts: Path, run: str) -> Path:
    """Copy the inspection notebook for a run, if there is no copy yet or the original has changed.

    A copy whose cells the user changed stays as it is, and a line on the error stream says so; executing them is no
    change.
    """
    if not NOTEBOOK.is_file():
        raise CraneError(f"{NOTEBOOK}: no such notebook; run from a clone of the repository")
    path = artifacts / COPIES / run / NOTEBOOK.name
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    original = _cells(notebook)
    if path.is_file():
        try:
            copy = nbformat.read(path, as_version=4)
        except ValueError as error:
            raise CraneError(f"{path}: is no notebook; move it away for a new copy") from error
        copied = copy.metadata.get("crane", {}).get(_COPIED)
        if copied not in (original, _cells(copy)):
            told = "has changes of yours and is kept; move it away for the present notebook"
            print(f"note: {path}: {told}", file=sys.stderr)
        if copied == original or copied != _cells(copy):
            return path
    notebook.metadata["crane"] = {_COPIED: original}
    for cell in notebook.cells:
        if cell.cell_type == "code":  # the outputs that the repository keeps are of another run
            cell.outputs, cell.execution_count = [], None
    write_text(path, nbformat.writes(notebook))
    return path


def _cells(notebook: NotebookNode) -> str:
    """Short hash of a notebook's cells without their outputs."""
    return fingerprint([[cell.cell_type, cell.source] for cell in notebook.cells])


def lab_command(notebook: Path, *, root: Path, ip: str = "", port: int = 0, browser: bool = False) -> list[str]:
    """Build the command that starts JupyterLab, with Jupyter's token, on a notebook below the folder that it shows.

    Without an address it listens on the loopback one, without a port on 8888 or the next free one.
    """
    command = [
        *(sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={root}", f"--ServerApp.ip={ip or '127.0.0.1'}"),
        f"--LabApp.default_url=/lab/tree/{notebook.relative_to(root)}",
        # Nothing from outside: no look for updates, no news, no list of extensions.
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        *("--LabApp.news_url=None", "--LabApp.extension_manager=readonly"),
    ]
    if port:  # exactly this one: whoever maps a port into a container needs it
        command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    if os.geteuid() == 0:  # Jupyter asks whether that is meant; a run as root has executed its notebooks so already
        command.append("--allow-root")
    return command if browser else [*command, "--no-browser"]


def lab_environment(profile: str, artifacts: Path) -> dict[str, str]:
    """Environment variables from which the notebook finds the run."""
    name = str(Path(profile).resolve()) if profile.endswith((".yaml", ".yml")) else profile
    path = os.pathsep.join(filter(None, [str(NOTEBOOKS.parent), os.environ.get("PYTHONPATH")]))
    found = {PROFILE_VARIABLE: name, ARTIFACTS_VARIABLE: str(artifacts), "PYTHONPATH": path}
    if not os.access(os.path.expanduser("~"), os.W_OK):  # a user without a home folder, as in some containers
        own = artifacts / COPIES / ".jupyter"
        found |= {variable: str(own / variable.lower()) for variable in _OWN_FOLDERS if variable not in os.environ}
    return found


def has_screen() -> bool:
    """Return whether there is a screen to open a browser on."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def open_lab(profile: str, artifacts: Path, *, run_folder: Path, ip: str = "", port: int = 0) -> NoReturn:
    """Replace this process by JupyterLab on a copy of the inspection notebook; Jupyter prints its address and token.

    A note on the error stream says if nothing has been run in the profile's own folder yet.
    """
    if find_spec("jupyterlab") is None:
        raise CraneError("JupyterLab is not installed; use the environment that ./run_all.sh makes")
    if not (run_folder / "stages").is_dir():
        print(f"note: {run_folder}: nothing has been run there yet, the notebook will say so", file=sys.stderr)
    notebook = working_copy(artifacts, run_folder.name)
    os.environ.update(lab_environment(profile, artifacts))
    print("starting JupyterLab, which prints its address in a few seconds", file=sys.stderr)
    command = lab_command(notebook, root=artifacts, ip=ip, port=port, browser=has_screen())
    sys.stdout.flush()
    os.execv(command[0], command)
