"""Tables on the way from the base to the chat model: shared units, and scores by where a set comes from and goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pandas as pd

from crane_lib.neurons import NeuronSet
from crane_lib.output.frames import SET, tidy
from crane_lib.output.style import ordered_languages
from crane_lib.output.tables import in_study_order
from crane_lib.overlap import overlaps


def base_chat_overlaps(base: Sequence[NeuronSet], chat: Sequence[NeuronSet]) -> pd.DataFrame:
    """What a language's sets of both models share, by method and budget, against chance; random sets are left out.

    Returns
    -------
    frame with method, budget, language, count_base, count_chat, shared, share_of_base, expected_share, chance_low,
    chance_high, jaccard and p_value (`crane_lib.overlap`)
    """
    # `overlaps` compares the languages of one model; here the models of one language take those places.
    turned = [
        replace(item, model=item.language, language=name)
        for name, sets in (("base", base), ("chat", chat))
        for item in sets
        if item.random_seed == -1
    ]
    found = overlaps(turned)
    found = found[(found["language_a"] == "base") & (found["language_b"] == "chat")].drop(columns=["language_a"])
    names = {
        "model": "language",
        "count_a": "count_base",
        "count_b": "count_chat",
        "share_of_a": "share_of_base",
        "expected_share_of_a": "expected_share",
    }
    columns = ["method", "budget", "language", "count_base", "count_chat", "shared", "share_of_base", "expected_share"]
    columns += ["chance_low", "chance_high", "jaccard", "p_value"]
    return in_study_order(found.rename(columns=names)[columns], ["method", "budget", "language"])


def transfer_matrix(langspec: pd.DataFrame, sets: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """LangSpec-F1 of the sets of both models on both models.

    Parameters
    ----------
    langspec : LangSpec rows of both models
    sets : methods and budgets to show

    Returns
    -------
    frame with metric, method, budget, selected_on, model (the masked one), one column a language and mean
    """
    frame = tidy(langspec, needed=[*SET, "masked_language", "metric", "langspec_f1"])
    chosen = pd.concat([frame[(frame["method"] == m) & (frame["budget"] == b)] for m, b in sets])
    keys = ["metric", "method", "budget", "selected_on", "model"]
    table = chosen.pivot_table(index=keys, columns="masked_language", values="langspec_f1").rename_axis(columns=None)
    table = table[ordered_languages(table.columns)]
    wanted = list(product(sorted(set(frame["metric"])), sets, ("base", "chat"), ("base", "chat")))
    there = [(x, *pair, on, model) for x, pair, on, model in wanted if (x, *pair, on, model) in table.index]
    table = table.loc[there].assign(mean=lambda found: found.mean(axis=1))
    return in_study_order(table.reset_index(), keys)
