"""Training of the embedded models: the base model on documents, the chat model on turns."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    get_cosine_schedule_with_warmup,
)
from transformers.utils import logging as transformers_logging

from crane_lib.errors import CraneError
from crane_lib.files import fingerprint, read_json, write_json
from crane_lib.precision import InDouble, compute_in_double
from crane_study.data.documents import read_conversations
from crane_study.frames import write_frame
from crane_study.loading.models import load_model, pick_device
from crane_study.locks import locked
from crane_study.machine import all_threads, on_all_threads, processor_name
from crane_study.options import Loading
from crane_study.profile import Architecture, Training
from crane_study.progress import progress

BEGIN, END, USER, ASSISTANT = "<|begin|>", "<|end|>", "<|user|>", "<|assistant|>"

# A turn is the token of its role, a space, its text and the end token. With the space the first word is the token that
# it is inside a sentence, which the base model knows.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|user|>' if message['role'] == 'user' else '<|assistant|>' }} {{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(texts: Iterable[str], *, vocabulary: int, max_length: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of `vocabulary` tokens; every encoding starts with the begin token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # Chinese characters, digits and punctuation are separate; a space belongs to the word after it.
            # Otherwise whole Chinese clauses would become single tokens.
            pre_tokenizers.Split(
                Regex(r"\p{Han}| ?[\p{L}&&[^\p{Han}]][[\p{L}\p{M}]&&[^\p{Han}]]*|\p{N}|\s+| ?[^\s\p{L}\p{N}]"),
                behavior="isolated",
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BEGIN, END, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


_IGNORED = -100  # label of a position without loss in transformers
_TOKENIZER_DOCUMENTS = 8000  # enough to determine the merges

logging.getLogger("transformers").setLevel(logging.ERROR)
transformers_logging.disable_progress_bar()  # writing a model would leave a widget in the notebook


def _blocks(sequences: Sequence[Sequence[int]], size: int) -> torch.Tensor:
    """Concatenate sequences and cut them into blocks of `size`, without the incomplete last one.  (N, size)"""
    stream = np.concatenate([np.asarray(sequence, dtype=np.int64) for sequence in sequences])
    count = len(stream) // size
    if count == 0:
        raise CraneError(f"{len(stream)} training tokens do not fill one block of {size}; give more text")
    return torch.from_numpy(stream[: count * size].reshape(count, size))


def _optimizers(model: PreTrainedModel, training: Training) -> list[torch.optim.Optimizer]:
    """Create the optimizers; weights decay in matrices only."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    matrices = [parameter for name, parameter in named if parameter.ndim > 1 and "embed" not in name]
    embedding = [parameter for name, parameter in named if parameter.ndim > 1 and "embed" in name]
    vectors = [parameter for _name, parameter in named if parameter.ndim <= 1]
    by_muon = training.optimizer == "muon"
    decayed = embedding if by_muon else [*embedding, *matrices]
    groups = [{"params": decayed, "weight_decay": training.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=training.learning_rate, betas=(0.9, 0.95), fused=True)
    if not by_muon:
        return [adamw]
    return [
        adamw,
        torch.optim.Muon(matrices, lr=training.matrix_learning_rate, weight_decay=training.weight_decay),
    ]


def _batches(count: int, training: Training, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield the indices of each batch; the first epoch keeps the order, later ones are shuffled."""
    for epoch in range(training.epochs):
        order = torch.arange(count) if epoch == 0 else torch.randperm(count, generator=generator)
        yield from order.split(training.batch_size)


Precision = Literal["float32", "bfloat16", "float64"]
_TIMED_STEPS = 3  # of each precision; the fastest counts


def _computing(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    if precision == "float64":
        return InDouble()
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def time_precisions(architecture: Architecture, training: Training, loading: Loading) -> dict[str, float]:
    """Seconds of two blocks by precision, forward and backward, measured on this machine with random tokens.

    What torch says of bfloat16 is no guide: without instructions for it a processor is slower than in float32.
    """
    device = pick_device(loading.device)
    model: Any = AutoModelForCausalLM.from_config(_config(architecture, architecture.vocabulary)).to(device)
    tokens = torch.randint(architecture.vocabulary, (2, training.block), device=device)
    seconds: dict[str, float] = {"float32": math.inf, "bfloat16": math.inf}
    names: list[Precision] = ["float32", "bfloat16"]
    for _ in range(1 + _TIMED_STEPS):  # the first of each also warms up
        for name in names:  # in turn, so that other work on the machine slows both
            started = time.perf_counter()
            with _computing(name, device):
                loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            loss.item()
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    return seconds


def faster_precision(
    folder: Path, *, architecture: Architecture, training: Training, loading: Loading, say: Callable[[str], None]
) -> Precision:
    """Return the faster precision for training on this machine, measured once and kept in `folder`.

    A model of dtype float64 is trained in it, for the same numbers on every machine.
    """
    if loading.dtype == "float64":
        return "float64"
    given = {"architecture": architecture.model_dump(), "training": training.model_dump(), "device": loading.device}
    about = {**given, "processor": processor_name(), "threads": all_threads()}
    kept = folder / f"training-{fingerprint(about)}.json"
    with locked(kept.with_suffix(".lock")):
        if not kept.is_file():
            say("models: timing float32 and bfloat16 on this machine")
            with on_all_threads():
                seconds = time_precisions(architecture, training, loading)
            write_json(kept, {**about, "seconds_of_two_blocks": seconds})
    measured = read_json(kept)["seconds_of_two_blocks"]
    fastest: Precision = min(measured, key=measured.__getitem__)
    told = ", ".join(f"{name} {value:.2f} s" for name, value in measured.items())
    say(f"training in {fastest}, the faster here (two blocks in {told})")
    return fastest


def fit(
    model: PreTrainedModel,
    tokens: torch.Tensor,
    labels: torch.Tensor,
    *,
    training: Training,
    precision: Precision,
    random_seed: int,
    description: str,
) -> pd.DataFrame:
    """Train a causal language model in place.

    Tokens and labels have the shape (blocks, block length); a label of -100 carries no loss. `precision` is that of the
    arithmetic; bfloat16 is autocast over float32 parameters. The result has columns step, loss (nats per token),
    learning_rate, tokens (seen) and seconds (since the start).
    """
    torch.manual_seed(random_seed)
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(random_seed)
    optimizers = _optimizers(model, training)
    steps = training.epochs * -(-len(tokens) // training.batch_size)
    warmup = round(steps * training.warmup)
    schedules = [get_cosine_schedule_with_warmup(optimizer, warmup, steps) for optimizer in optimizers]
    history, seen, started = [], 0, time.perf_counter()
    model.train()
    with progress(description, steps) as bar:
        for step, index in enumerate(_batches(len(tokens), training, generator), start=1):
            with _computing(precision, device):
                loss = model(input_ids=tokens[index].to(device), labels=labels[index].to(device)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
            seen += tokens[index].numel()
            value = loss.item()
            if not np.isfinite(value):
                raise CraneError(f"{description}: the loss became {value} at step {step}; lower the learning rate")
            history.append((step, value, schedules[0].get_last_lr()[0], seen, time.perf_counter() - started))
            bar.advance(note=f"loss {value:.2f}")
    model.eval()
    return pd.DataFrame(history, columns=["step", "loss", "learning_rate", "tokens", "seconds"])


def _save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, history: pd.DataFrame) -> None:
    """Save in half of the precision of the parameters, which keeps checkpoints small enough to be released."""
    halved: Any = model
    halved.to(torch.float32 if model.dtype == torch.float64 else torch.float16)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_frame(folder / "training.csv", history)


def _config(architecture: Architecture, vocabulary: int, **tokens: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=architecture.hidden,
        intermediate_size=architecture.intermediate,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        num_key_value_heads=architecture.heads,
        max_position_embeddings=architecture.max_length,
        tie_word_embeddings=True,
        **tokens,
    )


def make_base_model(
    folder: Path,
    *,
    corpus: Path,
    architecture: Architecture,
    training: Training,
    precision: Precision,
    loading: Loading,
    random_seed: int,
) -> None:
    """Step: train tokenizer and base model on the training documents; writes ``model/`` and ``training.csv``.

    With precision float64 everything is float64, including the random initialization; otherwise parameters are float32.
    """
    documents = pd.read_parquet(corpus / "documents.parquet")
    texts = documents.loc[documents["split"] == "train", "text"].tolist()
    tokenizer = train_tokenizer(
        texts[:_TOKENIZER_DOCUMENTS], vocabulary=architecture.vocabulary, max_length=architecture.max_length
    )
    torch.manual_seed(random_seed)
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = _config(architecture, len(tokenizer), **tokens)
    double = precision == "float64"
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float64 if double else torch.float32)
    if double:
        compute_in_double(model)
    model.to(pick_device(loading.device))
    blocks = _blocks(tokenizer(texts)["input_ids"], training.block)
    options: dict[str, Any] = {"training": training, "precision": precision, "random_seed": random_seed}
    history = fit(model, blocks, blocks, **options, description="Training the base model")
    _save(folder, model, tokenizer, history)


def _turns(tokenizer: PreTrainedTokenizerBase, conversation: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    """Return the tokens of a conversation and their labels; the loss covers the assistant's turns and their ends."""
    tokens: list[int] = []
    labels: list[int] = []
    for stop in range(2, len(conversation) + 1, 2):
        asked = tokenizer.apply_chat_template(conversation[: stop - 1], add_generation_prompt=True, tokenize=False)
        answered = tokenizer.apply_chat_template(conversation[:stop], tokenize=False)
        before = tokenizer(asked, add_special_tokens=False)["input_ids"]
        after = tokenizer(answered, add_special_tokens=False)["input_ids"]
        labels += [_IGNORED] * (len(before) - len(tokens)) + after[len(before) :]
        tokens = after
    return tokens, labels


def make_chat_model(
    folder: Path,
    *,
    corpus: Path,
    base: Path,
    training: Training,
    precision: Precision,
    loading: Loading,
    random_seed: int,
) -> None:
    """Step: fine-tune the base model on conversations; writes ``model/`` and ``training.csv``."""
    dtype = "float64" if precision == "float64" else "float32"
    model, tokenizer = load_model(base / "model", device=loading.device, dtype=dtype)
    tokenizer.chat_template = CHAT_TEMPLATE
    pairs = [_turns(tokenizer, conversation) for conversation in read_conversations(corpus / "conversations.jsonl")]
    tokens = _blocks([pair[0] for pair in pairs], training.block)
    labels = _blocks([pair[1] for pair in pairs], training.block)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    options: dict[str, Any] = {"training": training, "precision": precision, "random_seed": random_seed}
    history = fit(model, tokens, labels, **options, description="Training the chat model")
    _save(folder, model, tokenizer, history)
