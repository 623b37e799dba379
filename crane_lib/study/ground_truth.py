"""A step of a study beside the main masks: the effect of every single neuron of the base model."""

from __future__ import annotations

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

    def ground_truth(self) -> Stage:
        """Effect of every single neuron, and of the sets as a whole, on a sample of the held-out documents."""
        from crane_lib.stages.ground_truth import make_ground_truth

        options = self.profile.relevance
        return self.store.run(
            "ground_truth",
            make_ground_truth,
            inputs={"corpus": self.corpus, "model": self.model("base"), "selection": self.selection("base")},
            parameters={
                "budget": self.budget,
                "documents": max(LEAST_DOCUMENTS, self.profile.ground_truth.documents),
                "token_budget": options.token_budget,
                "max_length": options.max_length,
                "random_seed": self.profile.random_seed,
                **self._common("base"),
            },
        )
