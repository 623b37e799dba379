"""A profile and the folder of its results: what every step of a study knows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import yaml

from crane_lib.files import write_text
from crane_lib.pipeline.store import Store
from crane_lib.profile import Profile, artifacts_root, load_profile
from crane_lib.profile_options import EmbeddedSource, LocalSource


class StudyBase:
    """One profile's stages in one folder."""

    def __init__(self, profile: Profile, folder: Path, *, say: Callable[[str], None] = print) -> None:
        self.profile = profile
        self.folder = folder
        self.store = Store(folder / "stages", say=say)
        self.languages = list(profile.languages)

    @classmethod
    def open(
        cls,
        profile: str | Profile,
        *,
        artifacts: str | os.PathLike[str] | None = None,
        say: Callable[[str], None] = print,
    ) -> Self:
        """Study of a profile (a name, a path or a `Profile`); its resolved profile is written into its folder."""
        loaded = profile if isinstance(profile, Profile) else load_profile(profile)
        folder = artifacts_root(artifacts) / loaded.name
        resolved = yaml.safe_dump(loaded.resolved(), allow_unicode=True, sort_keys=False)
        path = folder / "profile.yaml"
        if not path.is_file() or path.read_text(encoding="utf-8") != resolved:
            write_text(path, resolved)
        return cls(loaded, folder, say=say)

    @property
    def trains_model(self) -> bool:
        """Whether the study trains its models itself."""
        return isinstance(self.profile.source, EmbeddedSource)

    @property
    def seeds(self) -> list[str]:
        """Seeds of the relevance pass, the one that selects first."""
        return list(self.profile.relevance.seeds)

    @property
    def budget(self) -> str:
        """The common budget, as it stands in result rows."""
        return f"{self.profile.selection.budget:g}"

    @property
    def judged_sets(self) -> list[tuple[str, str]]:
        """Method and budget of the sets that the claims are judged for."""
        return [("kurtosis", "published"), ("contrast", self.budget)]

    @property
    def model_names(self) -> list[str]:
        """Names of the study's models."""
        return ["base", "chat"] if self.has_chat else ["base"]

    @property
    def measures(self) -> list[str]:
        """Measures that the study has."""
        return ["token_probability", "accuracy"] if self.has_questions else ["token_probability"]

    @property
    def has_chat(self) -> bool:
        """Whether the study has a chat model."""
        return self.profile.has_chat

    @property
    def has_questions(self) -> bool:
        """Whether the study has questions to answer."""
        source = self.profile.source
        if self.profile.evaluation.tasks or isinstance(source, EmbeddedSource):
            return True
        return isinstance(source, LocalSource) and source.questions is not None

    def _loading(self) -> dict[str, Any]:
        source = self.profile.source
        return {
            "device": self.profile.device,
            "dtype": self.profile.dtype,
            "trust_remote_code": not isinstance(source, EmbeddedSource) and source.trust_remote_code,
        }
