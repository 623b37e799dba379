"""The alt text of a figure says what the figure was drawn from."""

import base64
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from crane_study import figures
from crane_study.figures.alt_text import describe, number, tell, tell_line
from crane_study.figures.style import marked
from crane_study.labels import first_sentence, language_name, method_label
from crane_study.publish import Publisher
from tests.study.outputs import synthetic
from tests.study.outputs.test_figures import combined


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


def test_panels_series_and_lines():
    figure = Figure()
    axes, _empty = figure.subplots(1, 2)
    axes.set(xscale="log", xlabel="Budget\n(share)", title="A\nB")
    x = np.array([0.5, 1.0, 2.0])
    tell(axes, "Gradient", x, x**2, low=x - 0.25, high=[0.75, np.nan, 2.25])
    tell(axes, "row en", ["en", "zh"], ["0.1*", np.nan])
    tell_line(axes, "Threshold", 0.25, vertical=True)
    assert describe(figure).splitlines() == [
        "Panel 1 of 1: A, B; across: Budget, (share) (logarithmic)",
        "  Gradient: 0.500: 0.250 (0.250 to 0.750); 1: 1; 2: 4 (1.75 to 2.25)",
        "  row en: en: 0.1*; zh: none",
        "  Threshold: vertical line at 0.250",
    ]


def test_a_long_curve_is_told_by_its_ends_and_extremes(tmp_path):
    history = synthetic.make_histories()["base"]
    text = text_of(figures.training_loss, {"base": history}, tmp_path)
    lowest = history.loc[history["loss"].idxmin()]
    assert f"{len(history)} points: {number(history['loss'].iloc[0])} at 0 (first" in text
    assert f"{number(lowest['loss'])} at {int(lowest['step']):,} (lowest" in text
    assert len(text) < 1500


def test_every_bar_is_told_with_its_method_and_language(langspec, tmp_path):
    panel = text_of(figures.langspec_bars, langspec, tmp_path).partition("Panel 2")[0]
    own = langspec[(langspec["metric"] == "token_probability") & (langspec["model"] == "base")]
    own = own[own["selected_on"] == "base"]
    for (method, budget, language), part in own.groupby(["method", "budget", "masked_language"]):
        values = part["langspec_f1"]
        line = re.search(rf"^  {language_name(language)}: (.+)$", panel, flags=re.MULTILINE).group(1)
        spread = f" ({number(values.min())} to {number(values.max())})" if len(values) > 1 else ""
        assert f"{method_label(method, budget)}: {number(values.mean())}{spread}" in line.split("; ")
    assert "\n  Mean: " in panel


def test_cells_intervals_thresholds_and_tokens(rows, shared_units, tmp_path):
    text = text_of(figures.delta_matrices, rows, tmp_path)
    assert text.startswith("Panel 1 of ")
    assert "\n  row en: en: 1.400; zh: 0.032; vi: 0.033\n" in text
    assert re.search(r"row vi: en: [-.\d]+ \([-.\d]+ to [-.\d]+\);", text), "the range over draws is told, too"
    assert text.endswith("Colour: NLL rise (nats per token)\n")
    text = text_of(figures.guessers, synthetic.make_guessers(), tmp_path)
    assert "Chance (0.25): horizontal line at 0.25" in text
    assert "Model: English: 0.480 (0.427 to 0.533)" in text
    text = text_of(figures.token_relevance, [("zh", ["法国", " 的", "欧元"], [1.0, -0.5, 0.0])], tmp_path)
    assert text == "Panel 1 of 1\n  Chinese: 法国 +1.00; 的 -0.50; 欧元 +0.00\n"
    frame = shared_units[~shared_units["method"].str.startswith("random")]
    text = text_of(figures.jaccard_forest, frame, tmp_path)
    row = frame[(frame["method"] == "kurtosis") & (frame["language_a"] == "en") & (frame["language_b"] == "vi")].iloc[0]
    assert f"Relevance kurtosis, as published, en–vi: {number(row['jaccard'])}" in text


def test_bars_over_sets_of_languages(tmp_path):
    found = combined()
    text = text_of(figures.upset, found, tmp_path)
    assert "Panel 3 of 3" in text
    for row in next(iter(found.values())).itertuples():
        assert f"{' and '.join(row.languages.split('+'))}: {row.count:,}" in text


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
