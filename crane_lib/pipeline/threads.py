"""Threads that computations use: a section has a share of the machine's, and what all rests on has all of them.

Another number of threads rounds otherwise, which training amplifies into another model. So a stage's number must not
depend on which section asks for it first, nor on what else is started.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from crane_lib.pipeline.machine import granted_cores

THREADS_VARIABLE = "CRANE_THREADS"  # all threads, told to a section whose own share is in OMP_NUM_THREADS

# Threads that wait for one another sleep instead of spinning. Where another program wants a core, spinning made
# training ten to twenty times slower; where none does, both take the same time.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}


def all_threads() -> int:
    """Threads that a single computation uses on this machine."""
    for name in (THREADS_VARIABLE, "OMP_NUM_THREADS"):
        given = os.environ.get(name, "")
        if given.isdigit() and int(given):
            return int(given)
    return granted_cores()


@contextmanager
def on_all_threads() -> Iterator[None]:
    """Let torch, if it is loaded, compute with all threads during the block, and afterwards with as many as before."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(all_threads())
    try:
        yield
    finally:
        torch.set_num_threads(before)
