"""Write autolrp.json: AttnLRP by autolrp 0.2.0, which walks the autograd graph op by op and knows no model.

    PYTHONPATH=. python tests/lib/relevance/autolrp_values.py      (needs `pip install autolrp==0.2.0`)

It propagates relevance itself, where `crane_lib` takes value times gradient. Its rules for linear maps and norms
(`BASE`) and for softmax (`ATTNLRP`) are used as they are. Two are given to it, because its own divide by absolute
values, unlike AttnLRP: a sum is divided in proportion to its parts, a product of two values evenly. Its preset
`attnlrp()` is not used: it multiplies relevance by act(g) / g, which AttnLRP does with gradients.
"""

import json
from pathlib import Path

import torch

from crane_lib.precision import InDouble
from crane_lib.relevance import parts_of
from crane_lib.relevance.corpus import fingerprint_weights
from tests.lib.relevance.tiny import documents, tiny_model

PATH = Path(__file__).with_name("autolrp.json")
# Without biases: it gives a bias the share of its absolute value. It has no rule for `index_add`, of a mixture.
KINDS = ("llama", "mistral", "qwen3", "phi3", "gemma2", "gemma3_text")
(IDS,) = documents([5])


def divided(split):
    """Rule of autolrp for two operands, of which one may be a constant and get nothing."""

    def rule(a, b, relevance, _eps, *_kernels, attribute="both"):
        if attribute == "both":
            return split(a, b, relevance)
        return (relevance, None) if attribute == "lhs" else (None, relevance)

    return rule


def values(kind):
    """Relevance of neurons (L, I) and of tokens (T,) for the objective gold_logit."""
    import autolrp

    rules = {
        **autolrp.BASE,
        **autolrp.ATTNLRP,
        "AddBackward": divided(lambda a, b, r: (a / (a + b) * r, b / (a + b) * r)),
        "MulBackward": divided(lambda _a, _b, r: (r / 2, r / 2)),
    }
    config = autolrp.LRPConfig(rule=rules, eps=1e-15)
    model, share, found = tiny_model(kind), [0.0], {}

    def read(layer):
        def add(relevance):
            total = (relevance.detach().as_subclass(torch.Tensor)[0] * share[0]).sum(0)
            found[layer] = found.get(layer, 0) + total

        return lambda _module, args: args[0].register_hook(add) and None

    for number, layer in enumerate(parts_of(model).layers):
        layer.down.register_forward_pre_hook(read(number))
    given = autolrp.tensor(model.get_input_embeddings()(IDS[None]).detach())
    with InDouble():
        logits = model(inputs_embeds=given).logits[0]
    token = torch.zeros(len(IDS), dtype=torch.float64)
    for place, gold in enumerate([*IDS[1:].tolist(), int(logits[-1].argmax())]):
        share[0] = float(logits[place, gold]) / len(IDS)  # it begins with relevance 1
        logits[place, gold].lrp(config=config)
        token += given.relevance.as_subclass(torch.Tensor)[0].sum(-1) * share[0]
    return {
        "weights": fingerprint_weights(model),
        "neuron": torch.stack([found[layer] for layer in sorted(found)]).tolist(),
        "token": token.tolist(),
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps({kind: values(kind) for kind in KINDS}, indent=1) + "\n", encoding="utf-8")
