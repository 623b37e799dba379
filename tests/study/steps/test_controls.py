"""Control sets, and their evaluation on a sample of the texts, on a random model."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from crane_lib.errors import CraneError
from crane_lib.neurons import read_all_sets
from crane_lib.nll import document_nll
from crane_study.data.corpora import sample, tokenized
from crane_study.frames import read_frame
from crane_study.loading.models import load_model
from crane_study.options import MaskChoice
from crane_study.steps import masks
from crane_study.steps.controls import make_control_nlu, make_control_perplexity, make_control_sets
from tests.small import LANGUAGES, OBJECTIVES, ON_DOCUMENTS, ON_QUESTIONS
from tests.study.steps.test_measuring import ALWAYS, root  # noqa: F401  (a fixture)


@pytest.fixture(scope="module")
def sets(root, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("sets")
    inputs = {"relevance": root / "relevance", "languages": LANGUAGES, "objectives": OBJECTIVES, "methods": ALWAYS}
    options = {"options": {"budget": 0.25, "random_draws": 6}}
    options |= {"controls": {"budgets": [0.1, 0.5], "draws": 2, "ablation": "few"}}
    make_control_sets(folder, **inputs, **options, random_seed=0)
    return folder


def test_every_method_at_every_budget_and_the_draws_of_each_kind(sets):
    found = pd.DataFrame(
        [(s.method, s.budget, s.language, s.random_seed, s.count()) for s in read_all_sets(sets)],
        columns=["method", "budget", "language", "draw", "count"],
    )
    sizes = found[found["method"] == "contrast"].groupby("budget")["count"].unique().map(list).to_dict()
    assert sizes == {"0.1": [5], "0.25": [12], "0.5": [24]}
    draws = found.groupby(["method", "budget"])["draw"].nunique()
    assert draws["random_global"].to_dict() == {"0.1": 2, "0.25": 6, "0.5": 2}
    assert draws["random_full", "any"] == 6
    assert set(found[found["method"] == "random_global"].groupby("budget")["count"].unique().map(list)["0.25"]) == {12}
    assert found[found["method"] == "random_full"]["count"].nunique() > 2
    assert set(found["method"]) >= {"contrast_mean", "contrast_abs", "kurtosis", "lape", "kurtosis_z"}
    assert "kurtosis_raw" not in set(found["method"])  # not in the short ablation
    assert draws["random_like_lape"].to_dict() == {"0.25": 2, "published": 2}
    assert draws["lape", "published"] == 1
    # A global random set is the same for all languages and another one for each draw.
    random = [s for s in read_all_sets(sets) if (s.method, s.budget) == ("random_global", "0.25")]
    assert len(random) == 6 * len(LANGUAGES)
    assert len({(s.random_seed, tuple(s.flat())) for s in random}) == 6


def test_documents_are_a_sample_under_their_own_numbers(root, sets, tmp_path, monkeypatch):  # noqa: F811
    calls = []
    monkeypatch.setattr(masks, "document_nll", lambda *a, **o: calls.append(1) or document_nll(*a, **o))
    options = replace(ON_DOCUMENTS, documents=3, random_seed=1)
    make_control_perplexity(tmp_path, corpus=root / "corpus", model=root / "model", sets=sets, options=options)
    found = pd.read_parquet(tmp_path / "documents.parquet")
    model, tokenizer = load_model(root / "model", device="cpu", dtype="float64")
    frame = pd.read_parquet(root / "corpus" / "documents.parquet")
    for language in LANGUAGES:
        tokens = tokenized(frame, tokenizer, split="perplexity", language=language, max_length=40)
        nll, _tokens = document_nll(model, tokens, token_budget=256)
        bare = found[(found["method"] == "none") & (found["evaluation_language"] == language)]
        assert bare["document"].tolist() == sample(3, of=len(nll), generator=np.random.default_rng([1, 0]))
        np.testing.assert_allclose(bare["nll"], nll[bare["document"]], rtol=1e-10)
    # Each mask under all its names, equal masks measured once.
    count = len(masks.masks_of({"base": sets}, MaskChoice())) + len(LANGUAGES)
    assert len(found.drop_duplicates(["method", "budget", "masked_language", "random_seed"])) == count
    assert len(calls) < len(LANGUAGES) * count
    random = found[(found["method"] == "random_global") & (found["budget"] == "0.25") & (found["random_seed"] == 3)]
    assert random.groupby(["evaluation_language", "document"])["nll"].nunique().eq(1).all()
    assert set(random["masked_language"]) == set(LANGUAGES)


def test_everything_off_silences_every_mlp_and_every_mask_says_what_it_kills(root, sets, tmp_path):  # noqa: F811
    options = replace(ON_DOCUMENTS, documents=3)
    make_control_perplexity(tmp_path, corpus=root / "corpus", model=root / "model", sets=sets, options=options)
    rows, parts = read_frame(tmp_path / "rows.csv"), read_frame(tmp_path / "parts.csv")
    off = rows[(rows["method"] == "everything") & (rows["metric"] == "token_probability")]
    silenced = parts[(parts["part"] == "mlp") & (parts["layer"] == -1)].set_index("evaluation_language")["value"]
    for _language, part in off.groupby("masked_language"):
        found = part.set_index("evaluation_language")["value"]
        np.testing.assert_allclose(found[silenced.index], silenced, rtol=1e-9)
    killed = read_frame(tmp_path / "masks.csv", texts=["budget"])
    assert (killed.loc[killed["method"] == "everything", "killed_share"] == 1).all()
    keys = ["method", "budget", "masked_language", "random_seed"]
    killed = killed.set_index(keys)["killed"]
    for item in read_all_sets(sets):
        rows_of = {
            (n, i) for site, layers in item.sites.items() if site != "down" for n, x in enumerate(layers) for i in x
        }
        assert killed[item.method, item.budget, item.language, item.random_seed] == len(rows_of)


def test_silencing_every_part_leaves_the_model_as_it_was(root, sets, tmp_path):  # noqa: F811
    options = replace(ON_QUESTIONS, questions=5, masks=MaskChoice(budgets=["0.5", "any"]))
    make_control_nlu(tmp_path, corpus=root / "corpus", model=root / "model", sets=sets, options=options)
    items = pd.read_parquet(tmp_path / "items.parquet")
    assert set(items["budget"]) == {"", "0.5", "any", "1"}
    assert items.groupby("language")["item"].agg(lambda x: x.nunique()).tolist() == [5, 5]
    assert items["item"].max() < 8
    rows = read_frame(tmp_path / "rows.csv")
    parts = read_frame(tmp_path / "parts.csv")
    assert set(zip(parts["part"], parts["layer"], strict=True)) == {
        ("none", -1),
        *((part, layer) for part in ("mlp", "attention") for layer in (-1, 0, 1)),
    }
    bare = rows[rows["method"] == "none"].set_index("evaluation_language")["value"].to_dict()
    assert parts[parts["part"] == "none"].set_index("evaluation_language")["value"].to_dict() == bare


def test_budgets_that_no_curve_has_are_refused(root, sets, tmp_path):  # noqa: F811
    options = replace(ON_QUESTIONS, questions=5, masks=MaskChoice(budgets=["0.2", "0.3", "any"]))
    with pytest.raises(CraneError, match=r"question_budgets: none of 0\.2, 0\.3 is among controls\.budgets"):
        make_control_nlu(tmp_path, corpus=root / "corpus", model=root / "model", sets=sets, options=options)
    assert not list(tmp_path.iterdir())
