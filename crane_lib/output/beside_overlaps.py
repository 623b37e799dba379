"""The released rule's sets: what two languages share, beside what the paper's sets share."""

from __future__ import annotations

import numpy as np
import pandas as pd

from crane_lib.output.beside import within
from crane_lib.output.judging import NOT_RUN
from crane_lib.output.published import published_overlaps
from crane_lib.output.tolerances import Tolerances

RANDOM = "random"  # a random set, in the place of a language
NOT_PUBLISHED = "not published"
_CHANCE = ["expected_share_of_a", "chance_low", "chance_high"]


def overlaps_beside(
    overlaps: pd.DataFrame, *, with_random: float, tolerances: Tolerances, same_model: bool
) -> pd.DataFrame:
    """Published overlaps of the released rule's sets beside ours, and both beside chance.

    Chance is, for ours, a set with the second language's number of units in every layer and site.  The paper gives one
    value, the share of its English set in a random one, so other pairs have no published direction.

    Parameters
    ----------
    overlaps : ours, of the released rule at its own threshold (`crane_lib.overlap.overlaps`)
    with_random : expected share of our English set in a random one of the same counts
    same_model : on the paper's model, values and tolerances too; otherwise directions only

    Returns
    -------
    frame with language_a, language_b, published_direction, our_direction (more than chance, less than chance, no clear
    difference: within the 95 % range) and same_direction; on the paper's model also published, ours, difference,
    tolerance, within, and our expected_share_of_a, chance_low and chance_high
    """
    keys = ["language_a", "language_b"]
    ours = overlaps[[*keys, "share_of_a", *_CHANCE]].rename(columns={"share_of_a": "ours"})
    table = published_overlaps().rename(columns={"share_of_a": "published"}).merge(ours, how="left", on=keys)
    random = table["language_b"] == RANDOM
    of_random = table[random].set_index("language_a")["published"]
    table["published_direction"] = [
        _than_chance(row.published, *[of_random[row.language_a]] * 2) if row.language_a in of_random else NOT_PUBLISHED
        for row in table.itertuples()
    ]
    table["our_direction"] = [_than_chance(row.ours, row.chance_low, row.chance_high) for row in table.itertuples()]
    table["same_direction"] = [_agreement(row.published_direction, row.our_direction) for row in table.itertuples()]
    directions = ["published_direction", "our_direction", "same_direction"]
    if not same_model:
        return table.loc[~random, [*keys, *directions]].reset_index(drop=True)
    table.loc[random, "ours"] = with_random
    table.loc[random, directions] = ""  # it is the chance that others are held against
    table["difference"] = table["ours"] - table["published"]
    table["tolerance"] = tolerances.overlap_share
    table["within"] = within(table)
    return table[[*keys, "published", "ours", "difference", "tolerance", "within", *_CHANCE, *directions]]


def _than_chance(share: float, low: float, high: float) -> str:
    if np.isnan([share, low, high]).any():
        return NOT_RUN
    if low <= share <= high:
        return "no clear difference"
    return "more than chance" if share > high else "less than chance"


def _agreement(published: str, ours: str) -> str:
    if ours == NOT_RUN:
        return NOT_RUN
    if published == NOT_PUBLISHED:
        return NOT_PUBLISHED
    return "yes" if published == ours else "no"
