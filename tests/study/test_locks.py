import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from crane_lib.errors import CraneError
from crane_study.locks import locked


def test_a_lock_is_held_by_one_at_a_time_and_leaves_nothing(tmp_path):
    path, inside, most, told = tmp_path / "deep" / ".x.lock", [], [], []

    def work():
        for _ in range(20):
            with locked(path, waiting=lambda: told.append(1)):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _ in range(4)]:
            done.result()
    assert most == [1] * 80
    assert told
    assert list(path.parent.iterdir()) == []


def test_a_lock_is_let_go_of_after_an_error_and_by_a_process_that_dies(tmp_path):
    path = tmp_path / ".x.lock"
    with pytest.raises(ValueError, match="inside"), locked(path):
        raise ValueError("inside")
    program = f"import os\nfrom crane_study.locks import locked\nwith locked({str(path)!r}):\n    os._exit(0)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert path.is_file()
    waits = []
    with locked(path, waiting=lambda: waits.append(1)):
        assert waits == []


def test_a_lock_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CraneError, match="choose another --artifacts"), locked(tmp_path / "file" / ".x.lock"):
        pass
