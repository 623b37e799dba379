"""Processes that work together."""

import pytest

from crane_lib import parallel
from crane_lib.errors import CraneError
from crane_lib.parallel import OtherProcessEnded, barrier, processes, rank, share, world


def test_one_process_is_the_first_of_one_and_several_need_torchrun(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with processes():
        assert (rank(), world()) == (0, 1)
        barrier()
        assert share([3]) == [3]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(CraneError, match=r"cannot be reached \(.*RANK.*\); start it with torchrun"), processes():
        pass


def test_waiting_for_a_process_that_has_ended(monkeypatch):
    def closed():
        raise RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:4242")

    monkeypatch.setattr(parallel, "world", lambda: 2)
    monkeypatch.setattr(parallel.distributed, "barrier", closed)
    with pytest.raises(OtherProcessEnded, match="another process of this run has ended"):
        barrier()
