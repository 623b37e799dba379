"""Third step of a study: what every mask does to perplexity and to question answering."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.files import read_frame
from crane_lib.pipeline.store import Stage
from crane_lib.study.relevance import RelevanceAndSelection

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
        from crane_lib.stages.masking import make_nlu, make_perplexity

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
