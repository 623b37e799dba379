"""Preflight: checks that a run can have what it needs, before any work and without writing anything."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

from crane_lib.errors import CraneError
from crane_lib.files import read_json
from crane_run.schedule import disk_free, existing
from crane_study import hub
from crane_study.data.user_files import read_open_questions
from crane_study.data.xquad import locate_xquad
from crane_study.fetch import fetched_directory
from crane_study.loading.models import MAP, check_model_directory
from crane_study.loading.weights import weight_bytes
from crane_study.machine import granted_memory
from crane_study.measure.benchmarks import BENCHMARKS, read_task
from crane_study.measure.judge_endpoint import EndpointJudge
from crane_study.measure.judgings import Endpoint
from crane_study.paper.lape_list import check_lape_list
from crane_study.profile import EmbeddedSource, HubModel, HubSource, HubText, LocalSource, Profile, Task, XQuad
from crane_study.progress import SOON, progress

_GIGABYTE = 1e9


@dataclass(frozen=True)
class Check:
    """One need of a run, whether it is met, and what was seen or is to be done."""

    what: str
    met: bool
    remark: str


class Host:
    """Answers of this machine and of the hub; a test gives others."""

    def gpu_memory_gb(self, device: str) -> float:
        """Memory of the GPU that a device name means; for ``map`` of all GPUs together."""
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        sizes = [torch.cuda.get_device_properties(number).total_memory for number in range(count)]
        meant = (
            sizes
            if device == MAP
            else [size for n, size in enumerate(sizes) if str(n) == (device.partition(":")[2] or "0")]
        )
        return sum(meant) / _GIGABYTE

    def memory_gb(self) -> float:
        """Memory of this machine."""
        return granted_memory() / _GIGABYTE

    def free_gb(self, folder: Path) -> float:
        """Free space where a folder is, or would be."""
        return disk_free(folder)

    def same_disk(self, one: Path, other: Path) -> bool:
        """Return whether two folders share their free space."""
        return existing(one).stat().st_dev == existing(other).stat().st_dev

    def cached_model(self, model: HubModel) -> bool:
        """Return whether a model is in the cache."""
        return hub.cached_model(model.id, revision=model.revision)

    def cached_task(self, task: Task) -> bool:
        """Return whether a benchmark is in the cache."""
        name, patterns = _task_files(task)
        return hub.cached_dataset_files(name, revision=task.revision, patterns=patterns)

    def check_judge(self) -> None:
        """Raise CraneError if the judge that the environment names gives no score for a plain answer."""
        EndpointJudge(Endpoint.from_environment(), Path()).check()

    def check_reachable(self, name: str, kind: str, revision: str) -> None:
        """Raise CraneError if the hub does not give out a revision of a model or dataset."""
        hub.check_reachable(name, kind=kind, revision=revision)


def _task_files(task: Task) -> tuple[str, list[str]]:
    benchmark = BENCHMARKS[task.name]
    return task.dataset or benchmark.dataset, [pattern.format(config=task.config) for pattern in benchmark.files]


def preflight(profile: Profile, folder: Path, machine: Host | None = None) -> list[Check]:
    """Check everything that a profile needs; a corpus that is in the run's folder already is not asked for again."""
    machine = machine or Host()
    asked = chain(
        _hardware(profile, folder, machine), _sources(profile, folder, machine), _beside(profile, folder, machine)
    )
    checks = []
    with progress("Checking what is needed", delay=SOON) as bar:  # a hub that does not answer takes its time
        for check in asked:
            checks.append(check)
            bar.advance(note=f"({len(checks)} done, the last: {check.what})")
    return checks


def _hardware(profile: Profile, folder: Path, machine: Host) -> Iterator[Check]:
    needs = profile.needs
    if needs.gpu_memory_gb and profile.device != "cpu":
        yield _enough("GPU memory", needs.gpu_memory_gb, machine.gpu_memory_gb(profile.device))
    if needs.memory_gb:
        yield _enough("memory", needs.memory_gb, machine.memory_gb())
    cache = hub.cache_folder()
    fetched = [model for model in _models(profile) if not (hub.is_local(model.id) or _packaged(model))]
    download = needs.download_gb if any(not machine.cached_model(model) for model in fetched) else 0
    disk = 0 if _sampled(folder) else needs.disk_gb
    if disk and download and machine.same_disk(folder, cache):
        yield _enough(f"disk for {folder} and for the hub's cache {cache}", disk + download, machine.free_gb(folder))
        return
    if disk:
        yield _enough(f"disk for {folder}", disk, machine.free_gb(folder))
    if download:
        yield _enough(f"disk for the hub's cache {cache} (or set HF_HOME)", download, machine.free_gb(cache))


def _enough(what: str, wanted: float, seen: float) -> Check:
    # A GPU sold as 24 GB has a little less to give.
    return Check(what, seen >= 0.97 * wanted, f"{wanted:g} GB needed, {seen:.1f} GB there")


def _sampled(folder: Path) -> bool:
    """Return whether the run's corpus was made by an earlier start."""
    return (folder / "stages" / "corpus" / "stage.json").is_file()


def _models(profile: Profile) -> list[HubModel]:
    """Models of the hub's, or folders in its layout."""
    source = profile.source
    given = [source.base_model, source.chat_model] if isinstance(source, HubSource) else []
    return [model for model in given if model is not None]


def _sources(profile: Profile, folder: Path, machine: Host) -> Iterator[Check]:
    source = profile.source
    if isinstance(source, LocalSource):
        for path in filter(None, (source.base_model, source.chat_model)):
            yield _asked(f"model {path}", "there", partial(check_model_directory, path))
            yield from _weights(Path(path), profile, machine)
        for path in [*source.texts.values(), *(source.questions or {}).values()]:
            yield Check(f"file {path}", path.is_file(), "there" if path.is_file() else "no such file")
    if isinstance(source, HubSource):
        yield from (_model(model, machine) for model in _models(profile))
        texts: dict[tuple[str, str], HubText] = {}
        for text in source.texts.values():
            texts.setdefault((str(text.file or text.dataset), text.revision), text)
        yield from (_corpus(text, folder, machine) for text in texts.values())
        if (xquad := source.xquad) is not None:
            yield _xquad(xquad, list(profile.languages))
    for task in profile.evaluation.tasks.values():
        yield _task(task, profile.evaluation.few_shot, machine)


def _beside(profile: Profile, folder: Path, machine: Host) -> Iterator[Check]:
    """Other things that a profile names: files of questions, the judge, a published list."""
    options, listed = profile.open_ended, profile.paper.lape_list
    if not profile.no_open_ended:
        if (questions := options.questions) is not None:
            yield _asked("open questions", "there", lambda: read_open_questions(questions))
        if options.judge != "offline":
            scored = (folder / "stages" / "open_scores_endpoint" / "stage.json").is_file()
            ask = Endpoint.from_environment if scored else machine.check_judge
            yield _asked("judge", "named in the environment" if scored else "scores a plain answer", ask)
    if listed is not None and not profile.rehearsal:
        layers, width = _sizes(profile)
        check = partial(check_lape_list, profile.paper, wanted=list(profile.languages), layers=layers, width=width)
        yield _asked("paper.lape_list", "there", check)


def _sizes(profile: Profile) -> tuple[int | None, int | None]:
    """Layers and MLP width of the base model, None where its configuration is not at hand."""
    source = profile.source
    if isinstance(source, EmbeddedSource):
        return source.architecture.layers, source.architecture.intermediate
    model = source.base_model.id if isinstance(source.base_model, HubModel) else str(source.base_model)
    about = source.architecture if isinstance(source, HubSource) else {}
    with suppress(CraneError):  # the check of the model reports what is wrong with it
        if Path(model).is_dir():
            about = read_json(Path(model) / "config.json")
    return about.get("num_hidden_layers"), about.get("intermediate_size")


def _weights(folder: Path, profile: Profile, machine: Host) -> Iterator[Check]:
    """Check that the weights of a model fit in memory, if the profile does not say what it needs."""
    with suppress(CraneError, OSError):  # the check of the model reports what is wrong with it
        values, size = weight_bytes(folder, profile.dtype)
        on_gpu = bool(machine.gpu_memory_gb(profile.device)) and profile.device != "cpu"
        needs, what = profile.needs, "GPU memory" if on_gpu else "memory"
        if values and not (needs.gpu_memory_gb if on_gpu else needs.memory_gb):
            seen = machine.gpu_memory_gb(profile.device) if on_gpu else machine.memory_gb()
            check = _enough(f"{what} for the weights of {folder}", float(f"{size / _GIGABYTE:.3g}"), seen)
            yield replace(check, remark=f"{check.remark} ({values:,} values in {profile.dtype})")


def _packaged(model: HubModel) -> bool:
    """Return whether the weights of a model were taken from packages."""
    return model.package is not None and fetched_directory(model.package) is not None


def _model(model: HubModel, machine: Host) -> Check:
    what = f"model {model.id}"
    if _packaged(model):
        return Check(what, True, f"its weights of {model.package} are used, from packages")
    if hub.is_local(model.id):
        return _asked(what, "there", lambda: check_model_directory(Path(model.id)))
    if machine.cached_model(model):
        return Check(what, True, "in the hub's cache")

    def ask() -> None:
        hub.check_cached_settings(model.id, revision=model.revision)
        machine.check_reachable(model.id, "model", model.revision)

    check = _asked(what, "to be fetched", ask)
    if not check.met and model.package is not None:
        return replace(check, remark=f"{check.remark}; or take it from packages: crane fetch {model.package}")
    return check


def _corpus(text: HubText, folder: Path, machine: Host) -> Check:
    what = f"corpus {text.file or text.dataset}"
    if _sampled(folder):
        return Check(what, True, "sampled already")
    if text.dataset is None or hub.is_local(text.dataset):
        place = Path(str(text.file or text.dataset))
        return Check(what, place.exists(), "there" if place.exists() else "no such file or folder")
    name = text.dataset
    return _asked(what, "to be streamed", lambda: machine.check_reachable(name, "dataset", text.revision))


def _xquad(given: XQuad, languages: list[str]) -> Check:
    try:
        files, origin = locate_xquad(given, languages)
    except CraneError as error:
        return Check("texts XQuAD", False, str(error))
    return Check("texts XQuAD", True, f"from {origin}" if files else f"{origin}; embedded documents are used")


def _task(task: Task, few_shot: int, machine: Host) -> Check:
    name, _patterns = _task_files(task)
    if task.path is not None or hub.is_local(name):
        what = f"task {task.name} {task.path or name}"
        return _asked(what, "there", lambda: read_task(task.model_dump(), few_shot=few_shot))
    what = f"task {task.name} ({name})"
    if machine.cached_task(task):
        return Check(what, True, "in the hub's cache")
    return _asked(what, "to be fetched", lambda: machine.check_reachable(name, "dataset", task.revision))


def _asked(what: str, remark: str, ask: Callable[[], object]) -> Check:
    """Make a check that is met where asking raises no error."""
    try:
        ask()
    except CraneError as error:
        # Without "model x: " or the like before it, which `what` says already.
        return Check(
            what, False, re.sub(r"^((model|dataset|task) \S+: |judge(: | at )|open questions:? )", "", str(error))
        )
    return Check(what, True, remark)
