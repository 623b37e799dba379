"""A method that a user registers is selected, masked, and shown in tables and figures."""

import pytest
import yaml

from crane_lib.errors import CraneError
from crane_lib.methods import METHODS, Method, register
from crane_lib.neurons import read_all_sets
from crane_study import figures
from crane_study.figures.style import method_colour
from crane_study.frames import read_frame
from crane_study.measure.rows import langspec_of
from crane_study.profile import load_profile
from crane_study.study import Study
from crane_study.tables import controls, effects
from crane_study.tables.overlap import set_counts
from crane_study.uncertainty.bootstrap import resample_documents
from tests.small import write_study

LABEL = "Mean activation of the gate"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    profile = write_study(root, relevance_documents=8, perplexity_documents=4, questions=False)
    values = yaml.safe_load(profile.read_text(encoding="utf-8"))
    values["controls"] = {"budgets": [0.1, 0.3], "draws": 2, "documents": 4, "ablation": "few"}
    values["selection"] = {"methods": ["kurtosis", "contrast", "lape", "own"]}
    profile.write_text(yaml.safe_dump(values), encoding="utf-8")
    register(Method("own", LABEL, "#AA7744", scores=lambda units: units.firing))
    yield Study.open(str(profile), artifacts=root / "artifacts", say=lambda _line: None)
    del METHODS["own"]


@pytest.fixture(scope="module")
def rows(study):
    return study.rows("base")


@pytest.fixture(scope="module")
def dose(study):
    documents = read_frame(study.control_perplexity() / "documents.parquet")
    return resample_documents(documents, resamples=20, random_seed=0)


def test_tables_have_it(study, rows, dose):
    counts = set_counts(read_all_sets(study.selection("base").folder))
    random = {"random_like_kurtosis", "random_like_released", "random_like_contrast", "random_like_lape"}
    assert set(counts["method"]) == {"kurtosis", "contrast", "lape", "own", *random}
    for table in (
        effects.perplexity_table(rows),
        effects.specificity_table(rows),
        effects.main_table(langspec_of(rows), rows),
        controls.dose_curves(dose),
        controls.area_table(dose),
        controls.control_table(dose, budget=study.budget),
    ):
        assert "own" in set(table["method"])
    assert LABEL in set(controls.ablation_table(dose, budget=study.budget)["rule"])


def test_figures_show_it(study, rows, dose, tmp_path):
    counts = set_counts(read_all_sets(study.selection("base").folder))
    figures.set_counts_figure(counts, tmp_path / "counts")
    figures.delta_matrices(rows, tmp_path / "perplexity")
    figures.langspec_bars(langspec_of(rows), tmp_path / "langspec")
    figures.dose_response(controls.dose_curves(dose), tmp_path / "dose")
    texts = {path.stem: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.txt")}
    assert len(texts) == 4
    assert [name for name, text in texts.items() if LABEL not in text] == []
    assert method_colour("own") == "#AA7744"


def test_stages_depend_on_its_code(study):
    assert "units.firing" in study.methods["own"]
    assert study.methods["contrast"] == ""


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (["kurtosis", "contrast", "lape", "contrst_abs"], "selection.methods.*did you mean 'contrast_abs'"),
        (["kurtosis", "contrast"], "selection.methods.*lacks 'lape'"),
    ],
)
def test_other_names_are_refused(tmp_path, methods, message):
    path = tmp_path / "a.yaml"
    source = {"kind": "local", "base_model": "m", "texts": {"en": "en.txt", "vi": "vi.txt"}}
    languages = {"en": "English", "vi": "Vietnamese"}
    values = {"description": "d", "languages": languages, "source": source, "selection": {"methods": methods}}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(CraneError, match=message):
        load_profile(str(path))
