"""Sections of a profile that are about published models, corpora and benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
