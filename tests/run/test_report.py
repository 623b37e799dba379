"""The reports of a made-up run in Markdown and HTML, read as text."""

import html
import re

import pandas as pd
import pytest
from PIL import Image

from crane_lib.errors import CraneError
from crane_lib.files import read_json, write_json
from crane_run import report
from crane_run.report import embed, write_reports
from crane_study.publish import write_table


def written(folder):
    """Text of both reports: the Markdown without the spaces that pad its tables."""
    write_reports(folder)
    text = re.sub(" +", " ", (folder / "report.md").read_text(encoding="utf-8"))
    return text, (folder / "report.html").read_text(encoding="utf-8")


def numbers(page, claim):
    """The table of the numbers behind a claim."""
    return page.partition(f'id="numbers-{claim}"')[2].partition("</table>")[0]


def change(path, **values):
    """Change entries of a JSON object."""
    write_json(path, {**read_json(path), **values})


def test_both_reports_tell_the_run(run):
    text, page = written(run)
    headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    titles = ["Verdicts", "The claims and their numbers", "Tables and figures", "Not run", "Times", "Made with"]
    assert headings == titles
    for part in (
        "| C1 | Masking a language's units hurts that language most | REPRODUCED |",
        "| REPRODUCED | is undecided |",
        "than LAPE | NOT RUN | NOT RUN | NOT RUN | NOT RUN | cannot be judged |",
        "By the same rule it cannot be judged in the published numbers. There is no accuracy of the base model",
        "- C2, Relevance contrast, 10 %, accuracy: there is no accuracy of the base model",
        "`./run_all.sh --profile mini --only 03`",
        "**This section failed:** E: x",
        "- Section 05_transfer: E: x",
        "| stage | base_model | 99.5 |",
        "Commit `abc123` with uncommitted changes",
        "75.3%",
    ):
        assert part in text
    assert not any(words in text for words in ("absent", "No longer there.", "\n\n\n"))
    for item in read_json(run / "claims.json")["verdicts"]:
        assert html.escape(item["title"]) in page or item["title"].replace("'", "&#39;") in page
        assert f'id="claim-{item["id"]}"' in page
    for part in (
        "This section failed:</strong> E: x",
        "there is no accuracy of the base model with the base model",
        "./run_all.sh --profile mini --only 03",
        "abc123 with uncommitted changes",
        "Chance (0.25): horizontal line at 0.25",  # the figure's description in words
    ):
        assert part in page
    assert "No longer there." not in page
    for part in ("English masked", "75.3\u00a0%", "23.9\u00a0%, against 24.5\u00a0% (Vietnamese, worst other)"):
        assert part in numbers(page, "C1")
    source, *size = embed(run / "figures" / "00_guessers.png")
    with Image.open(run / "figures" / "00_guessers.png") as image:
        assert tuple(size) == image.size
    assert source.startswith("data:image/webp;base64,")


KEY = {"model": "base", "selected_on": "base", "method": "contrast", "budget": "0.1"}
RISE = {"metric": "nll", "masked_language": "en", "evaluation_language": "en", "change": 1.4, "low": 1.0, "high": 2.0}
TRANSFER = {**KEY, "masked_language": "en", "own_drop": 0.75, "own_low": 0.1, "own_high": 0.2}


@pytest.mark.parametrize(
    ("models", "told"),
    [
        (
            {key: {"kind": "released checkpoint", "checkpoint": "mini"} for key in ("base", "chat")},
            "released checkpoint mini",
        ),
        ({"base": {"kind": "trained here", "precision": "float32"}}, "trained here in float32"),
        (
            {"base": {"kind": "hub", "id": "a/b"}, "chat": {"kind": "directory", "path": "/x"}},
            "base: hub a/b; chat: directory /x",
        ),
    ],
)
def test_the_reports_name_the_models(run, models, told):
    write_reports(run, {**read_json(run / "manifest.json"), "models": models})
    assert f"Models: {told}." in (run / "report.md").read_text(encoding="utf-8")
    assert f"<p>Models: {told}.</p>" in (run / "report.html").read_text(encoding="utf-8")


def test_intervals_come_from_the_tables_of_the_sections(run):
    chat = {**TRANSFER, "model": "chat", "own_low": 0.701, "own_high": 0.799}
    pd.DataFrame([{**KEY, **RISE}]).to_csv(run / "tables" / "03_nll_rise.csv", index=False)
    pd.DataFrame([TRANSFER, chat]).to_csv(run / "tables" / "07_transfer_token_probability.csv", index=False)
    scores = {"metric": "token_probability", "precision": [0.97, 0.51], "recall": [0.63, 1.0], "mean": [0.76, 0.67]}
    both = {**KEY, "method": ["contrast", "everything"], "budget": ["0.1", "1"], "mean_low": 0.7, "mean_high": 0.8}
    pd.DataFrame({**both, **scores}).to_csv(run / "tables" / "03_langspec.csv", index=False)
    _text, page = written(run)
    assert "(precision 0.97, recall 0.63)" in numbers(page, "C3")
    assert "0.670 (precision 0.51, recall 1.00)" in numbers(page, "C3")  # every neuron silenced
    for claim, shown in (
        ("C1", "63.2\u00a0% to 86.5\u00a0%"),  # 1 - exp(-1) and 1 - exp(-2)
        ("C5", "70.1\u00a0% to 79.9\u00a0%"),
    ):
        assert numbers(page, claim).count(shown) == 1
        assert "10.0\u00a0% to" not in numbers(page, claim)


def test_the_page_fetches_nothing_and_its_links_lead_somewhere(run):
    change(run / "captions.json", **{"figures/00_guessers": "<script>alert(1)</script> `a<b`."})
    text, page = written(run)
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 8
    assert [link for link in links if not (run / link).is_file()] == []
    places = re.findall(r' id="([^"]+)"', page)
    assert len(places) == len(set(places)), "an id is used twice"
    for address in re.findall(r'href="([^"]+)"', page):
        if address.startswith("#"):
            assert address[1:] in places
        elif not address.startswith("data:"):
            assert (run / address).is_file(), address
    assert "default-src 'none'" in page
    assert not re.findall(r"<(?:script|iframe|link rel=.stylesheet)|url\(|@import", page)
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
    assert "<script" not in text
    assert "<code>a&lt;b</code>" in page  # captions are escaped
    assert written(run) == (text, page)  # the same bytes twice


def test_long_tables_are_folded_missing_numbers_are_dashes_and_a_rehearsal_is_marked(run):
    write_table(pd.DataFrame({"n": range(500)}), run / "tables" / "00_long", caption="Long.")
    change(run / "captions.json", **{"tables/00_long": "Long."})
    (stage,) = read_json(run / "manifest.json")["stages"]
    assert '<td class="number">–</td>' in written(run)[1]  # no memory was measured
    change(run / "manifest.json", stages=[{**stage, "peak_memory_mib": 1234.5}])
    text, page = written(run)
    assert '<td class="number">1,234</td>' in page
    rows = (run / "tables" / "03_perplexity.csv").read_text(encoding="utf-8").count("\n") - 1
    assert f"{rows} rows: see the files." in text
    assert "| Vietnamese | 336 | 0.730 |" in text
    assert "500 rows: see the files." in page
    assert re.search(rf"<summary>Perplexity\. <span class=\"count\">{rows} rows</span></summary>", page)
    profile = {**read_json(run / "manifest.json")["profile"], "name": "big-rehearsal", "rehearsal": True}
    change(run / "manifest.json", profile=profile)
    text, page = written(run)
    assert "**REHEARSAL.**" in text
    assert "<strong>REHEARSAL.</strong>" in page
    headings = re.findall(r"<h2[^>]*>(.+?)</h2>", page) + re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert len(headings) > 10
    assert all(heading.endswith("(REHEARSAL)") for heading in headings)
    assert "./run_all.sh --profile big --rehearse --only 03" in page


def test_an_empty_run_and_a_broken_file(run, tmp_path):
    text, page = written(tmp_path / "empty")
    assert "No claim has been judged yet" in text
    assert "No claim has been judged yet" in page
    assert "Selection on 1,000 instead of 5,000 documents" in text
    assert "There is no manifest yet." in page
    for name, content, message in (
        ("figures/00_guessers.png", "no picture", "cannot be read as a picture"),
        ("captions.json", "{", "is not JSON"),
        ("captions.json", "[]", "expected an object; delete it"),
    ):
        (run / name).write_text(content, encoding="utf-8")
        with pytest.raises(CraneError, match=f"{name}: {message}"):
            write_reports(run)


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        (("REPRODUCED", "NOT APPLICABLE"), "1 reproduced."),
        (("REPRODUCED", "UNDECIDED"), "1 reproduced by some measures only."),
        (("NOT APPLICABLE", "NOT APPLICABLE"), "1 not applicable."),
    ],
)
def test_a_measure_that_does_not_apply_is_not_held_against_a_claim(verdicts, words):
    shared = {"id": "C1", "title": "t", "method": "contrast", "budget": "0.1"}
    measures = ("token_probability", "accuracy")
    items = [shared | {"measure": m, "verdict": v} for m, v in zip(measures, verdicts, strict=True)]
    assert report._overview(items)["summary"] == [f"Relevance contrast, 10 %: of 1 claims {words}"]
