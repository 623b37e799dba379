"""Every claim on made-up rows whose verdict is known beforehand."""

import numpy as np
import pandas as pd
import pytest

from crane_lib.errors import CraneError
from crane_study.paper.claims import judge, load_rules, not_run, read_claims, verdict_table, write_claims
from tests.study.outputs import synthetic

YES, NO, NONE = "REPRODUCED", "NOT REPRODUCED", "NOT RUN"
MEASURES = ("token_probability", "accuracy")
ENGLISH = {"evaluation_language": "en"}


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
    rules = load_rules()
    assert [claim["id"] for claim in rules["claims"]] == ["C1", "C2", "C3", "C4", "C5"]
    assert rules["methods"] == {"kurtosis": "published", "contrast": "common"}
    assert tuple(rules["measures"]) == MEASURES
    found = judge(rows=rows, langspec=langspec, overlaps=shared_units, budget=0.1)
    keys = [(item["id"], item["method"], item["measure"]) for item in found]
    assert len(keys) == len(set(keys)) == 18
    assert [key for key in keys if key[0] == "C4"] == [("C4", "kurtosis", ""), ("C4", "contrast", "")]
    assert {(item["method"], item["budget"]) for item in found} == {("kurtosis", "published"), ("contrast", "0.1")}
    assert NONE not in {item["verdict"] for item in found}
    assert all(item["detail"].endswith(".") for item in found)


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
        ("wanted", "value", "reason"),
        [
            ({"method": "contrast"}, None, "with base-model sets masked"),
            ({"masked_language": ""}, None, "without a mask"),
            ({"method": "contrast", "masked_language": "vi", **ENGLISH}, None, "English with the Vietnamese"),
            ({"method": "contrast", **ENGLISH}, np.nan, "has no"),
            ({"masked_language": "", **ENGLISH}, 0.0, "not positive"),
        ],
    )
    def test_rows_that_are_missing_or_zero(self, rows, claim, model, measure, wanted, value, reason):
        where = at(rows, model=model, metric=measure, **wanted)
        changed = rows[~where] if value is None else replaced(rows, where, value)
        found = case(claim, "contrast", measure, rows=changed)
        assert (found["verdict"], found["numbers"]) == (NONE, {})
        assert reason in found["detail"]
        other = next(name for name in MEASURES if name != measure)
        assert case(claim, "contrast", other, rows=changed)["verdict"] == YES


def test_transfer_takes_the_sets_of_the_base_model(rows, langspec, shared_units):
    """Sets selected on the chat model do not speak for C5."""
    kept = rows[~at(rows, model="chat", selected_on="base")]
    assert case("C5", "contrast", "accuracy", rows=kept)["verdict"] == NONE
    found = judge(rows=rows[rows["model"] == "base"], langspec=langspec, overlaps=shared_units, budget="0.1")
    assert {item["id"] for item in found if item["verdict"] == NONE} == {"C5"}  # no chat model at all


def with_f1(langspec, value, **wanted):
    """LangSpec rows with another F1 where these values hold."""
    return langspec.assign(langspec_f1=np.where(at(langspec, **wanted), value, langspec["langspec_f1"]))


@pytest.mark.parametrize("measure", MEASURES)
class TestRival:
    def test_above_lape_as_published_and_at_the_same_budget(self, langspec, measure):
        found = case("C2", "contrast", measure, langspec=langspec)
        numbers = found["numbers"]
        assert (found["verdict"], numbers["own"]) == (YES, numbers["own_common"])
        assert numbers["lape_common"] > numbers["lape_published"]
        found = case("C2", "kurtosis", measure, langspec=langspec)
        numbers = found["numbers"]
        assert numbers["own"] > numbers["lape_published"]
        assert numbers["own_common"] < numbers["lape_common"]
        assert found["verdict"] == NO
        better = with_f1(langspec, 0.99, model="base", method="lape", budget="published", metric=measure)
        assert case("C2", "contrast", measure, langspec=better)["verdict"] == NO
        assert case("C2", "contrast", measure, langspec=langspec.assign(langspec_f1=0.0))["verdict"] == NO  # a tie
        better = with_f1(langspec, 1.0, model="chat", method="lape")  # the chat model does not count
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
def test_above_every_random_draw(langspec, measure):
    found = case("C3", "contrast", measure, langspec=langspec)
    assert found["verdict"] == YES
    assert found["numbers"]["draws"] == found["numbers"]["draws_below"] == synthetic.DRAWS
    wanted = {"model": "base", "method": "random_like_contrast", "random_seed": 3, "metric": measure}
    found = case("C3", "contrast", measure, langspec=with_f1(langspec, 0.99, **wanted))
    assert (found["verdict"], found["numbers"]["draws_below"]) == (NO, synthetic.DRAWS - 1)
    # The draws' means are compared, not single languages.
    better = with_f1(langspec, 0.99, **wanted, masked_language="en")
    assert case("C3", "contrast", measure, langspec=better)["verdict"] == YES
    found = case("C3", "contrast", measure, langspec=langspec[langspec["random_seed"] < 4])
    assert (found["verdict"], found["detail"]) == (NONE, "random draws: 4, at least 5 are needed")
    # Draws like another method do not count.
    kept = langspec[langspec["method"] != "random_like_kurtosis"]
    assert case("C3", "kurtosis", measure, langspec=kept)["verdict"] == NONE
    assert case("C3", "contrast", measure, langspec=kept)["verdict"] == YES


class TestOverlaps:
    def test_every_pair_is_above_chance(self, shared_units):
        found = case("C4", "kurtosis", "", overlaps=shared_units)
        assert found["verdict"] == YES
        assert set(found["numbers"]["pairs"]) == {"en-zh", "en-vi", "zh-vi"}
        assert "a property of this rule" not in found["detail"]
        found = case("C4", "contrast", "", overlaps=shared_units)  # its sets are disjoint
        assert found["verdict"] == NO
        assert "a property of this rule" in found["detail"]
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


def test_what_was_not_run(rows):
    found = judge(rows=None, langspec=None, overlaps=None, budget="0.1")
    assert {item["verdict"] for item in found} == {NONE}
    assert len(not_run(found)) == 18
    empty = pd.DataFrame()
    assert {v["verdict"] for v in judge(rows=empty, langspec=empty, overlaps=empty, budget="0.1")} == {NONE}
    # A fourth language that was not masked.
    french = rows[rows["evaluation_language"] == "vi"].assign(evaluation_language="fr")
    wider = pd.concat([rows, french, rows[rows["masked_language"] == "vi"].assign(masked_language="fr")])
    found = case("C1", "contrast", "accuracy", rows=wider.drop_duplicates())
    assert found["verdict"] == NONE
    assert "French" in found["detail"]


def test_verdicts_are_written_and_shown_in_a_table(rows, langspec, shared_units, tmp_path):
    found = judge(rows=rows, langspec=langspec, overlaps=shared_units, budget="0.1")
    write_claims(tmp_path / "claims.json", found, profile="mini")
    assert read_claims(tmp_path / "claims.json") == found
    (tmp_path / "other.json").write_text('{"schema": "crane.neurons/1"}', encoding="utf-8")
    with pytest.raises(CraneError, match="not a file of verdicts"):
        read_claims(tmp_path / "other.json")
    table = verdict_table(found).set_index("claim")
    assert list(table.index) == ["C1", "C2", "C3", "C4", "C5"]
    assert len(table.columns) == 5
    assert table.loc["C4"].tolist()[1:] == [YES, "", NO, ""]
    assert table.loc["C2", "Relevance contrast, 10 %: accuracy"] == YES
    # The file of rules is checked, too.
    with pytest.raises(CraneError, match="no such file"):
        load_rules(tmp_path / "claims.yaml")
    schema = "schema: crane.claim-rules/1"
    for text, message in (("- a", "not a file of claims"), (f"{schema}\nclaims: [{{id: C9}}]", "no judge for 'C9'")):
        (tmp_path / "claims.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(CraneError, match=message):
            load_rules(tmp_path / "claims.yaml")
