"""Executing one notebook with papermill, its mistakes turned into one line."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from crane_lib.errors import CraneError
from crane_lib.pipeline.kernels import Kernels
from crane_lib.pipeline.log import SectionLog
from crane_lib.profile import nearest

_ROOT = Path(__file__).resolve().parents[2]
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class NotebookError(Exception):
    """A cell of a notebook failed; the message is the error's last line."""


def known_parameters(notebook: Path) -> list[str]:
    """Names that a notebook's parameters cell sets."""
    import papermill

    return list(papermill.inspect_notebook(str(notebook)))


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that a notebook does not have; papermill itself would only warn and run on.

    Raises
    ------
    CraneError : a name is unknown; the nearest right one is named
    """
    known = known_parameters(notebook)
    for name in parameters:
        if name not in known:
            raise CraneError(f"{notebook.name}: unknown parameter {name!r}; {nearest(name, known)}")


def execute(
    notebook: Path,
    output: Path,
    parameters: Mapping[str, Any],
    *,
    variables: Mapping[str, str],
    log: SectionLog,
    kernels: Kernels,
) -> None:
    """Execute a notebook; the executed copy is `output`, or ``<name>.failed.ipynb`` beside it.

    Several may be executed at once, each in a thread of its own: nothing of this process is changed.

    Parameters
    ----------
    variables : environment of the kernel, beside that of this process
    log : gets what the cells print, and the traceback of a failure
    kernels : the kernel is one of them while it lives

    Raises
    ------
    CraneError : an unknown parameter
    NotebookError : a cell failed
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    from crane_lib.pipeline.engine import ENGINE

    check_parameters(notebook, parameters)
    output.parent.mkdir(parents=True, exist_ok=True)
    running = output.with_name(f".{output.stem}.partial.ipynb")
    failed = output.with_name(f"{output.stem}.failed.ipynb")
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    try:
        with TemporaryDirectory(prefix="crane-") as sockets:
            papermill.execute_notebook(
                str(notebook),
                str(running),
                parameters=dict(parameters),
                engine_name=ENGINE,
                kernel_name="python3",
                progress_bar=False,
                # Kernels talk through sockets in a folder of this user's own, which others cannot reach.
                config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
                extra_arguments=["--IPKernelApp.log_level=50"],
                resources={"metadata": {"path": str(_ROOT)}},  # where the kernel starts; `cwd` would move this process
                variables={**variables, "PYTHONPATH": path, "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
                section_log=log,
                kernels=kernels,
            )
    except PapermillExecutionError as error:
        os.replace(running, failed)
        log.write("\n".join(error.traceback) + "\n")
        message = _COLOURS.sub("", f"{error.ename}: {error.evalue}").strip().splitlines()
        raise NotebookError(message[0].removeprefix("CraneError: ") if message else error.ename) from error
    except (DeadKernelError, CellTimeoutError) as error:
        if running.is_file():
            os.replace(running, failed)
        raise NotebookError(f"its kernel died ({error}); was there too little memory?") from error
    except RuntimeError as error:
        raise NotebookError(f"its kernel did not start ({error})") from error
    else:
        os.replace(running, output)
        failed.unlink(missing_ok=True)
    finally:
        running.unlink(missing_ok=True)
