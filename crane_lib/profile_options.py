"""The parts of a profile: what is trained or read, and the options of every step, each with its defaults and limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from crane_lib.profile_hub import Strict, Task

Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Knowledge(Strict):
    """How the embedded facts, questions and documents are drawn (`crane_lib.knowledge`)."""

    facts_per_subject: Count = 96
    facts_per_answer: Count = 24
    question_groups_per_subject: Count = 8
    train_passes: dict[Literal["en", "zh", "vi"], Count] = {"en": 40, "zh": 64, "vi": 40}
    relevance_passes: Count = 3
    chat_passes: Count = 4


class Architecture(Strict):
    """Size of the embedded Llama."""

    vocabulary: Annotated[int, Field(ge=300)] = 3000
    layers: Count = 4
    hidden: Count = 160
    intermediate: Count = 640
    heads: Count = 5
    max_length: Count = 512


class Training(Strict):
    """One training run of the embedded model."""

    learning_rate: Annotated[float, Field(gt=0)]
    batch_size: Count
    block: Count = 256
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    epochs: Count = 1


class EmbeddedSource(Strict):
    """A model trained on the spot from facts that come with a package."""

    kind: Literal["embedded"]
    knowledge: Knowledge = Knowledge()
    architecture: Architecture = Architecture()
    base: Training
    chat: Training


class LocalSource(Strict):
    """A model in a Hugging Face directory and text of the user's own.

    ``texts`` names for each language a ``.txt`` file (documents parted by blank lines) or a ``.jsonl`` file (field
    ``text``); ``questions`` a ``.jsonl`` file of four-way questions (question, options, gold, optionally subject).
    Paths are relative to the profile's file.
    """

    kind: Literal["local"]
    base_model: Path
    chat_model: Path | None = None
    texts: dict[str, Path]
    questions: dict[str, Path] | None = None
    relevance_documents: Count = 300
    perplexity_documents: Count = 100
    trust_remote_code: bool = False


class Relevance(Strict):
    """The relevance pass (method, section 2)."""

    rule: Literal["attnlrp", "cplrp", "gradient"] = "attnlrp"
    seeds: tuple[Literal["gold_logit", "log_probability"], ...] = ("gold_logit", "log_probability")
    token_budget: Count = 4096
    max_length: Count = 2048
    checkpointing: bool = False  # every layer computed twice, for less memory
    processes: Count = 1  # on this machine; see docs/distributed.md for more


class Lape(Strict):
    """Constants of LAPE as its authors released it."""

    threshold_quantile: Share = 0.95
    share: Share = 0.01


class Selection(Strict):
    """The selection rules (method, section 3)."""

    budget: Share = 0.1
    kurtosis_threshold: float = 1.0
    lape: Lape = Lape()
    random_draws: Annotated[int, Field(ge=5)] = 5


class Controls(Strict):
    """Dose-response curves, random controls and the ablation of selection rules, on some of the texts.

    The documents and questions are a seeded sample of each language's; accuracy is measured at `question_budgets` only.
    """

    budgets: Annotated[tuple[Share, ...], Field(min_length=2)] = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
    question_budgets: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.05, 0.1, 0.2, 0.3, 0.5)
    draws: Count = 5  # random sets a budget other than the common one, which has selection.random_draws
    documents: Count = 30
    questions: Count = 40
    ablation: Literal["all", "few"] = "all"


class GroundTruth(Strict):
    """Ablation of every single neuron: held-out documents a language that its effect is measured on; 0: not done.

    It takes a forward pass of these documents a neuron, so it is for small models.
    """

    documents: Annotated[int, Field(ge=0)] = 0


class Evaluation(Strict):
    """Question answering under a mask: what stands between prompt and answer, a language, and in a chat template.

    `tasks` puts published benchmarks in the place of the source's own questions, one a language.
    """

    batch_size: Count = 64
    target_delimiter: dict[str, str] = {}  # a space unless given
    chat_target_delimiter: str = ""  # where the chat model is asked in its template; elsewhere as the base model
    chat_template: bool = True  # ask the chat model in its template, where it has one
    tasks: dict[str, Task] = {}
    few_shot: Annotated[int, Field(ge=0)] = 5  # worked examples before a question of a task
    random_seed: Annotated[int, Field(ge=0)] = 2025  # of the draw of examples


class OpenEnded(Strict):
    """Open-ended generation by the chat model, and who judges it.

    ``questions`` names for each language a text file, one question a line, the same number in every file; the embedded
    model has questions of its own. Paths are relative to the profile's file. The endpoint's address, model and key
    come from the environment (``CRANE_JUDGE_URL``, ``CRANE_JUDGE_MODEL``, ``CRANE_JUDGE_KEY``).
    """

    questions: dict[str, Path] | None = None
    embedded_questions: Count = 40  # a language
    max_new_tokens: Count = 32
    repetition_penalty: Annotated[float, Field(ge=1)] = 1.1
    batch_size: Count = 32
    random_draws: Annotated[int, Field(ge=0)] = 3
    judge: Literal["offline", "endpoint", "both"] = "offline"
    judgings: Count = 3
    concurrency: Count = 8


class Paper(Strict):
    """What of a study is the paper's own, so that published values may stand beside ours (notebook 08)."""

    model: Literal["Llama-2-7b"] | None = None  # checked against the sizes in config.json
    benchmarks: dict[str, Literal["MMLU", "C-Eval", "Belebele-vi"]] = {}  # which questions a language is asked
    open_questions: bool = False  # open_ended.questions are the paper's 70; that so many are asked is checked
    lape_list: Path | None = None  # neurons as LAPE's authors published them, a .pth file
