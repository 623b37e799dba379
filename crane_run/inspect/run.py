"""A finished run, read only: its profile, models, texts and statistics. Nothing is computed or written here."""

from __future__ import annotations

import os
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crane_lib.errors import CraneError
from crane_lib.neurons import NeuronSet, read_all_sets
from crane_lib.relevance import Statistics
from crane_lib.scores import UnitScores, load_statistics
from crane_run.inspect.lab import PROFILE_VARIABLE
from crane_study.frames import read_frame
from crane_study.loading.models import load_model, model_directory
from crane_study.profile import Profile, artifacts_root, load_profile
from crane_study.store import RECORD, complete
from crane_study.study import Study

# Section that makes a stage, by the first word of its name, for the message where it is missing.
_SECTIONS = {"corpus": "00", "base": "00", "chat": "00", "relevance": "01", "selection": "02"}


@lru_cache(maxsize=64)
def _whole(folder: Path, _changed: int) -> dict[str, Any] | None:
    """Record of a stage whose files are as they were written; they are read once for each time that it was made."""
    return complete(folder, None)


class FinishedRun:
    """Results of one profile; a stage that the run has not made is an error, it is never made here."""

    def __init__(self, profile: Profile, folder: Path, *, name: str) -> None:
        self.profile = profile
        self.folder = folder
        self.start_command = f"./run_all.sh --profile {name}"
        self._study = Study(profile, folder)
        self.languages = self._study.languages
        self.models = self._study.model_names
        self.objective = profile.relevance.objectives[0]

    def stage(self, name: str) -> dict[str, Any]:
        """Record of a finished stage, all of whose files are as they were written."""
        folder = self.folder / "stages" / name
        if not (folder / RECORD).is_file():
            made = f" (section {number} makes it)" if (number := _SECTIONS.get(name.partition("_")[0])) else ""
            raise CraneError(f"{self.folder}: has no finished {name}{made}; start {self.start_command} first")
        record = _whole(folder, (folder / RECORD).stat().st_mtime_ns)
        if record is None:
            told = f"a file is not as it was written; remove the folder and start {self.start_command}"
            raise CraneError(f"{folder}: is damaged: {told}")
        return record

    def _stage(self, name: str, **inputs: str) -> Path:
        """Folder of a finished stage; refused if it was made from an earlier state of the stages it reads."""
        folder = self.folder / "stages" / name
        keys: dict[str, Any] = self.stage(name)["inputs"]
        for role, other in inputs.items():
            if role in keys and keys[role] != self.stage(other)["key"]:
                told = f"was made from an earlier {other}; start {self.start_command} to bring them together"
                raise CraneError(f"{folder}: {told}")
        return folder

    @cached_property
    def documents(self) -> pd.DataFrame:
        """Texts of every split and language."""
        return read_frame(self._stage("corpus") / "documents.parquet")

    def sample(self, split: str, language: str, *, count: int) -> pd.Series:
        """Fixed random sample of `count` texts of a split and language, indexed by their number in the split."""
        frame = self.documents
        texts = frame.loc[(frame["split"] == split) & (frame["language"] == language), "text"].reset_index(drop=True)
        if texts.empty:
            raise CraneError(f"{self.folder}: has no {split} texts in {language!r}; it has {', '.join(self.languages)}")
        chosen = np.random.default_rng(self.profile.random_seed).permutation(len(texts))[:count]
        return texts.iloc[np.sort(chosen)]

    @lru_cache(maxsize=2)  # noqa: B019 (a run lives as long as the kernel)
    def model(self, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """A model of the run and its tokenizer, loaded once."""
        self.check(model=name)
        trained = self._study.trains_model
        folder = self._stage(f"{name}_model") if trained else self._study.model(name).folder
        source: Any = self.profile.source
        options = {"device": self.profile.device, "dtype": self.profile.dtype}
        trusted = not trained and source.trust_remote_code
        return load_model(model_directory(folder), trust_remote_code=trusted, **options)

    def check(self, *, model: str = "base", language: str = "") -> None:
        """Make sure that the run has a model and a language."""
        if model not in self.models:
            raise CraneError(f"model {model!r}: this run has {' and '.join(self.models)}")
        if language and language not in self.languages:
            raise CraneError(f"language {language!r}: this run has {', '.join(self.languages)}")

    def _relevance(self, model: str) -> Path:
        self.check(model=model)
        inputs = {"corpus": "corpus"} | ({"model": f"{model}_model"} if self._study.trains_model else {})
        return self._stage(f"relevance_{model}", **inputs)

    @lru_cache(maxsize=8)  # noqa: B019
    def statistics(self, model: str, objective: str = "") -> dict[str, Statistics]:
        """Relevance statistics of every language on a model, by default of the objective that selects."""
        return load_statistics(self._relevance(model), objective or self.objective, self.languages)

    @lru_cache(maxsize=2)  # noqa: B019
    def unit_scores(self, model: str) -> UnitScores:
        """Scores of a model's units that the methods select by."""
        name = f"activations_{model}"  # made only if a method of the profile needs it
        made = (self.folder / "stages" / name / RECORD).is_file()
        return UnitScores.read(
            self._relevance(model),
            objective=self.objective,
            languages=self.languages,
            documents=self._stage(name, corpus="corpus") if made else None,
        )

    @lru_cache(maxsize=2)  # noqa: B019
    def sets(self, model: str) -> list[NeuronSet]:
        """Neuron sets selected on a model, without the random ones."""
        folder = self._stage(f"selection_{model}", relevance=f"relevance_{model}")
        return [item for item in read_all_sets(folder) if item.random_seed < 0]


def open_run(profile: str | os.PathLike[str] = "", *, artifacts: str | os.PathLike[str] | None = None) -> FinishedRun:
    """Open a finished run by its profile's name or YAML file, or by the name of a folder of `artifacts` (mini-seed1).

    Without a profile it is the one that JupyterLab was started with, else ``mini``. One that has not been run is a
    CraneError.
    """
    name = os.fspath(profile) or os.environ.get(PROFILE_VARIABLE, "") or "mini"
    root = artifacts_root(artifacts or None)
    kept = root / name / "profile.yaml"  # as the run resolved it
    loaded = load_profile(str(kept) if Path(name).name == name and kept.is_file() else name)
    run = FinishedRun(loaded, root / loaded.name, name=name)
    if not (run.folder / "stages").is_dir():
        raise CraneError(f"{run.folder}: nothing has been run there; start {run.start_command} first")
    return run
