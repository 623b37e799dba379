"""Every figure is drawn in both formats with the seaborn style, says what it shows, and comes out the same twice."""

import hashlib
import os
import subprocess
import sys
from itertools import combinations

import matplotlib
import numpy as np
import pandas as pd
import pytest
import seaborn as sns
from PIL import Image

from crane_lib.errors import CraneError
from crane_study import ROOT, figures
from crane_study.figures import panels, style
from crane_study.figures.alt_text import number
from crane_study.figures.model_seeds import langspec_seeds, nll_rise_seeds
from crane_study.tables.overlap import agreement, intersections
from crane_study.tables.relevance import objective_correlations
from crane_study.tables.transfer import transfer_table
from crane_study.uncertainty.open_ended import open_langspec, score_changes
from tests.study.outputs import synthetic
from tests.study.uncertainty.test_open_ended import make_items


def neuron_only(seed=0):
    return {language: sites["neuron"] for language, sites in synthetic.make_relevance(seed).items()}


def correlations():
    one, other = neuron_only(), neuron_only(1)
    return objective_correlations(one, {code: one[code] + 0.5 * other[code] for code in one})


def main_sets_of(frame):
    return frame[~frame["method"].str.startswith("random")]


def one_a_rule():
    return [item for item in synthetic.make_sets() if not item.method.startswith("random")]


def combined():
    groups = {}
    for item in one_a_rule():
        groups.setdefault((item.method, item.budget), []).append(item)
    return {rule: intersections(sets) for rule, sets in groups.items()}


def synthetic_values():
    relevance = synthetic.make_relevance()
    return {code: {site: np.ravel(array) for site, array in sites.items()} for code, sites in relevance.items()}


def synthetic_shares():
    relevance = synthetic.make_relevance()
    return {
        name: {(site, code): np.abs(relevance[code][site]).sum(axis=1) for site in sites for code in relevance}
        for name, sites in (("neurons", ["neuron"]), ("rows", ["gate", "up", "down"]))
    }


def transfer(rows):
    return transfer_table(rows, synthetic.make_langspec(rows), metric="token_probability")


def captured():
    keys = [(*key, code) for key in synthetic.FEW_METHODS for code in synthetic.LANGUAGES]
    frame = pd.DataFrame(keys, columns=["method", "budget", "language"])
    limits = {"share": 0.5, "share_low": 0.4, "share_high": 0.6}
    return frame.assign(**limits, **{f"specific_{name}": value for name, value in limits.items()})


def over_seeds(rows):
    """Frames of three model seeds: LangSpec-F1 and NLL rises."""
    scores = pd.concat([synthetic.make_langspec(rows)] * 3, ignore_index=True)
    keys = ["model", "selected_on", "method", "budget", "masked_language"]
    return scores, scores[keys].assign(own_rise=np.linspace(0.5, 1, len(scores)), worst_other_rise=0.1)


def curves():
    frame = pd.DataFrame({"method": ["contrast", "random_global"] * 2, "share": [0.1, 0.1, 0.3, 0.3], "mean": 0.5})
    return frame.assign(metric="accuracy", low=0.4, high=0.6, lowest=0.45, highest=0.55)


def draw_all(folder, rows, langspec, shared_units, counts):
    """Every figure once; returns the captions."""
    return {
        "loss": figures.training_loss(synthetic.make_histories(), folder / "loss"),
        "guessers": figures.guessers(synthetic.make_guessers(), folder / "guessers"),
        "layers": figures.relevance_by_layer(synthetic.make_relevance(), folder / "layers"),
        "tails": figures.heavy_tails(synthetic.make_z(), folder / "tails"),
        "objectives": figures.objective_agreement(correlations(), folder / "objectives"),
        "counts": figures.set_counts_figure(counts, folder / "counts"),
        "sites": figures.set_sites_figure(main_sets_of(counts), folder / "sites"),
        "combinations": figures.upset(combined(), folder / "combinations"),
        "jaccard": figures.jaccard_forest(main_sets_of(shared_units), folder / "jaccard"),
        "rules": figures.rule_matrix(agreement(one_a_rule()), folder / "rules"),
        "map": figures.relevance_map(synthetic_shares(), folder / "map"),
        "values": figures.value_tails(synthetic_values(), folder / "values"),
        "overlap": figures.overlap_matrix(shared_units, folder / "overlap"),
        "nll": figures.delta_matrices(rows, folder / "nll"),
        "accuracy": figures.delta_matrices(
            rows, folder / "accuracy", metric="accuracy", model="chat", selected_on="base"
        ),
        "langspec": figures.langspec_bars(langspec, folder / "langspec"),
        "transfer": figures.transfer_figure(transfer(rows), folder / "transfer"),
        "dose": figures.dose_response(curves(), folder / "dose"),
        "captured": figures.captured_effects(captured(), folder / "captured"),
        "effects": figures.relevance_against_effect(
            {code: (array / array.sum(), array / 100) for code, array in neuron_only().items()}, folder / "effects"
        ),
        "scores": figures.score_matrices(score_changes(make_items(), resamples=50), folder / "scores"),
        "forms": figures.open_langspec_bars(open_langspec(make_items(), resamples=50), folder / "forms"),
        "seeds": langspec_seeds(over_seeds(rows)[0], folder / "seeds"),
        "rises": nll_rise_seeds(over_seeds(rows)[1], folder / "rises"),
        "tokens": figures.token_relevance(synthetic.make_examples(), folder / "tokens"),
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, shared_units, counts):
    folder = tmp_path_factory.mktemp("figures")
    rows = synthetic.make_rows(synthetic.FEW_METHODS)
    describe = style.describe

    def checked(figure):  # called when all is laid out
        legends_lie_free(figure)
        ticks = sns.axes_style("ticks")
        assert matplotlib.rcParams["axes.edgecolor"] == ticks["axes.edgecolor"], "not in the seaborn style"
        return describe(figure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "describe", checked)
        return folder, draw_all(folder, rows, synthetic.make_langspec(rows), shared_units, counts)


def legends_lie_free(figure):
    """No legend of the figure lies over a panel with its labels, or over a label of the whole."""
    heads = [text for text in figure.texts if text.get_text()]
    others = [axes.get_tightbbox() for axes in figure.axes] + [text.get_window_extent() for text in heads]
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert not any(box.overlaps(other) for other in others), "a legend lies over something"


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


def test_captions_are_sentences_that_name_the_uncertainty(drawn):
    _, captions = drawn
    assert all(caption.endswith(".") and len(caption) > 60 for caption in captions.values())
    for name in ("nll", "accuracy", "langspec"):
        assert "5 draws" in captions[name]
    assert "units selected on the base model" in captions["accuracy"]
    assert "Wilson" in captions["guessers"]
    assert "21 rows" in captions["tails"]
    assert "paired bootstrap over 30 questions" in captions["scores"]
    assert "mean over 2 draws" in captions["scores"]


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


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_same_bytes_in_another_process_and_without_torch(drawn, tmp_path):
    folder, _ = drawn
    program = (
        "import sys; from pathlib import Path; from tests.study.outputs import synthetic; "
        "from crane_study import figures; folder = Path(sys.argv[1]); "
        "figures.delta_matrices(synthetic.make_rows(synthetic.FEW_METHODS), folder / 'nll'); "
        "figures.guessers(synthetic.make_guessers(), folder / 'guessers'); "
        "figures.token_relevance(synthetic.make_examples(), folder / 'tokens'); "
        "import crane_run.report, crane_lib.overlap; assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, env=environment, cwd=ROOT)
    made = digests(tmp_path)
    assert len(made) == 10
    before = digests(folder)
    assert made == {name: before[name] for name in made}


def test_a_users_own_settings_change_nothing(drawn, tmp_path):
    folder, _ = drawn
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30}):
        figures.guessers(synthetic.make_guessers(), tmp_path / "guessers")
    assert (tmp_path / "guessers.png").read_bytes() == (folder / "guessers.png").read_bytes()


def test_many_layers_are_drawn_as_lines(tmp_path):
    wide = {code: sites["neuron"] for code, sites in synthetic.make_relevance(layers=32, inner=8).items()}
    figures.relevance_by_layer(wide, tmp_path / "layers")
    assert (tmp_path / "layers.png").stat().st_size > 5000


def test_tokens_that_no_font_has_are_numbered(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "families", lambda: (style.LATIN,))
    caption = figures.token_relevance(synthetic.make_examples(), tmp_path / "tokens")
    assert "15 tokens that no font" in caption
    page = (tmp_path / "tokens.html").read_text(encoding="utf-8")
    assert "欧元" in page
    assert 'lang="vi"' in page


def test_the_html_is_escaped_and_its_shade_follows_the_sign():
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
    cells = cells.assign(
        method="contrast", budget="0.1", value=np.linspace(-0.1, 1, len(cells)), text="0.123\n0.1\nto 0.2"
    )
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
