"""Random models and random documents, at full size and at a size that is done in seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

RANDOM_SEED = 42
PAD = 0  # what `crane_lib.batches.pad_batch` pads with; no document has it, so batches tell their lengths


@dataclass(frozen=True)
class Workload:
    """A Llama with random weights, and documents of random tokens, their lengths uniform between two bounds."""

    hidden: int
    mlp: int
    layers: int
    heads: int
    vocabulary: int
    documents: int
    shortest: int
    longest: int
    token_budget: int  # most tokens of a batch, pads included
    tied: bool = True  # whether the output embedding is the input embedding


@dataclass(frozen=True)
class Sizes:
    """Everything that tells a full run from a quick one."""

    speed: Workload
    vocabulary: Workload
    memory: Workload
    flat: Workload
    flat_counts: tuple[int, int]  # numbers of documents to compare
    processes: Workload
    gpu: Workload
    gpu_lengths: tuple[int, ...]  # tokens of every document
    stream_layers: int  # of Llama-2-7B's 32
    stream_documents: int
    rounds: int  # how often ours and the floor run
    process_rounds: int  # how often one and two processes run
    threads: int
    full: bool  # the goals are about the full size


def llama_2_7b(*, layers: int) -> Workload:
    """The shape of Llama-2-7B, which has 32 layers, and documents as long as the model takes at most."""
    return Workload(
        hidden=4096,
        mlp=11_008,
        layers=layers,
        heads=32,
        vocabulary=32_000,
        documents=16,
        shortest=2048,
        longest=2048,
        token_budget=4096,
        tied=False,
    )


# 110 M parameters with 32,000 tokens of vocabulary, the output embedding tied to the input embedding.
_100M = Workload(
    hidden=768,
    mlp=2048,
    layers=12,
    heads=12,
    vocabulary=32_000,
    documents=64,
    shortest=80,
    longest=260,
    token_budget=384,
)
_TINY = Workload(
    hidden=64, mlp=128, layers=2, heads=2, vocabulary=500, documents=8, shortest=8, longest=24, token_budget=64
)

FULL = Sizes(
    speed=_100M,
    vocabulary=replace(_100M, vocabulary=150_000, documents=8),
    memory=replace(_100M, documents=12),
    flat=Workload(
        hidden=128,
        mlp=256,
        layers=4,
        heads=4,
        vocabulary=1_000,
        documents=10_000,
        shortest=8,
        longest=24,
        token_budget=512,
    ),
    flat_counts=(100, 10_000),
    processes=replace(_100M, documents=24),
    gpu=llama_2_7b(layers=32),
    gpu_lengths=(512, 2048),
    stream_layers=32,
    stream_documents=5_000,
    rounds=3,
    process_rounds=2,
    threads=2,
    full=True,
)

QUICK = Sizes(
    speed=_TINY,
    vocabulary=_TINY,
    memory=_TINY,
    flat=_TINY,
    flat_counts=(10, 40),
    processes=_TINY,
    gpu=llama_2_7b(layers=1),
    gpu_lengths=(64,),
    stream_layers=1,
    stream_documents=24,
    rounds=2,
    process_rounds=1,
    threads=1,
    full=False,
)


def random_model(workload: Workload, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """The model of a workload: the same weights every time, in evaluation mode, no parameter gradients."""
    config = LlamaConfig(
        vocab_size=workload.vocabulary,
        hidden_size=workload.hidden,
        intermediate_size=workload.mlp,
        num_hidden_layers=workload.layers,
        num_attention_heads=workload.heads,
        num_key_value_heads=workload.heads,
        max_position_embeddings=workload.longest,
        tie_word_embeddings=workload.tied,
    )
    # made on its device: a large model need not pass through the memory of the host
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(RANDOM_SEED)
        model: LlamaForCausalLM = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.requires_grad_(False)
    model.eval()
    return model


def random_documents(workload: Workload, *, count: int | None = None) -> list[np.ndarray]:
    """Documents of a workload as int32 arrays: the same tokens every time, never `PAD`, the longest possible first."""
    generator = np.random.default_rng(RANDOM_SEED)
    lengths = generator.integers(workload.shortest, workload.longest, count or workload.documents, endpoint=True)
    lengths[0] = workload.longest
    return [generator.integers(PAD + 1, workload.vocabulary, size=length, dtype=np.int32) for length in lengths]
