"""Two processes of torchrun on a small model, compared with one; and what happens when one of them fails."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from crane_lib.errors import CraneError
from crane_lib.relevance import Statistics
from crane_lib.relevance import corpus as stream
from crane_run import cli
from crane_study import ROOT
from tests.small import TEXTS, write_lines, write_model


def statistics(root, output) -> list[str]:
    options = ["--token-budget", "60", "--dtype", "float64", "--device", "cpu"]
    return ["statistics", str(root / "model"), str(root / "en.jsonl"), str(output), *options]


# The command line, in which the second process meets a bad document in its third shard.
FAILING = """
import os
from crane_lib.errors import CraneError
from crane_lib.relevance import corpus as stream
from crane_run import cli

make, made = stream._ShardMaker.make, []

def failing(self, shard, progress):
    made.append(shard)
    if os.environ["RANK"] == "1" and len(made) == 3:
        raise CraneError("document 7: its relevance is not finite")
    return make(self, shard, progress)

stream._ShardMaker.make = failing
cli.main()
"""


def torchrun(*arguments) -> subprocess.CompletedProcess[str]:
    """Two processes of this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A model, texts, and the statistics that one process computes."""
    root = tmp_path_factory.mktemp("distributed")
    write_model(root / "model")
    write_lines(root / "en.jsonl", [{"text": text} for text in TEXTS["en"]])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    done = CliRunner().invoke(cli.app, statistics(root, root / "one.safetensors"))
    torch.set_num_threads(threads)
    assert done.exit_code == 0, done.output
    return root


@pytest.fixture(scope="module")
def failed(root) -> Path:
    """Shards of a run in two processes, one of which failed and ended all with one line."""
    (root / "failing.py").write_text(FAILING)
    started = time.monotonic()
    done = torchrun(root / "failing.py", *statistics(root, root / "failed.safetensors"))
    assert time.monotonic() - started < 240  # it does not hang
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == ["error: document 7: its relevance is not finite"]
    assert done.stdout == ""
    assert not (root / "failed.safetensors").exists()
    return root / "failed.safetensors.shards"


@pytest.mark.parametrize("count", [1, 2])
def test_a_run_goes_on_with_any_number_of_processes_to_the_same_bytes(failed, root, count, monkeypatch):
    output = root / f"again_{count}.safetensors"
    shards = Path(shutil.copytree(failed, f"{output}.shards"))
    found = [Statistics.load(path) for path in shards.iterdir()]
    kept, read = sum(one.documents for one in found), sum(one.tokens for one in found)
    assert 0 < kept < len(TEXTS["en"])
    if count == 2:
        done = torchrun("-m", "crane_run.cli", *statistics(root, output))
        assert done.returncode == 0, done.stderr
        said = done.stdout
    else:
        computed, document_relevance = [], stream.document_relevance

        def watched(model, input_ids, *arguments, **settings):
            computed.append(len(input_ids))
            return document_relevance(model, input_ids, *arguments, **settings)

        monkeypatch.setattr(stream, "document_relevance", watched)
        said = CliRunner().invoke(cli.app, statistics(root, output)).output
        assert sum(computed) == len(TEXTS["en"]) - kept
    assert f"{output}: {len(TEXTS['en'])} documents, " in said
    assert f"({read} tokens were read before)" in said
    assert said.count("tokens in") == 1  # only the first process speaks
    assert output.read_bytes() == (root / "one.safetensors").read_bytes()
    assert not shards.exists()


def test_several_processes_need_a_folder(monkeypatch):
    monkeypatch.setattr(stream, "world", lambda: 4)
    with pytest.raises(CraneError, match="4 processes work together: give a folder for their shards"):
        stream.stream_statistics(torch.nn.Module(), [[1, 2]])
