"""What the comparison with the paper needs of a study."""

import json

import pytest
import torch

from crane_lib import paper
from crane_lib.errors import CraneError
from crane_lib.output.tolerances import load_tolerances
from crane_lib.profile import Paper
from crane_lib.study import Study
from tests.small import write_study

TOLERANCES = load_tolerances()
ASKED = {"en": "MMLU", "zh": "C-Eval", "vi": "Belebele-vi"}


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study"), chat=True, relevance_documents=8, perplexity_documents=2)


def opened(profile, **given):
    study = Study.open(str(profile), artifacts=profile.parent / "artifacts", say=lambda _line: None)
    study.profile = study.profile.model_copy(update={"paper": Paper(**given)})
    return study


def test_a_model_is_the_papers_only_if_named_so_and_of_its_sizes(profile, tmp_path):
    assert "does not name its models" in paper.why_not_the_papers(opened(profile), "base")
    study = opened(profile, model="Llama-2-7b")
    assert paper.why_not_the_papers(study, "base") == "the base model has num_hidden_layers 2, Llama-2-7b 32"
    other = write_study(tmp_path)
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | paper.SIZES["Llama-2-7b"]))
    study = opened(other, model="Llama-2-7b", benchmarks=ASKED)
    assert paper.why_not_the_papers(study, "base") == paper.why_no_values(study, "base") == ""
    assert paper.why_not_the_papers(study, "chat") == "the profile names no chat model"
    study = opened(other, model="Llama-2-7b", benchmarks=ASKED | {"zh": "MMLU"})
    assert paper.why_no_values(study, "base") == "the zh questions are not C-Eval (paper.benchmarks)"


def test_every_table_of_another_model_has_directions_and_no_values(profile):
    study = opened(profile)
    rows = study.all_rows()
    for table, caption in (
        paper.benchmarks(study, rows, "base", TOLERANCES),
        paper.benchmarks(study, rows, "chat", TOLERANCES),
        paper.langspec(study, rows, "base", TOLERANCES),
        paper.set_overlaps(study, TOLERANCES),
        paper.open_ended(study, TOLERANCES, metric="judge_score"),
    ):
        assert "directions only" in caption
        assert "same_direction" in table
        assert len(table)
        assert not any(kind.kind == "f" for kind in table.dtypes)
    table, caption = paper.open_ended(study, TOLERANCES, metric="judge_score")
    assert "NOT RUN" in caption
    assert set(table["same_direction"]) == {"NOT RUN"}


def test_the_released_rules_sets_are_measured_where_the_languages_are_there(profile):
    """The small study has no Chinese: its rows are NOT RUN, the others have directions."""
    study = opened(profile)
    table, _caption = paper.benchmarks(study, study.all_rows(), "base", TOLERANCES)
    kurtosis = table[table["method"] == "kurtosis"].set_index("masked_language")["own_ours"]
    assert kurtosis["zh"] == "NOT RUN"
    assert kurtosis["en"] in ("falls", "rises", "no clear change")
    shared, _caption = paper.set_overlaps(study, TOLERANCES)
    ours = shared.set_index(["language_a", "language_b"])["our_direction"]
    assert ours[("en", "zh")] == "NOT RUN"
    assert ours[("en", "vi")] in ("more than random", "not more than random")


def test_the_sets_that_are_shown(profile):
    study = opened(profile)
    sets = paper.main_sets(study)
    assert {item.budget for item in sets} == {"published", "0.1"}
    assert not any(item.method.startswith("random") for item in sets)
    groups = paper.by_rule(sets)
    assert [item.language for item in groups["kurtosis", "published"]] == ["en", "vi"]


def test_lapes_list_is_read_where_the_profile_names_one(profile, tmp_path):
    study = opened(profile)
    sets = paper.main_sets(study)
    assert paper.lape_list(study, sets) == ([], "the profile names no published list (paper.lape_list)")
    path = tmp_path / "list.pth"
    torch.save([[torch.tensor([language, language + 1])] * 2 for language in range(7)], path)
    listed, reason = paper.lape_list(opened(profile, lape_list=path), sets)
    assert reason == ""
    assert [item.language for item in listed] == ["en", "vi"]
    torch.save([[torch.tensor([100])] * 2] * 7, path)
    with pytest.raises(CraneError, match="out of range for a width of 24; it is of another model"):
        paper.lape_list(opened(profile, lape_list=path), sets)


def test_the_path_of_a_list_is_relative_to_the_profile(tmp_path):
    from crane_lib.profile import load_profile

    path = write_study(tmp_path, questions=False)
    path.write_text(path.read_text() + "paper: {lape_list: lists/llama.pth}\n")
    assert load_profile(str(path)).paper.lape_list == tmp_path / "lists" / "llama.pth"
