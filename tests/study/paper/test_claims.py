"""Every claim on made-up rows whose verdict is known beforehand."""

import numpy as np
import pandas as pd
import pytest

from crane_lib.errors import CraneError
from crane_study.paper.claims import judge, load_rules, not_run, read_claims, verdict_table, write_claims
from tests.study.outputs import synthetic

YES, NO, NONE = "REPRODUCED", "NOT REPRODUCED", "NOT RUN"
MEASURES = ("token_probability", "accuracy")


def case(claim, method, measure, **frames):
    """The one verdict of a claim, method and measure."""
    rules = load_rules()
    rules["claims"] = [entry for entry in rules["claims"] if entry["id"] == claim]
    rules["methods"] = {method: rules["methods"][method]}
    rules["measures"] = [measure]
    (found,) = judge(budget="0.1", rules=rules, **{"rows": None, "langspec": None, "overlaps": None, **frames})
    assert (found["id"], found["method"], found["measure"]) == (claim, method, measure)
    return found


def replaced(rows, where, value):
    """Rows with another value where `where` holds."""
    return rows.assign(value=np.where(where, value, rows["value"]))


def at(rows, **wanted):
    """Rows that have these values."""
    return np.logical_and.reduce([rows[name] == value for name, value in wanted.items()])


def test_every_claim_is_judged_once(rows, langspec, shared_units):
    found = judge(rows=rows, langspec=langspec, overlaps=shared_units, budget=0.1)
    keys = [(item["id"], item["method"], item["measure"]) for item in found]
    assert len(keys) == len(set(keys)) == 18
    assert [key for key in keys if key[0] == "C4"] == [("C4", "kurtosis", ""), ("C4", "contrast", "")]
    assert {item["budget"] for item in found if item["method"] == "kurtosis"} == {"published"}
    assert {item["budget"] for item in found if item["method"] == "contrast"} == {"0.1"}
    assert NONE not in {item["verdict"] for item in found}
    assert all(item["detail"].endswith(".") for item in found)


def test_rules_are_those_of_the_file():
    rules = load_rules()
    assert [claim["id"] for claim in rules["claims"]] == ["C1", "C2", "C3", "C4", "C5"]
    assert rules["methods"] == {"kurtosis": "published", "contrast": "common"}
    assert tuple(rules["measures"]) == MEASURES


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(("claim", "model"), [("C1", "base"), ("C5", "chat")])
class TestDamage:
    def test_holds(self, rows, claim, model, measure):
        found = case(claim, "contrast", measure, rows=rows)
        assert found["verdict"] == YES
        assert found["numbers"]["satisfied"] == 3
        assert found["numbers"]["relative_drop"]["en"]["worst_other"] == "vi"

    def test_one_language_is_hurt_more_elsewhere(self, rows, claim, model, measure):
        where = at(rows, model=model, selected_on="base", method="contrast", masked_language="zh", metric=measure)
        worse = replaced(rows, where & at(rows, evaluation_language="en"), 0.01)
        found = case(claim, "contrast", measure, rows=worse)
        assert found["verdict"] == NO
        assert found["numbers"]["satisfied"] == 2
        assert found["numbers"]["relative_drop"]["zh"]["worst_other"] == "en"
        assert "English" in found["detail"]

    def test_the_drop_is_relative(self, rows, claim, model, measure):
        """A smaller absolute loss of a smaller score can be the larger share."""
        part = at(rows, model=model, metric=measure)
        unmasked = rows[part & at(rows, masked_language="", evaluation_language="en")]["value"].item()
        high = replaced(rows, part & at(rows, evaluation_language="zh", masked_language=""), 0.99)
        where = part & at(rows, selected_on="base", method="contrast", masked_language="en")
        high = replaced(high, where & at(rows, evaluation_language="en"), unmasked * 0.80)
        high = replaced(high, where & at(rows, evaluation_language="zh"), 0.99 * 0.85)
        assert unmasked * 0.2 < 0.99 * 0.15 or unmasked > 0.74
        assert case(claim, "contrast", measure, rows=high)["numbers"]["relative_drop"]["en"]["holds"]

    @pytest.mark.parametrize("others", [-0.3, 0.0], ids=["gain", "tie"])
    def test_a_gain_or_a_tie_is_no_damage(self, claim, model, measure, others):
        rows = synthetic.make_rows({("contrast", "0.1"): (0.0, others, 0.1)})
        assert case(claim, "contrast", measure, rows=rows)["verdict"] == NO

    @pytest.mark.parametrize(
        ("wanted", "reason"),
        [
            ({"method": "contrast"}, "with base-model sets masked"),
            ({"masked_language": ""}, "without a mask"),
            (
                {"method": "contrast", "masked_language": "vi", "evaluation_language": "en"},
                "English with the Vietnamese",
            ),
        ],
    )
    def test_missing_rows(self, rows, claim, model, measure, wanted, reason):
        kept = rows[~at(rows, model=model, metric=measure, **wanted)]
        found = case(claim, "contrast", measure, rows=kept)
        assert found["verdict"] == NONE
        assert reason in found["detail"]
        assert found["numbers"] == {}
        other = next(name for name in MEASURES if name != measure)
        assert case(claim, "contrast", other, rows=kept)["verdict"] == YES

    @pytest.mark.parametrize(
        ("wanted", "value", "reason"),
        [({"method": "contrast"}, np.nan, "has no"), ({"masked_language": ""}, 0.0, "not positive")],
    )
    def test_a_value_that_is_missing_or_zero(self, rows, claim, model, measure, wanted, value, reason):
        where = at(rows, model=model, metric=measure, evaluation_language="en", **wanted)
        found = case(claim, "contrast", measure, rows=replaced(rows, where, value))
        assert found["verdict"] == NONE
        assert reason in found["detail"]


def test_transfer_takes_the_sets_of_the_base_model(rows):
    """Sets selected on the chat model do not speak for C5."""
    kept = rows[~at(rows, model="chat", selected_on="base")]
    assert case("C5", "contrast", "accuracy", rows=kept)["verdict"] == NONE


def test_no_chat_model(rows, langspec, shared_units):
    found = judge(rows=rows[rows["model"] == "base"], langspec=langspec, overlaps=shared_units, budget="0.1")
    assert {item["id"] for item in found if item["verdict"] == NONE} == {"C5"}


def with_f1(langspec, value, **wanted):
    """LangSpec rows with another F1 where these values hold."""
    return langspec.assign(langspec_f1=np.where(at(langspec, **wanted), value, langspec["langspec_f1"]))


@pytest.mark.parametrize("measure", MEASURES)
class TestRival:
    def test_holds(self, langspec, measure):
        found = case("C2", "contrast", measure, langspec=langspec)
        assert found["verdict"] == YES
        assert found["numbers"]["own"] == found["numbers"]["own_common"]
        assert found["numbers"]["lape_common"] > found["numbers"]["lape_published"]

    def test_above_lape_as_published_only(self, langspec, measure):
        found = case("C2", "kurtosis", measure, langspec=langspec)
        assert found["numbers"]["own"] > found["numbers"]["lape_published"]
        assert found["numbers"]["own_common"] < found["numbers"]["lape_common"]
        assert found["verdict"] == NO

    def test_above_lape_at_the_same_budget_only(self, langspec, measure):
        better = with_f1(langspec, 0.99, model="base", method="lape", budget="published", metric=measure)
        assert case("C2", "contrast", measure, langspec=better)["verdict"] == NO

    def test_a_tie_is_not_enough(self, langspec, measure):
        assert case("C2", "contrast", measure, langspec=langspec.assign(langspec_f1=0.0))["verdict"] == NO

    def test_the_chat_model_does_not_count(self, langspec, measure):
        better = with_f1(langspec, 1.0, model="chat", method="lape")
        assert case("C2", "contrast", measure, langspec=better)["verdict"] == YES

    @pytest.mark.parametrize(
        ("missing", "reason"),
        [
            ({"method": "lape", "budget": "published"}, "no LangSpec-F1"),
            ({"method": "lape", "budget": "0.1"}, "no LangSpec-F1"),
            ({"method": "contrast", "budget": "0.1"}, "no LangSpec-F1"),
            ({"method": "lape", "budget": "published", "masked_language": "vi"}, "not there once for every language"),
        ],
    )
    def test_missing_rows(self, langspec, measure, missing, reason):
        found = case("C2", "contrast", measure, langspec=langspec[~at(langspec, metric=measure, **missing)])
        assert found["verdict"] == NONE
        assert reason in found["detail"]


@pytest.mark.parametrize("measure", MEASURES)
class TestRandom:
    def test_holds(self, langspec, measure):
        found = case("C3", "contrast", measure, langspec=langspec)
        assert found["verdict"] == YES
        assert found["numbers"]["draws"] == found["numbers"]["draws_below"] == synthetic.DRAWS

    def test_one_draw_is_better(self, langspec, measure):
        better = with_f1(langspec, 0.99, model="base", method="random_like_contrast", random_seed=3, metric=measure)
        found = case("C3", "contrast", measure, langspec=better)
        assert found["verdict"] == NO
        assert found["numbers"]["draws_below"] == synthetic.DRAWS - 1

    def test_one_language_of_a_draw_may_be_better(self, langspec, measure):
        """The draws' means are compared, not single languages."""
        wanted = {"model": "base", "method": "random_like_contrast", "random_seed": 3, "masked_language": "en"}
        better = with_f1(langspec, 0.99, metric=measure, **wanted)
        assert case("C3", "contrast", measure, langspec=better)["verdict"] == YES

    def test_too_few_draws(self, langspec, measure):
        found = case("C3", "contrast", measure, langspec=langspec[langspec["random_seed"] < 4])
        assert (found["verdict"], found["detail"]) == (NONE, "random draws: 4, at least 5 are needed")

    def test_draws_like_another_method_do_not_count(self, langspec, measure):
        kept = langspec[langspec["method"] != "random_like_kurtosis"]
        assert case("C3", "kurtosis", measure, langspec=kept)["verdict"] == NONE
        assert case("C3", "contrast", measure, langspec=kept)["verdict"] == YES


class TestOverlaps:
    def test_holds_for_overlapping_sets(self, shared_units):
        found = case("C4", "kurtosis", "", overlaps=shared_units)
        assert found["verdict"] == YES
        assert set(found["numbers"]["pairs"]) == {"en-zh", "en-vi", "zh-vi"}

    def test_disjoint_sets_of_contrast_are_explained(self, shared_units):
        found = case("C4", "contrast", "", overlaps=shared_units)
        assert found["verdict"] == NO
        assert "a property of this rule" in found["detail"]
        assert "a property of this rule" not in case("C4", "kurtosis", "", overlaps=shared_units)["detail"]

    def test_one_pair_at_chance(self, shared_units):
        pair = at(shared_units, method="kurtosis", language_a="en", language_b="vi")
        at_chance = shared_units.assign(p_value=np.where(pair, 0.01, shared_units["p_value"]))
        found = case("C4", "kurtosis", "", overlaps=at_chance)
        assert found["verdict"] == NO
        assert found["numbers"]["above_chance"] == 2

    @pytest.mark.parametrize(
        ("missing", "reason"),
        [({"language_a": "en", "language_b": "vi"}, "'en' with 'vi'"), ({}, "no overlaps of Relevance kurtosis")],
    )
    def test_missing_pairs(self, shared_units, missing, reason):
        found = case("C4", "kurtosis", "", overlaps=shared_units[~at(shared_units, method="kurtosis", **missing)])
        assert found["verdict"] == NONE
        assert reason in found["detail"]

    def test_the_base_models_sets_are_judged(self, shared_units):
        both = pd.concat([shared_units, shared_units.assign(model="chat", p_value=1.0)])
        assert case("C4", "kurtosis", "", overlaps=both)["verdict"] == YES


def test_nothing_was_run():
    found = judge(rows=None, langspec=None, overlaps=None, budget="0.1")
    assert {item["verdict"] for item in found} == {NONE}
    assert len(not_run(found)) == 18
    empty = pd.DataFrame()
    assert {v["verdict"] for v in judge(rows=empty, langspec=empty, overlaps=empty, budget="0.1")} == {NONE}


def test_more_languages_than_three(rows):
    french = rows[rows["evaluation_language"] == "vi"].assign(evaluation_language="fr")
    wider = pd.concat([rows, french, rows[rows["masked_language"] == "vi"].assign(masked_language="fr")])
    found = case("C1", "contrast", "accuracy", rows=wider.drop_duplicates())
    assert found["verdict"] == NONE
    assert "French" in found["detail"]


def test_claims_round_trip(rows, langspec, shared_units, tmp_path):
    found = judge(rows=rows, langspec=langspec, overlaps=shared_units, budget="0.1")
    write_claims(tmp_path / "claims.json", found, profile="mini")
    assert read_claims(tmp_path / "claims.json") == found
    (tmp_path / "other.json").write_text('{"schema": "crane.neurons/1"}', encoding="utf-8")
    with pytest.raises(CraneError, match="not a file of verdicts"):
        read_claims(tmp_path / "other.json")


def test_rules_file_is_checked(tmp_path):
    with pytest.raises(CraneError, match="no such file"):
        load_rules(tmp_path / "claims.yaml")
    schema = "schema: crane.claim-rules/1"
    for text, message in (("- a", "not a file of claims"), (f"{schema}\nclaims: [{{id: C9}}]", "no judge for 'C9'")):
        (tmp_path / "claims.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(CraneError, match=message):
            load_rules(tmp_path / "claims.yaml")


def test_verdict_table(rows, langspec, shared_units):
    table = verdict_table(judge(rows=rows, langspec=langspec, overlaps=shared_units, budget="0.1")).set_index("claim")
    assert list(table.index) == ["C1", "C2", "C3", "C4", "C5"]
    assert len(table.columns) == 5
    assert table.loc["C4"].tolist()[1:] == [YES, "", NO, ""]
    assert table.loc["C2", "Relevance contrast, 10 %: accuracy"] == YES
