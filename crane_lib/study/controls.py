"""A step of a study beside the main masks: random controls, dose-response and the ablation of selection rules."""

from __future__ import annotations

from crane_lib.pipeline.store import Stage
from crane_lib.study.masking import Masking


class Controls(Masking):
    """The base model under the control sets, on sampled documents and questions."""

    @property
    def control_sets(self) -> Stage:
        """Sets of every method at every budget of the dose-response, random controls, variants of the rules."""
        from crane_lib.stages.controls import make_control_sets

        options = self.profile.controls
        return self.store.run(
            "control_sets",
            make_control_sets,
            inputs={"relevance": self.relevance("base")},
            parameters={
                "languages": self.languages,
                "seeds": self.seeds,
                "budget": self.profile.selection.budget,
                "budgets": list(options.budgets),
                "draws": options.draws,
                "random_draws": self.profile.selection.random_draws,
                "ablation": options.ablation,
                "random_seed": self.profile.random_seed,
            },
        )

    def control_perplexity(self) -> Stage:
        """Perplexity of the base model under the control sets, on sampled documents."""
        from crane_lib.stages.controls import make_control_perplexity

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
        from crane_lib.stages.controls import ANY, make_control_nlu

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
