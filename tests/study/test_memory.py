"""Peak memory of a block."""

import mmap
from contextlib import suppress

import pytest

from crane_study import machine as memory
from crane_study.machine import measuring

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
    with suppress(ValueError), measuring() as small:
        take(1)
        raise ValueError("a block that fails is measured, too")
    with measuring() as large:
        take(200)
    assert small.measure == (memory.HIGH_WATER_MARK if resettable else memory.SAMPLED)
    assert large.resident_mib - small.resident_mib > 100
    assert large.gpu_mib is None


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
