"""Every claim on made-up scores whose verdict is known beforehand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from crane_lib.errors import CraneError
from crane_study.paper.claims import Contrast, Results, decide, judge, load_rules, simultaneous
from crane_study.paper.verdicts import not_run, read_claims, verdict_table, write_claims
from tests.study.outputs import synthetic

YES, NO, OPEN, IDLE, NONE = "REPRODUCED", "NOT REPRODUCED", "UNDECIDED", "NOT APPLICABLE", "NOT RUN"
MEASURES = ("token_probability", "accuracy")
SETS = synthetic.METHODS | {("lape", "as_kurtosis"): (0.03, 0.028, 0.1)}


@pytest.fixture(scope="module")
def rows():
    return synthetic.make_rows(SETS)


def case(claim, method, measure, *, rows=None, error=0.001, draws=5, **results):
    """The one verdict of a claim, method and measure."""
    rules = load_rules()
    rules["claims"] = [entry for entry in rules["claims"] if entry["id"] == claim]
    if "minimum_draws" in rules["claims"][0]:
        rules["claims"][0]["minimum_draws"] = draws
    rules["methods"] = {method: rules["methods"][method]}
    rules["measures"] = [measure]
    scores = {} if rows is None else synthetic.make_resampled(rows, error=error)
    (found,) = judge(Results(scores, **results), budget="0.1", rules=rules)
    assert (found["id"], found["method"], found["measure"]) == (claim, method, measure)
    return found


def replaced(rows, where, value):
    """Rows with another value where `where` holds."""
    return rows.assign(value=np.where(where, value, rows["value"]))


def at(rows, **wanted):
    """Rows that have these values."""
    return np.logical_and.reduce([rows[name] == value for name, value in wanted.items()])


def made(own, other, method="contrast", budget="0.1"):
    """Rows in which one method's mask raises the NLL by so much."""
    return synthetic.make_rows(SETS | {(method, budget): (own, other, 0.1)})


def test_every_claim_is_judged_once(rows, shared_units):
    rules = load_rules()
    assert [claim["id"] for claim in rules["claims"]] == ["C1", "C1b", "C2", "C3", "C4", "C5"]
    found = judge(Results(synthetic.make_resampled(rows), shared_units), budget=0.1)
    keys = [(item["id"], item["method"], item["measure"]) for item in found]
    assert len(keys) == len(set(keys)) == 22
    assert [key for key in keys if key[0] == "C4"] == [("C4", "kurtosis", ""), ("C4", "contrast", "")]
    assert {(item["method"], item["budget"]) for item in found} == {("kurtosis", "published"), ("contrast", "0.1")}
    assert NONE not in {item["verdict"] for item in found}
    assert all(item["detail"].endswith(".") for item in found)


class TestDecision:
    def difference(self, mean, error=1.0):
        return Contrast(mean, mean + error * np.random.default_rng(0).normal(size=20_000))

    def test_three_verdicts(self):
        assert decide([self.difference(3), self.difference(4)]) == YES
        assert decide([self.difference(3), self.difference(1)]) == OPEN
        assert decide([self.difference(3), self.difference(-4)]) == NO
        assert decide([Contrast(0.0, np.zeros(10))]) == NO  # exactly nothing is no effect

    def test_intervals_hold_together(self):
        """2.1 standard errors are enough for one difference, but not for ten."""
        one = self.difference(2.1)
        assert decide([one]) == YES
        assert decide([one] * 10) == OPEN
        low, high = simultaneous([one] * 10)
        assert low[0] == pytest.approx(2.1 - 2.81, abs=0.1)  # the normal quantile of .05 / 20
        assert high[0] == pytest.approx(2.1 + 2.81, abs=0.1)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(("claim", "model"), [("C1", "base"), ("C5", "chat")])
class TestDamage:
    def test_one_language_is_hurt_more_elsewhere(self, rows, claim, model, measure):
        found = case(claim, "contrast", measure, rows=rows)
        assert (found["verdict"], found["numbers"]["satisfied"]) == (YES, 3)
        assert found["numbers"]["relative_drop"]["en"]["worst_other"] == "vi"
        where = at(rows, model=model, selected_on="base", method="contrast", masked_language="zh", metric=measure)
        worse = replaced(rows, where & at(rows, evaluation_language="en"), 0.01)
        found = case(claim, "contrast", measure, rows=worse)
        assert (found["verdict"], found["numbers"]["satisfied"]) == (NO, 2)
        drop = found["numbers"]["relative_drop"]["zh"]
        assert drop["worst_other"] == "en"
        assert drop["low"] < drop["difference"] < drop["high"] < 0
        assert "English" in found["detail"]

    def test_where_an_interval_has_0_it_is_undecided(self, claim, model, measure):
        rows = made(0.05, 0.045)
        assert case(claim, "contrast", measure, rows=rows, error=0.02)["verdict"] == OPEN

    def test_the_drop_is_relative(self, rows, claim, model, measure):
        """A smaller absolute loss of a smaller score is the larger share."""
        part = at(rows, model=model, metric=measure)
        low, high = 0.4, 0.99  # unmasked scores of English and Chinese
        where = part & at(rows, selected_on="base", method="contrast", masked_language="en")
        for language, value in (("en", low), ("zh", high)):
            rows = replaced(rows, part & at(rows, evaluation_language=language, masked_language=""), value)
        rows = replaced(rows, where & at(rows, evaluation_language="en"), 0.80 * low)
        rows = replaced(rows, where & at(rows, evaluation_language="zh"), 0.85 * high)
        assert 0.20 * low < 0.15 * high
        assert case(claim, "contrast", measure, rows=rows)["numbers"]["relative_drop"]["en"]["holds"]

    @pytest.mark.parametrize("others", [-0.3, 0.0], ids=["gain", "tie"])
    def test_a_gain_or_a_tie_is_no_damage(self, claim, model, measure, others):
        assert case(claim, "contrast", measure, rows=made(0.0, others), error=0.0)["verdict"] == NO

    @pytest.mark.parametrize(
        ("wanted", "value", "reason"),
        [
            ({"method": "contrast"}, None, "with the base model's sets masked"),
            ({"masked_language": ""}, None, "there is no"),
            ({"method": "contrast", "masked_language": "vi"}, None, "Vietnamese"),
            ({"masked_language": "", "evaluation_language": "en"}, 0.0, "not positive"),
        ],
    )
    def test_scores_that_are_missing_or_zero(self, rows, claim, model, measure, wanted, value, reason):
        where = at(rows, model=model, metric=measure, **wanted)
        changed = rows[~where] if value is None else replaced(rows, where, value)
        found = case(claim, "contrast", measure, rows=changed)
        assert (found["verdict"], found["numbers"]) == (NONE, {})
        assert reason in found["detail"]
        other = next(name for name in MEASURES if name != measure)
        assert case(claim, "contrast", other, rows=changed)["verdict"] == YES


@pytest.mark.parametrize("measure", MEASURES)
class TestPreserved:
    def test_others_lose_less_than_under_random_sets_or_a_tenth(self, rows, measure):
        assert case("C1b", "contrast", measure, rows=rows)["verdict"] == YES  # below a tenth
        spared = synthetic.make_rows(
            SETS | {("random_like_contrast", "0.1"): (0.6, 0.6, 0.1), ("contrast", "0.1"): (1.4, 0.25, 0.1)}
        )
        if measure == "token_probability":  # above a tenth, but less than under random sets
            found = case("C1b", "contrast", measure, rows=spared)
            assert found["verdict"] == YES
            assert found["numbers"]["others"]["en"]["lost"] > 0.2
        assert case("C1b", "contrast", measure, rows=made(1.4, 0.8))["verdict"] == NO  # far more than both

    def test_a_mask_that_destroys_everything_is_not_preserving(self, measure):
        """It may hurt its own language most, and C1 holds."""
        rows = made(3.0, 2.0)
        assert case("C1b", "contrast", measure, rows=rows)["verdict"] == NO

    def test_without_random_sets_it_was_not_run(self, rows, measure):
        found = case("C1b", "contrast", measure, rows=rows[rows["method"] != "random_like_contrast"])
        assert found["verdict"] == NONE


@pytest.mark.parametrize("measure", MEASURES)
class TestRival:
    def test_above_lape_with_as_many_killed_neurons(self, rows, measure):
        found = case("C2", "contrast", measure, rows=rows)
        assert found["verdict"] == YES
        assert found["numbers"]["low"] < found["numbers"]["difference"] < found["numbers"]["high"]
        better = synthetic.make_rows(SETS | {("lape", "0.1"): (2.8, 0.01, 0.1)})
        assert case("C2", "contrast", measure, rows=better)["verdict"] == NO
        assert case("C2", "kurtosis", measure, rows=better)["verdict"] != NO  # has another set to compare with
        as_good = synthetic.make_rows(SETS | {("lape", "0.1"): SETS["contrast", "0.1"]})
        assert case("C2", "contrast", measure, rows=as_good)["verdict"] == OPEN

    def test_where_random_sets_pass_too_it_says_nothing(self, measure):
        rows = synthetic.make_rows(SETS | {("lape", "0.1"): (0.0001, 0.0001, 0.1)})
        found = case("C2", "contrast", measure, rows=rows)
        assert found["numbers"]["low"] > 0
        assert found["numbers"]["random_low"] > 0
        assert found["verdict"] == NO
        assert "passes the rule, too" in found["detail"]

    @pytest.mark.parametrize("missing", [{"method": "lape", "budget": "0.1"}, {"method": "random_like_contrast"}])
    def test_missing_sets(self, rows, measure, missing):
        found = case("C2", "contrast", measure, rows=rows[~at(rows, metric=measure, **missing)])
        assert found["verdict"] == NONE


@pytest.mark.parametrize("measure", MEASURES)
def test_above_random_sets_by_a_permutation_test(rows, measure):
    found = case("C3", "contrast", measure, rows=rows)
    assert (found["verdict"], found["numbers"]["p_value"]) == (YES, pytest.approx(1 / 6**3))
    assert found["numbers"]["draws"] == found["numbers"]["draws_below"] == synthetic.DRAWS
    assert case("C3", "contrast", measure, rows=made(0.03, 0.028))["verdict"] == NO  # like its random sets
    few = case("C3", "contrast", measure, rows=rows, draws=19)
    assert few["verdict"] == OPEN  # too few draws, whatever p is
    assert "19 draws" in few["detail"]
    # Draws like another method do not count.
    kept = rows[rows["method"] != "random_like_kurtosis"]
    assert case("C3", "kurtosis", measure, rows=kept)["verdict"] == NONE
    assert case("C3", "contrast", measure, rows=kept)["verdict"] == YES


def test_the_rule_of_c3_cannot_be_passed_by_chance_once_in_six():
    rule = next(claim for claim in load_rules()["claims"] if claim["id"] == "C3")
    assert rule["minimum_draws"] >= 19
    assert 1 / (rule["minimum_draws"] + 1) <= rule["significance"]


class TestTransfer:
    def test_sets_of_the_base_model_are_compared_with_random_and_with_the_chat_models_own(self, rows):
        found = case("C5", "contrast", "accuracy", rows=rows)
        assert found["verdict"] == YES
        assert found["numbers"]["own"] == pytest.approx(found["numbers"]["selected_on_chat"])
        judged = {"model": "chat", "metric": "token_probability", "method": "contrast", "selected_on": "base"}
        little = made(0.1, 0.0)
        weak = pd.concat([rows[~at(rows, **judged)], little[at(little, **judged)]])
        found = case("C5", "contrast", "token_probability", rows=weak)
        assert (found["verdict"], found["numbers"]["satisfied"]) == (NO, 3)  # less than half as specific as its own

    def test_sets_of_the_chat_model_do_not_speak_for_it(self, rows):
        kept = rows[~at(rows, model="chat", selected_on="base")]
        assert case("C5", "contrast", "accuracy", rows=kept)["verdict"] == NONE
        scores = synthetic.make_resampled(rows[rows["model"] == "base"])
        found = judge(Results(scores), budget="0.1")
        assert {item["id"] for item in found if item["verdict"] == NONE} == {"C4", "C5"}  # no chat model at all


class TestOverlaps:
    def test_every_pair_is_above_chance(self, shared_units):
        found = case("C4", "kurtosis", "", overlaps=shared_units)
        assert found["verdict"] == YES
        assert set(found["numbers"]["pairs"]) == {"en-zh", "en-vi", "zh-vi"}
        found = case("C4", "contrast", "", overlaps=shared_units)  # its sets are disjoint
        assert found["verdict"] == IDLE
        assert "could not come out otherwise" in found["detail"]
        assert found["numbers"]["above_chance"] == 0
        pair = at(shared_units, method="kurtosis", language_a="en", language_b="vi")
        at_chance = shared_units.assign(p_value=np.where(pair, 0.01, shared_units["p_value"]))
        found = case("C4", "kurtosis", "", overlaps=at_chance)
        assert (found["verdict"], found["numbers"]["above_chance"]) == (NO, 2)
        both = pd.concat([shared_units, shared_units.assign(model="chat", p_value=1.0)])
        assert case("C4", "kurtosis", "", overlaps=both)["verdict"] == YES  # the base model's sets are judged

    @pytest.mark.parametrize(
        ("missing", "reason"),
        [({"language_a": "en", "language_b": "vi"}, "'en' with 'vi'"), ({}, "no overlaps of Relevance kurtosis")],
    )
    def test_missing_pairs(self, shared_units, missing, reason):
        found = case("C4", "kurtosis", "", overlaps=shared_units[~at(shared_units, method="kurtosis", **missing)])
        assert found["verdict"] == NONE
        assert reason in found["detail"]


def test_a_rule_whose_halves_overlap_by_chance_is_not_testable(rows):
    """The largest halves count, in every language; what was not run stays so."""
    records = [
        (share, "contrast", "0.1", language, 0.3, 0.1, p if language == "zh" else 1e-9)
        for share, p in ((0.125, 0.5), (0.5, 1e-9))
        for language in synthetic.LANGUAGES
    ]
    names = ["documents_share", "method", "budget", "language", "share_of_a", "expected_share_of_a", "p_value"]
    reliable = pd.DataFrame(records, columns=names)
    assert case("C1", "contrast", "accuracy", rows=rows, reliability=reliable)["verdict"] == YES
    chance = reliable.assign(p_value=reliable["p_value"].to_numpy()[[3, 4, 5, 0, 1, 2]])
    found = case("C1", "contrast", "accuracy", rows=rows, reliability=chance)
    assert (found["verdict"], found["numbers"]["satisfied"]) == (IDLE, 3)
    assert found["detail"].startswith("Not testable here")
    assert "Chinese 30.0%, by chance 10.0%" in found["detail"]
    assert case("C1", "kurtosis", "accuracy", rows=rows, reliability=chance)["verdict"] != IDLE
    assert case("C1", "contrast", "accuracy", reliability=chance)["verdict"] == NONE


def test_an_accuracy_that_guessing_reaches_says_nothing(rows):
    unmasked = at(rows, model="base", metric="accuracy", masked_language="", evaluation_language="vi")
    guessing = replaced(rows, unmasked, 0.251)
    for claim in ("C1", "C1b", "C2", "C3"):
        found = case(claim, "contrast", "accuracy", rows=guessing, error=0.01)
        assert (found["verdict"], found["numbers"]) == (IDLE, {})
        assert found["detail"].endswith("is not clearly above that of guessing in Vietnamese.")
    assert case("C1", "contrast", "token_probability", rows=guessing)["verdict"] == YES
    assert case("C5", "contrast", "accuracy", rows=guessing)["verdict"] == YES  # of the chat model, which knows them


def test_what_was_not_run(rows):
    found = judge(Results(), budget="0.1")
    assert {item["verdict"] for item in found} == {NONE}
    assert len(not_run(found)) == 22
    assert {v["verdict"] for v in judge(Results({}, pd.DataFrame(), pd.DataFrame()), budget="0.1")} == {NONE}
    # A fourth language that was not masked.
    scores = synthetic.make_resampled(rows)
    base = scores["base", "accuracy"]
    wider = {
        name: np.concatenate([value, value[..., :1]], axis=-1)
        for name, value in vars(base).items()
        if isinstance(value, np.ndarray)
    }
    scores["base", "accuracy"] = replace(base, languages=(*base.languages, "fr"), **wider)
    found = judge(Results(scores), budget="0.1")
    (item,) = [i for i in found if (i["id"], i["method"], i["measure"]) == ("C1", "contrast", "accuracy")]
    assert item["verdict"] == NONE
    assert "French" in item["detail"]


def test_verdicts_are_written_and_shown_in_a_table(rows, shared_units, tmp_path):
    found = judge(Results(synthetic.make_resampled(rows, error=0.001), shared_units), budget="0.1")
    write_claims(tmp_path / "claims.json", found, profile="mini")
    assert read_claims(tmp_path / "claims.json") == found
    (tmp_path / "other.json").write_text('{"schema": "crane.neurons/1"}', encoding="utf-8")
    with pytest.raises(CraneError, match="not a file of verdicts"):
        read_claims(tmp_path / "other.json")
    table = verdict_table(found).set_index("claim")
    assert list(table.index) == ["C1", "C1b", "C2", "C3", "C4", "C5"]
    assert len(table.columns) == 5
    assert table.loc["C4"].tolist()[1:] == [YES, "", IDLE, ""]
    assert table.loc["C2", "Relevance contrast, 10 %: accuracy"] == YES
    # The file of rules is checked, too.
    with pytest.raises(CraneError, match="no such file"):
        load_rules(tmp_path / "claims.yaml")
    schema = "schema: crane.claim-rules/2"
    for text, message in (("- a", "not a file of claims"), (f"{schema}\nclaims: [{{id: C9}}]", "no judge for 'C9'")):
        (tmp_path / "claims.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(CraneError, match=message):
            load_rules(tmp_path / "claims.yaml")
