"""A study: one profile, the folder of its results, and the stages that lead from texts to result rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd
import yaml

from crane_lib.errors import CraneError
from crane_lib.files import sha256, write_text
from crane_lib.methods import METHODS, PUBLISHED, TOP_ROWS
from crane_study.checkpoints import checkpoints_root, file_hashes, find_checkpoint, recipe, take_model
from crane_study.data.corpora import make_embedded_corpus, make_hub_corpus, make_local_corpus
from crane_study.data.partitions import SUBJECTS, make_partitions, part_names
from crane_study.data.wordings import WORDINGS
from crane_study.data.xquad import SUBJECT as XQUAD
from crane_study.data.xquad import content_key, locate_xquad, make_xquad_corpus
from crane_study.fingerprints import Hashes
from crane_study.frames import read_frame
from crane_study.labels import BENCHMARK_LABELS, name_languages
from crane_study.loading.given_models import check_chat_tokenizer, given_directory
from crane_study.measure.benchmarks import BENCHMARKS_FILE, make_benchmarks
from crane_study.measure.judge_endpoint import EndpointJudge, missing_judgings
from crane_study.measure.judgings import Endpoint
from crane_study.measure.steering import language_detector
from crane_study.options import AnswerOptions, DocumentOptions, Loading, MaskChoice, PassOptions, QuestionOptions
from crane_study.paper.lape_list import PUBLISHED_LIST
from crane_study.profile import (
    EmbeddedSource,
    HubSource,
    Knowledge,
    LocalSource,
    Profile,
    XQuad,
    artifacts_root,
    load_profile,
)
from crane_study.publish import keep_not_run
from crane_study.steps.activations import make_activations
from crane_study.steps.confounds import Compared, make_confounds, make_null
from crane_study.steps.controls import ANY, make_control_nlu, make_control_perplexity, make_control_sets
from crane_study.steps.ground_truth import make_ablation, make_neuron_sample, make_whole_sets
from crane_study.steps.heads import make_heads
from crane_study.steps.masks import make_nlu, make_perplexity, make_unmasked_nlu
from crane_study.steps.open_ended import (
    make_answers,
    make_embedded_questions,
    make_endpoint_scores,
    make_file_questions,
    make_offline_scores,
    make_open_scores,
)
from crane_study.steps.relevance import make_relevance
from crane_study.steps.reliability import make_document_reliability, make_reliability, of_documents
from crane_study.steps.selection import make_selection
from crane_study.steps.steering import SteeringOptions, make_steering
from crane_study.store import RECORD, SECTION_VARIABLE, Stage, Store
from crane_study.training import faster_precision, make_base_model, make_chat_model
from crane_study.uncertainty.ground_truth import LEAST_DOCUMENTS
from crane_study.uncertainty.open_ended import score_rows

# The transfer masks fewer sets: the judged methods, LAPE, and random sets like those of the judged methods.
_TRANSFER_METHODS = ["kurtosis", "contrast", "lape", PUBLISHED_LIST, "random_like_kurtosis", "random_like_contrast"]
_CHAT_METHODS = ["kurtosis", "contrast"]
_TRANSFER_DRAWS = 5  # of the random sets; no claim about the chat model depends on them
_FROM_CHAT = MaskChoice(methods={"chat": _CHAT_METHODS}, everything=False)
_ON_CHAT = MaskChoice(methods={"base": _TRANSFER_METHODS, "chat": _CHAT_METHODS}, draws=_TRANSFER_DRAWS)


_WORDINGS = {"wordings": sha256(WORDINGS)}
_BENCHMARKS = {"benchmarks": sha256(BENCHMARKS_FILE)}


def _file_keys(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the hashes of a user's files; a stage that reads a missing one reports it."""
    return {name: sha256(path) if path.is_file() else "missing" for name, path in files.items()}


def _files_in(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


class Study:
    """The stages of one profile in one folder.

    A stage is made when it is first asked for and reused while nothing changes that it depends on. Stages of a model
    take its name: ``base`` or ``chat``.
    """

    def __init__(self, profile: Profile, folder: Path, *, say: Callable[[str], None] = print) -> None:
        self.profile = profile
        self.folder = folder
        self.say = say
        self.store = Store(folder / "stages", say=say)
        self.languages = list(profile.languages)
        name_languages(profile.languages)
        self._hashes = Hashes(folder.parent)
        self._same_vocabulary: set[Path] = set()  # chat models whose tokenizer has been checked

    @classmethod
    def open(
        cls,
        profile: str | os.PathLike[str] | Profile,
        *,
        artifacts: str | os.PathLike[str] | None = None,
        say: Callable[[str], None] = print,
    ) -> Self:
        """Open the study of a profile (a name, a path or a `Profile`); write the resolved profile into its folder."""
        loaded = profile if isinstance(profile, Profile) else load_profile(profile)
        folder = artifacts_root(artifacts) / loaded.name
        resolved = yaml.safe_dump(loaded.resolved(), allow_unicode=True, sort_keys=False)
        path = folder / "profile.yaml"
        if not path.is_file() or path.read_text(encoding="utf-8") != resolved:
            write_text(path, resolved)
        return cls(loaded, folder, say=say)

    # ---- What the study has

    @property
    def trains_model(self) -> bool:
        """Return whether the study trains its models itself."""
        return isinstance(self.profile.source, EmbeddedSource)

    @property
    def has_chat(self) -> bool:
        """Return whether the study has a chat model."""
        return self.profile.has_chat

    @property
    def has_questions(self) -> bool:
        """Return whether the study has multiple-choice questions."""
        source = self.profile.source
        local = isinstance(source, LocalSource) and source.questions is not None
        local = local or (isinstance(source, HubSource) and source.xquad is not None)
        return bool(self.profile.evaluation.tasks) or self.trains_model or local

    @property
    def no_ground_truth(self) -> str:
        """Reason why single neurons are not ablated; empty if they are."""
        if self.profile.ground_truth.documents:
            return ""
        return "the profile sets no documents for it (ground_truth.documents); it takes one pass per neuron"

    @property
    def steered_model(self) -> str:
        """Name of the model that is steered: the chat model where there are open questions for it."""
        return "base" if self.no_open_ended else "chat"

    @property
    def no_steering(self) -> str:
        """Reason why no model is steered; empty if one is."""
        if not self.profile.steering.prompts:
            return "the profile sets no prompts for it (steering.prompts)"
        try:
            language_detector(self.languages)
        except CraneError as error:
            return str(error)
        return ""

    @property
    def no_subjects(self) -> str:
        """Reason why no documents are about one subject each; empty if there are."""
        if isinstance(self.profile.source, EmbeddedSource):
            return ""
        if getattr(self.profile.source, "xquad", None) is not None:
            return "an article of XQuAD has five paragraphs, too few to select on some and to measure on others"
        return "the texts do not say what they are about"

    @property
    def no_open_ended(self) -> str:
        """Reason why there is no open-ended generation; empty if there is."""
        return self.profile.no_open_ended

    @property
    def model_names(self) -> list[str]:
        """Names of the models."""
        return ["base", "chat"] if self.has_chat else ["base"]

    @property
    def measures(self) -> list[str]:
        """Names of the measures."""
        return ["token_probability", "accuracy"] if self.has_questions else ["token_probability"]

    @property
    def objectives(self) -> list[str]:
        """Objectives of the relevance passes; the first one selects."""
        return list(self.profile.relevance.objectives)

    @property
    def budget(self) -> str:
        """Common budget as it is written in result rows."""
        return f"{self.profile.selection.budget:g}"

    @property
    def methods(self) -> dict[str, str]:
        """Names of the selection methods, with the source code of those that are not part of the library."""
        return {name: METHODS[name].code for name in self.profile.selection.methods or METHODS}

    @property
    def listed(self) -> dict[str, Any] | None:
        """Path and languages of the list that LAPE's authors published for the base model; None without one."""
        paper = self.profile.paper
        if paper.lape_list is None or self.profile.rehearsal:
            return None
        return {"path": str(paper.lape_list), "languages": list(paper.lape_list_languages)}

    @property
    def judged_sets(self) -> list[tuple[str, str]]:
        """Method and budget of the sets on which the claims are judged."""
        return [("kurtosis", "published"), ("contrast", self.budget)]

    @property
    def confound_sets(self) -> list[tuple[str, str]]:
        """Methods and budgets of the confounds: kurtosis as published, others at the common budget."""
        chosen = [name for name in self.profile.controls.confound_methods if name in self.methods]
        streamed = [name for name in chosen if not METHODS[name].needs]
        return [(name, PUBLISHED if name == "kurtosis" else self.budget) for name in streamed]

    @property
    def open_sets(self) -> dict[str, list[tuple[str, str]]]:
        """Methods and budgets for open answers: sets of the base model, and of the chat model as in the paper."""
        own, lape = self.judged_sets, ("lape", PUBLISHED)
        random = [(f"random_like_{method}", budget) for method, budget in own]
        return {
            "base": [*own, lape, ("lape", self.budget), *random],
            "chat": [*own, ("kurtosis", TOP_ROWS), lape],
        }

    @property
    def judges(self) -> list[str]:
        """Judges of open answers, the main one first."""
        judge = self.profile.open_ended.judge
        return ["endpoint", "offline"] if judge == "both" else [judge]

    # ---- Options of the steps

    @property
    def _loading(self) -> Loading:
        source = self.profile.source
        trusted = not isinstance(source, EmbeddedSource) and source.trust_remote_code
        return Loading(device=self.profile.device, dtype=self.profile.dtype, trust_remote_code=trusted)

    def _measured(self, name: str, masks: MaskChoice | None = None) -> dict[str, Any]:
        """Fields of every measurement of a model."""
        return {
            "profile": self.profile.name,
            "model_name": name,
            "languages": self.languages,
            "loading": self._loading,
            "masks": masks or MaskChoice(),
        }

    def document_options(
        self, name: str, masks: MaskChoice | None = None, *, documents: int | None = None
    ) -> DocumentOptions:
        """Options for the perplexity of a model, on all documents or on a sample per language."""
        relevance = self.profile.relevance
        return DocumentOptions(
            token_budget=relevance.token_budget,
            max_length=self.profile.evaluation.max_length or relevance.max_length,
            documents=documents,
            random_seed=self.profile.random_seed,
            **self._measured(name, masks),
        )

    def question_options(
        self, name: str, masks: MaskChoice | None = None, *, questions: int | None = None
    ) -> QuestionOptions:
        """Options for the accuracy of a model, on all questions or on a sample per language."""
        evaluation = self.profile.evaluation
        return QuestionOptions(
            batch_size=evaluation.batch_size,
            delimiters=evaluation.target_delimiter,
            chat_template=evaluation.chat_template,
            chat_delimiter=evaluation.chat_target_delimiter,
            few_shot=evaluation.few_shot,
            random_seed=evaluation.random_seed,
            questions=questions,
            sample_seed=self.profile.random_seed,
            **self._measured(name, masks),
        )

    # ---- Stages

    @cached_property
    def corpus(self) -> Stage:
        """Documents and questions."""
        source, random_seed = self.profile.source, self.profile.random_seed
        if isinstance(source, EmbeddedSource):
            return self.store.run(
                "corpus",
                make_embedded_corpus,
                knowledge=source.knowledge.model_dump(),
                random_seed=random_seed,
                sources=_WORDINGS,
                all_threads=True,
            )
        given: dict[str, Any] = {
            name: getattr(source, name) for name in ("relevance_documents", "perplexity_documents")
        }
        if isinstance(source, HubSource) and source.xquad is not None:
            return self._xquad_corpus(source, source.xquad)
        if isinstance(source, HubSource):
            return self.store.run(
                "corpus",
                make_hub_corpus,
                texts={language: text.model_dump(mode="json") for language, text in source.texts.items()},
                sampling=source.sampling.model_dump(),
                sources=_file_keys({language: text.file for language, text in source.texts.items() if text.file}),
                scratch=True,
                all_threads=True,
                **given,
            )
        questions = source.questions or {}
        return self.store.run(
            "corpus",
            make_local_corpus,
            texts={language: str(path) for language, path in source.texts.items()},
            questions={language: str(path) for language, path in questions.items()},
            random_seed=random_seed,
            min_length=source.min_length,
            near_copies=source.near_copies,
            sources={"texts": _file_keys(source.texts), "questions": _file_keys(questions)},
            all_threads=True,
            **given,
        )

    def _xquad_corpus(self, source: HubSource, given: XQuad) -> Stage:
        """Corpus of XQuAD, else of the embedded documents."""
        files, origin = locate_xquad(given, self.languages)
        counts = {name: getattr(source, f"{name}_documents") for name in ("relevance", "perplexity")}
        return self.store.run(
            "corpus",
            make_xquad_corpus,
            files={language: str(path) for language, path in files.items()},
            origin=origin,
            knowledge=Knowledge().model_dump(),
            counts={**counts, **given.model_dump(include={"questions", "knowledge_questions"})},
            random_seed=self.profile.random_seed,
            sources=_WORDINGS | {language: content_key(path) for language, path in files.items()},
        )

    @property
    def questions(self) -> Stage:
        """Stage of the multiple-choice questions: benchmarks if the profile names some, else the corpus."""
        options = self.profile.evaluation
        if not options.tasks:
            return self.corpus
        folders = {language: task.path for language, task in options.tasks.items() if task.path}
        return self.store.run(
            "benchmarks",
            make_benchmarks,
            tasks={language: task.model_dump(mode="json") for language, task in options.tasks.items()},
            few_shot=options.few_shot,
            random_seed=self.profile.random_seed,
            sources=_BENCHMARKS | {language: _file_keys(_files_in(folder)) for language, folder in folders.items()},
        )

    def model(self, name: str) -> Stage:
        """Model: trained here, the user's own directory, or from the hub."""
        source = self.profile.source
        if isinstance(source, EmbeddedSource):
            return self._trained_model(source, name)
        path = given_directory(self.profile, name)
        if name == "chat" and path not in self._same_vocabulary:
            check_chat_tokenizer(self.profile, path)
            self._same_vocabulary.add(path)
        return Stage(f"{name}_model", path, self._hashes.directory(path), True, 0.0)

    @cached_property
    def checkpoint(self) -> str | None:
        """Name of the released checkpoint that holds the models; None if they are trained here."""
        assert isinstance(self.profile.source, EmbeddedSource)
        if self.profile.source.weights == "trained":
            self.say("models: trained here, as asked for (--retrain)")
            return None
        name, told = find_checkpoint(recipe(self.profile, self.corpus.folder))
        self.say(told)
        return name

    @cached_property
    def _training_precision(self) -> str:
        source = self.profile.source
        assert isinstance(source, EmbeddedSource)
        given: dict[str, Any] = {"architecture": source.architecture, "training": source.base, "loading": self._loading}
        return faster_precision(self.folder.parent / ".times", **given, say=self.say)

    def _trained_model(self, source: EmbeddedSource, name: str) -> Stage:
        if self.checkpoint is not None:
            taken: dict[str, Any] = {"checkpoint": self.checkpoint, "model": name}
            taken["sources"] = file_hashes(checkpoints_root() / self.checkpoint, name)
            return self.store.run(f"{name}_model", take_model, **taken)
        given: dict[str, Any] = {"loading": self._loading, "random_seed": self.profile.random_seed, "all_threads": True}
        given["precision"] = self._training_precision
        if name == "chat":
            given |= {"base": self._trained_model(source, "base"), "training": source.chat}
            return self.store.run("chat_model", make_chat_model, corpus=self.corpus, **given)
        given |= {"architecture": source.architecture, "training": source.base}
        return self.store.run("base_model", make_base_model, corpus=self.corpus, **given)

    @property
    def _pass_options(self) -> PassOptions:
        section = self.profile.relevance
        return PassOptions(
            languages=self.languages,
            rule=section.rule,
            objectives=self.objectives,
            token_budget=section.token_budget,
            max_length=section.max_length,
            skip_first_tokens=section.skip_first_tokens,
            loading=self._loading,
        )

    def relevance(self, name: str) -> Stage:
        """Relevance statistics and firing counts of every language on a model."""
        section = self.profile.relevance
        given: dict[str, Any] = {"corpus": self.corpus, "model": self.model(name), "options": self._pass_options}
        given["settings"] = {"checkpointing": section.checkpointing, "processes": section.processes}
        return self.store.run(f"relevance_{name}", make_relevance, **given, scratch=True, all_threads=True)

    def activations(self, name: str) -> Stage | None:
        """Activations of single documents on a model; None if no method of the profile needs them."""
        kinds = sorted({METHODS[method].needs for method in self.methods} - {""})
        if not kinds:
            return None
        given: dict[str, Any] = {"corpus": self.corpus, "model": self.model(name), "options": self._pass_options}
        section = self.profile.selection
        given |= {"documents": section.documents, "kinds": kinds, "gates": section.gates.model_dump(mode="json")}
        return self.store.run(f"activations_{name}", make_activations, **given, all_threads=True)

    def _selecting(self, name: str) -> dict[str, Any]:
        """Inputs of every step that selects neurons of a model."""
        return {
            "relevance": self.relevance(name),
            "languages": self.languages,
            "methods": self.methods,
            "options": self.profile.selection.model_dump(mode="json"),
        }

    def selection(self, name: str) -> Stage:
        """Neuron sets of every method, selected on a model."""
        given: dict[str, Any] = {"objective": self.objectives[0], "random_seed": self.profile.random_seed}
        given |= {"documents": self.activations(name), **self._selecting(name)}
        if name == "base" and self.listed is not None:
            given["options"][PUBLISHED_LIST] = self.listed
            given["sources"] = _file_keys({PUBLISHED_LIST: Path(self.listed["path"])})
        return self.store.run(f"selection_{name}", make_selection, **given, all_threads=True)

    def reliability(self) -> Stage:
        """Overlap of the sets of disjoint parts of the documents, on the base model."""
        given: dict[str, Any] = {"objective": self.objectives[0], **self._selecting("base")}
        streamed = self.store.run("reliability", make_reliability, **given)
        if not of_documents(self.methods):
            return streamed
        given |= {"streamed": streamed, "documents": self.activations("base")}
        return self.store.run("reliability_documents", make_document_reliability, **given)

    def _selected(self, name: str) -> dict[str, Any]:
        """Sets that a model is masked with: those of the base model, and the chat model's for the chat model."""
        return {f"selected_on_{own}": self.selection(own) for own in self.model_names[: 1 + (name == "chat")]}

    def _measured_stage(
        self, stage: str, make: Callable[..., None], options: DocumentOptions | QuestionOptions, **given: Any
    ) -> Stage:
        """Run a step that measures a model on the documents or on the questions."""
        asked = isinstance(options, QuestionOptions)
        given |= {"corpus": self.questions if asked else self.corpus, "sources": _BENCHMARKS if asked else None}
        return self.store.run(stage, make, model=self.model(options.model_name), options=options, **given)

    def perplexity(self, name: str) -> Stage:
        """Perplexity of a model under every mask."""
        sample = self.profile.evaluation.documents
        options = self.document_options(name, _ON_CHAT if name == "chat" else None, documents=sample)
        given = self._selected(name)
        return self._measured_stage(f"perplexity_{name}", make_perplexity, options, **given, scratch=True)

    def nlu(self, name: str) -> Stage:
        """Accuracy of a model on the questions under every mask."""
        if not self.has_questions:
            raise CraneError(f"profile {self.profile.name}: names no questions; give source.questions its files")
        evaluation = self.profile.evaluation
        masks = _ON_CHAT if name == "chat" else MaskChoice(draws=evaluation.question_draws)
        options = self.question_options(name, masks, questions=evaluation.questions)
        return self._measured_stage(f"nlu_{name}", make_nlu, options, **self._selected(name), scratch=True)

    def back_transfer(self) -> list[Stage]:
        """Perplexity of the base model under the chat model's sets, and accuracy if there are questions."""
        given: dict[str, Any] = {"selected_on_chat": self.selection("chat"), "scratch": True}
        documents = self.document_options("base", _FROM_CHAT, documents=self.profile.evaluation.documents)
        stages = [self._measured_stage("perplexity_back", make_perplexity, documents, **given)]
        if self.has_questions:
            questions = self.question_options("base", _FROM_CHAT, questions=self.profile.evaluation.questions)
            stages.append(self._measured_stage("nlu_back", make_nlu, questions, **given))
        return stages

    def _unmasked_nlu(self, name: str) -> Stage:
        return self._measured_stage(f"unmasked_{name}", make_unmasked_nlu, self.question_options(name))

    @property
    def control_sets(self) -> Stage:
        """Sets of every method at every budget of the dose-response, random controls, variants of the methods."""
        return self.store.run(
            "control_sets",
            make_control_sets,
            objectives=self.objectives,
            controls=self.profile.controls.model_dump(include={"budgets", "draws", "ablation"}, mode="json"),
            random_seed=self.profile.random_seed,
            documents=self.activations("base"),
            **self._selecting("base"),
        )

    def control_perplexity(self) -> Stage:
        """Perplexity of the base model under the control sets, on sampled documents."""
        options = self.document_options("base", documents=self.profile.controls.documents)
        given: dict[str, Any] = {"sets": self.control_sets, "scratch": True}
        return self._measured_stage("control_perplexity", make_control_perplexity, options, **given)

    def control_nlu(self) -> Stage:
        """Accuracy of the base model under the control sets, on sampled questions."""
        section = self.profile.controls
        asked = section.question_methods or self.methods
        masks = MaskChoice(
            budgets=[*(f"{budget:g}" for budget in section.question_budgets), ANY],
            without=tuple(name for name in self.methods if name not in asked),
        )
        options = self.question_options("base", masks, questions=section.questions)
        return self._measured_stage("control_nlu", make_control_nlu, options, sets=self.control_sets, scratch=True)

    @property
    def _confounded(self) -> dict[str, Any]:
        """Inputs of the steps on confounds."""
        section = self.profile.controls
        return {
            "model": self.model("base"),
            "relevance": self.relevance("base"),
            "compared": Compared(
                sets=self.confound_sets,
                selection=self.profile.selection.model_dump(mode="json"),
                objective=self.objectives[0],
            ),
            "options": self.document_options("base", documents=section.confound_documents or section.documents),
        }

    def confounds(self) -> Stage:
        """Perplexity of the base model with other values in the place of zeros, and on changed texts."""
        given: dict[str, Any] = {"corpus": self.corpus, "passes": self._pass_options, **self._confounded}
        return self.store.run("confounds", make_confounds, **given, scratch=True)

    def null(self) -> Stage:
        """Perplexity of the base model under sets that were selected for parts of one language's documents."""
        given: dict[str, Any] = {"corpus": self.corpus, "random_seed": self.profile.random_seed}
        partitions = self.store.run("partitions", make_partitions, **given, sources=_WORDINGS)
        given = {"partitions": partitions, **self._confounded}
        if not self.no_subjects:
            names = [name for code in self.languages for name in part_names(partitions.folder, code, kind=SUBJECTS)]
            options = replace(self._pass_options, languages=names, objectives=self.objectives[:1])
            passes: dict[str, Any] = {"corpus": partitions, "model": self.model("base"), "options": options}
            given["subjects"] = self.store.run("relevance_subjects", make_relevance, **passes, scratch=True)
        return self.store.run("null", make_null, **given, scratch=True)

    def heads(self) -> Stage:
        """Perplexity of the base model under masks of neurons and of attention heads of as many weights."""
        section = self.profile.controls
        given: dict[str, Any] = {"relevance": self.relevance("base"), "objective": self.objectives[0]}
        options = self.document_options("base", documents=section.documents)
        return self._measured_stage("heads", make_heads, options, **given, draws=section.draws, scratch=True)

    @property
    def _ablated(self) -> DocumentOptions:
        section = self.profile.ground_truth
        options = self.document_options("base", documents=max(LEAST_DOCUMENTS, section.documents))
        return replace(options, max_length=min(options.max_length, section.max_length or options.max_length))

    def neuron_sample(self) -> Stage:
        """Random sample of the base model's neurons, which are then ablated one by one."""
        return self.store.run(
            "neuron_sample",
            make_neuron_sample,
            relevance=self.relevance("base"),
            selection=self.selection("base"),
            objective=self.objectives[0],
            languages=self.languages,
            budget=self.budget,
            options={"sample": self.profile.ground_truth.sample, "random_seed": self.profile.random_seed},
        )

    def single_effects(self) -> Stage:
        """Effect of single neurons, all or a random sample, on a sample of the held-out documents."""
        given: dict[str, Any] = {"scratch": True}
        if self.profile.ground_truth.sample is not None:
            given["sample"] = self.neuron_sample()
        return self._measured_stage("ablation", make_ablation, self._ablated, **given)

    def whole_sets(self) -> Stage:
        """Perplexity of the same documents under whole sets."""
        given: dict[str, Any] = {"selection": self.selection("base"), "budget": self.budget}
        return self._measured_stage("ground_truth", make_whole_sets, self._ablated, **given)

    def steering(self) -> Stage:
        """Answers of the model that is steered towards every language, and what they are worth: answers.parquet."""
        name, relevance, section = self.steered_model, self.profile.relevance, self.profile.steering
        settings = section.model_dump(mode="json") | {"budget": section.budget or self.profile.selection.budget}
        options = SteeringOptions(
            settings=settings,
            objective=self.objectives[0],
            parallel=name == "chat" or getattr(self.profile.source, "xquad", None) is not None,
            repetition_penalty=self.profile.open_ended.repetition_penalty,
            batch_size=self.profile.open_ended.batch_size,
            token_budget=relevance.token_budget,
            max_length=relevance.max_length,
            skip_first_tokens=relevance.skip_first_tokens,
            random_seed=self.profile.random_seed,
            **self._measured(name),
        )
        given: dict[str, Any] = {"corpus": self.corpus, "model": self.model(name), "relevance": self.relevance(name)}
        if name == "chat":
            given["questions"] = self.open_questions
        return self.store.run(f"steering_{name}", make_steering, **given, options=options, scratch=True)

    @cached_property
    def open_questions(self) -> Stage:
        """Open questions, and the answers that are known."""
        if self.no_open_ended:
            raise CraneError(f"profile {self.profile.name}: {self.no_open_ended}")
        options = self.profile.open_ended
        given: dict[str, Any]
        if options.questions is not None:
            given = {"questions": {language: str(path) for language, path in options.questions.items()}}
            return self.store.run("open_questions", make_file_questions, **given, sources=_file_keys(options.questions))
        given = {"count": options.embedded_questions, "random_seed": self.profile.random_seed, "sources": _WORDINGS}
        return self.store.run("open_questions", make_embedded_questions, corpus=self.corpus, **given)

    def open_answers(self) -> Stage:
        """Answers of the chat model to the open questions under every mask."""
        section = self.profile.open_ended
        options = AnswerOptions(
            sets=self.open_sets,
            random_draws=section.random_draws,
            max_new_tokens=section.max_new_tokens,
            repetition_penalty=section.repetition_penalty,
            batch_size=section.batch_size,
            **self._measured("chat"),
        )
        given = {"questions": self.open_questions, "model": self.model("chat"), **self._selected("chat")}
        return self.store.run("open_answers", make_answers, **given, options=options, scratch=True)

    def judged(self, judge: str) -> Stage:
        """Answers as one of the judges scored them: items.parquet."""
        if judge == "offline":
            given: dict[str, Any] = {"corpus": self.corpus, "questions": self.open_questions, "sources": _WORDINGS}
            return self.store.run("open_scores_offline", make_offline_scores, answers=self.open_answers(), **given)
        options, endpoint = self.profile.open_ended, Endpoint.from_environment()
        cache = self.folder.parent / "judge_cache"
        if not (self.folder / "stages" / "open_answers" / RECORD).is_file():
            EndpointJudge(endpoint, cache).check()  # fails before hours of answers
        return self.store.run(
            "open_scores_endpoint",
            make_endpoint_scores,
            answers=self.open_answers(),
            judgings=options.judgings,
            endpoint_model=endpoint.model,
            sources={"endpoint": endpoint.url},
            # The cache is shared by all runs: answers that were paid for outlive --fresh and serve every profile.
            settings={"concurrency": options.concurrency, "cache": cache},
        )

    def open_scores(self) -> Stage:
        """Judged answers: rows.csv, items.parquet, and agreement.csv if there are two judges."""

        # The main judge last: if an endpoint fails, the offline scores are kept.
        judged: dict[str, Any] = {judge: self.judged(judge) for judge in reversed(self.judges)}
        if "endpoint" in judged:
            items = read_frame(judged["endpoint"] / "items.parquet")
            if missing := missing_judgings(items, wanted=self.profile.open_ended.judgings):
                keep_not_run(self.folder, os.environ.get(SECTION_VARIABLE) or "05", what="judgings", reason=missing)
                print(f"MISSING: {missing}")
        return self.store.run("open_scores", make_open_scores, **judged, judges=self.judges)

    def evaluate_masks(self) -> list[Stage]:
        """Run every stage that measures a model under masks, as far as the profile allows."""
        stages = [self.perplexity(name) for name in self.model_names]
        stages += [self.control_perplexity(), self.confounds(), self.null(), self.heads()]
        if self.has_questions:
            stages += [self.nlu(name) for name in self.model_names] + [self.control_nlu()]
        if self.has_chat:
            stages += self.back_transfer()
        return stages if self.no_open_ended else [*stages, self.open_answers()]

    # ---- Results

    def rows(self, name: str) -> pd.DataFrame:
        """Result rows of a model: perplexity, and accuracy if there are questions."""
        stages = [self.perplexity(name)] + ([self.nlu(name)] if self.has_questions else [])
        return pd.concat([read_frame(stage / "rows.csv") for stage in stages], ignore_index=True)

    def _with_back(self, frames: list[pd.DataFrame], file: str) -> pd.DataFrame:
        """Append a file of each stage of the back transfer, without the unmasked model, which other stages have."""
        files = [stage / file for stage in self.back_transfer()] if self.has_chat else []
        back = [read_frame(path) for path in files if path.is_file()]
        return pd.concat([*frames, *(frame[frame["method"] != "none"] for frame in back)], ignore_index=True)

    def documents(self, name: str) -> pd.DataFrame:
        """NLL of every document under every set that a model is masked with, its own and the other model's."""
        frame = read_frame(self.perplexity(name) / "documents.parquet")
        return self._with_back([frame], "documents.parquet") if name == "base" else frame

    def items(self, name: str) -> pd.DataFrame:
        """Every question under every set that a model is masked with, its own and the other model's."""
        frame = read_frame(self.nlu(name) / "items.parquet")
        return self._with_back([frame], "items.parquet") if name == "base" else frame

    def all_rows(self) -> pd.DataFrame:
        """Result rows of every model, under its own sets and the other model's."""
        return self._with_back([self.rows(name) for name in self.model_names], "rows.csv")

    def unmasked_accuracy(self) -> pd.DataFrame:
        """Accuracy rows of the unmasked models."""
        frames = [read_frame(self._unmasked_nlu(name) / "rows.csv") for name in self.model_names]
        return pd.concat(frames, ignore_index=True)

    def unmasked_items(self) -> pd.DataFrame:
        """Every question to the unmasked models, with its benchmark."""
        frames = [read_frame(self._unmasked_nlu(name) / "items.parquet") for name in self.model_names]
        return self.with_benchmark(pd.concat(frames, ignore_index=True))

    def with_benchmark(self, items: pd.DataFrame) -> pd.DataFrame:
        """Items with the name of the benchmark that each question is from."""
        if self.profile.evaluation.tasks:
            named = {language: BENCHMARK_LABELS[task.name] for language, task in self.profile.evaluation.tasks.items()}
            return items.assign(benchmark=items["language"].map(named))
        other = "Own questions" if isinstance(self.profile.source, LocalSource) else "CLDR facts"
        return items.assign(benchmark=items["subject"].map(lambda subject: "XQuAD" if subject == XQUAD else other))

    def open_rows(self) -> pd.DataFrame:
        """Result rows of open-ended generation: mean scores of every judge."""
        return read_frame(self.open_scores() / "rows.csv")

    def open_items(self) -> pd.DataFrame:
        """Answers as the main judge scored them."""
        items = read_frame(self.open_scores() / "items.parquet")
        return items[items["judge"] == self.judges[0]].reset_index(drop=True)

    def judge_rows(self, judge: str) -> pd.DataFrame:
        """Result rows of one judge, independent of the other."""
        return score_rows(read_frame(self.judged(judge) / "items.parquet"), main=self.judges[0])
