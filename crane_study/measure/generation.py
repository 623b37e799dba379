"""Greedy answers of a chat model to open questions, in left-padded batches, and their likelihood under a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

from crane_lib.batches import check_tokens, computed_batches, pad_batch, rope_section, token_batches
from crane_lib.errors import CraneError
from crane_lib.nll import output_logits


@dataclass(frozen=True)
class Answer:
    """A model's answer: its text, its tokens (with the end token) and whether it came to an end."""

    text: str
    ids: tuple[int, ...]
    finished: bool


def chat_prompt(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """Tokens of a question as a user's turn, up to the answer; without a chat template the bare question."""
    if tokenizer.chat_template is None:
        return tokenizer(question)["input_ids"]
    # Templates without a thinking mode ignore the last argument.
    turn = [{"role": "user", "content": question}]
    try:  # in a sandbox of transformers, which refuses what is no formatting
        text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False, enable_thinking=False)
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise CraneError(
            f"chat template of {tokenizer.name_or_path}: fails for a user's question ({type(error).__name__}: "
            f"{error}); correct chat_template in the model's tokenizer files"
        ) from error
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: those of the model's generation settings and that of the tokenizer."""
    named = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = set(named if isinstance(named, list) else [named]) | {tokenizer.eos_token_id}
    return sorted(token for token in ends if token is not None)


class RepetitionPenalty(LogitsProcessor):
    """Divide positive logits of earlier tokens by the penalty, multiply negative ones (Keskar et al., 2019).

    The class of this name in transformers counts padding as an earlier token. If the end token is used for padding, a
    padded row would then end its answer later than the same row alone.
    """

    def __init__(self, penalty: float, mask: Tensor) -> None:
        self.penalty = penalty
        self.mask = mask  # (B, T) bool, of the prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """Logits (B, V) after the tokens (B, T + generated)."""
        real = torch.ones_like(input_ids, dtype=scores.dtype)
        real[:, : self.mask.shape[1]] = self.mask.to(scores.dtype)
        seen = torch.zeros_like(scores).scatter_add_(1, input_ids, real) > 0
        return torch.where(seen, torch.where(scores < 0, scores * self.penalty, scores / self.penalty), scores)


@contextmanager
def _generation_settings(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    """Use only these settings: `generate` would complete them from the model's own, such as sampling."""
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own


def _left_padded(prompts: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids (B, T) and mask (B, T) bool of prompts padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    return ids, torch.arange(width) >= torch.tensor([[width - len(prompt)] for prompt in prompts])


def _prompt_batches(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, batch_size: int
) -> Iterator[tuple[list[int], bool]]:
    """Yield indices of prompts that are answered together, and whether their keys and values may be kept.

    An answer may outgrow the length at which rotary frequencies change: then it is made alone, and nothing is kept.
    """
    section = rope_section(model)

    def reached(index: int) -> tuple[int, int]:
        length = len(prompts[index])
        return section(length), section(length + max_new_tokens - 1)  # the last token is not read

    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for (before, after), group in groupby(order, key=reached):
        same = list(group)
        size = batch_size if before == after else 1
        for start in range(0, len(same), size):
            yield same[start : start + size], before == after


@torch.no_grad()
def greedy_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    repetition_penalty: float = 1.1,
    batch_size: int = 64,
) -> list[Answer]:
    """Answer every prompt greedily, in a batch exactly as alone. The model is unchanged afterwards.

    `prompts` are token ids, as returned by `chat_prompt`; the penalty is over prompt and answer, 1 is none.
    """
    check_tokens(model, prompts, what="question")
    ends = end_tokens(model, tokenizer)
    pad = 0  # any token: pads are masked
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=ends or None, pad_token_id=pad
    )
    batches = list(_prompt_batches(model, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size))
    steady = {index: kept for batch, kept in batches for index in batch}

    def generated(batch: list[int]) -> list[list[int]]:
        settings.use_cache = steady[batch[0]]
        ids, mask = _left_padded([prompts[index] for index in batch], pad)
        ids, mask = ids.to(model.device), mask.to(model.device)
        generate: Any = model.generate
        penalty = RepetitionPenalty(repetition_penalty, mask)
        found = generate(input_ids=ids, attention_mask=mask.long(), logits_processor=[penalty])
        return found[:, ids.shape[1] :].tolist()

    answers: dict[int, Answer] = {}
    lengths = [len(prompt) + max_new_tokens for prompt in prompts]
    with _generation_settings(model, settings):
        for batch, rows in computed_batches([batch for batch, _ in batches], lengths, generated, what="question"):
            answers |= {index: _answer(tokenizer, row, ends) for index, row in zip(batch, rows, strict=True)}
    return [answers[index] for index in range(len(prompts))]


def _answer(tokenizer: PreTrainedTokenizerBase, row: Sequence[int], ends: Sequence[int]) -> Answer:
    """Build an answer from generated tokens, cut after the first end token; the rest is padding."""
    stop = next((place for place, token in enumerate(row) if token in ends), None)
    ids = tuple(row if stop is None else row[: stop + 1])
    return Answer(str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip(), ids, stop is not None)


@torch.no_grad()
def answer_nll(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    token_budget: int = 4096,
) -> np.ndarray:
    """NLL of each answer after its prompt, summed over its tokens: (answers,) float64, nats."""
    documents = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    nll = np.zeros(len(documents))
    lengths, section = [len(document) for document in documents], rope_section(model)

    def batch_nll(batch: list[int]) -> np.ndarray:
        tokens, mask = pad_batch([documents[index] for index in batch])
        starts = torch.tensor([len(prompts[index]) for index in batch])
        wanted = mask & (torch.arange(tokens.shape[1]) >= starts[:, None])  # (B, T), tokens of the answers
        tokens, mask, wanted = (part.to(model.device) for part in (tokens, mask, wanted))
        hidden = model.base_model(input_ids=tokens, attention_mask=mask).last_hidden_state[:, :-1]
        logits = output_logits(model, hidden[wanted[:, 1:]])
        losses = torch.nn.functional.cross_entropy(logits, tokens[wanted], reduction="none")
        rows = torch.nonzero(wanted)[:, 0]
        total = torch.zeros(len(batch), dtype=torch.float64, device=losses.device).index_add_(0, rows, losses.double())
        return total.cpu().numpy()

    batches = token_batches(lengths, token_budget=token_budget, section=section)
    for batch, found in computed_batches(batches, lengths, batch_nll, what="answer"):
        nll[batch] = found
    return nll
