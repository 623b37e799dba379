"""A small random Gemma 3 as a GGUF file, written by the package gguf, and the weights to expect of it."""

from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType, get_tensor_name_map
from gguf.constants import MODEL_ARCH
from gguf.quants import dequantize, quantize
from transformers import Gemma3TextConfig

from tests.lib.relevance.tiny import tiny_model

_SENTENCES = "the river runs past old mills and a grey stone bridge con sông chảy qua cầu đá xám 河流 经过 一座 石桥"
WORDS = _SENTENCES.split()
CONTROL = ["<pad>", "<eos>", "<bos>", "<unk>"]


def vocabulary() -> tuple[list[str], list[int]]:
    """Tokens and their types: control tokens, bytes, letters, and the beginnings of some words."""
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    letters = sorted({letter for word in WORDS for letter in word} | {"▁", ".", ","})
    pieces = ["▁" + word[:end] for word in WORDS for end in range(1, len(word) + 1)]
    normal = [*letters, *dict.fromkeys(pieces)]
    types = [TokenType.CONTROL] * 3 + [TokenType.UNKNOWN] + [TokenType.BYTE] * 256 + [TokenType.NORMAL] * len(normal)
    return [*CONTROL, *bytes_, *normal], [int(kind) for kind in types]


def small_gemma(*, random_seed=0, layers=2, width=64):
    tokens, _types = vocabulary()
    config = Gemma3TextConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        sliding_window=8,
        max_position_embeddings=512,
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    )
    return tiny_model("gemma3_text", config=config, dtype=torch.float32, random_seed=random_seed)


def write_gguf(path: Path, *, model=None, **changes) -> dict[str, torch.Tensor]:
    """Write a model, with further settings (``__`` for a dot in their names); return the weights to expect."""
    model = model or small_gemma()
    config, (tokens, types) = model.config, vocabulary()
    architecture = changes.pop("general__architecture", "gemma3")
    writer = GGUFWriter(str(path), architecture)
    writer.add_name("Small Gemma 3")
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_sliding_window(config.sliding_window)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(number) for number in range(len(tokens))])
    writer.add_token_types(types)
    for name, number in {"pad": 0, "eos": 1, "bos": 2, "unk": 3}.items():
        getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    for key, value in changes.items():
        writer.add_string(key.replace("__", "."), value)
    names, expected = get_tensor_name_map(MODEL_ARCH.GEMMA3, config.num_hidden_layers), {}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        values = weight.numpy().astype(np.float32)
        base, _, suffix = name.rpartition(".")
        target = f"{names.get_name(base)}.{suffix}"
        if values.ndim == 1:
            writer.add_tensor(target, values + 1)  # the form of llama.cpp's converter
            expected[name] = torch.from_numpy((values + 1) - 1)
        else:
            packed = quantize(values, GGMLQuantizationType.Q8_0)
            writer.add_tensor(target, packed, raw_dtype=GGMLQuantizationType.Q8_0)
            expected[name] = torch.from_numpy(dequantize(packed, GGMLQuantizationType.Q8_0))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected
