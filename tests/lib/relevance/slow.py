"""Relevance written out from the equations, slowly: one document, head by head, real weight gradients, float64.

One decoder for all families, told apart by `slow_architectures.py`. Every rule is a `detach` or a scaled gradient:

- norm: the normaliser is a constant (the mean that LayerNorm subtracts is not);
- activation or soft-cap f: f(x) = x * c with the constant c = f(x) / x;
- gated product: half of the gradient to each factor;
- attention: a quarter of the gradient to query and key, half to the value;
- output of an expert times its routing weight: half of the gradient to each factor;
- CP-LRP: query, key, gate and routing weight are constants instead, the rest of attention and product is ordinary;
- "gradient": nothing of all this.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.lib.relevance import slow_architectures as describe

ACTIVATIONS = {
    "silu": lambda g: g / (1 + torch.exp(-g)),
    "gelu": lambda g: g * (1 + torch.erf(g / math.sqrt(2))) / 2,
    "gelu_new": lambda g: g * (1 + torch.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3))) / 2,
    "bloom": lambda g: g * (1 + torch.tanh(0.79788456 * (g + 0.044715 * g**3))) / 2,
}
ACTIVATIONS["gelu_pytorch_tanh"] = ACTIVATIONS["gelu_new"]
QUERY_KEY_SHARE = {"attnlrp": 0.25, "cplrp": 0.0, "gradient": 1.0}
VALUE_SHARE = {"attnlrp": 0.5, "cplrp": 1.0, "gradient": 1.0}


def scaled(x: Tensor, share: float) -> Tensor:
    """The same value with its gradient times `share`."""
    return share * x + ((1 - share) * x).detach()


def elementwise(function, x: Tensor, *, slope_at_zero: float, rule: str) -> Tensor:
    """f(x), by the identity rule as x times a constant."""
    if rule == "gradient":
        return function(x)
    return x * torch.where(x == 0, slope_at_zero, function(x) / x).detach()


def alibi_slopes(heads: int) -> Tensor:
    """2^(-8/n), 2^(-16/n), ... for n heads; where n is no power of two, every other of twice as many fills up."""
    power = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    slopes += [2 ** (-8 * (2 * i + 1) / (2 * power)) for i in range(heads - power)]
    return torch.tensor(slopes, dtype=torch.float64)


class SlowModel:
    """A decoder from the weights of a model, in float64.

    Of the last run `inner` keeps every layer's (h, act(g)), `mixed` the outputs of its heads.
    """

    def __init__(self, model, *, rule: str, rotary: torch.dtype = torch.float32, skip: int = 0):
        self.config, self.rule, self.rotary, self.skip = model.config, rule, rotary, skip
        self.of = describe.ARCHITECTURES[model.config.model_type]
        self.weights = {name: p.detach().double().clone() for name, p in model.named_parameters()}
        self.weights.setdefault("lm_head.weight", self.weights[self.of.embedding + ".weight"].clone())
        for weight in self.weights.values():
            weight.requires_grad_()
        self.heads = self.config.num_attention_heads
        self.size = describe.head_size(self.config)
        self.key_heads = getattr(self.config, "num_key_value_heads", self.heads)

    def linear(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[name + ".weight"], self.weights.get(name + ".bias", 0)
        return x @ (weight if self.of.input_first and name != "lm_head" else weight.T) + bias

    def counted(self, x: Tensor, name: str) -> Tensor:
        """The same as `linear`; the weight gets no gradient from the first `skip` tokens, their inputs do."""
        weight = self.weights[name + ".weight"]
        self.weights[name + ".weight"] = weight.detach()
        skipped = self.linear(x[: self.skip], name)
        self.weights[name + ".weight"] = weight
        return torch.cat([skipped, self.linear(x[self.skip :], name)])

    def norm(self, x: Tensor, name: str | None) -> Tensor:
        if name is None:
            return x
        weight, bias = self.weights[name + ".weight"], self.weights.get(name + ".bias", 0)
        if self.of.norm == "layer":
            x = x - x.mean(-1, keepdim=True)
        if self.of.norm == "rms_plus_one":
            weight = 1 + weight
        size = torch.sqrt((x**2).mean(-1, keepdim=True) + describe.setting(self.config, *describe.EPSILON))
        return weight * x / (size if self.rule == "gradient" else size.detach()) + bias

    def capped(self, x: Tensor, cap: float | None) -> Tensor:
        if cap is None:
            return x
        return elementwise(lambda x: cap * torch.tanh(x / cap), x, slope_at_zero=1.0, rule=self.rule)

    def rotated(self, x: Tensor, layer: int) -> Tensor:
        """Position t turns the plane of dimensions i and i + n / 2, or of neighbours, by t * theta^(-2i / n)."""
        theta, n = describe.rotary(self.config, layer)
        frequency = 1 / theta ** (torch.arange(0, n, 2, dtype=self.rotary) / n)  # every family rounds it to float32
        angle = torch.arange(len(x), dtype=torch.float64)[:, None] * frequency.double()
        if self.of.interleaved:
            one, two = x[:, 0:n:2], x[:, 1:n:2]
            turned = [one * angle.cos() - two * angle.sin(), two * angle.cos() + one * angle.sin()]
            return torch.stack(turned, -1).flatten(1)
        one, two, rest = x[:, : n // 2], x[:, n // 2 : n], x[:, n:]
        turned = [one * angle.cos() - two * angle.sin(), two * angle.cos() + one * angle.sin()]
        return torch.cat([*turned, rest], -1)

    def queries_keys_values(self, x: Tensor, prefix: str) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Three lists of (T, size): a query for each head, keys and values for each of theirs."""
        out = torch.cat([self.linear(x, f"{prefix}.{name}") for name in self.of.query_key_value], -1)
        parts = out.split(self.size, -1)
        if self.of.fused_by_head:
            q, k, v = (list(parts[i::3]) for i in range(3))
        else:
            q = list(parts[: self.heads])
            k = list(parts[self.heads : self.heads + self.key_heads])
            v = list(parts[self.heads + self.key_heads :])
        if self.of.query_key_norm == "head":
            q = [self.norm(part, f"{prefix}.q_norm") for part in q]
            k = [self.norm(part, f"{prefix}.k_norm") for part in k]
        elif self.of.query_key_norm == "all":
            q = list(self.norm(torch.cat(q, -1), f"{prefix}.q_norm").split(self.size, -1))
            k = list(self.norm(torch.cat(k, -1), f"{prefix}.k_norm").split(self.size, -1))
        elif getattr(self.config, "use_qk_norm", False):  # by head, with weights of its own for each
            q = list(self.norm(torch.stack(q, -2), f"{prefix}.q_norm").unbind(-2))
            k = list(self.norm(torch.stack(k, -2), f"{prefix}.k_norm").unbind(-2))
        return q, k, v

    def attention(self, x: Tensor, layer: int) -> Tensor:
        prefix = f"{self.of.layers}.{layer}.{self.of.attention}"
        queries, keys, values = self.queries_keys_values(x, prefix)
        position = torch.arange(len(x))
        distance = position[:, None] - position  # of a query from a key
        seen = (distance >= 0) & (distance < (describe.window(self.config, layer) or len(x)))
        outputs = []
        for head, q in enumerate(queries):
            shared = head * self.key_heads // self.heads
            k, v = keys[shared], values[shared]
            if self.of.positions == "rotary" and describe.has_positions(self.config, layer):
                q, k = self.rotated(q, layer), self.rotated(k, layer)
            q, k = (scaled(part, QUERY_KEY_SHARE[self.rule]) for part in (q, k))
            scores = q @ k.T * describe.score_scale(self.config, layer)
            if self.of.attention_cap:
                scores = self.capped(scores, self.config.attn_logit_softcapping)
            if self.of.positions == "alibi":
                scores = scores - alibi_slopes(self.heads)[head] * distance
            weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
            outputs.append(weights @ scaled(v, VALUE_SHARE[self.rule]))
        for output in outputs:
            output.retain_grad()
        self.mixed.append(outputs)
        return self.linear(torch.cat(outputs, -1), f"{prefix}.{self.of.attention_out}")

    def mixture(self, x: Tensor, layer: int) -> Tensor:
        """Expert by expert and token by token."""
        prefix, config = f"{self.of.layers}.{layer}.", self.config
        width, count = config.moe_intermediate_size, config.num_experts
        activation = ACTIVATIONS[describe.setting(config, *describe.ACTIVATION)]
        both, down = (self.weights[f"{prefix}{self.of.experts}.{name}_proj"] for name in ("gate_up", "down"))
        chances = self.linear(x, prefix + self.of.router).softmax(-1)
        chosen = chances.argsort(-1, descending=True)[:, : config.num_experts_per_tok].tolist()
        hidden, active = [], []
        for t, experts in enumerate(chosen):
            h, act = (list(torch.zeros(count, width, dtype=torch.float64)) for _ in range(2))
            for e in experts:
                gate, up = ((both[e].detach() if t < self.skip else both[e]) @ x[t]).chunk(2)
                act[e] = elementwise(activation, gate, slope_at_zero=0.5, rule=self.rule)
                product = (act[e].detach() if self.rule == "cplrp" else act[e]) * up
                h[e] = scaled(product, 0.5) if self.rule == "attnlrp" else product
            hidden.append(torch.cat(h))
            active.append(torch.cat(act))
        h = torch.stack(hidden)
        h.retain_grad()
        self.inner.append((h, torch.stack(active)))
        outputs = []
        for t, experts in enumerate(chosen):
            total = sum(chances[t, e] for e in experts) if config.norm_topk_prob else 1.0
            output = 0
            for e in experts:
                weight = chances[t, e] / total
                weight = weight.detach() if self.rule == "cplrp" else weight
                found = (down[e].detach() if t < self.skip else down[e]) @ h[t, e * width : (e + 1) * width]
                output = output + scaled(weight * found, 0.5 if self.rule == "attnlrp" else 1.0)
            outputs.append(output)
        return torch.stack(outputs)

    def mlp(self, x: Tensor, layer: int) -> Tensor:
        if self.of.experts:
            return self.mixture(x, layer)
        prefix = f"{self.of.layers}.{layer}."
        bloom = self.config.model_type == "bloom"
        activation = ACTIVATIONS["bloom" if bloom else describe.setting(self.config, *describe.ACTIVATION)]
        up = self.counted(x, prefix + self.of.up)
        if self.of.gate is None:
            h = act = elementwise(activation, up, slope_at_zero=0.5, rule=self.rule)
        else:
            gate = self.counted(x, prefix + self.of.gate)
            if self.of.gate == self.of.up:
                gate, up = gate.chunk(2, -1)[0], up.chunk(2, -1)[1]
            act = elementwise(activation, gate, slope_at_zero=0.5, rule=self.rule)
            product = (act.detach() if self.rule == "cplrp" else act) * up
            h = scaled(product, 0.5) if self.rule == "attnlrp" else product
        h = h.view_as(h)  # a node of its own: its gradient is read before the product's halving
        h.retain_grad()
        self.inner.append((h, act))
        return self.counted(h, prefix + self.of.down)

    def logits(self, embedded: Tensor) -> Tensor:
        """(T, vocabulary) from the rows (T, hidden size) of the embedding."""
        self.inner: list[tuple[Tensor, Tensor]] = []
        self.mixed: list[list[Tensor]] = []  # by layer and head, (T, size)
        x = embedded
        if self.of.scaled_embedding:  # by a number that the families keep in float32
            x = x * torch.tensor(self.config.hidden_size**0.5, dtype=torch.float32).double()
        if self.of.learned_positions:
            x = x + self.weights[self.of.learned_positions + ".weight"][: len(x)]
        x = self.norm(x, self.of.embedding_norm)
        for layer in range(self.config.num_hidden_layers):
            x = self.layer(x, layer)
        out = self.linear(self.norm(x, self.of.final_norm), "lm_head") * getattr(self.config, "logit_scale", 1.0)
        return self.capped(out, getattr(self.config, "final_logit_softcapping", None))

    def layer(self, x: Tensor, layer: int) -> Tensor:
        def norm(x, name):
            return self.norm(x, name and f"{self.of.layers}.{layer}.{name}")

        after_norm = getattr(self.config, "apply_residual_connection_post_layernorm", False)
        parallel = getattr(
            self.config, "use_parallel_residual", self.of.parallel
        )  # attention and MLP read the same stream
        normed = norm(x, self.of.before_attention)
        middle = (normed if after_norm else x) + norm(self.attention(normed, layer), self.of.after_attention)
        normed = norm(x if parallel else middle, self.of.before_mlp)
        return (normed if after_norm else middle) + norm(self.mlp(normed, layer), self.of.after_mlp)

    def expert_rows(self) -> dict[str, Tensor]:
        """The same by site, a row of down over all experts."""
        names = [f"{self.of.layers}.{i}.{self.of.experts}." for i in range(self.config.num_hidden_layers)]
        both = torch.stack([self.weights[name + "gate_up_proj"].grad for name in names]).sum(3)  # (layers, E, 2 I)
        gate, up = both.chunk(2, 2)
        down = torch.stack([self.weights[name + "down_proj"].grad for name in names]).sum((1, 3))
        return {"gate": gate.flatten(1), "up": up.flatten(1), "down": down}

    def rows(self, name: str) -> Tensor:
        """Weight gradients summed over the inputs; (layers, rows)."""
        weights = [self.weights[f"{self.of.layers}.{i}.{name}.weight"] for i in range(self.config.num_hidden_layers)]
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        return torch.stack(gradients).sum(1 if self.of.input_first else 2)


def slow_logits(model, ids: Tensor, *, rotary: torch.dtype = torch.float32) -> Tensor:
    """(T, vocabulary) logits of one document (T,)."""
    slow = SlowModel(model, rule="gradient", rotary=rotary)
    return slow.logits(slow.weights[slow.of.embedding + ".weight"][ids]).detach()


def slow_pass(
    model, ids: Tensor, *, rule: str = "attnlrp", objective: str = "gold_logit", skip: int = 0
) -> dict[str, Tensor]:
    """Relevance of one document (T,), no sum over tokens counts the first `skip`; no "gate" where the MLP has none."""
    slow, n = SlowModel(model, rule=rule, skip=skip), len(ids)
    embedded = slow.weights[slow.of.embedding + ".weight"].detach()[ids].requires_grad_()
    logits = slow.logits(embedded)
    if objective == "gold_logit":
        target = (logits[torch.arange(n - 1), ids[1:]].sum() + logits[-1].max()) / n
    else:
        target = F.log_softmax(logits, -1)[torch.arange(n - 1), ids[1:]].mean()
    target.backward()
    neuron = torch.stack([h * h.grad for h, _ in slow.inner]).detach()  # (L, T, I)
    heads = torch.stack([torch.stack([(o * o.grad).sum(-1) for o in layer]) for layer in slow.mixed]).detach()
    lengths = [[sum(float(token.detach().norm()) for token in o[skip:]) for o in layer] for layer in slow.mixed]
    found = {
        "target": target.detach(),
        "token": (embedded * embedded.grad).sum(-1).detach(),
        "neuron": neuron[:, skip:].sum(1),
        "abs_neuron": neuron[:, skip:].abs().sum(1),
        "head": heads[..., skip:].sum(-1),  # of (L, heads, T)
        "abs_head": heads[..., skip:].abs().sum(-1),
        "head_magnitude": torch.tensor(lengths, dtype=torch.float64),
        "active": torch.stack([(act[skip:] > 0).sum(0) for _, act in slow.inner]),
        "slope": torch.stack([h.grad[skip:].sum(0) for h, _ in slow.inner]),
        "magnitude": torch.stack([h[skip:].abs().sum(0) for h, _ in slow.inner]).detach(),
    }
    if slow.of.experts:
        return found | slow.expert_rows()
    found |= {"up": slow.rows(slow.of.up), "down": slow.rows(slow.of.down)}
    if slow.of.gate:
        found["gate"] = slow.rows(slow.of.gate)
        if slow.of.gate == slow.of.up:
            found["gate"], found["up"] = found["gate"].chunk(2, 1)[0], found["up"].chunk(2, 1)[1]
    return found
