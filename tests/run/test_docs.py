"""The code in docs/ is run as it stands there."""

import re

import pytest
import torch
from transformers import NemotronConfig, NemotronForCausalLM

from crane_lib.errors import CraneError
from crane_lib.interventions import masked
from crane_lib.neurons import NeuronSet
from crane_lib.relevance import FAMILIES, Family, document_relevance, families, parts_of, register_family
from crane_study import ROOT
from tests.lib.relevance.tiny import documents, padded

DOCS = ROOT / "docs"


def python_blocks(name):
    return re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(autouse=True)
def _own_tables():
    """What a test registers is gone after it."""
    tables = (families.FAMILIES, families.NORMS, families.QUOTIENTS)
    before = [dict(table) for table in tables]
    yield
    for table, rows in zip(tables, before, strict=True):
        table.clear()
        table.update(rows)


def nemotron():
    config = NemotronConfig(
        vocab_size=53,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        max_position_embeddings=64,
    )
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
    text = (DOCS / "families.md").read_text(encoding="utf-8")
    table = text[: text.index("What each part gets")]
    assert set(re.findall(r"`([a-z0-9_]+)`", table)) - {"h"} == set(FAMILIES)


def test_a_row_that_exists_is_not_replaced():
    register_family("llama", FAMILIES["llama"])  # the same again is fine
    with pytest.raises(CraneError, match="model type 'llama' has a row already"):
        register_family("llama", Family(gate=None))
    assert FAMILIES["llama"].gate is not None


def test_a_path_that_is_wrong_is_named():
    register_family("nemotron", Family(gate=None, up="mlp.c_fc"))
    with pytest.raises(CraneError, match=r"no module 'model\.layers\.0\.mlp\.c_fc'"):
        parts_of(nemotron())
