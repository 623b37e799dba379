"""What a figure's text says is what the figure was drawn from."""

import base64
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from crane_study import figures
from crane_study.figures.alt_text import describe, number
from crane_study.figures.style import marked
from crane_study.labels import first_sentence, language_name, method_label
from crane_study.publish import Publisher
from tests.study.outputs import synthetic


def text_of(draw, data, folder, **options):
    draw(data, folder / "figure", **options)
    return (folder / "figure.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.12345, "0.123"), (12.345, "12.3"), (1234.5, "1,230"), (7.0, "7"), (-0.0004567, "-0.000457"),
        (1e-9, "1.00e-09"), (208123.0, "208,123"), (9.999, "10.0"), (float("nan"), "none"), (0.0, "0"), (-0.0, "0"),
    ],
)  # fmt: skip
def test_numbers(value, expected):
    assert number(value) == expected


def test_every_bar_is_told_with_its_method_and_language(langspec, tmp_path):
    text = text_of(figures.langspec_bars, langspec, tmp_path)
    panel = text.partition("Panel 2")[0]
    own = langspec[(langspec["metric"] == "token_probability") & (langspec["model"] == "base")]
    own = own[own["selected_on"] == "base"]
    for (method, budget, language), part in own.groupby(["method", "budget", "masked_language"]):
        line = re.search(rf"^  {language_name(language)} \(bars\): (.+)$", panel, flags=re.MULTILINE).group(1)
        assert f"{method_label(method, budget)}: {number(part['langspec_f1'].mean())}" in line.split("; ")
    assert "Mean (bars)" in panel
    assert "English, draws (points): Random (like contrast), 10 %: 5 from" in panel


def test_cells_of_a_heat_map(rows, tmp_path):
    text = text_of(figures.delta_matrices, rows, tmp_path)
    assert text.startswith("Panel 1 of ")
    assert "\n  row en: en = 1.400; zh = 0.032; vi = 0.033\n" in text
    assert re.search(r"row vi: en = [-.\d]+ \([-.\d]+ to [-.\d]+\);", text), "the range over draws is told, too"
    assert text.endswith("Colour: NLL rise (nats per token)\n")


def test_intervals_thresholds_and_names_from_the_labels(tmp_path):
    text = text_of(figures.guessers, synthetic.make_guessers(), tmp_path)
    assert "Chance (0.25): horizontal line at 0.25" in text
    assert "Model (bars): English: 0.48" in text
    assert "Model, 95 % interval (interval): English: 0.427 to 0.533" in text


def test_a_long_curve_is_told_by_its_ends_and_extremes(tmp_path):
    history = synthetic.make_histories()["base"]
    text = text_of(figures.training_loss, {"base": history}, tmp_path)
    lowest = history.loc[history["loss"].idxmin()]
    assert f"{len(history)} points: {number(history['loss'].iloc[0])} at 0 (first" in text
    assert f"{number(lowest['loss'])} at {int(lowest['step']):,} (lowest" in text
    assert len(text) < 1500


def test_tokens_with_their_relevance(tmp_path):
    text = text_of(figures.token_relevance, [("zh", ["法国", " 的", "欧元"], [1.0, -0.5, 0.0])], tmp_path)
    assert text == "Panel 1 of 1\n  Chinese: 法国 +1.00; 的 -0.50; 欧元 +0.00\n"


def test_bars_over_sets_of_languages(tmp_path):
    from tests.study.outputs.test_figures import combined

    intersections = combined()
    text = text_of(figures.upset, intersections, tmp_path)
    assert "Panel 3 of 3" in text
    key = next(iter(intersections))
    for row in intersections[key].itertuples():
        assert f"{' and '.join(row.languages.split('+'))}: {row.count:,}" in text


def test_names_of_rows_carry_the_note_beside_them(shared_units, tmp_path):
    frame = shared_units[~shared_units["method"].str.startswith("random")]
    text = text_of(figures.jaccard_forest, frame, tmp_path)
    row = frame[(frame["method"] == "kurtosis") & (frame["language_a"] == "en") & (frame["language_b"] == "vi")].iloc[0]
    assert f"Relevance kurtosis, as published, en–vi: {number(row['jaccard'])}" in text


def test_curves_bands_and_legends():
    figure = Figure()
    axes = figure.subplots()
    x = np.array([0.5, 1.0, 2.0])
    axes.fill_between(x, x - 0.25, x + 0.25, color="#117733", alpha=0.2)
    axes.plot(x, x**2, color="#117733", marker="o", label="Gradient")
    axes.bar([1.2], [3.0], color="#112233")
    axes.bar([2.2], [4.0], color="#112233", label="_Own name")
    axes.bar([0], [0], 0, label="Only in the legend")
    axes.set_xscale("log")
    axes.set(xlabel="Budget\n(share)", title="A\nB")
    axes.legend()
    figure.legend(handles=[Patch(color="#112233", label="By colour")])
    figure.draw_without_rendering()
    assert describe(figure).splitlines() == [
        "Panel 1 of 1: A, B; across: Budget, (share) (logarithmic)",
        "  By colour (bars): 1: 3",
        "  Own name (bars): 2: 4",
        "  Gradient (curve): 0.500: 0.250; 1: 1; 2: 4",
        "  Gradient (band): 0.500: 0.250 to 0.750; 1: 0.750 to 1.25; 2: 1.75 to 2.25",
    ]


def test_a_mark_is_told_first(tmp_path):
    with marked("REHEARSAL (no result)"):
        text = text_of(figures.guessers, synthetic.make_guessers(), tmp_path)
    assert text.startswith("REHEARSAL (no result)\nPanel 1")


def test_first_sentence():
    caption = "Share (p < 0.01) of units. Bars: 95 % intervals."
    assert first_sentence(caption) == "Share (p < 0.01) of units"
    assert first_sentence("One only.") == "One only"


def test_a_notebook_shows_the_picture_and_says_what_it_shows(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("crane_study.publish.display", lambda *given, **options: shown.append((given, options)))
    Publisher(tmp_path, "00").figure("guessers", figures.guessers, synthetic.make_guessers())
    (bundle,), options = shown[0]
    assert options["raw"]
    assert base64.b64decode(bundle["image/png"]) == (tmp_path / "figures" / "00_guessers.png").read_bytes()
    assert bundle["text/plain"] == (tmp_path / "figures" / "00_guessers.txt").read_text(encoding="utf-8")
    assert options["metadata"]["image/png"]["alt"].startswith("Accuracy on the held-out four-way questions")
