"""Every figure is drawn in both formats with the seaborn style, says what it shows, and comes out the same twice."""

import base64
import os
import re
import subprocess
import sys
from itertools import combinations

import matplotlib
import numpy as np
import pandas as pd
import pytest
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from crane_lib.errors import CraneError
from crane_study import ROOT, figures
from crane_study.figures import panels, style
from crane_study.figures.alt_text import describe, number, tell, tell_line
from crane_study.figures.model_seeds import langspec_seeds, matched_damage_seeds
from crane_study.labels import language_name, method_label
from crane_study.publish import REHEARSAL, Publisher
from crane_study.tables.overlap import agreement, by_rule, intersections
from crane_study.tables.questions import accuracy_by_benchmark
from crane_study.tables.relevance import objective_correlations
from crane_study.tables.transfer import transfer_table
from crane_study.uncertainty.open_ended import open_langspec, score_changes
from tests.study.outputs import synthetic
from tests.study.uncertainty.test_open_ended import make_items


def neuron_only(seed=0, **sizes):
    return {language: sites["neuron"] for language, sites in synthetic.make_relevance(seed, **sizes).items()}


def one_per_rule():
    return [item for item in synthetic.make_sets() if not item.method.startswith("random")]


def combined():
    return {rule: intersections(sets) for rule, sets in by_rule(one_per_rule()).items()}


def transfer(rows):
    return transfer_table(rows, synthetic.make_langspec(rows), metric="token_probability")


def over_seeds(rows):
    """Frames of three model seeds: LangSpec-F1 with its parts, and rises at equal damage."""
    scores = pd.concat([synthetic.make_langspec(rows)] * 3, ignore_index=True)
    keys = ["model", "selected_on", "method", "budget", "metric"]
    rises = {"method": ["contrast", "lape"] * 3, "damage": 1.0, "masked_language": "all", "worst": np.arange(6) / 5}
    return scores.melt(keys, ["langspec_f1", "precision", "recall"], var_name="score"), pd.DataFrame(rises)


def draw_all(folder, rows, langspec, shared_units, counts):
    """Every figure once; returns the captions."""
    main_counts, main_overlaps = (frame[~frame["method"].str.startswith("random")] for frame in (counts, shared_units))
    transferred = {"model": "chat", "selected_on": "base"}
    effects = {code: (array / array.sum(), array / 100) for code, array in neuron_only().items()}
    benchmarks = accuracy_by_benchmark(synthetic.make_benchmark_items())
    one, other = neuron_only(), neuron_only(1)
    correlations = objective_correlations(one, {code: one[code] + 0.5 * other[code] for code in one})
    keys = [(*key, code) for key in synthetic.FEW_METHODS for code in synthetic.LANGUAGES]
    limits = {"share": 0.5, "share_low": 0.4, "share_high": 0.6}
    limits |= {f"specific_{name}": value for name, value in limits.items()}
    captured = pd.DataFrame(keys, columns=["method", "budget", "language"]).assign(**limits)
    curves = pd.DataFrame({"method": ["contrast", "random_global"] * 2, "share": [0.1, 0.1, 0.3, 0.3], "mean": 0.5})
    curves = curves.assign(metric="accuracy", precision=0.8, recall=0.4, low=0.4, high=0.6, lowest=0.45, highest=0.55)
    relevance = synthetic.make_relevance()
    values = {code: {site: np.ravel(array) for site, array in sites.items()} for code, sites in relevance.items()}
    shares = {
        name: {(site, code): np.abs(relevance[code][site]).sum(axis=1) for site in sites for code in relevance}
        for name, sites in (("neurons", ["neuron"]), ("rows", ["gate", "up", "down"]))
    }
    return {
        "loss": figures.training_loss(synthetic.make_histories(), folder / "loss"),
        "guessers": figures.guessers(synthetic.make_guessers(), folder / "guessers"),
        "layers": figures.relevance_by_layer(relevance, folder / "layers"),
        "lines": figures.relevance_by_layer(neuron_only(layers=32, inner=8), folder / "lines"),
        "tails": figures.heavy_tails(synthetic.make_z(), folder / "tails"),
        "objectives": figures.objective_agreement(correlations, folder / "objectives"),
        "counts": figures.set_counts_figure(counts, folder / "counts"),
        "sites": figures.set_sites_figure(main_counts, folder / "sites"),
        "combinations": figures.upset(combined(), folder / "combinations"),
        "jaccard": figures.jaccard_forest(main_overlaps, folder / "jaccard"),
        "rules": figures.rule_matrix(agreement(one_per_rule()), folder / "rules"),
        "map": figures.relevance_map(shares, folder / "map"),
        "values": figures.value_tails(values, folder / "values"),
        "overlap": figures.overlap_matrix(shared_units, folder / "overlap"),
        "nll": figures.delta_matrices(rows, folder / "nll"),
        "accuracy": figures.delta_matrices(rows, folder / "accuracy", metric="accuracy", **transferred),
        "langspec": figures.langspec_bars(langspec, folder / "langspec"),
        "transfer": figures.transfer_figure(transfer(rows), folder / "transfer"),
        "dose": figures.dose_response(curves, folder / "dose"),
        "captured": figures.captured_effects(captured, folder / "captured"),
        "effects": figures.relevance_against_effect(effects, folder / "effects"),
        "benchmarks": figures.benchmark_accuracy(benchmarks, folder / "benchmarks"),
        "scores": figures.score_matrices(score_changes(make_items(), resamples=50), folder / "scores"),
        "forms": figures.open_langspec_bars(open_langspec(make_items(), resamples=50), folder / "forms"),
        "seeds": langspec_seeds(over_seeds(rows)[0], folder / "seeds"),
        "rises": matched_damage_seeds(over_seeds(rows)[1], folder / "rises"),
        "tokens": figures.token_relevance(synthetic.make_examples(), folder / "tokens"),
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, shared_units, counts):
    folder = tmp_path_factory.mktemp("figures")
    rows = synthetic.make_rows(synthetic.FEW_METHODS)
    describe = style.describe

    def checked(figure):  # called when all is laid out
        others = [axes.get_tightbbox() for axes in figure.axes]
        others += [text.get_window_extent() for text in figure.texts if text.get_text()]
        for legend in figure.legends:
            assert not any(legend.get_window_extent().overlaps(other) for other in others), "a legend lies over a label"
        ticks = sns.axes_style("ticks")
        assert matplotlib.rcParams["axes.edgecolor"] == ticks["axes.edgecolor"], "not in the seaborn style"
        return describe(figure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "describe", checked)
        return folder, draw_all(folder, rows, synthetic.make_langspec(rows), shared_units, counts)


def test_both_formats_are_written(drawn):
    folder, captions = drawn
    for name in captions:
        with Image.open(folder / f"{name}.png") as image:
            pixels = np.asarray(image.convert("L"))
        assert min(pixels.shape) > 200, name
        assert 0.005 < (pixels < 250).mean() < 0.9, name
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (edge > 250).all(), f"{name}: something is cut at the edge"
        pdf, png = ((folder / f"{name}.{kind}").read_bytes() for kind in ("pdf", "png"))
        assert pdf.startswith(b"%PDF-")
        assert not any(stamp in file for stamp in (b"CreationDate", b"matplotlib.org") for file in (pdf, png))
        assert "Panel 1 of" in (folder / f"{name}.txt").read_text(encoding="utf-8")
    assert not list(folder.glob(".*"))
    # Captions are sentences that name the uncertainty.
    assert all(caption.endswith(".") and len(caption) > 60 for caption in captions.values())
    said = [("guessers", "Wilson"), ("tails", "21 rows"), ("accuracy", "selected on the base model")]
    said += [("scores", "paired bootstrap over 30 questions"), ("scores", "mean over 2 draws")]
    said += [(name, "5 draws") for name in ("nll", "accuracy", "langspec")]
    assert all(words in captions[name] for name, words in said)


def test_the_transfer_has_its_intervals_where_the_table_has_them(drawn, tmp_path):
    folder, captions = drawn
    table = transfer(synthetic.make_rows(synthetic.FEW_METHODS))
    bounds = {"own_low": table["own_drop"] - 0.05, "own_high": table["own_drop"] + 0.1}
    bounds |= {"worst_other_low": np.nan, "worst_other_high": np.nan}
    caption = figures.transfer_figure(table.assign(**bounds), tmp_path / "transfer")
    assert caption == captions["transfer"] + " Lines: 95 % intervals of a paired bootstrap over items."
    text = (tmp_path / "transfer.txt").read_text(encoding="utf-8")
    assert " to " not in (folder / "transfer.txt").read_text(encoding="utf-8")
    own = table[(table["method"] == "contrast") & (table["model"] == "chat") & (table["selected_on"] == "base")]
    lost = 100 * own.set_index("masked_language")["own_drop"]["en"]
    told = f"English: {number(lost)} ({number(lost - 5)} to {number(lost + 10)});"
    assert f"Chat model, on the masked language: {told}" in text


def test_same_bytes_in_another_process_and_without_torch(drawn, tmp_path):
    folder, _ = drawn
    program = (
        "import sys; from pathlib import Path; from tests.study.outputs import synthetic; "
        "from crane_study import figures; folder = Path(sys.argv[1]); "
        "figures.delta_matrices(synthetic.make_rows(synthetic.FEW_METHODS), folder / 'nll'); "
        "figures.guessers(synthetic.make_guessers(), folder / 'guessers'); "
        "figures.token_relevance(synthetic.make_examples(), folder / 'tokens'); "
        "import crane_run.report, crane_study.uncertainty.overlap; assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, env=environment, cwd=ROOT)
    made = sorted(tmp_path.iterdir())
    assert len(made) == 10
    assert all(path.read_bytes() == (folder / path.name).read_bytes() for path in made)
    # A user's own settings change nothing either.
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30}):
        figures.guessers(synthetic.make_guessers(), tmp_path / "guessers")
    assert (tmp_path / "guessers.png").read_bytes() == (folder / "guessers.png").read_bytes()


def test_tokens_that_no_font_has_are_numbered(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "families", lambda: (style.LATIN,))
    caption = figures.token_relevance(synthetic.make_examples(), tmp_path / "tokens")
    assert "15 tokens that no font" in caption
    page = (tmp_path / "tokens.html").read_text(encoding="utf-8")
    assert "欧元" in page
    assert 'lang="vi"' in page
    # The HTML is escaped, and its shade follows the sign.
    page = figures.token_relevance_html([("en", ["<script>", "down", "none"], [2.0, -2.0, 0.0])])
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    colours = [part.split(";")[0] for part in page.split("background:")[1:]]
    red, blue = (int(colours[i][1:3], 16) - int(colours[i][5:7], 16) for i in (0, 1))
    assert red > 0 > blue


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda path: figures.training_loss({"base": pd.DataFrame()}, path), "history is empty"),
        (lambda path: figures.relevance_by_layer({"en": np.zeros((2, 3))}, path), "was it measured"),
        (lambda path: figures.heavy_tails({"en": np.full(4, np.nan)}, path), "no finite z-score"),
        (lambda path: figures.token_relevance([("en", ["a"], [])], path), "1 tokens and 0 relevances"),
        (lambda path: figures.delta_matrices(synthetic.make_rows(models=("base",)), path, model="chat"), "chat"),
        (lambda path: figures.transfer_figure(transfer(synthetic.make_rows(models=("base",))), path), "both models"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message, tmp_path):
    with pytest.raises(CraneError, match=message):
        draw(tmp_path / "figure")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [5, 12, 32])
def test_heat_maps_stay_readable_with_many_languages(count, tmp_path, monkeypatch):
    codes = [f"{chr(97 + number // 5)}{chr(97 + number % 5)}b_Arab" for number in range(count)]
    cells = pd.DataFrame([(a, b) for a in codes for b in codes], columns=["row", "column"])
    cells = cells.assign(method="contrast", budget="0.1", text="0.123\n0.1\nto 0.2")
    cells["value"] = np.linspace(-0.1, 1, len(cells))
    boxes = []

    def labels_of(figure):
        axes = figure.axes[0]
        shown = [*axes.get_xticklabels(), *axes.get_yticklabels(), *(text for text in axes.texts if text.get_text())]
        boxes.extend(text.get_window_extent() for text in shown)
        return ""

    monkeypatch.setattr(style, "describe", labels_of)
    panels.language_matrices(cells, tmp_path / "map", bar="Cost")
    assert len(boxes) == 2 * count + {5: 2, 12: 1, 32: 0}[count] * count**2
    assert not any(one.shrunk(0.9, 0.9).overlaps(other.shrunk(0.9, 0.9)) for one, other in combinations(boxes, 2))
    assert len(set(style.language_colours(codes).values())) == count


def test_numbers_panels_series_and_lines():
    words = {0.12345: "0.123", 12.345: "12.3", 1234.5: "1,230", 7.0: "7", -0.0004567: "-0.000457", 1e-9: "1.00e-09"}
    words |= {208123.0: "208,123", 9.999: "10.0", float("nan"): "none", 0.0: "0"}
    assert {value: number(value) for value in words} == words
    assert number(-0.0) == "0"
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


def test_what_the_figures_tell(drawn, shared_units, tmp_path):
    text = (drawn[0] / "loss.txt").read_text(encoding="utf-8")
    history = synthetic.make_histories()["base"]
    lowest = history.loc[history["loss"].idxmin()]
    assert f"{len(history)} points: {number(history['loss'].iloc[0])} at 0 (first" in text
    assert f"{number(lowest['loss'])} at {int(lowest['step']):,} (lowest" in text
    assert len(text) < 2000
    # Every bar is told with its method and language.
    panel = (drawn[0] / "langspec.txt").read_text(encoding="utf-8").partition("Panel 2")[0]
    langspec = synthetic.make_langspec(synthetic.make_rows(synthetic.FEW_METHODS))
    own = langspec[(langspec["metric"] == "token_probability") & (langspec["model"] == "base")]
    own = own[own["selected_on"] == "base"]
    for (method, budget, language), part in own.groupby(["method", "budget", "masked_language"]):
        values = part["langspec_f1"]
        line = re.search(rf"^  {language_name(language)}: (.+)$", panel, flags=re.MULTILINE).group(1)
        spread = f" ({number(values.min())} to {number(values.max())})" if len(values) > 1 else ""
        assert f"{method_label(method, budget)}: {number(values.mean())}{spread}" in line.split("; ")
    assert "\n  Mean: " in panel
    # Cells, intervals, thresholds and tokens.
    folder, _ = drawn
    text = (folder / "nll.txt").read_text(encoding="utf-8")
    assert text.startswith("Panel 1 of ")
    assert "\n  row en: en: 1.400; zh: 0.032; vi: 0.033\n" in text
    assert re.search(r"row vi: en: [-.\d]+ \([-.\d]+ to [-.\d]+\);", text), "the range over draws is told, too"
    assert text.endswith("Colour: NLL rise (nats per token)\n")
    text = (folder / "guessers.txt").read_text(encoding="utf-8")
    assert "Chance (0.25): horizontal line at 0.25" in text
    assert "Model: English: 0.480 (0.427 to 0.533)" in text
    figures.token_relevance([("zh", ["法国", " 的", "欧元"], [1.0, -0.5, 0.0])], tmp_path / "tokens")
    text = (tmp_path / "tokens.txt").read_text(encoding="utf-8")
    assert text == "Panel 1 of 1\n  Chinese: 法国 +1.00; 的 -0.50; 欧元 +0.00\n"
    row = shared_units[(shared_units["method"] == "kurtosis") & (shared_units["language_a"] == "en")]
    jaccard = row.set_index("language_b").loc["vi", "jaccard"]
    text = (folder / "jaccard.txt").read_text(encoding="utf-8")
    assert f"Relevance kurtosis, as published, en–vi: {number(jaccard)}" in text
    text = (folder / "combinations.txt").read_text(encoding="utf-8")
    assert "Panel 3 of 3" in text
    for row in next(iter(combined().values())).itertuples():
        assert f"{' and '.join(row.languages.split('+'))}: {row.count:,}" in text


def test_a_notebook_shows_the_picture_and_says_what_it_shows(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("crane_study.publish.display", lambda *given, **options: shown.append((given, options)))
    (tmp_path / "profile.yaml").write_text("rehearsal: true\n")
    Publisher(tmp_path, "00").figure("guessers", figures.guessers, synthetic.make_guessers())
    (bundle,), options = shown[0]
    assert options["raw"]
    assert base64.b64decode(bundle["image/png"]) == (tmp_path / "figures" / "00_guessers.png").read_bytes()
    assert bundle["text/plain"] == (tmp_path / "figures" / "00_guessers.txt").read_text(encoding="utf-8")
    assert bundle["text/plain"].startswith(f"{REHEARSAL}\nPanel 1")
    assert options["metadata"]["image/png"]["alt"].startswith(
        f"{REHEARSAL}: Accuracy on the held-out four-way questions"
    )


def test_tokens_read_from_right_to_left_are_drawn_so(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(Axes, "text", lambda _axes, x, y, text, **_options: drawn.setdefault((round(y, 2), x), text))
    examples = [
        ("ar", ["تقع", " هان", "وي", " Hà", " Nội", " ٨", " نسمة", "."], [1.0] * 8),
        ("en", ["The", " שלום", " עולם", " ends", "."], [1.0] * 5),
    ]
    figures.token_relevance(examples, tmp_path / "tokens")
    lines = {}
    for (y, _x), text in sorted(drawn.items()):
        lines.setdefault(y, []).append(text)
    arabic = [".", "نسمة", "Hà", "Nội", "٨", "وي", "هان", "تقع"]
    assert [line for line in lines.values() if len(line) > 1] == [arabic, ["The", "עולם", "שלום", "ends", "."]]
    assert max(x for (_y, x), text in drawn.items() if text == "تقع") > 6.5  # at the right margin
