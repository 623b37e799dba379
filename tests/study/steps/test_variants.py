"""The ablation's variants against loops over single rows."""

import numpy as np
import pytest

from crane_lib.selection import kurtosis_z, normalized_contrast, select_top
from crane_study.steps import variants
from crane_study.steps.variants import gaps, kurtosis_variants, margins, relevance_variants, shares

LANGUAGES = ("en", "zh", "vi")


@pytest.fixture(scope="module")
def kurtosis():
    generator, widths = np.random.default_rng(0), {"gate": 30, "up": 30, "down": 20}
    values = {
        k: {site: 4 * generator.standard_normal((2, width)) ** 2 for site, width in widths.items()} for k in LANGUAGES
    }
    values["en"]["up"][1, 3] = np.nan
    return values


def rows_of(chosen):
    return {
        (site, layer, int(i)) for site, layers in chosen.items() for layer, index in enumerate(layers) for i in index
    }


def where(condition, kurtosis):
    """Rows (site, layer, index) for which the condition holds, one by one."""
    rows = [(site, *row) for site, values in kurtosis["en"].items() for row in np.ndindex(values.shape)]
    return {row for row in rows if condition(*row)}


def test_thresholds_are_those_of_single_rows(kurtosis):
    z, found = kurtosis_z(kurtosis), kurtosis_variants(kurtosis)
    own, others = "zh", ("en", "vi")
    unknown = ("up", 1, 3)

    def margin(site, layer, i):
        return z[own][site][layer, i] - max(z[k][site][layer, i] for k in others) >= 0.5

    def share(site, layer, i):
        mine = abs(z[own][site][layer, i])
        return mine / (mine + sum(abs(z[k][site][layer, i]) for k in others)) >= 0.5

    assert rows_of(found["kurtosis_raw", "> 3"][own]) == where(lambda s, n, i: kurtosis[own][s][n, i] > 3, kurtosis)
    assert rows_of(found["kurtosis_z", "> 0.5"][own]) == where(lambda s, n, i: z[own][s][n, i] > 0.5, kurtosis)
    assert rows_of(found["kurtosis_margin", "≥ 0.5"][own]) == where(margin, kurtosis) - {unknown}
    assert rows_of(found["kurtosis_share", "≥ 0.5"][own]) == where(share, kurtosis) - {unknown}
    assert all(unknown not in rows_of(by_language["en"]) for by_language in found.values())


def test_tails_and_gaps_keep_their_share_and_every_level_is_there(kurtosis):
    found = kurtosis_variants(kurtosis)
    assert len(rows_of(found["kurtosis_gap", "kept rate 0.9"]["zh"])) == 16  # a tenth of 160 rows
    assert len(rows_of(found["kurtosis_top", "0.01"]["zh"])) == 2
    flat = {(s, n, i): kurtosis["vi"][s][n, i] for s, n, i in where(lambda *_: True, kurtosis)}
    assert max(flat, key=flat.get) in rows_of(found["kurtosis_top", "0.005"]["vi"])
    assert rows_of(found["kurtosis_bottom", "0.0001"]["vi"]) == {min(flat, key=flat.get)}
    levels = [variants.RAW, variants.Z, variants.MARGIN, variants.SHARE, variants.KEPT_RATE, *[variants.TAILS] * 2]
    assert len(found) == sum(map(len, levels))
    assert all(set(by_language) == set(LANGUAGES) for by_language in found.values())


def test_margins_shares_and_gaps_by_hand():
    values = {"en": [2.0, -1.0], "zh": [1.0, 0.0], "vi": [-1.0, 3.0]}
    z = {language: {"up": np.array([found])} for language, found in values.items()}
    assert margins(z)["en"]["up"].tolist() == [[1.0, -4.0]]
    assert shares(z)["en"]["up"].tolist() == [[0.5, 0.25]]
    assert gaps(z)["en"]["up"][0].tolist() == pytest.approx([(1 / 3 + 1) / 2, -1.0])


def test_the_log_probability_objective_as_it_is_and_turned():
    generator = np.random.default_rng(1)
    signed = {k: generator.standard_normal((2, 20)) for k in LANGUAGES}
    absolute = {k: np.abs(v) for k, v in signed.items()}
    found = relevance_variants(absolute, {"signed": signed, "absolute": absolute}, budget=0.1)
    turned = select_top(normalized_contrast({k: -v for k, v in signed.items()}), budget=0.1)
    for language in LANGUAGES:
        assert rows_of(found["log_probability_turned", "0.1"][language]) == rows_of(turned[language])
        plain = rows_of(found["log_probability_contrast", "0.1"][language])
        assert plain != rows_of(turned[language])
        assert len(plain) == 4


def test_guarded_contrast_is_contrast_among_neurons_with_relevance_of_their_own():
    generator = np.random.default_rng(5)
    values = {k: generator.standard_normal((2, 30)) for k in LANGUAGES}
    found = relevance_variants(values, None, budget=0.3)["contrast_guarded", "0.3"]
    scores, without = normalized_contrast(values), 0
    for language, chosen in found.items():
        mine = [(layer, index) for layer, indices in enumerate(chosen["neuron"]) for index in indices]
        order = sorted(np.ndindex(2, 30), key=lambda place: -scores[language][place])
        assert sorted(mine) == sorted([place for place in order if values[language][place] > 0][:18])
        without += sum(values[language][place] <= 0 for place in order[:18])
    assert without  # which the contrast itself takes


def test_weights_of_the_other_languages_run_from_plain_relevance_to_contrast():
    generator = np.random.default_rng(2)
    values = {k: np.abs(generator.standard_normal((2, 30))) for k in LANGUAGES}
    found = relevance_variants(values, None, budget=0.1)
    assert {rule for rule, _level in found} == {"contrast_weighted", "contrast_guarded"}
    plain = rows_of(found["contrast_weighted", "weight 0"]["vi"])
    largest = np.argsort(-values["vi"].ravel())[:6]
    assert plain == {("neuron", int(i // 30), int(i % 30)) for i in largest}
    contrast = select_top(normalized_contrast(values), budget=0.1)
    assert rows_of(found["contrast_weighted", "weight 1"]["vi"]) == rows_of(contrast["vi"])
