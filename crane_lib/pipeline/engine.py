"""Papermill's engine, so that each notebook's kernel has an environment and a log of its own.

Importing this module registers the engine under the name `ENGINE`; it loads papermill, which takes a while.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

from crane_lib.pipeline.kernels import Kernels
from crane_lib.pipeline.log import SectionLog

ENGINE = "crane"
START_SECONDS = 300  # a kernel may be slow to start on a busy machine
_QUIET = logging.getLogger("crane.kernels")  # what goes wrong is raised; a line on the terminal would say it twice
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False


class _Client(PapermillNotebookClient):  # type: ignore[misc]  # papermill has no types
    """A client that starts its kernel as the section wants it and tells the log which cell is at work."""

    def __init__(
        self, nb_man: Any, *, variables: Mapping[str, str], kernels: Kernels, section_log: SectionLog, **options: Any
    ) -> None:
        super().__init__(nb_man, stdout_file=section_log, stderr_file=section_log, **options)
        self._variables, self._kernels, self._section_log = variables, kernels, section_log
        self._process: int | None = None

    def start_new_kernel(self, **options: Any) -> None:
        log = self._section_log
        super().start_new_kernel(env={**os.environ, **self._variables}, stdout=log, stderr=log, **options)
        assert self.km is not None
        self._process = self.km.provisioner.pid
        self._kernels.add(self._process)

    def _cleanup_kernel(self) -> None:
        try:
            super()._cleanup_kernel()
        finally:
            if self._process is not None:
                self._kernels.remove(self._process)

    def execute_cell(self, cell: Any, cell_index: int, **options: Any) -> Any:
        if cell.cell_type == "code" and cell.source.strip():
            first = cell.source.strip().splitlines()[0]
            self._section_log.note(f"cell {cell_index}: {first}")
        return super().execute_cell(cell, cell_index, **options)


class SectionEngine(NBClientEngine):  # type: ignore[misc]  # papermill has no types
    """Papermill's engine with the client above."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
        """Execute a notebook in a new kernel."""
        for name in ("input_path", "log_output", "stdout_file", "stderr_file", "start_timeout"):
            options.pop(name, None)
        return _Client(nb_man, kernel_name=kernel_name, startup_timeout=START_SECONDS, log=_QUIET, **options).execute()


papermill_engines.register(ENGINE, SectionEngine)
