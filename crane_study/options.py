"""Options that steps receive: plain values that results depend on and that become part of a stage's key."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Loading:
    """Device and precision of a model."""

    device: str
    dtype: str
    trust_remote_code: bool = False

    def load(self, model: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Load model and tokenizer from the folder of a stage or a Hugging Face directory."""
        from crane_study.loading.models import load_model, model_directory

        return load_model(model_directory(model), **asdict(self))


@dataclass(frozen=True, kw_only=True)
class PassOptions:
    """Relevance passes over the documents of every language."""

    languages: list[str]
    rule: str
    objectives: list[str]
    token_budget: int
    max_length: int
    skip_first_tokens: int = 0
    loading: Loading


@dataclass(frozen=True, kw_only=True)
class MaskChoice:
    """Sets to mask: methods by the model that they were selected on, budgets, number of random draws; None for all.

    `everything` adds the mask of all neurons, which every method is compared with.
    """

    methods: dict[str, list[str]] | None = None
    budgets: list[str] | None = None
    draws: int | None = None
    everything: bool = True
    without: tuple[str, ...] = ()  # methods that are left out


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """A model to measure under masks, and the labels of its result rows."""

    profile: str
    model_name: str
    languages: list[str]
    loading: Loading
    masks: MaskChoice = MaskChoice()

    @property
    def labels(self) -> dict[str, str]:
        """Columns that name the model in result rows."""
        return {"profile": self.profile, "model": self.model_name}


@dataclass(frozen=True, kw_only=True)
class DocumentOptions(ModelOptions):
    """Perplexity on all held-out documents, or on a random sample of `documents` per language."""

    token_budget: int
    max_length: int
    documents: int | None = None
    random_seed: int = 0


@dataclass(frozen=True, kw_only=True)
class QuestionOptions(ModelOptions):
    """Accuracy on all questions, or on a random sample of `questions` per language."""

    batch_size: int
    delimiters: dict[str, str]  # text between prompt and answer, per language
    chat_template: bool = True  # ask the chat model in its template, if it has one, and not as the base model
    chat_delimiter: str = ""  # text before an answer in the chat template, in every language
    few_shot: int = 5
    random_seed: int = 2025  # of the draw of few-shot examples
    questions: int | None = None
    sample_seed: int = 0


@dataclass(frozen=True, kw_only=True)
class AnswerOptions(ModelOptions):
    """Greedy answers to open questions."""

    sets: dict[str, list[tuple[str, str]]]  # methods and budgets to mask, by the model that they were selected on
    random_draws: int  # of each random set
    max_new_tokens: int
    repetition_penalty: float
    batch_size: int
