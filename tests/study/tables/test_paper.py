"""The comparison with the paper, of a whole study."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from crane_lib.errors import CraneError
from crane_lib.methods import TOP_ROWS
from crane_lib.specificity import langspec
from crane_study.loading.models import load_model
from crane_study.measure.rows import langspec_rows
from crane_study.paper.claims import NOT_RUN
from crane_study.paper.lape_list import compare_with_list
from crane_study.paper.tolerances import load_tolerances
from crane_study.profile import Paper, load_profile
from crane_study.study import Study
from crane_study.tables import paper
from crane_study.tables.effects import main_table, with_statistics
from crane_study.tables.overlap import by_rule, main_sets, overlaps, published_list
from crane_study.uncertainty.bootstrap import resample_documents, resample_items
from crane_study.uncertainty.open_ended import score_rows
from tests.small import write_study

TOLERANCES = load_tolerances()


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study"), chat=True, relevance_documents=8, perplexity_documents=2)


def opened(profile, **given):
    study = Study.open(str(profile), artifacts=profile.parent / "artifacts", say=lambda _line: None)
    study.profile = study.profile.model_copy(update={"paper": Paper(**given)})
    return study


def test_without_a_chat_model_the_published_directions_stand_alone():
    study = SimpleNamespace(profile=SimpleNamespace(paper=Paper()), listed=None, has_chat=False)
    table, caption = paper.benchmarks(study, None, "chat", TOLERANCES)
    assert len(table)
    assert (table["own_ours"] == NOT_RUN).all()
    assert not (table["own_published"] == NOT_RUN).any()
    assert caption.endswith("NOT RUN: the profile names no chat model.")


def test_every_table_of_another_model_has_directions_and_no_values(profile):
    study = opened(profile)
    rows = study.all_rows()
    for table, caption in (
        paper.benchmarks(study, rows, "base", TOLERANCES),
        paper.benchmarks(study, rows, "chat", TOLERANCES),
        paper.benchmark_langspec(study, rows, "base", TOLERANCES),
        paper.set_overlaps(study, TOLERANCES),
        paper.open_ended(study, TOLERANCES),
        paper.open_ended_langspec(study, TOLERANCES),
    ):
        assert "directions only" in caption
        assert len(table["same_direction"])
        assert not {"ours", "difference", "tolerance", "within"} & set(table)
        if "Open-ended" in caption or "judge" in caption:
            assert "NOT RUN: the profile names no open questions" in caption
            assert set(table["same_direction"]) == {"NOT RUN"}
    # The small study has no Chinese: its rows are NOT RUN, the others have directions.
    table, _caption = paper.benchmarks(study, study.all_rows(), "base", TOLERANCES)
    kurtosis = table[table["method"] == "kurtosis"].set_index("masked_language")["own_ours"]
    assert kurtosis["zh"] == "NOT RUN"
    assert kurtosis["en"] in ("falls", "rises", "no clear change")
    runs, caption = paper.published_runs(study, rows, TOLERANCES)
    assert "Ours is not beside them, for the profile does not name its models" in caption
    assert len(runs) == 12
    assert "ours" not in runs
    shared, _caption = paper.set_overlaps(study, TOLERANCES)
    ours = shared.set_index(["language_a", "language_b"])["our_direction"]
    assert ours[("en", "zh")] == "NOT RUN"
    sets = [item for item in main_sets(study) if (item.method, item.budget) == paper.RELEASED_RULE]
    row = overlaps(sets).set_index(["language_a", "language_b"]).loc[("en", "vi")]
    inside = row["chance_low"] <= row["share_of_a"] <= row["chance_high"]
    above = "more than chance" if row["share_of_a"] > row["chance_high"] else "less than chance"
    assert ours[("en", "vi")] == ("no clear difference" if inside else above)


ANSWERED = {"en": 9.0, "vi": 8.0, "zh": 7.0}


def judged():
    """Judged answers to 70 questions per language, unmasked and with two methods' sets of the chat model masked."""
    frames = []
    for method, budget, lost in (("none", "", 0.0), ("kurtosis", "published", 3.0), ("lape", "published", 0.5)):
        for masked in ANSWERED if lost else [""]:
            for language, score in ANSWERED.items():
                labels = {"profile": "p", "model": "chat", "method": method, "budget": budget, "language": language}
                labels |= {"selected_on": "chat" if masked else "", "masked_language": masked, "masked_share": 0.1}
                value = score - (lost if masked == language else 0.25 * bool(masked))
                frame = pd.DataFrame({"question": range(70), "score": value})
                frames.append(frame.assign(**labels, random_seed=-1, judge="endpoint"))
    return pd.concat(frames, ignore_index=True)


@pytest.fixture
def answered(profile, monkeypatch):
    """A study whose chat model's answers an endpoint judged."""
    items = judged()
    monkeypatch.setattr(paper, "available_results", lambda study: (score_rows(items, main="endpoint"), items, ""))
    return opened(profile)


def test_langspec_of_open_answers_has_directions_for_another_model(answered):
    table, caption = paper.open_ended_langspec(answered, TOLERANCES)
    assert "directions only, for the profile does not name its models" in caption
    ranks = table.set_index(["method", "budget"])["rank_ours"].to_dict()
    assert ranks == {("kurtosis", "published"): "1", ("kurtosis", TOP_ROWS): "NOT RUN", ("lape", "published"): "2"}


def test_open_answers_have_values_where_nothing_speaks_against_it(answered, monkeypatch):
    asked = []
    no_reason = lambda study, items, *, questions: asked.append((len(items), questions)) or ""  # noqa: E731
    monkeypatch.setattr(paper, "why_no_scores", no_reason)
    table, caption = paper.open_ended_langspec(answered, TOLERANCES)
    assert "published value, ours" in caption
    own = table.set_index(["method", "budget", "masked_language"])["ours"].sort_index()
    before, after = ANSWERED, {"en": 6.0, "vi": 7.75, "zh": 6.75}
    expected = langspec(before, after, target="en", beta=4.0, form="released").f
    assert own[("kurtosis", "published", "en")] == pytest.approx(expected)
    assert own.drop(("kurtosis", TOP_ROWS))["kurtosis"].notna().all()
    scores, caption = paper.open_ended(answered, TOLERANCES)
    assert "published value, ours" in caption
    assert scores["ours"].notna().sum() == 3 + 2 * 9
    assert asked == [(7 * 3 * 70, 70)] * 2


def test_lapes_list_is_read_where_the_profile_names_one(profile, tmp_path):
    study = opened(profile)
    sets = main_sets(study)
    assert {item.budget for item in sets} == {"published", "0.1"}
    assert not any(item.method.startswith("random") for item in sets)
    assert [item.language for item in by_rule(sets)["kurtosis", "published"]] == ["en", "vi"]
    assert published_list(study, sets) == ([], "the profile names no published list (paper.lape_list)")
    path = tmp_path / "list.pth"
    torch.save([[torch.tensor([100])] * 2] * 7, path)
    with pytest.raises(CraneError, match="out of range for a width of 24; it is of another model"):
        opened(profile, lape_list=path).selection("base")
    path = write_study(tmp_path, questions=False)  # the path of a list is relative to the profile
    path.write_text(path.read_text() + "paper: {lape_list: lists/llama.pth}\n")
    assert load_profile(str(path)).paper.lape_list == tmp_path / "lists" / "llama.pth"


LISTED = {"vi": [[3, 5, 7, 9, 11], [0, 2, 23]], "sw": [[1], []], "en": [[0, 1, 2, 4, 6, 8], [10, 12, 14]]}


@pytest.fixture(scope="module")
def with_list(profile, tmp_path_factory):
    """A study whose model a list in the published format fits; its languages are in an order of their own."""
    path = tmp_path_factory.mktemp("lists") / "small.neuron.pth"
    torch.save([[torch.tensor(layer, dtype=torch.int64) for layer in layers] for layers in LISTED.values()], path)
    study = opened(profile, lape_list=path, lape_list_languages=(*LISTED, "ja"))  # Japanese has no neurons: not there
    return study, study.all_rows()


def test_the_published_list_is_masked_like_the_sets_of_a_method(with_list):
    study, rows = with_list
    sets = [item for item in main_sets(study) if item.method == "lape_list"]
    kept = {item.language: [layer.tolist() for layer in item.sites["neuron"]] for item in sets}
    assert kept == {language: LISTED[language] for language in study.languages}
    listed, reason = published_list(study, main_sets(study))
    assert ([item.language for item in listed], reason) == (study.languages, "")
    table = compare_with_list(listed, by_rule(main_sets(study))["lape", "published"]).set_index("language")
    assert table.loc["vi", "count_b"] == 8
    # Slow: the weights of its neurons are zero.
    model, tokenizer = load_model(study.model("base").folder, device="cpu")
    with torch.no_grad():
        for layer, indices in zip(model.model.layers, LISTED["vi"], strict=True):
            layer.mlp.down_proj.weight[:, indices] = 0
    texts = pd.read_parquet(study.corpus / "documents.parquet").query("split == 'perplexity' and language == 'en'")
    tokens = [tokenizer(text, add_special_tokens=True)["input_ids"][:96] for text in texts["text"]]
    nll = [float(model(torch.tensor([ids]), labels=torch.tensor([ids])).loss) * (len(ids) - 1) for ids in tokens]
    of_list = rows[(rows["method"] == "lape_list") & (rows["masked_language"] == "vi")]
    row = of_list.query("model == 'base' and metric == 'nll' and evaluation_language == 'en'")
    assert row["value"].item() == pytest.approx(sum(nll) / sum(len(ids) - 1 for ids in tokens), rel=1e-4)
    assert set(rows[rows["method"] == "lape_list"]["model"]) == {"base", "chat"}
    assert set(rows[rows["method"] == "lape_list"]["metric"]) >= {"nll", "accuracy"}
    # The main tables of sections 03 and 04 have it as a row of its own.
    for metric, found in (
        ("token_probability", resample_documents(study.documents("base"), resamples=50)),
        ("accuracy", resample_items(study.items("base"), resamples=50)),
    ):
        langspec = langspec_rows(rows[rows["model"] == "base"], measure=metric)
        table = with_statistics(main_table(langspec, rows), found)
        chosen = table[(table["method"] == "lape_list") & (table["budget"] == "published")]
        assert len(chosen) == 1
        assert chosen[["en", "vi", "mean"]].notna().all(axis=None)


def test_a_language_without_neurons_in_the_list_is_masked_with_nothing(profile, tmp_path):
    path = tmp_path / "small.pth"
    torch.save([[torch.tensor([3]), torch.tensor([5])]], path)
    rows = opened(profile, lape_list=path, lape_list_languages=["en", "vi"]).rows("base")
    nll = rows[rows["metric"] == "nll"].set_index(["method", "masked_language", "evaluation_language"])["value"]
    for language in ("en", "vi"):
        assert nll["lape_list", "vi", language] == nll["none", "", language]
        assert nll["lape_list", "en", language] != nll["none", "", language]


def test_published_accuracies_of_lape_stand_beside_the_list_and_beside_our_own_sets(with_list, profile, monkeypatch):
    study, rows = with_list
    table, _caption = paper.benchmarks(study, rows, "base", TOLERANCES)
    assert table.set_index(["method", "masked_language"]).loc[("lape_list", "en"), "own_ours"] != "NOT RUN"
    assert {"lape", "lape_list"} <= set(table["method"])
    ranks, _caption = paper.benchmark_langspec(study, rows, "base", TOLERANCES)
    assert "lape" not in set(ranks["method"])
    assert "lape_list" in set(ranks["method"])
    monkeypatch.setattr(paper, "why_no_accuracies", lambda study, model: "")
    for model in study.model_names:
        table, _caption = paper.benchmarks(study, rows, model, TOLERANCES)
        table = table[table["evaluation_language"].isin(study.languages)].set_index(["method", "masked_language"])
        both = [table.loc[method].sort_index()["published"].tolist() for method in ("lape", "lape_list")]
        assert both[0] == both[1]
        own = rows.query(
            "model == @model and metric == 'accuracy' and method == 'lape_list' and masked_language == 'en'"
        )
        expected = own.query("evaluation_language == 'vi'")["value"].item()
        assert table.query("evaluation_language == 'vi'").loc[("lape_list", "en"), "ours"] == expected
    without = opened(profile)
    table, _caption = paper.benchmarks(without, without.all_rows(), "base", TOLERANCES)
    assert "lape_list" not in set(table["method"])
