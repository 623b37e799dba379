"""Small random models, a slow AttnLRP pass written out from the equations, and a distance."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

KINDS = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}


def tiny_model(kind="llama", *, dtype=torch.float64, attention="eager", random_seed=0, **settings):
    """A random model; biases and norm weights random too, so that nothing is hidden behind 0 and 1."""
    defaults = {
        "vocab_size": 53,
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    configuration, architecture = KINDS[kind]
    config = configuration(**(defaults | settings), attn_implementation=attention)
    with torch.random.fork_rng():
        torch.manual_seed(random_seed)
        model = architecture(config)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                nn.init.normal_(parameter, mean=0.5, std=0.5)
            else:
                nn.init.normal_(parameter, std=0.3)
    return model.to(dtype).eval()


def documents(lengths, *, vocabulary=53, random_seed=1):
    generator = torch.Generator().manual_seed(random_seed)
    return [torch.randint(vocabulary, (length,), generator=generator) for length in lengths]


def padded(rows, *, pad=7):
    """Right-padded ids and mask; the pad is an ordinary token, so it would show if it were read."""
    width = max(len(row) for row in rows)
    ids = torch.stack([F.pad(row, (0, width - len(row)), value=pad) for row in rows])
    mask = torch.stack([(torch.arange(width) < len(row)).long() for row in rows])
    return ids, mask


def distance(seen: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest expected value."""
    assert seen.shape == expected.shape
    return float((seen - expected).abs().max() / expected.abs().max())


def hook_count(model) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        for module in model.modules()
    )


def scaled(x: Tensor, share: float) -> Tensor:
    """The same value with its gradient times `share`."""
    return share * x + ((1 - share) * x).detach()


def slow_pass(model, ids: Tensor, *, rule="attnlrp", seed="gold_logit") -> dict[str, Tensor]:
    """Relevance of one document (T,), head by head and with real weight gradients, as the equations say."""
    config, weights = model.config, {name: p.detach().clone() for name, p in model.named_parameters()}
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    for name, weight in weights.items():
        weight.requires_grad_(".mlp." in name)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    query_key = {"attnlrp": 0.25, "cplrp": 0.0, "gradient": 1.0}[rule]
    value_share = {"attnlrp": 0.5, "cplrp": 1.0, "gradient": 1.0}[rule]
    n = len(ids)

    def linear(x, name):
        return F.linear(x, weights[name + ".weight"], weights.get(name + ".bias"))

    def norm(x, name):
        factor = 1 / torch.sqrt((x**2).mean(-1, keepdim=True) + config.rms_norm_eps)
        return weights[name + ".weight"] * x * (factor if rule == "gradient" else factor.detach())

    def rotated(x):  # (T, size)
        theta = config.rope_parameters["rope_theta"]
        angle = torch.arange(n)[:, None] * theta ** (-torch.arange(0, size, 2) / size)
        cosine, sine = angle.double().cos(), angle.double().sin()
        first, second = x[:, : size // 2], x[:, size // 2 :]
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)

    def attention(x, prefix):
        q, k, v = (linear(x, f"{prefix}.{name}_proj") for name in "qkv")
        out = []
        for head in range(heads):
            shared = head * kv_heads // heads
            q_head = scaled(rotated(q[:, head * size : (head + 1) * size]), query_key)
            k_head = scaled(rotated(k[:, shared * size : (shared + 1) * size]), query_key)
            v_head = scaled(v[:, shared * size : (shared + 1) * size], value_share)
            scores = q_head @ k_head.T / size**0.5
            scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf)
            out.append(scores.softmax(-1) @ v_head)
        return linear(torch.cat(out, -1), f"{prefix}.o_proj")

    def gated(x, prefix):
        g, u = linear(x, f"{prefix}.gate_proj"), linear(x, f"{prefix}.up_proj")
        if rule == "attnlrp":
            return scaled(g * torch.sigmoid(g).detach() * u, 0.5), g
        return (F.silu(g).detach() if rule == "cplrp" else F.silu(g)) * u, g

    embedding = weights["model.embed_tokens.weight"][ids].requires_grad_()
    x, inner = embedding, []
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        x = x + attention(norm(x, f"{prefix}.input_layernorm"), f"{prefix}.self_attn")
        product, g = gated(norm(x, f"{prefix}.post_attention_layernorm"), f"{prefix}.mlp")
        h = product.view_as(product)  # a node of its own: its gradient is read before the product's halving
        h.retain_grad()
        inner.append((h, g))
        x = x + linear(h, f"{prefix}.mlp.down_proj")
    logits = F.linear(norm(x, "model.norm"), weights["lm_head.weight"])
    if seed == "gold_logit":
        target = (logits[torch.arange(n - 1), ids[1:]].sum() + logits[-1].max()) / n
    else:
        target = logits.log_softmax(-1)[torch.arange(n - 1), ids[1:]].mean()
    target.backward()

    def rows(site):
        found = [weights[f"model.layers.{i}.mlp.{site}_proj.weight"] for i in range(config.num_hidden_layers)]
        return torch.stack([(torch.zeros_like(w) if w.grad is None else w.grad).sum(1) for w in found])

    return {
        "target": target.detach(),
        "token": (embedding * embedding.grad).sum(-1).detach(),
        "neuron": torch.stack([(h * h.grad).sum(0).detach() for h, _ in inner]),
        "abs_neuron": torch.stack([(h * h.grad).abs().sum(0).detach() for h, _ in inner]),
        "gate": rows("gate"),
        "up": rows("up"),
        "down": rows("down"),
        "active": torch.stack([(F.silu(g) > 0).sum(0) for _, g in inner]),
    }
