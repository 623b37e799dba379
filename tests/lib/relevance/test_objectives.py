"""Objectives and their gradients, compared with autograd."""

import pytest
import torch
from torch import nn

from crane_lib.errors import CraneError
from crane_lib.relevance import OBJECTIVES, objectives
from crane_lib.relevance.objectives import Logits
from tests.lib.relevance.tiny import documents, padded

ROWS = documents([6, 1, 4, 9], vocabulary=11)


def by_autograd(name, head, hidden, rows, *, cap=None):
    """Both objectives as they are defined, from full logits, one document at a time."""
    bent = (lambda x: x) if cap is None else (lambda x: cap * torch.tanh(x / cap))
    values = []
    for states, ids in zip(hidden, rows, strict=True):
        n = len(ids)
        logits = bent(head(states[:n]))
        if name == "gold_logit":
            values.append((sum(logits[t, ids[t + 1]] for t in range(n - 1)) + logits[n - 1].max()) / n)
        else:
            values.append(sum(logits[t].log_softmax(-1)[ids[t + 1]] for t in range(n - 1)) / (n - 1))
    value = torch.stack(values)
    return value.detach(), torch.autograd.grad(value.sum(), hidden)[0]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 1 << 25])
@pytest.mark.parametrize("cap", [None, 0.7])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_value_and_gradient_equal_autograd(name, cap, chunk, bias, monkeypatch):
    monkeypatch.setattr(objectives, "LOGIT_CHUNK_VALUES", chunk)
    torch.manual_seed(0)
    rows = [row for row in ROWS if len(row) >= OBJECTIVES[name].shortest]
    ids, mask = padded(rows)
    head = nn.Linear(5, 11, bias=bias, dtype=torch.float64)
    hidden = torch.randn(*ids.shape, 5, dtype=torch.float64, requires_grad=True)
    logits = Logits(head, cap=cap, identity_rule=False)
    value, gradient = objectives.objective_gradient(name, logits, hidden, input_ids=ids, lengths=mask.sum(1))
    expected_value, expected_gradient = by_autograd(name, head, hidden, rows, cap=cap)
    torch.testing.assert_close(value, expected_value, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-14)
    assert not gradient[mask == 0].any()
    assert not gradient.requires_grad


def test_gold_logit_makes_logits_of_one_position_only():
    ids, mask = padded(ROWS)
    head, shapes = nn.Linear(5, 11, bias=False), []
    head.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    hidden = torch.randn(*ids.shape, 5)
    objectives.objective_gradient("gold_logit", Logits(head), hidden, input_ids=ids, lengths=mask.sum(1))
    assert shapes == [(4, 11)]
    with pytest.raises(CraneError, match=r"'loss'.*gold_logit, log_probability"):
        objectives.objective_named("loss")
