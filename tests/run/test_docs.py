"""The code in docs/ and CONTRIBUTING.md is run as it is there, and the map names every module."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import NemotronConfig, NemotronForCausalLM

from crane_lib.errors import CraneError
from crane_lib.interventions import masked
from crane_lib.methods import METHODS
from crane_lib.neurons import NeuronSet
from crane_lib.relevance import FAMILIES, Family, document_relevance, families, parts_of, register_family
from crane_study import ROOT
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


def test_every_family_is_in_the_table():
    table = (DOCS / "families.md").read_text(encoding="utf-8").partition("What each part gets")[0]
    assert set(re.findall(r"`([a-z0-9_]+)`", table)) - {"h"} == set(FAMILIES)


def test_a_family_that_exists_is_not_replaced_and_a_wrong_path_is_named():
    register_family("llama", FAMILIES["llama"])  # the same again is fine
    with pytest.raises(CraneError, match="model type 'llama' already has another entry"):
        register_family("llama", Family(gate=None))
    assert FAMILIES["llama"].gate is not None
    register_family("nemotron", Family(gate=None, up="mlp.c_fc"))
    with pytest.raises(CraneError, match=r"no module 'model\.layers\.0\.mlp\.c_fc'"):
        parts_of(nemotron())


def test_a_method_is_added_as_the_documentation_says():
    (block,) = python_blocks("../CONTRIBUTING.md")
    exec(block, {})
    added = METHODS["ratio"]
    scores = added.scores(SimpleNamespace(absolute={"en": np.ones((2, 3)), "vi": np.eye(2, 3)}))
    assert scores["en"].shape == (2, 3)


def test_the_map_names_every_module():
    text = (DOCS / "map.md").read_text(encoding="utf-8")
    told, folders = set(), []
    for line in re.findall(r"^( *)([\w/]+(?:\.py)?) {2,}\S", text, flags=re.MULTILINE):
        folders[len(line[0]) // 2 :] = [line[1].rstrip("/")]
        if line[1].endswith(".py"):
            told.add("/".join(folders))
    packages = ("crane_lib", "crane_study", "crane_run")
    there = {path.relative_to(ROOT).as_posix() for name in packages for path in (ROOT / name).rglob("*.py")}
    assert told == {name for name in there if not name.endswith("__init__.py")} | {"crane_lib/__init__.py"}
