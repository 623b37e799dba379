"""The commands in docs/distributed.md exist, with the options and arguments that they are given there."""

import re
import shlex

import pytest
import typer
import yaml
from torch.distributed.run import get_args_parser

from crane_run import cli
from crane_study import ROOT
from crane_study.profile import Relevance

TEXT = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines() if "crane_run.cli" in line]


def parsed(words):
    """Values of a command's arguments and options; an error where it does not have them."""
    command = typer.main.get_command(cli.app).commands[words[0]]
    return command.make_context(words[0], words[1:]).params


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_understood(line):
    filled = re.sub(r"\$\{?\w+\}?", "2", line)  # variables of Slurm
    words = shlex.split(re.sub(r"^(\w+=\S+ |srun )+", "", filled))
    ours = words.index("crane_run.cli")
    assert words[ours - 1] == "-m"
    if words[0] == "torchrun":
        known = get_args_parser().parse_args(words[1:])
        assert (known.module, known.training_script) == (True, "crane_run.cli")
    else:
        assert words[: ours - 1] == ["python"]
    assert parsed(words[ours + 1 :])


def test_every_command_is_tried_and_a_wrong_option_would_be_found():
    assert len(COMMANDS) == 8
    with pytest.raises(Exception, match="No such option: --nodes"):
        parsed(["relevance", "--profile", "x", "--nodes", "2"])
    (settings,) = [yaml.safe_load(block) for kind, block in BLOCKS if kind == "yaml"]
    assert Relevance(**settings["relevance"]).processes == 8
