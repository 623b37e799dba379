"""Second step of a study: relevance statistics, and the neuron sets that are selected by them."""

from __future__ import annotations

from crane_lib.pipeline.store import Stage
from crane_lib.study.models import Models


class RelevanceAndSelection(Models):
    """Statistics of every language on a model, and neuron sets of every rule."""

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
            all_threads=True,
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
            all_threads=True,
        )
