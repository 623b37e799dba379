"""Peak memory of a block and of the processes that do a section."""

import mmap
import os
import subprocess
import sys
from threading import Semaphore
from typing import ClassVar

import pytest

from crane_study import machine as memory
from crane_study.machine import measuring, measuring_children

MIB = 1 << 20


def take(mib):
    """Take memory that was not this process's before, and let it go."""
    with mmap.mmap(-1, mib * MIB) as block:
        for place in range(0, len(block), 4096):
            block[place] = 1


@pytest.mark.parametrize("resettable", [True, False])
def test_the_peak_of_a_block_and_not_of_what_was_before(monkeypatch, tmp_path, resettable):
    if not resettable:
        monkeypatch.setattr(memory, "_CLEAR", tmp_path / "none" / "clear_refs")
    elif not memory._reset_mark():
        pytest.skip("this system does not let a process reset its high-water mark")
    take(300)
    with measuring() as small:
        take(1)
    with measuring() as large:
        take(200)
    assert small.measure == (memory.HIGH_WATER_MARK if resettable else memory.SAMPLED)
    assert large.resident_mib - small.resident_mib > 100
    assert large.gpu_mib is None


def test_a_failing_block_is_measured_too():
    with pytest.raises(ValueError, match="no"), measuring() as peak:
        raise ValueError("no")
    assert peak.resident_mib > 1


def test_children_with_the_variable_are_summed(monkeypatch):
    monkeypatch.setattr(memory, "_SECTION_INTERVAL", 0.02)
    looks, look = Semaphore(0), memory._Sampler._look

    def counted(sampler):
        look(sampler)
        looks.release()

    monkeypatch.setattr(memory._Sampler, "_look", counted)
    hold = "import time; block = bytearray(b'x') * (60 << 20); print(flush=True); time.sleep(60)"

    def start(value):
        environment = {**os.environ, "MARK": value}
        child = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, env=environment)
        child.stdout.readline()
        return child

    other = start("other")
    with measuring_children("MARK", "mine") as two:
        children = [start("mine"), start("mine")]
        while looks.acquire(blocking=False):
            pass
        assert looks.acquire(timeout=60)  # begun before this perhaps,
        assert looks.acquire(timeout=60)  # but this one after
        for child in children:
            child.kill()
            child.wait()
            child.stdout.close()
    with measuring_children("MARK", "nobody") as none:
        pass
    other.kill()
    other.wait()
    other.stdout.close()
    assert 110 < two.resident_mib < 170  # two of three
    assert none.resident_mib is None


def test_a_child_seen_before_it_has_its_environment_is_asked_again(monkeypatch):
    class Forked:
        environment: ClassVar[dict[str, str]] = {}

        def environ(self):
            return self.environment

    child = Forked()
    monkeypatch.setattr(memory.psutil.Process, "children", lambda _process, recursive: [child])
    found = memory._Children("MARK", "mine")
    assert list(found) == []
    child.environment = {"MARK": "mine"}
    assert list(found) == [child]


def test_gpu_memory_is_summed_over_gpus(monkeypatch):
    class Cuda:
        cleared = []  # noqa: RUF012

        def is_initialized(self):
            return True

        def device_count(self):
            return 2

        def max_memory_allocated(self, number):
            return (number + 1) * 10 * MIB

        def reset_peak_memory_stats(self, number):
            self.cleared.append(number)

    monkeypatch.setattr(memory, "_cuda", Cuda)
    with measuring() as peak:
        pass
    assert peak.gpu_mib == 30
    assert Cuda.cleared == [0, 1]
