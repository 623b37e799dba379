"""The page of a made-up run, read as text."""

import html
import re

import pandas as pd
import pytest
from PIL import Image

from crane_lib.errors import CraneError
from crane_lib.files import read_json, write_json
from crane_run.report import embed, read_markdown, write_html
from crane_study.publish import write_table


def written(folder):
    write_html(folder)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_verdicts_claims_and_reasons_are_there(run):
    page = written(run)
    for item in read_json(run / "claims.json")["verdicts"]:
        assert html.escape(item["title"]) in page or item["title"].replace("'", "&#39;") in page
        assert f'id="claim-{item["id"]}"' in page
    assert "Relevance contrast, 10" in page
    assert "This section failed:</strong> E: x" in page
    assert "no LangSpec-F1 by accuracy for LAPE, as published" in page
    assert "./run_all.sh --profile mini --only 03" in page
    assert "abc123 with uncommitted changes" in page
    assert "No longer there." not in page


def test_numbers_stand_beside_the_published_ones(run):
    page = written(run)
    table = page.partition('id="numbers-C1"')[2].partition("</table>")[0]
    assert "English masked, share lost" in table
    assert "75.3\u00a0%" in table
    assert "23.9\u00a0%, against 24.5\u00a0% (Vietnamese, worst other)" in table


def test_intervals_come_from_the_tables_of_the_sections(run):
    key = {"model": "base", "selected_on": "base", "method": "contrast", "budget": "0.1", "metric": "nll"}
    row = {**key, "masked_language": "en", "evaluation_language": "en", "change": 1.4, "low": 1.0, "high": 2.0}
    pd.DataFrame([row]).to_csv(run / "tables" / "03_nll_rise.csv", index=False)
    assert "63.2\u00a0% to 86.5\u00a0%" in written(run)  # 1 - exp(-1) and 1 - exp(-2)


def test_the_transfer_has_the_interval_of_its_section(run):
    key = {"method": "contrast", "budget": "0.1", "masked_language": "en", "model": "chat", "selected_on": "base"}
    row = {**key, "own_drop": 0.75, "own_low": 0.701, "own_high": 0.799}
    other = {**row, "model": "base", "own_low": 0.1, "own_high": 0.2}
    pd.DataFrame([other, row]).to_csv(run / "tables" / "07_transfer_token_probability.csv", index=False)
    numbers = written(run).partition('id="numbers-C5"')[2].partition("</table>")[0]
    assert numbers.count("70.1\u00a0% to 79.9\u00a0%") == 1
    assert "10.0\u00a0% to" not in numbers


def test_p_is_told_with_its_correction(run):
    key = {"model": "base", "selected_on": "base", "method": "contrast", "budget": "0.1"}
    pd.DataFrame([{**key, "p_value": 1 / 9261, "p_holm": 7 / 9261}]).to_csv(
        run / "tables" / "03_langspec.csv", index=False
    )
    assert "p = 0.00011 (0.00076 with Holm&#39;s correction over the table)" in written(run)


def test_links_lead_to_files_and_places_in_the_page(run):
    write_html(run)
    (run / "report.md").write_text("")
    page = (run / "report.html").read_text(encoding="utf-8")
    places = set(re.findall(r'id="([^"]+)"', page))
    for address in re.findall(r'href="([^"]+)"', page):
        if address.startswith("#"):
            assert address[1:] in places
        elif not address.startswith("data:"):
            assert (run / address).is_file(), address
    assert len(places) == len(re.findall(r' id="', page)), "an id stands twice"


def test_nothing_is_fetched(run):
    page = written(run)
    assert "default-src 'none'" in page
    assert not re.findall(r"<(?:script|iframe|link rel=.stylesheet)", page)
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
    assert not re.findall(r"url\(|@import", page)


def test_captions_and_errors_are_escaped(run):
    captions = read_json(run / "captions.json")
    write_json(run / "captions.json", {**captions, "figures/00_guessers": "<script>alert(1)</script> `a<b`."})
    page = written(run)
    assert "<script" not in page
    assert "<code>a&lt;b</code>" in page


def test_what_a_figure_shows_stands_in_words(run):
    page = written(run)
    assert "What it shows, in words" in page
    assert "Chance (0.25): horizontal line at 0.25" in page


def test_long_tables_are_folded_and_very_long_ones_linked(run):
    frame = pd.DataFrame({"n": range(500)})
    write_table(frame, run / "tables" / "00_long", caption="Long.")
    captions = read_json(run / "captions.json")
    write_json(run / "captions.json", {**captions, "tables/00_long": "Long."})
    page = written(run)
    assert "500 rows: see the files." in page
    assert re.search(r"<summary>Perplexity\. <span class=\"count\">\d+ rows</span></summary>", page)


def test_memory_of_a_stage_where_it_was_measured(run):
    manifest = read_json(run / "manifest.json")
    assert '<td class="number">–</td>' in written(run)
    manifest["stages"][0]["peak_memory_mib"] = 1234.5
    write_json(run / "manifest.json", manifest)
    assert '<td class="number">1,234</td>' in written(run)


def test_a_rehearsal_is_marked_everywhere(run):
    manifest = read_json(run / "manifest.json")
    manifest["profile"] |= {"name": "big-rehearsal", "rehearsal": True}
    write_json(run / "manifest.json", manifest)
    page = written(run)
    assert "<strong>REHEARSAL.</strong>" in page
    headings = re.findall(r"<h2[^>]*>(.+?)</h2>", page)
    assert headings
    assert all(heading.endswith("(REHEARSAL)") for heading in headings)
    assert "./run_all.sh --profile big --rehearse --only 03" in page


def test_an_empty_run(tmp_path):
    page = written(tmp_path)
    assert "No claim has been judged yet" in page
    assert "There is no manifest yet." in page


def test_same_bytes_twice(run):
    assert written(run) == written(run)


def test_tables_come_back_from_their_markdown(tmp_path):
    frame = pd.DataFrame(
        {"language": ["en", ""], "a|b": ["x\\|y", "<b>"], "value": [0.5, float("nan")], "last": ["", "z"]}
    )
    write_table(frame, tmp_path / "t", caption="A | caption.")
    table = read_markdown(tmp_path / "t.md")
    assert table.headings == ["Language", "A|b", "Value", "Last"]
    assert table.right == [False, False, True, False]
    assert table.rows == [["English", "x\\|y", "0.500", ""], ["none", "<b>", "–", "z"]]
    (tmp_path / "t.md").write_text("nothing")
    with pytest.raises(CraneError, match=r"t\.md: holds no table"):
        read_markdown(tmp_path / "t.md")


def test_pictures_are_small_and_whole(tmp_path, run):
    picture = embed(run / "figures" / "00_guessers.png")
    with Image.open(run / "figures" / "00_guessers.png") as image:
        assert (picture.width, picture.height) == image.size
    assert picture.source.startswith("data:image/webp;base64,")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(CraneError, match=r"broken\.png: cannot be read as a picture"):
        embed(tmp_path / "broken.png")
