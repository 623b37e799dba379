"""Architectures of the model families, as data for the slow pass; see `slow.py`.

Read from the architectures' own modelling code; nothing here comes from `crane_lib`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """Names of a family's weights and the options its decoder layer takes; None where it has no such part."""

    embedding: str = "model.embed_tokens"
    embedding_norm: str | None = None
    learned_positions: str | None = None
    layers: str = "model.layers"
    final_norm: str = "model.norm"

    attention: str = "self_attn"
    query_key_value: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")  # one name: fused
    fused_by_head: bool = False  # a fused projection is q k v of head 0, q k v of head 1, ...; else all q, all k, all v
    attention_out: str = "o_proj"
    query_key_norm: str | None = None  # "head" by head, or over "all" heads at once
    positions: str = "rotary"  # or "alibi" or "none"

    before_attention: str | None = "input_layernorm"
    after_attention: str | None = None
    before_mlp: str | None = "post_attention_layernorm"
    after_mlp: str | None = None

    gate: str | None = "mlp.gate_proj"
    up: str = "mlp.up_proj"  # where it is the gate's name too, gate is its first half
    down: str = "mlp.down_proj"

    experts: str | None = None  # fused experts of a mixture, which take the place of gate, up and down
    router: str = "mlp.gate"

    input_first: bool = False  # weights are (in, out)
    norm: str = "rms"  # or "rms_plus_one" (the weight is added to 1) or "layer" (mean subtracted, bias)
    scaled_embedding: bool = False  # by the square root of the hidden size
    parallel: bool = False  # attention and MLP read the same stream, whatever the configuration says
    interleaved: bool = False  # rotary planes are the dimensions 2i and 2i + 1, not i and i + n / 2
    attention_cap: bool = False  # whether the family's code reads `attn_logit_softcapping`


_GEMMA = {
    "norm": "rms_plus_one",
    "scaled_embedding": True,
    "after_attention": "post_attention_layernorm",
    "before_mlp": "pre_feedforward_layernorm",
    "after_mlp": "post_feedforward_layernorm",
}
_COHERE = {"norm": "layer", "before_mlp": "input_layernorm", "parallel": True, "interleaved": True}
_OLMO = {
    "query_key_norm": "all",
    "before_attention": None,
    "after_attention": "post_attention_layernorm",
    "before_mlp": None,
    "after_mlp": "post_feedforward_layernorm",
}
_DENSE = {
    "query_key_value": ("query_key_value",),
    "fused_by_head": True,
    "attention_out": "dense",
    "gate": None,
    "up": "mlp.dense_h_to_4h",
    "down": "mlp.dense_4h_to_h",
    "norm": "layer",
}

ARCHITECTURES = {
    "llama": Architecture(),
    "mistral": Architecture(),
    "qwen2": Architecture(),
    "qwen3": Architecture(query_key_norm="head"),
    "qwen3_moe": Architecture(query_key_norm="head", experts="mlp.experts"),
    "gemma2": Architecture(**_GEMMA, attention_cap=True),
    "gemma3_text": Architecture(**_GEMMA, query_key_norm="head"),
    "cohere": Architecture(**_COHERE),
    "cohere2": Architecture(**_COHERE),
    "phi3": Architecture(query_key_value=("qkv_proj",), gate="mlp.gate_up_proj", up="mlp.gate_up_proj"),
    "olmo2": Architecture(**_OLMO),
    "olmo3": Architecture(**_OLMO),
    "gpt2": Architecture(
        embedding="transformer.wte",
        learned_positions="transformer.wpe",
        layers="transformer.h",
        final_norm="transformer.ln_f",
        attention="attn",
        query_key_value=("c_attn",),
        attention_out="c_proj",
        positions="none",
        before_attention="ln_1",
        before_mlp="ln_2",
        gate=None,
        up="mlp.c_fc",
        down="mlp.c_proj",
        input_first=True,
        norm="layer",
    ),
    "bloom": Architecture(
        **_DENSE,
        embedding="transformer.word_embeddings",
        embedding_norm="transformer.word_embeddings_layernorm",
        layers="transformer.h",
        final_norm="transformer.ln_f",
        attention="self_attention",
        positions="alibi",
    ),
    "gpt_neox": Architecture(
        **_DENSE,
        embedding="gpt_neox.embed_in",
        layers="gpt_neox.layers",
        final_norm="gpt_neox.final_layer_norm",
        attention="attention",
    ),
}


EPSILON = ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps")
ACTIVATION = ("hidden_act", "hidden_activation", "activation_function")


def head_size(config) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def score_scale(config, layer: int) -> float:
    """Factor of the products of queries and keys."""
    if config.model_type == "gpt2":
        scale = head_size(config) ** -0.5 if config.scale_attn_weights else 1.0
        return scale / (layer + 1) if config.scale_attn_by_inverse_layer_idx else scale
    return (getattr(config, "query_pre_attn_scalar", None) or head_size(config)) ** -0.5


def setting(config, *names):
    """The first of these settings that the configuration has."""
    return next(getattr(config, name) for name in names if hasattr(config, name))


def layer_type(config, layer: int) -> str | None:
    return (getattr(config, "layer_types", None) or {layer: None})[layer]


def window(config, layer: int) -> int | None:
    """Number of positions that a token attends to, with its own; None for all before it."""
    return None if layer_type(config, layer) == "full_attention" else getattr(config, "sliding_window", None)


def has_positions(config, layer: int) -> bool:
    """Return whether a layer's queries and keys are rotated; in Cohere 2 only those that see a window are."""
    return config.model_type != "cohere2" or layer_type(config, layer) == "sliding_attention"


def rotary(config, layer: int) -> tuple[float, int]:
    """Base of the rotary frequencies, and how many dimensions of a head are rotated."""
    parameters = config.rope_parameters
    parameters = parameters.get(layer_type(config, layer), parameters)
    return parameters["rope_theta"], int(head_size(config) * parameters.get("partial_rotary_factor", 1.0))
