"""Tables of the transfer from the base to the chat model: shared units, costs of masks, and LangSpec-F1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd

from crane_lib.neurons import NeuronSet
from crane_study.labels import ordered_languages
from crane_study.measure.rows import SET, above_chance, effects, pick, tidy
from crane_study.tables import in_study_order
from crane_study.tables.effects import own_and_worst_other
from crane_study.tables.overlap import overlaps
from crane_study.uncertainty.bootstrap import Resampled, interval
from crane_study.uncertainty.intervals import by_language, group_means, set_means

_MASK = [*SET, "masked_language"]
_SCORES = ["precision", "recall", "langspec_f1"]


def base_chat_overlaps(base: Sequence[NeuronSet], chat: Sequence[NeuronSet]) -> pd.DataFrame:
    """Units that the sets of both models share, per method, budget and language, against chance; no random sets."""
    # `overlaps` compares the languages of one model; here the two models of one language take their places.
    named = [*(("base", item) for item in base), *(("chat", item) for item in chat)]
    turned = [replace(item, model=item.language, language=name) for name, item in named if item.random_seed == -1]
    found = overlaps(turned)
    found = found[(found["language_a"] == "base") & (found["language_b"] == "chat")].drop(columns=["language_a"])
    names = {"model": "language", "count_a": "count_base", "count_b": "count_chat"}
    names |= {"share_of_a": "share_of_base", "expected_share_of_a": "expected_share"}
    columns = ["method", "budget", "language", "count_base", "count_chat", "shared", "share_of_base", "expected_share"]
    columns += ["chance_low", "chance_high", "jaccard", "p_value"]
    return in_study_order(found.rename(columns=names)[columns], ["method", "budget", "language"])


def transfer_table(rows: pd.DataFrame, langspec: pd.DataFrame, *, metric: str) -> pd.DataFrame:
    """Cost of each mask for the masked language and for the worst other one, on the base and on the chat model.

    Drops are shares of the unmasked score that are lost (negative: gained); all values are means over draws.
    """
    lost = own_and_worst_other(effects(rows, metric=metric), value="relative_drop")
    lost = lost.rename(columns={"own": "own_drop", "worst_other_value": "worst_other_drop"})
    scores = pick(tidy(langspec, needed=[*_MASK, "metric", *_SCORES]), metric=metric)
    scores = scores.groupby(_MASK, sort=False)[_SCORES].mean().reset_index()
    columns = ["method", "budget", "masked_language", "model", "selected_on"]
    table = lost.merge(scores, on=_MASK, how="left")
    return in_study_order(table[[*columns, "own_drop", "worst_other", "worst_other_drop", *_SCORES]], columns)


def with_drop_intervals(table: pd.DataFrame, found: Sequence[Resampled]) -> pd.DataFrame:
    """A transfer table with the 95 % intervals of its drops and of LangSpec-F1, each after its number.

    `found` has the table's metric under resampling, of every model.
    """
    lost = tidy(pd.concat([_lost_intervals(one) for one in found], ignore_index=True))
    scores = tidy(pd.concat([_langspec_intervals(one) for one in found], ignore_index=True))
    own = lost[lost["masked_language"] == lost["evaluation_language"]].drop(columns="evaluation_language")
    own = own.rename(columns={"low": "own_low", "high": "own_high"})
    names = {"evaluation_language": "worst_other", "low": "worst_other_low", "high": "worst_other_high"}
    table = table.merge(own, on=_MASK, how="left", validate="one_to_one")
    table = table.merge(lost.rename(columns=names), on=[*_MASK, "worst_other"], how="left", validate="one_to_one")
    table = table.merge(scores, on=_MASK, how="left", validate="one_to_one")
    columns = ["method", "budget", "masked_language", "model", "selected_on", "own_drop", "own_low", "own_high"]
    columns += ["worst_other", "worst_other_drop", "worst_other_low", "worst_other_high"]
    return table[[*columns, *_SCORES, "langspec_low", "langspec_high"]]


def _lost_intervals(found: Resampled) -> pd.DataFrame:
    """Interval of the share of its unmasked score that each language loses, mean over draws."""
    before, after = (
        above_chance(draws, measure=found.metric) for draws in (found.unmasked_draws[:, None], found.draws)
    )
    kept = np.divide(after, before, out=np.full_like(after, np.nan), where=before > 0)
    groups = found.masks.groupby(_MASK, sort=False).indices
    low, high = interval(1 - group_means(kept, groups.values()))  # (groups, K)
    sets = pd.DataFrame(list(groups), columns=_MASK)
    return by_language(sets, found.languages, low=low, high=high)


def _langspec_intervals(found: Resampled) -> pd.DataFrame:
    """Interval of LangSpec-F1 of each masked language, mean over draws."""
    sets, _means, draws = set_means(found, by=_MASK)
    low, high = interval(draws)
    return sets.assign(langspec_low=low, langspec_high=high)


def transfer_matrix(
    langspec: pd.DataFrame, sets: Sequence[tuple[str, str]], *, intervals: pd.DataFrame | None = None
) -> pd.DataFrame:
    """LangSpec-F1 of the sets of both models on both models (model: the masked one), with mean precision and recall.

    `intervals` of the means are rows of `mean_intervals`.
    """
    frame = tidy(langspec, needed=[*_MASK, "metric", *_SCORES])
    chosen = pd.concat([frame[(frame["method"] == m) & (frame["budget"] == b)] for m, b in sets])
    keys = ["metric", "method", "budget", "selected_on", "model"]
    table = chosen.pivot_table(index=keys, columns="masked_language", values="langspec_f1").rename_axis(columns=None)
    table = table[ordered_languages(table.columns)]
    wanted = list(product(sorted(set(frame["metric"])), sets, ("base", "chat"), ("base", "chat")))
    there = [(x, *pair, on, model) for x, pair, on, model in wanted if (x, *pair, on, model) in table.index]
    parts = chosen.groupby(keys)[_SCORES[:2]].mean()
    table = parts.join(table.assign(mean=table.mean(axis=1))).loc[there].reset_index()
    if intervals is not None:
        means = tidy(intervals, needed=[*keys, "mean_low", "mean_high"])[[*keys, "mean_low", "mean_high"]]
        table = table.merge(means, on=keys, how="left", validate="one_to_one")
    return in_study_order(table, keys)
