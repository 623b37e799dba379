"""Small random models of every family, documents for them, and a distance."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from tests.lib.relevance.slow import slow_pass as slow_pass

KINDS = ("llama", "qwen2")  # those with published values to compare with
ORACLE_NAMES = {  # of those values, and the fields they are compared with
    "target": "target",
    "token_relevance": "token",
    "neuron_relevance": "neuron",
    "neuron_abs_relevance": "abs_neuron",
    "weight_grad_row_sum.gate_proj": "gate",
    "weight_grad_row_sum.up_proj": "up",
    "weight_grad_row_sum.down_proj": "down",
}
GATED_KINDS = (
    *KINDS,
    "mistral",
    "qwen3",
    "qwen3_moe",
    "gemma2",
    "gemma3_text",
    "phi3",
    "olmo2",
    "olmo3",
    "cohere",
    "cohere2",
)
FAMILY_KINDS = (*GATED_KINDS, "gpt2", "bloom", "gpt_neox")

GEMMA = {
    "head_dim": 6,
    "query_pre_attn_scalar": 5,
    "sliding_window": 5,  # shorter than the documents here, as everywhere below
    "layer_types": ["sliding_attention", "full_attention"],
    "final_logit_softcapping": 3.0,  # small enough to bend the logits
}
SETTINGS = {
    "mistral": {"sliding_window": 5, "head_dim": 6},
    "qwen3": {"head_dim": 6},
    "qwen3_moe": {"head_dim": 6, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 3}
    | {"norm_topk_prob": True},
    "gemma2": GEMMA | {"attn_logit_softcapping": 1.5},
    "gemma3_text": GEMMA,
    "phi3": {"sliding_window": 6, "partial_rotary_factor": 0.5, "eos_token_id": 2},
    "olmo2": {"eos_token_id": 2},
    "olmo3": {
        "eos_token_id": 2,
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 500_000.0},
        },
    },
    "cohere": {"logit_scale": 0.3, "eos_token_id": 2},
    "cohere2": {
        "logit_scale": 0.3,
        "eos_token_id": 2,
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt2": {"n_inner": 20, "bos_token_id": 1, "eos_token_id": 2},
    "gpt_neox": {"num_attention_heads": 2, "rotary_pct": 0.25},
}
NOT_TAKEN = {
    "gpt2": ("intermediate_size", "num_key_value_heads"),
    "bloom": ("intermediate_size", "num_key_value_heads", "max_position_embeddings"),
    "gpt_neox": ("num_key_value_heads",),
}
SLIDING_QWEN = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
VARIANTS: dict[str, tuple[str, dict]] = {kind: (kind, {}) for kind in FAMILY_KINDS} | {
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, tied": ("llama", {"tie_word_embeddings": True, "head_dim": 6}),
    "llama, gelu": ("llama", {"hidden_act": "gelu"}),
    "mistral, all positions": ("mistral", {"sliding_window": None, "num_key_value_heads": 4}),
    "qwen2, one sliding layer": ("qwen2", SLIDING_QWEN),
    "qwen3, biases and a sliding layer": ("qwen3", {"attention_bias": True} | SLIDING_QWEN),
    "qwen3_moe, weights as they are": ("qwen3_moe", {"norm_topk_prob": False, "num_experts_per_tok": 3}),
    "gemma2, untied, biases": ("gemma2", {"tie_word_embeddings": False, "attention_bias": True}),
    "gemma2, no caps": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma3_text, untied, no cap": ("gemma3_text", {"tie_word_embeddings": False, "final_logit_softcapping": None}),
    "gemma3_text, biases, a cap nobody reads": ("gemma3_text", {"attention_bias": True, "attn_logit_softcapping": 1.5}),
    "phi3, whole rotary": ("phi3", {"sliding_window": None, "partial_rotary_factor": 1.0, "num_key_value_heads": 4}),
    "olmo2, biases": ("olmo2", {"attention_bias": True, "num_key_value_heads": 4}),
    "olmo3, biases, every layer sliding": (
        "olmo3",
        {"attention_bias": True, "num_key_value_heads": 4, "layer_types": ["sliding_attention"] * 2},
    ),
    "cohere, norms of queries and keys": ("cohere", {"use_qk_norm": True, "attention_bias": True}),
    "cohere2, untied": ("cohere2", {"tie_word_embeddings": False, "num_key_value_heads": 4}),
    "gpt2, scaled by layer": ("gpt2", {"n_inner": None, "scale_attn_by_inverse_layer_idx": True}),
    "gpt2, untied, not scaled": ("gpt2", {"tie_word_embeddings": False, "scale_attn_weights": False}),
    "bloom, residual after norm": ("bloom", {"apply_residual_connection_post_layernorm": True}),
    "bloom, three heads": ("bloom", {"hidden_size": 18, "num_attention_heads": 3, "tie_word_embeddings": False}),
    "gpt_neox, in turn": ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}),
    "gpt_neox, tied": ("gpt_neox", {"tie_word_embeddings": True, "hidden_act": "gelu_new"}),
}


def tiny_model(kind="llama", *, dtype=torch.float64, attention="eager", random_seed=0, config=None, **settings):
    """A random model; biases and norm weights random too, so that nothing is hidden behind 0 and 1."""
    defaults = {"vocab_size": 53, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2}
    defaults |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    defaults |= {"pad_token_id": None}
    for name in NOT_TAKEN.get(kind, ()):
        del defaults[name]
    if config is None:
        wanted = defaults | SETTINGS.get(kind, {}) | settings
        config = AutoConfig.for_model(kind, **wanted, attn_implementation=attention, experts_implementation="eager")
    with torch.random.fork_rng():
        torch.manual_seed(random_seed)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            mean, std = (0.5, 0.5) if parameter.ndim == 1 else (0.0, 0.3)
            nn.init.normal_(parameter, mean=mean, std=std)
    return model.to(dtype).eval()


def variant(name):
    """The random model of a name in `VARIANTS`."""
    kind, settings = VARIANTS[name]
    return tiny_model(kind, **settings)


def without_constants(model):
    """The same model with all biases and learned positions 0: nothing left but what comes from the tokens."""
    for name, parameter in model.named_parameters():
        if name.endswith(".bias") or name == "transformer.wpe.weight":
            nn.init.zeros_(parameter)
    return model


def attentions(kind) -> list[str]:
    """Attention implementations that the family has: soft-caps (Gemma 2) and ALiBi (BLOOM) are eager only."""
    return ["eager"] if kind in ("gemma2", "bloom") else ["eager", "sdpa"]


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
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
