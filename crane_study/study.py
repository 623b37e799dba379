"""A profile and the folder of its results: what every step of a study knows."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd
import yaml

from crane_lib.errors import CraneError
from crane_lib.files import sha256, write_text
from crane_study.frames import read_frame
from crane_study.profile import EmbeddedSource, HubModel, HubSource, LocalSource, Profile, artifacts_root, load_profile
from crane_study.store import Hashes, Stage, Store
from crane_study.uncertainty.ground_truth import LEAST_DOCUMENTS


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
    def objectives(self) -> list[str]:
        """Seeds of the relevance pass, the one that selects first."""
        return list(self.profile.relevance.objectives)

    @property
    def budget(self) -> str:
        """The common budget, as it stands in result rows."""
        return f"{self.profile.selection.budget:g}"

    @property
    def methods(self) -> dict[str, str]:
        """Names of the selection methods, with the source code of those that are not part of the library."""
        from crane_lib.methods import METHODS

        return {name: METHODS[name].code for name in self.profile.selection.methods or METHODS}

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


def file_key(path: Path) -> str:
    """Hash of a file of the user's, or that it is missing (the stage then says so)."""
    return sha256(path) if path.is_file() else "missing"


def folder_key(folder: Path) -> dict[str, str]:
    """Hashes of the files of a folder of the user's; none where it is missing (the stage then says so)."""
    return {str(path.relative_to(folder)): file_key(path) for path in sorted(folder.rglob("*")) if path.is_file()}


class Models(StudyBase):
    """Texts, questions and models: trained here, the user's own, or published ones."""

    @cached_property
    def corpus(self) -> Stage:
        """Documents and questions."""
        source = self.profile.source
        if isinstance(source, EmbeddedSource):
            from crane_study.data.corpora import make_embedded_corpus

            return self.store.run(
                "corpus",
                make_embedded_corpus,
                parameters={"knowledge": source.knowledge.model_dump(), "random_seed": self.profile.random_seed},
                all_threads=True,
            )
        if isinstance(source, HubSource):
            return self._hub_corpus(source)
        from crane_study.data.corpora import make_local_corpus

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
            sources={name: file_key(path) for name, path in files.items()},
            all_threads=True,
        )

    def _hub_corpus(self, source: HubSource) -> Stage:
        from crane_study.data.corpora import make_hub_corpus

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
            sources={language: file_key(text.file) for language, text in source.texts.items() if text.file},
            scratch=True,
            all_threads=True,
        )

    @property
    def questions(self) -> Stage:
        """The stage whose questions are asked: the benchmarks', where the profile names some, else the corpus's."""
        options = self.profile.evaluation
        if not options.tasks:
            return self.corpus
        from crane_study.measure.benchmarks import make_benchmarks

        tasks = {language: task.model_dump(mode="json") for language, task in options.tasks.items()}
        return self.store.run(
            "benchmarks",
            make_benchmarks,
            parameters={"tasks": tasks, "few_shot": options.few_shot},
            sources={language: folder_key(task.path) for language, task in options.tasks.items() if task.path},
        )

    def model(self, name: str) -> Stage:
        """The ``base`` or ``chat`` model: trained, or the user's own directory."""
        source = self.profile.source
        if not isinstance(source, EmbeddedSource):
            return self._given_model(source, name)
        return self._base_model if name == "base" else self._chat_model

    @cached_property
    def _hashes(self) -> Hashes:
        return Hashes(self.folder.parent)

    def _given_model(self, source: LocalSource | HubSource, name: str) -> Stage:
        path = self._directory(source, name)
        if name == "chat":
            self._check_chat_tokenizer(source, path)
        return Stage(f"{name}_model", path, self._hashes.directory(path), True, 0.0)

    def _directory(self, source: LocalSource | HubSource, name: str) -> Path:
        """Directory of a given model, fetched where it is not there yet."""
        from crane_lib.models import check_model_directory

        given = source.base_model if name == "base" else source.chat_model
        if given is None:
            raise CraneError(f"profile {self.profile.name}: names no {name} model")
        if isinstance(given, HubModel):
            from crane_study.hub import model_directory_of

            path = model_directory_of(given.id, revision=given.revision, trust_remote_code=source.trust_remote_code)
        else:
            path = given
        check_model_directory(path)
        return path

    def _check_chat_tokenizer(self, source: LocalSource | HubSource, chat: Path) -> None:
        """Hold the chat model's tokens against the base model's, once a study."""
        if chat in self._compared:
            return
        from crane_lib.models import check_same_vocabulary

        given = [source.base_model, source.chat_model]
        base_name, chat_name = (model.id if isinstance(model, HubModel) else str(model) for model in given)
        check_same_vocabulary(
            self._directory(source, "base"),
            chat,
            names=(base_name, chat_name),
            trust_remote_code=source.trust_remote_code,
        )
        self._compared.add(chat)

    @cached_property
    def _compared(self) -> set[Path]:
        return set()

    @cached_property
    def _base_model(self) -> Stage:
        from crane_study.training import make_base_model

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
                "dtype": self.profile.dtype,
            },
            all_threads=True,
        )

    @cached_property
    def _chat_model(self) -> Stage:
        from crane_study.training import make_chat_model

        return self.store.run(
            "chat_model",
            make_chat_model,
            inputs={"corpus": self.corpus, "base": self._base_model},
            parameters={
                "training": self._embedded().chat.model_dump(),
                "device": self.profile.device,
                "random_seed": self.profile.random_seed,
                "dtype": self.profile.dtype,
            },
            all_threads=True,
        )

    def _embedded(self) -> EmbeddedSource:
        if not isinstance(self.profile.source, EmbeddedSource):
            raise CraneError(f"profile {self.profile.name}: has a local source, nothing is trained")
        return self.profile.source


class RelevanceAndSelection(Models):
    """Statistics of every language on a model, and neuron sets of every rule."""

    def relevance(self, name: str) -> Stage:
        """Relevance statistics and firing counts of every language on a model."""
        from crane_study.steps.relevance import make_relevance

        options = self.profile.relevance
        return self.store.run(
            f"relevance_{name}",
            make_relevance,
            inputs={"corpus": self.corpus, "model": self.model(name)},
            parameters={
                "languages": self.languages,
                "rule": options.rule,
                "objectives": list(options.objectives),
                "token_budget": options.token_budget,
                "max_length": options.max_length,
                **self._loading(),
            },
            settings={"checkpointing": options.checkpointing, "processes": options.processes},
            scratch=True,
            all_threads=True,
        )

    def selection(self, name: str) -> Stage:
        """Neuron sets of every rule, selected on a model."""
        from crane_study.steps.selection import make_selection

        return self.store.run(
            f"selection_{name}",
            make_selection,
            inputs={"relevance": self.relevance(name)},
            parameters={
                "languages": self.languages,
                "objective": self.profile.relevance.objectives[0],
                "methods": self.methods,
                "options": self.profile.selection.model_dump(mode="json"),
                "random_seed": self.profile.random_seed,
            },
            all_threads=True,
        )


# The transfer study masks fewer sets: the judged rules, LAPE, and random sets like the judged rules'.
_TRANSFER_METHODS = ("kurtosis", "contrast", "lape", "random_like_kurtosis", "random_like_contrast")
_CHAT_METHODS = ("kurtosis", "contrast")
_TRANSFER_DRAWS = 5  # of the random sets, which no claim about the chat model rests on


class Masking(RelevanceAndSelection):
    """Every model under every set, and the result rows of that."""

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
        return {
            "batch_size": options.batch_size,
            "delimiters": options.target_delimiter,
            "chat_template": options.chat_template,
            "chat_delimiter": options.chat_target_delimiter,
            "few_shot": options.few_shot,
            "random_seed": options.random_seed,
            **self._common(name),
        }

    def perplexity(self, name: str) -> Stage:
        """Perplexity of a model under every mask."""
        from crane_study.steps.masks import make_perplexity

        options = self.profile.relevance
        parameters = {"token_budget": options.token_budget, "max_length": options.max_length, **self._common(name)}
        return self._masking(f"perplexity_{name}", make_perplexity, name, parameters)

    def nlu(self, name: str) -> Stage:
        """Accuracy of a model on the questions under every mask."""
        from crane_study.steps.masks import make_nlu

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
        chosen: dict[str, Any] = {"methods": None}
        if name == "chat":
            inputs["selected_on_chat"] = self.selection("chat")
            methods = {"base": list(_TRANSFER_METHODS), "chat": list(_CHAT_METHODS)}
            chosen = {"methods": methods, "draws": _TRANSFER_DRAWS}
        return self.store.run(stage, make, inputs=inputs, parameters={**chosen, **parameters}, scratch=True)

    def _back(self, stage: str, make: Callable[..., None], parameters: dict[str, Any], *, corpus: Stage) -> Stage:
        """Evaluate the base model under the sets selected on the chat model."""
        inputs = {"corpus": corpus, "model": self.model("base"), "selected_on_chat": self.selection("chat")}
        methods = {"chat": list(_CHAT_METHODS)}
        return self.store.run(stage, make, inputs=inputs, parameters={"methods": methods, **parameters}, scratch=True)

    def back_transfer(self) -> list[Stage]:
        """Perplexity of the base model under the chat model's sets, and accuracy where there are questions."""
        from crane_study.steps.masks import make_nlu, make_perplexity

        options = self.profile.relevance
        parameters = {"token_budget": options.token_budget, "max_length": options.max_length, **self._common("base")}
        stages = [self._back("perplexity_back", make_perplexity, parameters, corpus=self.corpus)]
        if self.has_questions:
            stages.append(self._back("nlu_back", make_nlu, self._nlu_parameters("base"), corpus=self.questions))
        return stages

    def rows(self, name: str) -> pd.DataFrame:
        """Result rows of a model: perplexity, and accuracy where there are questions."""
        stages = [self.perplexity(name)] + ([self.nlu(name)] if self.has_questions else [])
        return pd.concat([read_frame(stage / "rows.csv") for stage in stages], ignore_index=True)

    def documents(self, name: str) -> pd.DataFrame:
        """NLL of every document under every set that a model is masked with, its own and the other model's."""
        return self._all_masks(name, self.perplexity(name), file="documents.parquet", back=0)

    def items(self, name: str) -> pd.DataFrame:
        """Every question under every set that a model is masked with, its own and the other model's."""
        return self._all_masks(name, self.nlu(name), file="items.parquet", back=1)

    def _all_masks(self, name: str, stage: Stage, *, file: str, back: int) -> pd.DataFrame:
        """A file of a stage; the base model's with the chat model's sets, too (stage `back` of that transfer)."""
        frame = read_frame(stage / file)
        if name != "base" or not self.has_chat:
            return frame
        other = read_frame(self.back_transfer()[back] / file)
        return pd.concat(
            [frame, other[other["method"] != "none"]], ignore_index=True
        )  # unmasked they are there already

    def all_rows(self) -> pd.DataFrame:
        """Result rows of every model, under its own sets and the other one's."""
        frames = [self.rows(name) for name in self.model_names]
        if self.has_chat:
            back = [read_frame(stage / "rows.csv") for stage in self.back_transfer()]
            frames += [rows[rows["method"] != "none"] for rows in back]  # unmasked they are there already
        return pd.concat(frames, ignore_index=True)

    def unmasked_accuracy(self) -> pd.DataFrame:
        """Accuracy rows of the models as they are."""
        from crane_study.steps.masks import make_unmasked_nlu

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


class Controls(Masking):
    """The base model under the control sets, on sampled documents and questions."""

    @property
    def control_sets(self) -> Stage:
        """Sets of every method at every budget of the dose-response, random controls, variants of the rules."""
        from crane_study.steps.controls import make_control_sets

        return self.store.run(
            "control_sets",
            make_control_sets,
            inputs={"relevance": self.relevance("base")},
            parameters={
                "languages": self.languages,
                "objectives": self.objectives,
                "methods": self.methods,
                "selection": self.profile.selection.model_dump(include={"budget", "random_draws"}),
                "controls": self.profile.controls.model_dump(include={"budgets", "draws", "ablation"}, mode="json"),
                "random_seed": self.profile.random_seed,
            },
        )

    def control_perplexity(self) -> Stage:
        """Perplexity of the base model under the control sets, on sampled documents."""
        from crane_study.steps.controls import make_control_perplexity

        options = self.profile.relevance
        return self.store.run(
            "control_perplexity",
            make_control_perplexity,
            inputs={"corpus": self.corpus, "model": self.model("base"), "sets": self.control_sets},
            parameters={
                "documents": self.profile.controls.documents,
                "token_budget": options.token_budget,
                "max_length": options.max_length,
                "random_seed": self.profile.random_seed,
                **self._common("base"),
            },
            scratch=True,
        )

    def control_nlu(self) -> Stage:
        """Accuracy of the base model under the control sets, on sampled questions."""
        from crane_study.steps.controls import ANY, make_control_nlu

        options = self.profile.controls
        return self.store.run(
            "control_nlu",
            make_control_nlu,
            inputs={"corpus": self.questions, "model": self.model("base"), "sets": self.control_sets},
            parameters={
                "questions": options.questions,
                "budgets": [*(f"{budget:g}" for budget in options.question_budgets), ANY],
                "sample_seed": self.profile.random_seed,
                **self._nlu_parameters("base"),
            },
            scratch=True,
        )


class GroundTruth(Masking):
    """The base model without one neuron at a time."""

    @property
    def no_ground_truth(self) -> str:
        """Why single neurons are not ablated, empty where they are."""
        if self.profile.ground_truth.documents == 0:
            return "the profile names no documents for it (ground_truth.documents); it takes a pass a neuron"
        return ""

    @property
    def _ablated(self) -> dict[str, Any]:
        """Parameters of the sample of documents, and of the model."""
        options = self.profile.relevance
        return {
            "documents": max(LEAST_DOCUMENTS, self.profile.ground_truth.documents),
            "token_budget": options.token_budget,
            "max_length": options.max_length,
            "random_seed": self.profile.random_seed,
            "languages": self.languages,
            **self._loading(),
        }

    def single_effects(self) -> Stage:
        """Effect of every single neuron on a sample of the held-out documents."""
        from crane_study.steps.ground_truth import make_ablation

        inputs = {"corpus": self.corpus, "model": self.model("base")}
        return self.store.run("ablation", make_ablation, inputs=inputs, parameters=self._ablated, scratch=True)

    def whole_sets(self) -> Stage:
        """Perplexity of the same documents under whole sets."""
        from crane_study.steps.ground_truth import make_whole_sets

        return self.store.run(
            "ground_truth",
            make_whole_sets,
            inputs={"corpus": self.corpus, "model": self.model("base"), "selection": self.selection("base")},
            parameters={
                "profile": self.profile.name,
                "model_name": "base",
                "budget": self.budget,
                **self._ablated,
            },
        )


class OpenEnded(RelevanceAndSelection):
    """Answers of the chat model under every mask, and what the judges say about them."""

    @property
    def no_open_ended(self) -> str:
        """Why there is no open-ended generation, empty where there is."""
        return self.profile.no_open_ended

    @property
    def open_sets(self) -> dict[str, list[tuple[str, str]]]:
        """Methods and budgets that the chat model answers under: the base model's sets, and its own as in the paper."""
        from crane_lib.methods import PUBLISHED
        from crane_study.steps.selection import TOP_SHARE

        random = [(f"random_like_{method}", budget) for method, budget in self.judged_sets]
        return {
            "base": [*self.judged_sets, ("lape", "published"), ("lape", self.budget), *random],
            "chat": [*self.judged_sets, ("kurtosis", f"{TOP_SHARE:g}"), ("lape", PUBLISHED)],
        }

    @property
    def judges(self) -> list[str]:
        """Judges of open answers, the main one first."""
        judge = self.profile.open_ended.judge
        return ["endpoint", "offline"] if judge == "both" else [judge]

    @cached_property
    def open_questions(self) -> Stage:
        """Open questions, and the answers that are known."""
        from crane_study.steps.open_ended import make_embedded_questions, make_file_questions

        if self.no_open_ended:
            raise CraneError(f"profile {self.profile.name}: {self.no_open_ended}")
        options = self.profile.open_ended
        if options.questions is None:
            return self.store.run(
                "open_questions",
                make_embedded_questions,
                inputs={"corpus": self.corpus},
                parameters={"count": options.embedded_questions, "random_seed": self.profile.random_seed},
            )
        return self.store.run(
            "open_questions",
            make_file_questions,
            parameters={"questions": {language: str(path) for language, path in options.questions.items()}},
            sources={language: file_key(path) for language, path in options.questions.items()},
        )

    def open_answers(self) -> Stage:
        """Answers of the chat model to the open questions under every mask."""
        from crane_study.steps.open_ended import make_answers

        options = self.profile.open_ended
        return self.store.run(
            "open_answers",
            make_answers,
            inputs={
                "questions": self.open_questions,
                "model": self.model("chat"),
                "selected_on_base": self.selection("base"),
                "selected_on_chat": self.selection("chat"),
            },
            parameters={
                "profile": self.profile.name,
                "model_name": "chat",
                "sets": self.open_sets,
                "random_draws": options.random_draws,
                "max_new_tokens": options.max_new_tokens,
                "repetition_penalty": options.repetition_penalty,
                "batch_size": options.batch_size,
                **self._loading(),
            },
            scratch=True,
        )

    def judged(self, judge: str) -> Stage:
        """Answers as one of the judges scored them: items.parquet."""
        from crane_study.measure.judge_endpoint import Endpoint
        from crane_study.steps.open_ended import make_endpoint_scores, make_offline_scores

        if judge == "offline":
            inputs = {"corpus": self.corpus, "questions": self.open_questions, "answers": self.open_answers()}
            return self.store.run("open_scores_offline", make_offline_scores, inputs=inputs)
        options, endpoint = self.profile.open_ended, Endpoint.from_environment()  # before hours of answers
        return self.store.run(
            "open_scores_endpoint",
            make_endpoint_scores,
            inputs={"answers": self.open_answers()},
            parameters={"judgings": options.judgings, "endpoint_model": endpoint.model},
            sources={"endpoint": endpoint.url},
            # Beside the runs, not in one: answers that were paid for outlive --fresh and serve every profile.
            settings={"concurrency": options.concurrency, "cache": self.folder.parent / "judge_cache"},
        )

    def open_scores(self) -> Stage:
        """Judged answers: rows.csv, items.parquet, and agreement.csv where two judges judged."""
        from crane_study.steps.open_ended import make_open_scores

        # The main judge last: where an endpoint fails, what was judged here is kept.
        judged = {judge: self.judged(judge) for judge in reversed(self.judges)}
        return self.store.run("open_scores", make_open_scores, inputs=judged, parameters={"judges": self.judges})

    def open_rows(self) -> pd.DataFrame:
        """Result rows of open-ended generation: mean scores of every judge."""
        return read_frame(self.open_scores() / "rows.csv")

    def open_items(self) -> pd.DataFrame:
        """Answers as the study's main judge scored them."""
        items = read_frame(self.open_scores() / "items.parquet")
        return items[items["judge"] == self.judges[0]].reset_index(drop=True)

    def judge_rows(self, judge: str) -> pd.DataFrame:
        """Result rows of one judge, whatever became of the other."""
        from crane_study.uncertainty.open_ended import score_rows

        return score_rows(read_frame(self.judged(judge) / "items.parquet"), main=self.judges[0])


class Study(Controls, OpenEnded, GroundTruth):
    """One profile's stages in one folder."""

    def evaluate_masks(self) -> list[Stage]:
        """Every stage that evaluates a model under masks, as far as the profile has what it takes."""
        stages = [self.perplexity(name) for name in self.model_names] + [self.control_perplexity()]
        if self.has_questions:
            stages += [self.nlu(name) for name in self.model_names] + [self.control_nlu()]
        if self.has_chat:
            stages += self.back_transfer()
        return stages if self.no_open_ended else [*stages, self.open_answers()]
