"""Cells of one notebook, run in this process: papermill with an engine of its own instead of a kernel.

Outputs are those that a kernel would write: streams, displays, results and errors, in the order in which they come.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from threading import RLock
from typing import Any, TextIO

import papermill
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from nbformat import NotebookNode, from_dict
from nbformat.v4 import new_output
from papermill.engines import Engine, NotebookExecutionManager, papermill_engines
from papermill.exceptions import PapermillExecutionError
from traitlets import Type
from traitlets.config import Config

_NAME = "crane"
_NO_HISTORY = Config({"HistoryManager": {"enabled": False, "hist_file": ":memory:"}})
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def execute(notebook: str, output: str, parameters: Mapping[str, Any]) -> str | None:
    """Execute a notebook; returns the error in one line, None if every cell is done."""
    cells = logging.StreamHandler(sys.stderr)  # the lines on which cell is at work; outputs come as they are
    cells.setFormatter(logging.Formatter("[%(asctime)s] %(message)s", "%Y-%m-%d %H:%M:%S"))
    cells.addFilter(lambda record: record.module == "engines")
    papermill.log.logger.addHandler(cells)
    papermill.log.logger.setLevel(logging.INFO)
    papermill.log.logger.propagate = False
    papermill_engines.register(_NAME, _InThisProcess)
    try:
        papermill.execute_notebook(
            notebook,
            output,
            parameters,
            engine_name=_NAME,
            kernel_name="python3",  # whose language the parameters are written in
            log_output=True,
            progress_bar=False,
        )
    except PapermillExecutionError as error:
        print(_COLOURS.sub("", "\n".join(error.traceback)), file=sys.stderr)
        lines = _COLOURS.sub("", f"{error.ename}: {error.evalue}").strip().splitlines()
        return f"cell {error.cell_index + 1}: {(lines or [error.ename])[0].removeprefix('CraneError: ')}"
    return None


class _InThisProcess(Engine):
    """papermill's engine: runs the cells one after the other until one fails."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: NotebookExecutionManager, kernel_name: str, **_options: Any) -> None:
        outputs = _Outputs(nb_man.autosave_cell)
        with _speaking_to(outputs):
            shell = _Shell.instance(outputs=outputs, config=_NO_HISTORY)
            for index, cell in enumerate(nb_man.nb.cells):
                nb_man.cell_start(cell, index)
                try:
                    if cell.cell_type == "code" and cell.source.strip():
                        cell.execution_count = shell.execution_count
                        outputs.begin(cell)
                        if not shell.run_cell(cell.source, store_history=True).success:
                            nb_man.cell_exception(cell, cell_index=index)
                            break
                finally:
                    nb_man.cell_complete(cell, cell_index=index)


class _Outputs:
    """Outputs of the cell at work, which threads may write too; `saved` is called after each."""

    def __init__(self, saved: Callable[[], None]) -> None:
        self._saved, self._lock = saved, RLock()
        self._here: list[NotebookNode] = []
        self._by_id: dict[str, list[NotebookNode]] = {}  # displays that have an id, of all cells
        self._clears = False  # before the next output

    def begin(self, cell: NotebookNode) -> None:
        """Write into a cell from here on."""
        with self._lock:
            self._here, self._clears = cell.outputs, False

    def stream(self, name: str, text: str) -> None:
        """Add to what a cell printed to a stream."""
        with self._lock:
            self._clear_if_due()
            last = self._here[-1] if self._here else None
            if last is not None and last.output_type == "stream" and last.name == name:
                last.text += text
            else:
                self._here.append(new_output("stream", name=name, text=text))
            self._saved()

    def add(self, kind: str, *, display_id: str | None = None, **content: Any) -> None:
        """Add a display, a result or an error, as JSON would hold it."""
        output = new_output(kind, **_as_json(**content))
        with self._lock:
            self._clear_if_due()
            self._here.append(output)
            if display_id is not None:
                self._by_id.setdefault(display_id, []).append(output)
            self._saved()

    def update(self, display_id: str | None, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Change what is shown under an id, in whichever cell."""
        new = _as_json(data=data, metadata=metadata)
        with self._lock:
            for output in self._by_id.get(display_id or "", []):
                output.update(new)
            self._saved()

    def clear(self, *, wait: bool) -> None:
        """Remove the cell's outputs, now or before the next one."""
        with self._lock:
            self._clears = True
            if not wait:
                self._clear_if_due()

    def _clear_if_due(self) -> None:
        if self._clears:
            self._here.clear()
            self._clears = False


def _as_json(**content: Any) -> dict[str, Any]:
    """Return content as it is after a way through JSON."""
    return dict(from_dict(json.loads(json.dumps(content, default=_as_text))))


def _as_text(value: Any) -> str:
    """Return the bytes of a picture in base64."""
    return b64encode(value).decode("ascii")


class _Stream(io.TextIOBase):
    """Standard output or error of the cells: into the notebook, and into the log as it comes."""

    encoding = "utf-8"

    def __init__(self, name: str, log: TextIO, outputs: _Outputs) -> None:
        self._name, self._log, self._outputs = name, log, outputs

    def write(self, text: str) -> int:
        if text:
            self._log.write(text)
            self._log.flush()
            self._outputs.stream(self._name, text)
        return len(text)

    def flush(self) -> None:
        self._log.flush()

    def fileno(self) -> int:
        return self._log.fileno()

    def writable(self) -> bool:
        return True


@contextmanager
def _speaking_to(outputs: _Outputs) -> Iterator[None]:
    """Send what is printed, and what loggers say that were made before, to the cells' outputs."""
    before = {sys.stdout: _Stream("stdout", sys.stdout, outputs), sys.stderr: _Stream("stderr", sys.stderr, outputs)}
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    for logger in (one for one in loggers if isinstance(one, logging.Logger) and one is not papermill.log.logger):
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler and handler.stream in before:
                handler.setStream(before[handler.stream])
    with redirect_stdout(before[sys.stdout]), redirect_stderr(before[sys.stderr]):
        yield


class _Displays(DisplayPublisher):
    shell: _Shell

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        source: Any = None,
        *,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **_other: Any,
    ) -> None:
        display_id = (transient or {}).get("display_id")
        if update:
            self.shell.outputs.update(display_id, data, metadata or {})
        else:
            self.shell.outputs.add("display_data", display_id=display_id, data=data, metadata=metadata or {})

    def clear_output(self, wait: bool = False) -> None:
        self.shell.outputs.clear(wait=wait)


class _Results(DisplayHook):
    shell: _Shell

    def write_output_prompt(self) -> None:
        """Print no prompt: the notebook shows the number itself."""

    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        number = self.prompt_count
        self.shell.outputs.add("execute_result", data=format_dict, metadata=md_dict or {}, execution_count=number)

    def finish_displayhook(self) -> None:
        self._is_active = False


class _Shell(InteractiveShell):
    """IPython without a terminal and without files of the user's: no history, settings or start-up code."""

    display_pub_class = Type(_Displays)
    displayhook_class = Type(_Results)

    def __init__(self, *, outputs: _Outputs, **options: Any) -> None:
        self.outputs = outputs
        super().__init__(**options)

    def init_ipython_dir(self, _ipython_dir: str | None) -> None:
        """Use no folder of settings."""

    def init_profile_dir(self, _profile_dir: Any) -> None:
        """Use no folder of settings."""

    def init_virtualenv(self) -> None:
        """Look for no other environment than the one that runs."""

    def enable_gui(self, gui: str | None = None) -> None:
        """Start no event loop: figures are shown as pictures."""

    def _showtraceback(self, etype: type[BaseException], evalue: BaseException, stb: list[str]) -> None:
        self.outputs.add("error", ename=etype.__name__, evalue=str(evalue), traceback=stb)
