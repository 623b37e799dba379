import pytest

from crane_lib.errors import CraneError
from crane_run import sections
from crane_run.notebook import known_parameters
from crane_run.sections import Section, all_sections, choose_sections
from crane_study import fingerprints as code
from crane_study.paper.claims import load_rules
from tests.run.notebooks import write_notebook

NUMBERS = [section.number for section in all_sections()]


def chosen(only=(), first=None):
    return [section.number for section in choose_sections(list(only), first)]


def test_the_sections_are_the_notebooks_in_order():
    assert sorted(NUMBERS) == NUMBERS
    assert len(set(NUMBERS)) == len(NUMBERS)
    assert NUMBERS[0] == "00"


@pytest.mark.parametrize("section", all_sections(), ids=lambda section: section.name)
def test_every_section_has_a_title_and_the_parameters_that_the_runner_gives(section):
    assert section.title != section.name
    assert {"profile", "artifacts"} <= set(known_parameters(section.path))


def test_sections_are_chosen_by_number_or_name():
    assert chosen() == NUMBERS
    assert chosen(["03", "01_relevance"]) == ["01", "03"]
    assert chosen(["03", "03"]) == ["03"]
    assert chosen(first="04") == NUMBERS[NUMBERS.index("04") :]
    assert chosen(["02", "07"], "03") == ["07"]


def test_a_claim_stands_for_the_sections_that_show_and_judge_it():
    assert chosen(["C3"]) == ["03", "04", "09"]
    assert chosen(["c5", "02"]) == ["02", "07", "09"]
    assert chosen(["C1"], "04") == ["04", "09"]
    rules = load_rules()
    assert list(sections.all_claims()) == [item["id"] for item in rules["claims"]]
    judging = next(section for section in all_sections() if section.number == rules["judged_in"])
    assert any("judge(" in source for source in judging.sources("code"))


def test_an_unknown_claim_names_the_nearest():
    with pytest.raises(CraneError, match="unknown section or claim 'C33'; did you mean 'C3'"):
        chosen(["C33"])
    with pytest.raises(CraneError, match="unknown section 'C3'"):  # to start at a claim means nothing
        chosen(first="C3")


@pytest.mark.parametrize("where", ["only", "first"])
@pytest.mark.parametrize(
    ("wrong", "right"), [("01_relevence", "did you mean '01_relevance'?"), ("3", "'03'"), ("xyzzy", "known: 00, ")]
)
def test_an_unknown_section_names_the_nearest(where, wrong, right):
    with pytest.raises(CraneError) as error:
        chosen([wrong]) if where == "only" else chosen(first=wrong)
    what = "section or claim" if where == "only" else "section"
    assert f"unknown {what} '{wrong}'" in str(error.value)
    assert right in str(error.value)


def test_nothing_is_left():
    with pytest.raises(CraneError, match="no section is left: --only 01,02 lies before --from 07"):
        choose_sections(["01", "02"], "07")


def test_no_notebooks(monkeypatch, tmp_path):
    monkeypatch.setattr(sections, "NOTEBOOKS", tmp_path)
    with pytest.raises(CraneError, match="has no notebooks; run from a clone"):
        all_sections()


@pytest.mark.parametrize("content", ["", "{}", "[]", "text"])
def test_a_file_that_is_no_notebook(tmp_path, content):
    path = tmp_path / "00_x.ipynb"
    path.write_text(content)
    with pytest.raises(CraneError, match=r"00_x\.ipynb: is not a notebook"):
        Section(path).sources("code")


def test_the_title_is_the_first_heading(tmp_path):
    assert Section(write_notebook(tmp_path / "07_a.ipynb", title="Masks, and *more*")).title == "Masks, and *more*"


def test_the_key_is_of_all_that_determines_the_outputs(tmp_path, monkeypatch):
    def key(cell="from crane_lib.specificity import langspec", *, profile=1, parameters=2, outside=3, title="T"):
        section = Section(write_notebook(tmp_path / "00_a.ipynb", cell, title=title))
        return section.key({"profile": profile}, {"value": parameters}, {"file": str(outside)})

    keys = [
        key(),
        key(title="Other"),
        key("from crane_lib.specificity import langspec  # changed"),
        key("from crane_lib.selection import top"),
        key(profile=9),
        key(parameters=9),
        key(outside=9),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]
    monkeypatch.setattr(code, "_digest", lambda file: f"changed {file.name}")
    assert key() not in keys


def test_lines_that_only_ipython_understands_do_not_hide_imports(tmp_path):
    cells = ["%matplotlib inline\nfrom crane_lib.specificity import langspec\n!ls\n    %time x = 1"]
    section = Section(write_notebook(tmp_path / "00_a.ipynb", *cells))
    plain = [code.imported_modules(sections.plain_code(source)) for source in section.sources("code")]
    assert plain[-1] == {"crane_lib.specificity"}
    assert section.key({}, {}, {})
