"""Relevance compared with the values of another implementation, kept in autolrp.json; see autolrp_values.py."""

import json

import pytest
import torch

from crane_lib.precision import InDouble
from crane_lib.relevance import document_relevance
from crane_lib.relevance.corpus import fingerprint_weights
from tests.lib.relevance.autolrp_values import IDS, KINDS, PATH
from tests.lib.relevance.tiny import distance, tiny_model

VALUES = json.loads(PATH.read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_relevance_propagated_op_by_op(kind):
    model, expected = tiny_model(kind), VALUES[kind]
    if fingerprint_weights(model) != expected["weights"]:
        pytest.skip("this torch or transformers draws another random model; make autolrp.json again")
    with InDouble():
        found = document_relevance(model, IDS[None])
    for field in ("neuron", "token"):
        value = torch.tensor(expected[field], dtype=torch.float64)
        assert distance(getattr(found, field)[0], value) < 1e-12, field
