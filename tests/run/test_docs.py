"""The code in docs/ and CONTRIBUTING.md is run as it is there, and the map names every module."""

import re
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
import yaml
from torch.distributed.run import get_args_parser
from transformers import NemotronConfig, NemotronForCausalLM

from crane_lib.errors import CraneError
from crane_lib.interventions import masked
from crane_lib.methods import METHODS
from crane_lib.neurons import NeuronSet
from crane_lib.relevance import FAMILIES, Family, document_relevance, families, parts_of, register_family
from crane_run import cli
from crane_study import ROOT
from crane_study.profile import Relevance
from tests.lib.relevance.tiny import documents, padded

DOCS = ROOT / "docs"


def python_blocks(name):
    return re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(autouse=True)
def _own_tables():
    """Remove what a test registers."""
    tables = (families.FAMILIES, families.NORMS, families.QUOTIENTS, METHODS)
    before = [dict(table) for table in tables]
    yield
    for table, rows in zip(tables, before, strict=True):
        table.clear()
        table.update(rows)


def nemotron():
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64}
    config = NemotronConfig(vocab_size=53, hidden_size=16, intermediate_size=20, num_hidden_layers=2, **heads)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NemotronForCausalLM(config)
        for name, parameter in model.named_parameters():
            torch.nn.init.normal_(parameter, std=0.3)
            if name.endswith("bias"):
                torch.nn.init.zeros_(parameter)
    return model.double().eval()


def test_a_family_is_added_as_the_documentation_says():
    model = nemotron()
    rows = documents([9, 4])
    ids, mask = padded(rows)
    with pytest.raises(CraneError, match=r"'nemotron'.*docs/families\.md"):
        document_relevance(model, ids, mask)
    first, second = python_blocks("families.md")
    names = {"model": model, "input_ids": ids}
    exec(first, names)
    assert names["found"].neuron.shape == (2, 2, 20)
    assert names["found"].gate is None
    exec(second, names)
    torch.testing.assert_close(families.QUOTIENTS["Softsign"](torch.tensor(0.0)), torch.tensor(1.0))
    conserved = document_relevance(model, ids, mask, rule="cplrp")
    torch.testing.assert_close(conserved.token.sum(1), conserved.target, rtol=1e-10, atol=0)
    batch = document_relevance(model, ids, mask)
    single = document_relevance(model, rows[1][None])
    torch.testing.assert_close(batch.neuron[1], single.neuron[0], rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(batch.up[1], single.up[0], rtol=1e-8, atol=1e-12)
    before = model(ids).logits
    some = NeuronSet(sites={"neuron": [[1, 2], [3]]}, widths={"neuron": 20})
    with masked(model, some):
        assert not torch.equal(model(ids).logits, before)
    families.FAMILIES["nemotron"] = Family(gate=None, up="mlp.c_fc")
    with pytest.raises(CraneError, match=r"no module 'model\.layers\.0\.mlp\.c_fc'"):
        parts_of(nemotron())
    register_family("llama", FAMILIES["llama"])  # the same again is fine
    with pytest.raises(CraneError, match="model type 'llama' already has another entry"):
        register_family("llama", Family(gate=None))
    assert FAMILIES["llama"].gate is not None


def test_a_method_is_added_as_the_documentation_says():
    (block,) = python_blocks("../CONTRIBUTING.md")
    exec(block, {})
    scores = METHODS["ratio"].scores(SimpleNamespace(absolute={"en": np.ones((2, 3)), "vi": np.eye(2, 3)}))
    assert scores["en"].shape == (2, 3)


def test_the_table_of_families_and_the_map_are_complete():
    table = (DOCS / "families.md").read_text(encoding="utf-8").partition("What each part gets")[0]
    assert set(re.findall(r"`([a-z0-9_]+)`", table)) - {"h"} == set(FAMILIES)
    text = (DOCS / "map.md").read_text(encoding="utf-8")
    told, folders = set(), []
    for line in re.findall(r"^( *)([\w/]+(?:\.py)?) {2,}\S", text, flags=re.MULTILINE):
        folders[len(line[0]) // 2 :] = [line[1].rstrip("/")]
        if line[1].endswith(".py"):
            told.add("/".join(folders))
    packages = ("crane_lib", "crane_study", "crane_run")
    there = {path.relative_to(ROOT).as_posix() for name in packages for path in (ROOT / name).rglob("*.py")}
    assert told == {name for name in there if not name.endswith("__init__.py")} | {"crane_lib/__init__.py"}


# --- docs/distributed.md ---

DISTRIBUTED = (DOCS / "distributed.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", DISTRIBUTED, flags=re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines() if "crane_run.cli" in line]


def parsed(words):
    """Values of a command's arguments and options; an error where it does not have them."""
    command = typer.main.get_command(cli.app).commands[words[0]]
    return command.make_context(words[0], words[1:]).params


def test_every_command_is_understood_and_a_wrong_option_would_be_found():
    assert len(COMMANDS) == 8
    for line in COMMANDS:
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
    with pytest.raises(Exception, match="No such option: --nodes"):
        parsed(["relevance", "--profile", "x", "--nodes", "2"])
    (settings,) = [yaml.safe_load(block) for kind, block in BLOCKS if kind == "yaml"]
    assert Relevance(**settings["relevance"]).processes == 8
