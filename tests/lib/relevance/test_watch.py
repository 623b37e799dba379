"""One neuron token by token: what the sums over tokens are made of."""

import pytest
import torch

from crane_lib.errors import CraneError
from crane_lib.relevance import RULES, document_relevance
from crane_lib.relevance.modules import parts_of
from tests.lib.relevance.tiny import documents, hook_count, padded, tiny_model


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["llama", "phi3", "gpt2"])  # gated, fused, ungated
def test_the_tokens_add_up_to_the_sums(kind, rule, checkpointing):
    model = tiny_model(kind)
    ids, mask = padded(documents([9, 5, 13]))
    entered = []
    layer = parts_of(model).layers[1]
    hook = layer.down.register_forward_pre_hook(lambda _module, args: entered.append(args[0].detach()[..., 3]))
    try:
        seen = document_relevance(model, ids, mask, rule=rule, checkpointing=checkpointing, watch=(1, 3))
    finally:
        hook.remove()
    torch.testing.assert_close(seen.watched.relevance.sum(1), seen.neuron[:, 1, 3])
    torch.testing.assert_close(seen.watched.relevance.abs().sum(1), seen.abs_neuron[:, 1, 3])
    torch.testing.assert_close(seen.watched.activation, entered[0] * mask.bool())
    assert torch.equal(seen.watched.fires.sum(1), seen.active[:, 1, 3])
    assert seen.watched.relevance.any()


def test_watching_changes_nothing_and_leaves_nothing():
    model = tiny_model()
    ids, mask = padded(documents([9, 5]))
    plain, watched = document_relevance(model, ids, mask), document_relevance(model, ids, mask, watch=(0, 0))
    assert plain.watched is None
    for site, values in plain.sites.items():
        assert torch.equal(values, watched.sites[site])
    assert hook_count(model) == 0


@pytest.mark.parametrize(
    ("watch", "message"),
    [((2, 0), "layer 2: the model has the layers 0 to 1"), ((0, -1), "neuron -1: a layer of the model has the")],
)
def test_a_neuron_that_the_model_lacks(watch, message):
    with pytest.raises(CraneError, match=message):
        document_relevance(tiny_model(), documents([5])[0][None], watch=watch)
