"""First step of a study: texts, questions and models."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from crane_lib.errors import CraneError
from crane_lib.pipeline.hashes import Hashes
from crane_lib.pipeline.store import Stage
from crane_lib.profile_hub import HubModel, HubSource
from crane_lib.profile_options import EmbeddedSource, LocalSource
from crane_lib.study.base import StudyBase
from crane_lib.study.sources import file_key, folder_key


class Models(StudyBase):
    """Texts, questions and models: trained here, the user's own, or published ones."""

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
                all_threads=True,
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
            sources={name: file_key(path) for name, path in files.items()},
            all_threads=True,
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
        from crane_lib.stages.benchmarks import make_benchmarks

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
        from crane_lib.models.loading import check_model_directory

        given = source.base_model if name == "base" else source.chat_model
        if given is None:
            raise CraneError(f"profile {self.profile.name}: names no {name} model")
        if isinstance(given, HubModel):
            from crane_lib.models.hub import model_directory_of

            path = model_directory_of(given.id, revision=given.revision, trust_remote_code=source.trust_remote_code)
        else:
            path = given
        check_model_directory(path)
        return path

    def _check_chat_tokenizer(self, source: LocalSource | HubSource, chat: Path) -> None:
        """Hold the chat model's tokens against the base model's, once a study."""
        if chat in self._compared:
            return
        from crane_lib.models.fit import check_same_vocabulary

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
                "dtype": self.profile.dtype,
            },
            all_threads=True,
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
                "dtype": self.profile.dtype,
            },
            all_threads=True,
        )

    def _embedded(self) -> EmbeddedSource:
        if not isinstance(self.profile.source, EmbeddedSource):
            raise CraneError(f"profile {self.profile.name}: has a local source, nothing is trained")
        return self.profile.source
