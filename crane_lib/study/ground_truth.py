"""A step of a study beside the main masks: the effect of every single neuron of the base model."""

from __future__ import annotations

from typing import Any

from crane_lib.ground_truth import LEAST_DOCUMENTS
from crane_lib.pipeline.store import Stage
from crane_lib.study.masking import Masking


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
        from crane_lib.stages.ground_truth import make_ablation

        inputs = {"corpus": self.corpus, "model": self.model("base")}
        return self.store.run("ablation", make_ablation, inputs=inputs, parameters=self._ablated, scratch=True)

    def whole_sets(self) -> Stage:
        """Perplexity of the same documents under whole sets."""
        from crane_lib.stages.ground_truth import make_whole_sets

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
