"""Rules for comparing two runs: there is one for every number that is compared, and none for numbers at large."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from crane_lib.errors import CraneError
from crane_lib.neurons import NeuronSet
from crane_run.references import BETWEEN, REFERENCES, read_reference
from crane_study.paper.tolerances import load_tolerances
from crane_study.uncertainty import ground_truth
from crane_study.uncertainty.neuron_sample import NeuronSample

LANGUAGES = ("en", "zh", "vi")


@pytest.fixture(scope="module")
def rules():
    return load_tolerances().reproduction


def numbers(reference):
    """Table, column, metric, row and cell of every number of a reference run."""
    for name, table in reference.tables.items():
        for row, cells in table.rows.items():
            metric = dict(zip(table.key, row.split(BETWEEN), strict=False)).get("metric", "")
            for column, cell in zip(table.columns, cells, strict=True):
                if isinstance(cell, int | float):
                    yield {"table": name, "column": column, "metric": metric}, row, cell


RUNS = [path for path in sorted(REFERENCES.glob("*.json")) if not path.stem.endswith("-seeds")]  # no run is a mean


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_number_of_the_reference_runs_has_a_rule(rules, path):
    reference = read_reference(path)
    chosen = rules.of_profile(reference.profile["name"])
    assert [place for place, _row, _cell in numbers(reference) if chosen.find(**place) is None] == []


def single_neuron_tables(*, sampled):
    """Tables of section 10, of random effects of all neurons or of a sample."""
    generator = np.random.default_rng(0)
    rise = {language: generator.normal(size=(4, 2, 6)) for language in LANGUAGES}
    sample = NeuronSample(np.full((2, 6), 1), np.full((2, 6), 1.5)) if sampled else None
    effects = ground_truth.Effects(rise, dict.fromkeys(LANGUAGES, np.full(4, 10)), sample)
    halves = ground_truth.halve(effects, halvings=5)
    chosen = [NeuronSet({"neuron": [[0], [1, 2]]}, {"neuron": 6}, "m", "contrast", "0.1", k) for k in LANGUAGES]
    masks = [("none", ""), *(("contrast", language) for language in LANGUAGES)]
    rows = [(method, masked and "0.1", masked, k, 2.0, 10) for method, masked in masks for k in LANGUAGES]
    columns = ["method", "budget", "masked_language", "evaluation_language", "nll", "tokens"]
    return {
        "reliability": ground_truth.reliability(effects, halves),
        "layers": ground_truth.by_layer(effects),
        "ranks": ground_truth.rank_agreement(
            effects, {"contrast": {k: values[0] for k, values in rise.items()}}, of=ground_truth.OWN
        ),
        "captured": ground_truth.captured(halves, chosen),
        "together": ground_truth.additivity(effects, chosen, pd.DataFrame(rows, columns=columns)),
    } | ({"sample": sample.by_layer()} if sampled else {})


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("profile", ["smoke", "mini", "another"])
def test_every_number_of_section_10_has_a_rule(rules, profile, sampled):
    chosen = rules.of_profile(profile)
    for name, frame in single_neuron_tables(sampled=sampled).items():
        table = f"tables/10_{name}.csv"
        for column in frame.select_dtypes("number"):
            if not chosen.names_row(table=table, column=column):
                assert chosen.rule(table=table, column=column, metric="").why
        assert chosen.names_row(table=table, column="language") or name in ("ranks", "sample")


@pytest.mark.parametrize("profile", ["mini", "another"])
def test_ends_of_intervals_ranges_and_p_values_have_rules_by_their_names(rules, profile):
    chosen = rules.of_profile(profile)
    tables = ("07_langspec", "06_areas_accuracy", "06_controls_token_probability")
    ends = ("low", "high", "mean_low", "worst_other_high", "lowest", "lowest_budget", "highest_share")
    for name, metric, column in product(tables, ("token_probability", "accuracy"), (*ends, "p_value", "p_holm")):
        rule = chosen.rule(table=f"tables/{name}.csv", column=column, metric=metric)
        assert rule.compared == (column in ends)
    message = r"no rule .* is for tables/03_x.csv, column 'surprise', metric 'nll'; add one"
    with pytest.raises(CraneError, match=message):
        rules.rule(table="tables/03_x.csv", column="surprise", metric="nll")
    assert rules.compares(table="tables/03_x.csv", column="surprise", metric="nll", number=False)


def test_a_run_of_zeros_would_not_pass_for_mini(rules):
    """Two thirds of the numbers of mini's reference differ from 0 by more than their tolerance."""
    reference = read_reference(REFERENCES / "mini.json")
    chosen, told = rules.of_profile("mini"), []
    for place, row, cell in numbers(reference):
        reach = chosen.widening * reference.tables[place["table"]].half_width(row, place["column"])
        told.append(abs(cell) > chosen.rule(**place).tolerance(cell, reach=reach))
    assert np.mean(told) > 2 / 3
