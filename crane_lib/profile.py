"""Profiles: everything a run of the study can be told, read from ``configs/<name>.yaml`` and validated."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import Field, ValidationError, model_validator

from crane_lib.errors import CraneError
from crane_lib.profile_hub import HubSource, Needs, Strict, absolute_source, absolute_tasks
from crane_lib.profile_options import (
    Controls,
    EmbeddedSource,
    Evaluation,
    GroundTruth,
    LocalSource,
    OpenEnded,
    Paper,
    Relevance,
    Selection,
)

ARTIFACTS_VARIABLE = "CRANE_ARTIFACTS"
DEFAULT_ARTIFACTS = Path(__file__).resolve().parent.parent / "artifacts"
REHEARSAL_SUFFIX = "-rehearsal"  # of the name of a profile that only rehearses
TEMPLATE = "template"  # configs/template.yaml, a profile to start from
TOLD = ("description", "expected_seconds", "calibration_seconds", "needs")  # said to people; no result depends on it
CONFIGS = Path(__file__).resolve().parent.parent / "configs"


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
