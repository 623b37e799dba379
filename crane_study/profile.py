"""Profiles: everything a run of the study can be told, read from ``configs/<name>.yaml`` and validated."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from crane_lib.errors import CraneError
from crane_study import ROOT

Count = Annotated[int, Field(ge=1)]
Gigabytes = Annotated[float, Field(ge=0)]


class Strict(BaseModel):
    """A section of a profile; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class HubModel(Strict):
    """A model of the hub by id and revision, or a Hugging Face directory (``./``, ``../`` or ``/`` before it)."""

    id: str
    revision: str = "main"
    gated: bool = False  # the hub gives it only to those who accepted its licence


class HubText(Strict):
    """Text of one language: a data set of the hub, streamed and sampled, or a file of the user's."""

    dataset: str | None = None
    config: str | None = None
    split: str = "train"
    field: str = "text"
    revision: str = "main"
    gated: bool = False
    file: Path | None = None

    @model_validator(mode="after")
    def _one_source(self) -> HubText:
        if (self.dataset is None) == (self.file is None):
            raise ValueError("give either dataset (an id on the hub) or file (.txt or .jsonl)")
        return self


class Sampling(Strict):
    """How a sample is drawn from a stream.

    A data set on the hub lies in shards (C4-en: 1,024 files). Shards are drawn at random without replacement; of each
    the first `window` documents are read, and as many kept as every shard is to give, each with the same chance.
    With all shards and no window the sample is uniform; with fewer it is uniform over what was read.
    """

    random_seed: Annotated[int, Field(ge=0)] = 42
    shards: Count = 16
    window: Annotated[int, Field(ge=0)] = 20_000  # documents read of each shard; 0: all of it


class HubSource(Strict):
    """Published models and corpora, from the hub or its cache.

    `architecture` is what the models' own configuration says (the keys of ``config.json``); a rehearsal makes its small
    model of that kind.
    """

    kind: Literal["hub"]
    base_model: HubModel
    chat_model: HubModel | None = None
    texts: dict[str, HubText]
    relevance_documents: Count = 5_000
    perplexity_documents: Count = 500
    sampling: Sampling = Sampling()
    architecture: dict[str, Any] = {}
    trust_remote_code: bool = False


class Task(Strict):
    """A language's published benchmark, from the hub or from a folder in its published schema (`path`)."""

    name: Literal["mmlu", "ceval", "belebele"]
    path: Path | None = None
    dataset: str | None = None  # another copy of it on the hub
    revision: str = "main"
    config: str = "vie_Latn"  # Belebele's language
    subjects: tuple[str, ...] | None = None  # some of MMLU's or C-Eval's; all unless given
    limit: Count | None = None  # questions a subject


class Needs(Strict):
    """What a run takes; looked at before any work. Zero: nothing worth checking."""

    gpu_memory_gb: Gigabytes = 0
    memory_gb: Gigabytes = 0
    disk_gb: Gigabytes = 0  # in the artifacts folder
    download_gb: Gigabytes = 0  # into the hub's cache
    hours: Annotated[float, Field(ge=0)] = 0  # said, not checked


def absolute_source(source: HubSource, folder: Path) -> HubSource:
    """A hub source with its local paths made absolute from the folder of the profile's file."""

    def place(name: str | None) -> str | None:
        return str((folder / name).resolve()) if name is not None and name.startswith((".", "/")) else name

    def model(given: HubModel | None) -> HubModel | None:
        return given and given.model_copy(update={"id": place(given.id)})

    def text(given: HubText) -> HubText:
        file = (folder / given.file).resolve() if given.file else None
        return given.model_copy(update={"dataset": place(given.dataset), "file": file})

    return source.model_copy(
        update={
            "base_model": model(source.base_model),
            "chat_model": model(source.chat_model),
            "texts": {language: text(given) for language, given in source.texts.items()},
        }
    )


def absolute_tasks(tasks: dict[str, Task], folder: Path) -> dict[str, Task]:
    """Tasks with their local paths made absolute from the folder of the profile's file."""
    return {
        language: task.model_copy(update={"path": (folder / task.path).resolve() if task.path else None})
        for language, task in tasks.items()
    }


Share = Annotated[float, Field(gt=0, lt=1)]


class Knowledge(Strict):
    """How the embedded facts, questions and documents are drawn (`crane_study.data`)."""

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
    objectives: tuple[Literal["gold_logit", "log_probability"], ...] = ("gold_logit", "log_probability")
    token_budget: Count = 4096
    max_length: Count = 2048
    checkpointing: bool = False  # every layer computed twice, for less memory
    processes: Count = 1  # on this machine; see docs/distributed.md for more


class Lape(Strict):
    """Constants of LAPE as its authors released it."""

    threshold_quantile: Share = 0.95
    share: Share = 0.01


COMPARED_METHODS = ("kurtosis", "contrast", "lape")  # the claims are about these


class Selection(Strict):
    """The selection methods (method, section 3)."""

    methods: Annotated[tuple[str, ...], Field(exclude_if=lambda names: not names)] = ()  # all unless named
    budget: Share = 0.1
    kurtosis_threshold: float = 1.0
    lape: Lape = Lape()
    random_draws: Annotated[int, Field(ge=5)] = 5

    @field_validator("methods")
    @classmethod
    def _registered(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        from crane_lib.methods import METHODS  # here, so that the command line starts without numpy

        for name in names:
            if name not in METHODS:
                raise ValueError(f"no method {name!r} is registered; {nearest(name, list(METHODS))}")
        missing = [name for name in COMPARED_METHODS if name not in names]
        if names and missing:
            raise ValueError(f"lacks {missing[0]!r}, which the paper's claims are about; add it")
        return names


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


ARTIFACTS_VARIABLE = "CRANE_ARTIFACTS"
DEFAULT_ARTIFACTS = ROOT / "artifacts"
REHEARSAL_SUFFIX = "-rehearsal"  # of the name of a profile that only rehearses
TEMPLATE = "template"  # configs/template.yaml, a profile to start from
TOLD = ("description", "expected_seconds", "calibration_seconds", "needs")  # said to people; no result depends on it
CONFIGS = ROOT / "configs"


class Profile(Strict):
    """A whole study: model, texts, and every parameter of every stage."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    description: str
    languages: dict[str, str] = {"en": "English", "zh": "Chinese", "vi": "Vietnamese"}
    random_seed: Annotated[int, Field(ge=0)] = 0
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    source: Annotated[EmbeddedSource | LocalSource | HubSource, Field(discriminator="kind")]
    relevance: Relevance = Relevance()
    selection: Selection = Selection()
    controls: Controls = Controls()
    ground_truth: GroundTruth = GroundTruth()
    evaluation: Evaluation = Evaluation()
    open_ended: OpenEnded = OpenEnded()
    paper: Paper = Paper()
    expected_seconds: dict[str, float] = {}  # of each section by its number, when nothing can be reused
    calibration_seconds: Annotated[float, Field(gt=0)] | None = None  # of the machine that they were taken on
    needs: Needs = Needs()
    rehearsal: bool = False  # a small random model and made-up data stand in; set by --rehearse

    @model_validator(mode="after")
    def _languages_agree(self) -> Profile:
        if len(self.languages) < 2:
            raise ValueError(
                f"languages: has {list(self.languages)}, at least two are needed to tell what is specific to one"
            )
        if isinstance(self.source, LocalSource):
            for field in ("texts", "questions"):
                given = getattr(self.source, field)
                if given is not None and set(given) != set(self.languages):
                    raise ValueError(
                        f"source.{field}: has {sorted(given)}, the languages are {sorted(self.languages)}; "
                        "name one file a language"
                    )
        elif isinstance(self.source, HubSource):
            if set(self.source.texts) != set(self.languages):
                raise ValueError(
                    f"source.texts: has {sorted(self.source.texts)}, the languages are {sorted(self.languages)}; "
                    "name one corpus a language"
                )
        elif set(self.languages) != {"en", "zh", "vi"}:
            raise ValueError(
                f"languages: has {list(self.languages)}, the embedded facts are in en, zh and vi; "
                "use a local source for others"
            )
        asked = self.open_ended.questions
        if asked is not None and set(asked) != set(self.languages):
            raise ValueError(
                f"open_ended.questions: has {sorted(asked)}, the languages are {sorted(self.languages)}; "
                "name one file a language"
            )
        if self.evaluation.tasks and set(self.evaluation.tasks) != set(self.languages):
            raise ValueError(
                f"evaluation.tasks: has {sorted(self.evaluation.tasks)}, the languages are {sorted(self.languages)}; "
                "name one task a language"
            )
        return self

    @property
    def has_needs(self) -> bool:
        """Whether a preflight has anything to look at."""
        needs = self.needs.model_copy(update={"disk_gb": 0})  # every run looks at its disk
        named = (self.evaluation.tasks, self.open_ended.questions, self.paper.lape_list)
        judge = self.open_ended.judge != "offline"
        return isinstance(self.source, HubSource) or needs != Needs() or any(named) or judge

    @property
    def has_chat(self) -> bool:
        """Whether there is a chat model."""
        return isinstance(self.source, EmbeddedSource) or self.source.chat_model is not None

    @property
    def no_open_ended(self) -> str:
        """Why there is no open-ended generation, empty where there is."""
        if not self.has_chat:
            return "the profile names no chat model (source.chat_model)"
        if not isinstance(self.source, EmbeddedSource) and self.open_ended.questions is None:
            return "the profile names no open questions (open_ended.questions)"
        return ""

    @property
    def is_gated(self) -> bool:
        """Whether a model or corpus asks for a licence to be accepted on the hub."""
        if not isinstance(self.source, HubSource):
            return False
        models = [model for model in (self.source.base_model, self.source.chat_model) if model is not None]
        return any(model.gated for model in models) or any(text.gated for text in self.source.texts.values())

    def resolved(self) -> dict[str, Any]:
        """The profile with every default filled in, as plain values."""
        return self.model_dump(mode="json")


_KINDS: dict[Any, Any] = {"embedded": EmbeddedSource, "local": LocalSource, "hub": HubSource}


def nearest(word: str, known: list[str]) -> str:
    """``, did you mean 'x'?`` for the known word most like `word`, or the known words."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def _known_keys(path: tuple[Any, ...]) -> list[str]:
    """Names of the fields that the section of the profile at `path` has."""
    model: Any = Profile
    in_dictionary = False
    for part in path:
        if part in _KINDS:
            model = _KINDS[part]
        elif in_dictionary:  # a language; what it names is the section
            in_dictionary = False
        else:
            field = getattr(model, "model_fields", {}).get(part)
            annotation = field.annotation if field is not None else None
            in_dictionary = get_origin(annotation) is dict
            model = next((one for one in (annotation, *get_args(annotation)) if hasattr(one, "model_fields")), None)
    return list(getattr(model, "model_fields", {}))


def _first_error(error: ValidationError) -> str:
    """One line on the first thing wrong in a profile."""
    first = error.errors()[0]
    location = tuple(first["loc"])
    name = ".".join(str(part) for part in location if part not in _KINDS)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"unknown key {name!r}; {nearest(str(location[-1]), _known_keys(location[:-1]))}{more}"
    message = first["msg"].removeprefix("Value error, ")
    if not name:  # what a check of the whole profile found says itself what it saw
        return message + more
    return f"{name}: {message} (seen: {str(first.get('input'))[:60]!r}){more}"


def artifacts_root(given: str | os.PathLike[str] | None = None) -> Path:
    """Folder of all runs: the one given, else of the environment, else ``artifacts/`` of the repository."""
    return Path(given or os.environ.get(ARTIFACTS_VARIABLE) or DEFAULT_ARTIFACTS).resolve()


def profile_names() -> list[str]:
    """Names of the profiles in ``configs/``."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != TEMPLATE)


def profile_path(name: str) -> Path:
    """File of a profile given by name or by path.

    Raises
    ------
    CraneError : there is no such profile
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise CraneError(f"profile {name}: no such file")
        return path.resolve()
    path = CONFIGS / f"{name}.yaml"
    if not path.is_file():
        raise CraneError(f"unknown profile {name!r}; {nearest(name, profile_names())}")
    return path


def load_profile(name: str) -> Profile:
    """Read and validate a profile.

    Parameters
    ----------
    name : name of a file in ``configs/`` without its ending, or the path of a YAML file

    Raises
    ------
    CraneError : no such profile, not YAML, an unknown key (the nearest right one is named) or a value out of range
    """
    path = profile_path(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CraneError(f"profile {path.name}: is not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise CraneError(f"profile {path.name}: expected keys and values, saw {type(values).__name__}")
    values.setdefault("name", path.stem)
    try:
        profile = Profile.model_validate(values)
    except ValidationError as error:
        raise CraneError(f"profile {path.name}: {_first_error(error)}") from error
    if isinstance(profile.source, LocalSource):
        profile = profile.model_copy(update={"source": _absolute(profile.source, path.parent)})
    elif isinstance(profile.source, HubSource):
        profile = profile.model_copy(update={"source": absolute_source(profile.source, path.parent)})
    if profile.evaluation.tasks:
        tasks = absolute_tasks(profile.evaluation.tasks, path.parent)
        evaluation = profile.evaluation.model_copy(update={"tasks": tasks})
        profile = profile.model_copy(update={"evaluation": evaluation})
    if profile.open_ended.questions is not None:
        asked = {language: (path.parent / file).resolve() for language, file in profile.open_ended.questions.items()}
        open_ended = profile.open_ended.model_copy(update={"questions": asked})
        profile = profile.model_copy(update={"open_ended": open_ended})
    if profile.paper.lape_list is not None:
        listed = (path.parent / profile.paper.lape_list).resolve()
        profile = profile.model_copy(update={"paper": profile.paper.model_copy(update={"lape_list": listed})})
    return profile


def _absolute(source: LocalSource, folder: Path) -> LocalSource:
    """Paths of a local source, made absolute from the folder of the profile's file."""

    def absolute(path: Path) -> Path:
        return path if path.is_absolute() else (folder / path).resolve()

    return source.model_copy(
        update={
            "base_model": absolute(source.base_model),
            "chat_model": absolute(source.chat_model) if source.chat_model else None,
            "texts": {language: absolute(path) for language, path in source.texts.items()},
            "questions": {k: absolute(path) for k, path in source.questions.items()} if source.questions else None,
        }
    )
