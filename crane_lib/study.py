"""The study as a whole: which stage needs which, for one profile and one folder of results.

    study = Study.open("mini")
    rows = study.rows("base")          # makes whatever is missing, uses again whatever is there

Every method returns finished files; calling one makes what it depends on first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from crane_lib.errors import CraneError
from crane_lib.files import read_frame, write_text
from crane_lib.pipeline.store import Stage, Store
from crane_lib.profile import EmbeddedSource, LocalSource, Profile, artifacts_root, load_profile
from crane_lib.profile_hub import HubModel, HubSource

# The transfer study masks fewer sets: the judged rules, LAPE, and random sets like the judged rules'.
_TRANSFER_METHODS = ("kurtosis", "contrast", "lape", "random_like_kurtosis", "random_like_contrast")
_CHAT_METHODS = ("kurtosis", "contrast")


class Study:
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
    ) -> Study:
        """Study of a profile (a name, a path or a `Profile`); its resolved profile is written into its folder."""
        loaded = profile if isinstance(profile, Profile) else load_profile(profile)
        folder = artifacts_root(artifacts) / loaded.name
        resolved = yaml.safe_dump(loaded.resolved(), allow_unicode=True, sort_keys=False)
        path = folder / "profile.yaml"
        if not path.is_file() or path.read_text(encoding="utf-8") != resolved:
            write_text(path, resolved)
        return cls(loaded, folder, say=say)

    # --- texts and models -------------------------------------------------------------------------------------

    @cached_property
    def corpus(self) -> Stage:
        """Documents and questions."""
        source = self.profile.source
        if isinstance(source, EmbeddedSource):
            from crane_lib.stages.embedded import make_embedded_corpus

            return self.store.run(
                "corpus",
                make_embedded_corpus,
                parameters={"knowledge": source.knowledge.model_dump(), "random_seed": self.profile.random_seed},
            )
        if isinstance(source, HubSource):
            return self._hub_corpus(source)
        from crane_lib.stages.local import make_local_corpus

        files = {**source.texts, **{f"questions.{k}": path for k, path in (source.questions or {}).items()}}
        return self.store.run(
            "corpus",
            make_local_corpus,
            parameters={
                "texts": {language: str(path) for language, path in source.texts.items()},
                "questions": {k: str(path) for k, path in source.questions.items()} if source.questions else None,
                "relevance_documents": source.relevance_documents,
                "perplexity_documents": source.perplexity_documents,
                "random_seed": self.profile.random_seed,
            },
            sources={name: _file_key(path) for name, path in files.items()},
        )

    def _hub_corpus(self, source: HubSource) -> Stage:
        from crane_lib.stages.hub import make_hub_corpus

        texts = {language: text.model_dump(mode="json") for language, text in source.texts.items()}
        return self.store.run(
            "corpus",
            make_hub_corpus,
            parameters={
                "texts": texts,
                "relevance_documents": source.relevance_documents,
                "perplexity_documents": source.perplexity_documents,
                "sampling": source.sampling.model_dump(),
            },
            sources={language: _file_key(text.file) for language, text in source.texts.items() if text.file},
            scratch=True,
        )

    @property
    def questions(self) -> Stage:
        """The stage whose questions are asked: the benchmarks', where the profile names some, else the corpus's."""
        options = self.profile.evaluation
        if not options.tasks:
            return self.corpus
        from crane_lib.stages.benchmarks import make_benchmarks

        tasks = {language: task.model_dump(mode="json") for language, task in options.tasks.items()}
        return self.store.run(
            "benchmarks",
            make_benchmarks,
            parameters={"tasks": tasks, "few_shot": options.few_shot},
            sources={language: _folder_key(task.path) for language, task in options.tasks.items() if task.path},
        )

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
        return isinstance(self.profile.source, EmbeddedSource) or self.profile.source.chat_model is not None

    @property
    def has_questions(self) -> bool:
        """Whether the study has questions to answer."""
        source = self.profile.source
        if self.profile.evaluation.tasks or isinstance(source, EmbeddedSource):
            return True
        return isinstance(source, LocalSource) and source.questions is not None

    def model(self, name: str) -> Stage:
        """The ``base`` or ``chat`` model: trained, or the user's own directory."""
        source = self.profile.source
        if not isinstance(source, EmbeddedSource):
            return self._given_model(source, name)
        return self._base_model if name == "base" else self._chat_model

    def _given_model(self, source: LocalSource | HubSource, name: str) -> Stage:
        from crane_lib.models.loading import check_model_directory, directory_fingerprint

        given = source.base_model if name == "base" else source.chat_model
        if given is None:
            raise CraneError(f"profile {self.profile.name}: names no {name} model")
        if isinstance(given, HubModel):
            from crane_lib.models.hub import model_directory_of

            path = model_directory_of(given.id, revision=given.revision, trust_remote_code=source.trust_remote_code)
        else:
            path = given
        check_model_directory(path)
        return Stage(f"{name}_model", path, directory_fingerprint(path), True, 0.0)

    @cached_property
    def _base_model(self) -> Stage:
        from crane_lib.models.training import make_base_model

        source = self._embedded()
        return self.store.run(
            "base_model",
            make_base_model,
            inputs={"corpus": self.corpus},
            parameters={
                "architecture": source.architecture.model_dump(),
                "training": source.base.model_dump(),
                "device": self.profile.device,
                "random_seed": self.profile.random_seed,
            },
        )

    @cached_property
    def _chat_model(self) -> Stage:
        from crane_lib.models.training import make_chat_model

        return self.store.run(
            "chat_model",
            make_chat_model,
            inputs={"corpus": self.corpus, "base": self._base_model},
            parameters={
                "training": self._embedded().chat.model_dump(),
                "device": self.profile.device,
                "random_seed": self.profile.random_seed,
            },
        )

    def _embedded(self) -> EmbeddedSource:
        if not isinstance(self.profile.source, EmbeddedSource):
            raise CraneError(f"profile {self.profile.name}: has a local source, nothing is trained")
        return self.profile.source

    # --- relevance and selection ------------------------------------------------------------------------------

    def _loading(self) -> dict[str, Any]:
        source = self.profile.source
        return {
            "device": self.profile.device,
            "dtype": self.profile.dtype,
            "trust_remote_code": not isinstance(source, EmbeddedSource) and source.trust_remote_code,
        }

    def relevance(self, name: str) -> Stage:
        """Relevance statistics and firing counts of every language on a model."""
        from crane_lib.stages.relevance import make_relevance

        options = self.profile.relevance
        return self.store.run(
            f"relevance_{name}",
            make_relevance,
            inputs={"corpus": self.corpus, "model": self.model(name)},
            parameters={
                "languages": self.languages,
                "rule": options.rule,
                "seeds": list(options.seeds),
                "token_budget": options.token_budget,
                "max_length": options.max_length,
                **self._loading(),
            },
            settings={"checkpointing": options.checkpointing, "processes": options.processes},
            scratch=True,
        )

    def selection(self, name: str) -> Stage:
        """Neuron sets of every rule, selected on a model."""
        from crane_lib.stages.selection import make_selection

        options = self.profile.selection
        return self.store.run(
            f"selection_{name}",
            make_selection,
            inputs={"relevance": self.relevance(name)},
            parameters={
                "languages": self.languages,
                "seed": self.profile.relevance.seeds[0],
                "budget": options.budget,
                "kurtosis_threshold": options.kurtosis_threshold,
                "lape_threshold_quantile": options.lape.threshold_quantile,
                "lape_share": options.lape.share,
                "random_draws": options.random_draws,
                "random_seed": self.profile.random_seed,
            },
        )

    # --- masking ----------------------------------------------------------------------------------------------

    def _common(self, name: str) -> dict[str, Any]:
        """Parameters that every evaluation of a model has."""
        return {
            "profile": self.profile.name,
            "model_name": name,
            "languages": self.languages,
            **self._loading(),
        }

    def _nlu_parameters(self, name: str) -> dict[str, Any]:
        options = self.profile.evaluation
        delimiters = options.target_delimiter
        if name == "chat":
            delimiters = dict.fromkeys(self.languages, options.chat_target_delimiter)
        return {
            "batch_size": options.batch_size,
            "delimiters": delimiters,
            "chat_template": options.chat_template,
            "few_shot": options.few_shot,
            "random_seed": options.random_seed,
            **self._common(name),
        }

    def perplexity(self, name: str) -> Stage:
        """Perplexity of a model under every mask."""
        from crane_lib.stages.masking import make_perplexity

        options = self.profile.relevance
        parameters = {"token_budget": options.token_budget, "max_length": options.max_length, **self._common(name)}
        return self._masking(f"perplexity_{name}", make_perplexity, name, parameters)

    def nlu(self, name: str) -> Stage:
        """Accuracy of a model on the questions under every mask."""
        from crane_lib.stages.masking import make_nlu

        if not self.has_questions:
            raise CraneError(f"profile {self.profile.name}: names no questions; give source.questions its files")
        return self._masking(f"nlu_{name}", make_nlu, name, self._nlu_parameters(name), corpus=self.questions)

    def _masking(
        self,
        stage: str,
        make: Callable[..., None],
        name: str,
        parameters: dict[str, Any],
        *,
        corpus: Stage | None = None,
    ) -> Stage:
        """Evaluate the base model under all base sets; the chat model under the transfer's base sets and its own."""
        inputs = {
            "corpus": corpus or self.corpus,
            "model": self.model(name),
            "selected_on_base": self.selection("base"),
        }
        methods = None
        if name == "chat":
            inputs["selected_on_chat"] = self.selection("chat")
            methods = {"base": list(_TRANSFER_METHODS), "chat": list(_CHAT_METHODS)}
        return self.store.run(stage, make, inputs=inputs, parameters={"methods": methods, **parameters})

    # --- results ----------------------------------------------------------------------------------------------

    def rows(self, name: str) -> pd.DataFrame:
        """Result rows of a model: perplexity, and accuracy where there are questions."""
        stages = [self.perplexity(name)] + ([self.nlu(name)] if self.has_questions else [])
        return pd.concat([read_frame(stage / "rows.csv") for stage in stages], ignore_index=True)

    def all_rows(self) -> pd.DataFrame:
        """Result rows of every model."""
        return pd.concat([self.rows(name) for name in self.model_names], ignore_index=True)

    def unmasked_accuracy(self) -> pd.DataFrame:
        """Accuracy rows of the models as they are."""
        from crane_lib.stages.masking import make_unmasked_nlu

        frames = []
        for name in self.model_names:
            stage = self.store.run(
                f"unmasked_{name}",
                make_unmasked_nlu,
                inputs={"corpus": self.questions, "model": self.model(name)},
                parameters=self._nlu_parameters(name),
            )
            frames.append(read_frame(stage / "rows.csv"))
        return pd.concat(frames, ignore_index=True)


def _file_key(path: Path) -> str:
    """Hash of a file of the user's, or that it is missing (the stage then says so)."""
    from crane_lib.files import sha256

    return sha256(path) if path.is_file() else "missing"


def _folder_key(folder: Path) -> dict[str, str]:
    """Hashes of the files of a folder of the user's; none where it is missing (the stage then says so)."""
    return {str(path.relative_to(folder)): _file_key(path) for path in sorted(folder.rglob("*")) if path.is_file()}
