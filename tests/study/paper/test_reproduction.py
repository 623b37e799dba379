"""Rules for comparing two runs: there is one for every number that is compared, and none for numbers at large."""

import numpy as np
import pandas as pd
import pytest
import yaml

from crane_lib.errors import CraneError
from crane_lib.neurons import NeuronSet
from crane_run.verify import REFERENCES, read_reference
from crane_study.paper.tolerances import TOLERANCES, load_tolerances
from crane_study.uncertainty import ground_truth

LANGUAGES = ("en", "zh", "vi")


@pytest.fixture(scope="module")
def rules():
    return load_tolerances().reproduction


@pytest.mark.parametrize("path", sorted(REFERENCES.glob("*.json")), ids=lambda path: path.stem)
def test_every_number_of_the_reference_runs_has_a_rule(rules, path):
    reference = read_reference(path)
    chosen = rules.of_profile(reference.profile["name"])
    lacking = {
        (name, column, table.metric(row))
        for name, table in reference.tables.items()
        for row, cells in table.rows.items()
        for column, cell in zip(table.columns, cells, strict=True)
        if isinstance(cell, int | float) and chosen.find(table=name, column=column, metric=table.metric(row)) is None
    }
    assert lacking == set()


def single_neuron_tables():
    """Tables of section 10, of random effects."""
    generator = np.random.default_rng(0)
    rise = {language: generator.normal(size=(4, 2, 6)) for language in LANGUAGES}
    effects = ground_truth.Effects(rise, dict.fromkeys(LANGUAGES, np.full(4, 10)))
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
    }


@pytest.mark.parametrize("profile", ["smoke", "mini", "another"])
def test_every_number_of_section_10_has_a_rule(rules, profile):
    chosen = rules.of_profile(profile)
    for name, frame in single_neuron_tables().items():
        table = f"tables/10_{name}.csv"
        for column in frame.select_dtypes("number"):
            if not chosen.names_row(table=table, column=column):
                assert chosen.rule(table=table, column=column, metric="").why
        assert chosen.names_row(table=table, column="language") or name == "ranks"


@pytest.mark.parametrize("profile", ["mini", "another"])
@pytest.mark.parametrize(
    "table", ["tables/07_langspec.csv", "tables/06_areas_accuracy.csv", "tables/06_controls_token_probability.csv"]
)
@pytest.mark.parametrize("metric", ["token_probability", "accuracy"])
@pytest.mark.parametrize(
    "column",
    ["low", "high", "mean_low", "worst_other_high", "p_value", "p_holm", "lowest", "lowest_budget", "highest_share"],
)
def test_ends_of_intervals_ranges_and_p_values_have_rules_by_their_names(rules, profile, table, metric, column):
    rule = rules.of_profile(profile).rule(table=table, column=column, metric=metric)
    assert rule.compared == (not column.startswith("p_"))


def test_a_place_without_a_rule_is_named(rules):
    with pytest.raises(
        CraneError, match=r"no rule .* is for tables/03_x.csv, column 'surprise', metric 'nll'; add one"
    ):
        rules.rule(table="tables/03_x.csv", column="surprise", metric="nll")
    assert rules.compares(table="tables/03_x.csv", column="surprise", metric="nll", number=False)


def test_a_rule_for_everything_is_refused(tmp_path):
    content = yaml.safe_load(TOLERANCES.read_text(encoding="utf-8"))
    content["reproduction"]["rules"].append({"why": "whatever is left", "metrics": ["accuracy"], "absolute": 0.4})
    path = tmp_path / "tolerances.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(CraneError, match="names neither tables nor columns"):
        load_tolerances(path)


def test_a_run_of_zeros_would_not_pass_for_mini(rules):
    """Two thirds of the numbers of mini's reference differ from 0 by more than their tolerance."""
    reference = read_reference(REFERENCES / "mini.json")
    chosen, numbers, told = rules.of_profile("mini"), 0, 0
    for name, table in reference.tables.items():
        for row, cells in table.rows.items():
            for column, cell in zip(table.columns, cells, strict=True):
                if isinstance(cell, int | float):
                    rule = chosen.rule(table=name, column=column, metric=table.metric(row))
                    reach = chosen.widening * table.half_width(row, column)
                    numbers += 1
                    told += abs(cell) > rule.tolerance(cell, reach=reach)
    assert told > 2 / 3 * numbers
