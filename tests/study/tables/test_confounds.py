"""Verdicts of the confounds and the zero of the scale, on made-up NLLs."""

import numpy as np
import pandas as pd
import pytest

from crane_study import figures
from crane_study.paper.claims import Results, judge
from crane_study.tables import confounds as tables
from crane_study.uncertainty.bootstrap import resample_documents

LANGUAGES = ("en", "zh", "vi")
_MASK = {"profile": "p", "model": "base", "random_seed": -1}


def make_scores(own, other, *, unmasked=1.0, noise=0.02, seed=0):
    """Scores of masks that raise the NLL of their language by `own` and that of others by `other`."""
    generator = np.random.default_rng(seed)
    records = []
    for evaluated in LANGUAGES:
        bare = unmasked + noise * generator.normal(size=20)
        for masked in ("", *LANGUAGES):
            rise = {"": 0.0, evaluated: own}.get(masked, other) + (masked != "") * noise * generator.normal(size=20)
            named = {"method": "contrast" if masked else "none", "budget": "0.1" if masked else ""}
            named |= {"selected_on": "base" if masked else "", "masked_share": 0.1 if masked else 0.0}
            for document, nll in enumerate(bare + rise):
                row = {"masked_language": masked, "evaluation_language": evaluated, "document": document}
                records.append({**_MASK, **named, **row, "nll": 30 * nll, "tokens": 30})
    documents = pd.DataFrame(records)
    return resample_documents(documents, resamples=300), resample_documents(documents, metric="nll", resamples=300)


def test_the_verdict_of_each_condition_is_that_of_the_rule_of_c1():
    conditions = {
        "zero": make_scores(0.6, 0.1),
        "mean": make_scores(0.1, 0.4),
        "resampled": make_scores(0.2, 0.2),
        "romanised": make_scores(0.6, 0.1, unmasked=9.0),
    }
    table = tables.confound_table(conditions, guessing=8.0)
    assert len(table) == 4 * 3
    verdicts = table.groupby("condition")["C1"].agg(set).to_dict()
    words = {tables.CONDITIONS[name]: {verdict} for name, verdict in (
        ("zero", "REPRODUCED"), ("mean", "NOT REPRODUCED"), ("resampled", "UNDECIDED"), ("romanised", "NOT APPLICABLE")
    )}  # fmt: skip
    assert verdicts == words
    for name in ("zero", "mean", "resampled"):
        scores = {("base", "token_probability"): conditions[name][0]}
        found = judge(Results(scores=scores), budget="0.1")
        (own,) = (v for v in found if (v["id"], v["method"], v["measure"]) == ("C1", "contrast", "token_probability"))
        assert {own["verdict"]} == verdicts[tables.CONDITIONS[name]]
    row = table.set_index(["condition", "masked_language"]).loc[("zeros", "zh")]
    nll = conditions["zero"][1]
    assert nll.languages == ("en", "vi", "zh")
    rise = nll.measured[nll.masks.index[nll.masks["masked_language"] == "zh"][0]] - nll.unmasked
    assert row["own_rise"] == pytest.approx(rise[2])
    assert row["worst_other_rise"] == pytest.approx(max(rise[:2]))
    assert row["worst_other"] == nll.languages[int(rise[:2].argmax())]
    assert row["own_low"] < row["own_rise"] < row["own_high"]
    assert row["worst_low"] <= row["worst_other_rise"] <= row["worst_high"]


def test_the_zero_of_the_scale_is_drawn(tmp_path):
    parts = {"thirds.en": make_scores(0.3, 0.3, seed=1), "subjects.en": make_scores(0.3, 0.2, seed=2)}
    table = tables.null_table(parts, make_scores(0.6, 0.1))
    assert table["kind"].tolist() == ["languages", "random thirds", "subjects"]
    assert table["precision"].tolist() == pytest.approx([0.82, 0.5, 0.59], abs=0.03)
    assert table["matched"].tolist() == pytest.approx([0.17, 1.0, 0.67], abs=0.06)
    gained = tables.null_table({"thirds.vi": make_scores(-0.3, -0.2)}, make_scores(0.6, 0.1)).iloc[1]
    assert np.isnan(gained[["matched", "matched_low", "matched_high"]].to_numpy(float)).all()  # nothing is lost
    caption = figures.null_partitions(table, tmp_path / "null")
    assert caption.startswith("The zero of the scale")
    told = (tmp_path / "null.txt").read_text()
    assert "random thirds, English" in told
    assert (tmp_path / "null.png").is_file()
