"""The program, called in this process or as one of its own."""

import os
import subprocess
import sys

from typer.testing import CliRunner

from crane_run import cli
from crane_study import ROOT

CRANE = (sys.executable, "-m", "crane_run.cli")
SEVERAL = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "crane_run.cli")


def call(*arguments):
    """Call `crane` with these arguments in this process."""
    return CliRunner().invoke(cli.app, [*map(str, arguments)])


def process(*command, **environment):
    """A program as a process in this Python, with one thread."""
    environment = os.environ | {"CRANE_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"} | environment
    command = [str(part) for part in command]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300, check=False)
