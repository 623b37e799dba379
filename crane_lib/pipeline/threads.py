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

# Settings of what computes; none changes a number. Threads that wait for one another sleep instead of spinning: where
# another program wants a core, spinning made training ten to twenty times slower. And glibc keeps freed memory for the
# next tensor instead of giving it back to the system and having it zeroed anew: a sixth of the time of training.
RUNTIME = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
}


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
