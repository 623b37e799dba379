"""The form of manifest.json, checked whenever one is written or read; see docs/provenance.md for what it means."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = "crane.manifest/2"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Seconds = Annotated[float, Field(ge=0)]
Mebibytes = Annotated[float, Field(gt=0)] | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Image(_Part):
    """The container image, as its environment names it."""

    name: str | None
    digest: str | None


class Gpu(_Part):
    """One GPU."""

    name: str
    memory_mib: int


class Machine(_Part):
    """Processor, cores, memory, threads and GPUs."""

    system: str
    processor: str
    cores: int | None
    usable_cores: int | None  # that the process may run on
    core_limit: float | None  # that a container grants
    memory_bytes: int
    memory_limit_bytes: int | None
    thread_settings: dict[str, str]
    gpus: list[Gpu]
    gpu_driver: str | None
    cuda_runtime: str | None  # that torch was built with


class Difference(_Part):
    """A package that is not the locked one."""

    locked: str
    installed: str


class Locks(_Part):
    """Lock files by their hashes, and the packages that are not as they say."""

    files: dict[str, Sha256]
    differing: dict[str, Difference]


class Model(_Part):
    """Where a model comes from."""

    kind: Literal["trained here", "directory", "hub"]
    stage: str | None = None
    key: str | None = None
    path: str | None = None
    id: str | None = None
    revision: str | None = None
    commit: str | None = None
    fingerprint: str | None = None
    weights: dict[str, Sha256]


class SectionRecord(BaseModel):
    """How a section went; the runner may say more."""

    model_config = ConfigDict(extra="allow", frozen=True)

    section: str
    title: str
    status: str
    error: str | None
    key: str
    seconds: Seconds
    threads: int | None = None  # that it computed with
    jobs: int | None = None  # sections at once, at most, when it ran
    peak_memory_mib: Mebibytes = None
    outputs: list[str]


class StageRecord(_Part):
    """A stage: its key, what it took, the hash of its record and of everything it wrote."""

    name: str
    key: str
    inputs: dict[str, str]
    seconds: Seconds
    peak_memory_mib: Mebibytes
    peak_gpu_memory_mib: float | None
    memory_measure: str | None
    threads: int | None
    record: Sha256
    outputs: dict[str, Sha256]


class Manifest(_Part):
    """What a run was made with and what it made."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: Literal["crane.manifest/2"] = Field(alias="schema")
    written_at: str
    profile: dict[str, Any]
    random_seed: int
    seeds: dict[str, int]
    commit: str | None
    uncommitted_changes: bool | None
    commit_from: str | None
    image: Image | None
    python: str
    packages: dict[str, str | None]
    locks: Locks
    machine: Machine
    models: dict[str, Model]
    data: dict[str, Any]
    sections: list[SectionRecord]
    stages: list[StageRecord]
    outputs: dict[str, Sha256]
