import re

import pytest

from crane_lib.errors import CraneError
from crane_run import sections
from crane_run.notebook import known_parameters
from crane_run.sections import Declaration, Section, all_sections, choose_sections
from crane_study import fingerprints as code
from crane_study.paper.claims import load_rules
from tests.run.notebooks import write_notebook, write_sections

NUMBERS = [section.number for section in all_sections()]


def test_every_section_waits_for_those_that_make_what_it_reads():
    """The needs as declared, and theirs; test_smoke.py compares them with a run."""
    first, masks = {"00", "01", "02"}, {"03", "04", "05", "06"}
    expected = {"00": set(), "01": {"00"}, "02": {"00", "01"}, **dict.fromkeys(masks, first), "10": first}
    chat = first | masks - {"06"}
    expected["11"] = first | {"05"}
    expected |= {"07": chat, "08": chat | {"07"}, "09": chat | {"07"}}
    assert {section.number: set(section.after) for section in all_sections()} == expected
    claims = [item["id"] for item in load_rules()["claims"]]
    assert list(sections.all_claims()) == claims
    (judging,) = (section for section in all_sections() if any("judge(" in cell for cell in section.sources("code")))
    assert list(judging.declared.claims) == claims


@pytest.mark.parametrize("section", all_sections(), ids=lambda section: section.name)
def test_every_section_has_a_title_the_parameters_given_to_it_and_declared_outputs(section):
    assert section.title != section.name
    assert {"profile", "artifacts"} <= set(known_parameters(section.path))
    written = set(re.findall(r'study\.folder / "([\w.]+)"', "\n".join(section.sources("code"))))
    assert written == set(section.declared.outputs)


def test_sections_are_chosen_by_number_name_or_claim():
    for only, first, expected in (
        ([], None, NUMBERS),
        (["03", "01_relevance", "03"], None, ["01", "03"]),
        ([], "04", NUMBERS[NUMBERS.index("04") :]),
        (["02", "07"], "03", ["07"]),
        (["c5", "02"], None, ["02", "07", "09"]),
        (["C1"], "04", ["04", "09"]),
    ):
        assert [section.number for section in choose_sections(only, first)] == expected


@pytest.mark.parametrize(
    ("only", "first", "message"),
    [
        (["C33"], None, "unknown section or claim 'C33'; did you mean 'C3'"),
        ([], "C3", "unknown section 'C3'"),  # to start at a claim means nothing
        (["01_relevence"], None, "unknown section or claim '01_relevence'; did you mean '01_relevance'?"),
        (["3"], None, "unknown section or claim '3'; did you mean '03'"),
        ([], "xyzzy", "unknown section 'xyzzy'; known: 00, "),
        (["01", "02"], "07", "no section is left: --only 01,02 lies before --from 07"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(only, first, message):
    with pytest.raises(CraneError) as error:
        choose_sections(only, first)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"_00": {}, "_01": {}}, r"section 01 has no notebook in .*notebooks"),
        ({}, r"section 00 is not declared in .*sections\.yaml"),
        ({"_00": {"needs": ["07"]}}, "section 00: unknown section '07'"),
        ({"_00": {"claims": ["C9"]}}, "section 00: unknown claim 'C9'"),
        ({"_00": {"data": ["expected/none.csv"]}}, r"section 00: unknown file 'expected/none\.csv'"),
        ({"_00": {"needs": ["00"]}}, "sections need one another: 00 -> 00"),
        ({"_00": {"need": ["00"]}}, r"00\.need: Extra inputs"),
        ({"_00": []}, r"sections\.yaml: 00: Input should be .* \(seen: '\[\]'\)"),
    ],
)
def test_a_wrong_declaration_is_one_line(monkeypatch, tmp_path, declared, message):
    write_notebook(write_sections(tmp_path / "notebooks", monkeypatch, **declared) / "00_a.ipynb")
    with pytest.raises(CraneError, match=message) as error:
        all_sections()
    assert "\n" not in str(error.value)


def test_notebooks_that_are_none(monkeypatch, tmp_path):
    monkeypatch.setattr(sections, "NOTEBOOKS", tmp_path)
    with pytest.raises(CraneError, match="has no notebooks; run from a clone"):
        all_sections()
    path = write_notebook(tmp_path / "00_x.ipynb", title="Masks, and *more*")
    assert Section(path).title == "Masks, and *more*"
    for content in ("", "{}", "[]", "text"):
        path.write_text(content)
        with pytest.raises(CraneError, match=r"00_x\.ipynb: is not a notebook"):
            Section(path).sources("code")


def test_the_key_is_of_all_that_determines_the_outputs(tmp_path, monkeypatch):
    monkeypatch.setattr(sections, "ROOT", tmp_path)
    data = tmp_path / "data.csv"
    data.write_text("1")

    def key(
        cell="from crane_study.uncertainty.overlap import overlaps", *, profile=1, parameters=2, outside=3, title="T"
    ):
        path = write_notebook(tmp_path / "00_a.ipynb", f"%matplotlib inline\n{cell}\n!ls\n    %time x = 1", title=title)
        return Section(path, Declaration(data=["data.csv"])).key(
            {"profile": profile}, {"value": parameters}, {"file": str(outside)}
        )

    cells = ("from crane_study.uncertainty.overlap import overlaps  # changed", "from crane_lib.selection import top")
    keys = [key(), key(title="Other"), *map(key, cells), key(profile=9), key(parameters=9), key(outside=9)]
    assert key() == keys[0]
    with monkeypatch.context() as patch:
        patch.setattr(code, "_digest", lambda file: f"changed {file.name}")
        keys.append(key())
    data.write_text("2")
    keys.append(key())
    assert len(set(keys)) == len(keys)
