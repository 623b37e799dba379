"""Tables of confounds: masks of parts of one language, and verdicts with other values and on other texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from crane_study.frames import read_frame
from crane_study.labels import ordered_languages
from crane_study.measure.rows import pick
from crane_study.paper.claims import NOT_APPLICABLE, damage_verdict
from crane_study.tables import in_study_order
from crane_study.uncertainty.bootstrap import Resampled, interval, quotient, resample_documents
from crane_study.uncertainty.intervals import langspec_draws, mask_parts

LANGUAGES, ALL = "languages", "all"  # the partition that the study is about, of the documents of all languages
KINDS = {LANGUAGES: "languages", "thirds": "random thirds", "subjects": "subjects"}
CONDITIONS = {
    "zero": "zeros",
    "mean": "mean activation",
    "resampled": "activation of a random token",
    "romanised": "zeros, romanised text",
    "shuffled": "zeros, words shuffled",
    "not_parallel": "zeros, selected on texts that are not parallel",
}
Scores = tuple[Resampled, Resampled]  # token probability and NLL of the same documents


def resample_folders(stage: Path, *, random_seed: int) -> dict[str, Scores]:
    """Resampled scores of every condition or partition of a step."""
    found = {}
    for path in sorted(stage.glob("*/documents.parquet")):
        documents = read_frame(path)
        probability = resample_documents(documents, random_seed=random_seed)
        found[path.parent.name] = probability, resample_documents(documents, metric="nll", random_seed=random_seed)
    return found


def _rises(nll: Resampled, place: int) -> tuple[np.ndarray, np.ndarray]:
    """Rise of the NLL of the masked language under a mask, and of every other one: (1 + B,) and (1 + B, K - 1).

    What was measured comes first, then the resamples.
    """
    own = nll.languages.index(nll.masks.loc[place, "masked_language"])
    rise = np.concatenate([nll.measured[None, place] - nll.unmasked, nll.draws[:, place] - nll.unmasked_draws])
    return rise[:, own], np.delete(rise, own, axis=1)


def null_table(partitions: Mapping[str, Scores], languages: Scores) -> pd.DataFrame:
    """LangSpec-F1 of masks of random thirds and of subjects of one language's documents, beside those of languages.

    One row per partition, language of its documents (or all) and method, means over the parts. matched is the rise
    of the NLL of the part that suffers most besides the masked one, for each nat that the masked one loses; NaN where
    that one may lose nothing.
    """
    found = {f"{LANGUAGES}.{ALL}": languages, **partitions}
    records = []
    for name, (probability, nll) in found.items():
        kind, language = name.split(".")
        values, draws = langspec_draws(probability)
        parts = mask_parts(probability)
        for (method, budget), places in probability.masks.groupby(["method", "budget"], sort=False).indices.items():
            rises = [_rises(nll, place) for place in places]
            own, worst = (np.mean(side, axis=0) for side in ([o for o, _ in rises], [w.max(axis=1) for _, w in rises]))
            numbers = [values[places].mean(), *interval(draws[:, places].mean(axis=1))]
            numbers += [*(part[places].mean() for part in parts.values()), own[0], *quotient(worst, own)]
            records.append((kind, language, method, budget, *numbers))
    columns = ["kind", "language", "method", "budget", "langspec_f1", "low", "high", "precision", "recall"]
    table = pd.DataFrame(records, columns=[*columns, "own_rise", "matched", "matched_low", "matched_high"])
    order = table["kind"].map(list(KINDS).index)
    table = in_study_order(table.assign(order=order), ["method", "budget", "order", "language"])
    return table.assign(kind=table["kind"].map(KINDS)).drop(columns="order")


def confound_table(conditions: Mapping[str, Scores], *, guessing: float) -> pd.DataFrame:
    """Rises of the NLL with intervals and the verdict by C1's rule, for every method, condition and masked language.

    unmasked is the NLL of the masked language, own_rise its rise, worst_other_rise the largest of another language.
    The verdict is of all languages together, by token probability; it is NOT APPLICABLE where the unmasked model reads
    the texts of a language no better than by guessing tokens, which has the NLL `guessing`.
    """
    records = []
    for condition in (name for name in CONDITIONS if name in conditions):
        probability, nll = conditions[condition]
        for (method, budget), masks in nll.masks.groupby(["method", "budget"], sort=False):
            verdict = NOT_APPLICABLE
            if (nll.unmasked < guessing).all():
                verdict = damage_verdict(probability, method=str(method), budget=str(budget))
            for language in ordered_languages(nll.languages):
                (place,) = pick(masks, masked_language=language).index
                own, others = _rises(nll, place)
                names = [code for code in nll.languages if code != language]
                before = nll.unmasked[nll.languages.index(language)]
                worst, limits = others.max(axis=1), [*interval(own[1:]), *interval(others[1:].max(axis=1))]
                record = (method, budget, CONDITIONS[condition], language, before, own[0], *limits[:2])
                records.append((*record, names[int(others[0].argmax())], worst[0], *limits[2:], verdict))
    columns = ["method", "budget", "condition", "masked_language", "unmasked", "own_rise", "own_low", "own_high"]
    columns += ["worst_other", "worst_other_rise", "worst_low", "worst_high", "C1"]
    return in_study_order(pd.DataFrame(records, columns=columns), ["method", "budget"])
