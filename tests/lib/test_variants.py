"""The ablation's variants against loops over single rows."""

import numpy as np
import pytest

from crane_lib import variants
from crane_lib.selection import kurtosis_z, normalized_contrast, select_top
from crane_lib.variants import gaps, kurtosis_variants, margins, relevance_variants, shares

LANGUAGES = ("en", "zh", "vi")


@pytest.fixture(scope="module")
def kurtosis():
    generator = np.random.default_rng(0)
    values = {
        k: {
            site: 4 * generator.standard_normal((2, width)) ** 2
            for site, width in (("gate", 30), ("up", 30), ("down", 20))
        }
        for k in LANGUAGES
    }
    values["en"]["up"][1, 3] = np.nan
    return values


def rows_of(chosen):
    return {
        (site, layer, int(i)) for site, layers in chosen.items() for layer, index in enumerate(layers) for i in index
    }


def where(condition, kurtosis):
    """Rows (site, layer, index) for which the condition holds, one by one."""
    return {
        (site, layer, i)
        for site, values in kurtosis["en"].items()
        for layer in range(values.shape[0])
        for i in range(values.shape[1])
        if condition(site, layer, i)
    }


def test_thresholds_are_those_of_single_rows(kurtosis):
    z = kurtosis_z(kurtosis)
    found = kurtosis_variants(kurtosis)
    own, others = "zh", ("en", "vi")

    def at(site, layer, i):
        return z[own][site][layer, i], [z[k][site][layer, i] for k in others]

    def margin(site, layer, i):
        mine, rest = at(site, layer, i)
        return mine - max(rest) >= 0.5

    def share(site, layer, i):
        mine, rest = at(site, layer, i)
        return abs(mine) / (abs(mine) + sum(map(abs, rest))) >= 0.5

    assert rows_of(found["kurtosis_raw", "> 3"][own]) == where(lambda s, n, i: kurtosis[own][s][n, i] > 3, kurtosis)
    assert rows_of(found["kurtosis_z", "> 0.5"][own]) == where(lambda s, n, i: z[own][s][n, i] > 0.5, kurtosis)
    unknown = ("up", 1, 3)
    assert rows_of(found["kurtosis_margin", "≥ 0.5"][own]) == where(margin, kurtosis) - {unknown}
    assert rows_of(found["kurtosis_share", "≥ 0.5"][own]) == where(share, kurtosis) - {unknown}
    for by_language in found.values():
        assert unknown not in rows_of(by_language["en"])


def test_tails_and_gaps_keep_their_share(kurtosis):
    found = kurtosis_variants(kurtosis)
    assert len(rows_of(found["kurtosis_gap", "kept rate 0.9"]["zh"])) == 16  # a tenth of 160 rows
    assert len(rows_of(found["kurtosis_top", "0.01"]["zh"])) == 2
    flat = {(s, n, i): kurtosis["vi"][s][n, i] for s, n, i in where(lambda *_: True, kurtosis)}
    assert max(flat, key=flat.get) in rows_of(found["kurtosis_top", "0.005"]["vi"])
    assert rows_of(found["kurtosis_bottom", "0.0001"]["vi"]) == {min(flat, key=flat.get)}


def test_margins_shares_and_gaps_by_hand():
    z = {
        "en": {"up": np.array([[2.0, -1.0]])},
        "zh": {"up": np.array([[1.0, 0.0]])},
        "vi": {"up": np.array([[-1.0, 3.0]])},
    }
    assert margins(z)["en"]["up"].tolist() == [[1.0, -4.0]]
    assert shares(z)["en"]["up"].tolist() == [[0.5, 0.25]]
    assert gaps(z)["en"]["up"][0].tolist() == pytest.approx([(1 / 3 + 1) / 2, -1.0])


def test_every_level_of_the_ablation_is_there(kurtosis):
    found = kurtosis_variants(kurtosis)
    levels = [
        variants.RAW,
        variants.Z,
        variants.MARGIN,
        variants.SHARE,
        variants.KEPT_RATE,
        variants.TAILS,
        variants.TAILS,
    ]
    assert len(found) == sum(map(len, levels))
    assert all(set(by_language) == set(LANGUAGES) for by_language in found.values())


def test_the_log_probability_seed_as_it_stands_and_turned():
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


def test_weights_of_the_other_languages_run_from_plain_relevance_to_contrast():
    generator = np.random.default_rng(2)
    values = {k: np.abs(generator.standard_normal((2, 30))) for k in LANGUAGES}
    found = relevance_variants(values, None, budget=0.1)
    assert {rule for rule, _level in found} == {"contrast_weighted"}
    plain = rows_of(found["contrast_weighted", "weight 0"]["vi"])
    largest = np.argsort(-values["vi"].ravel())[:6]
    assert plain == {("neuron", int(i // 30), int(i % 30)) for i in largest}
    contrast = select_top(normalized_contrast(values), budget=0.1)
    assert rows_of(found["contrast_weighted", "weight 1"]["vi"]) == rows_of(contrast["vi"])
