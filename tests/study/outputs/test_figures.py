"""Every figure is drawn in both formats, says what it shows, and comes out the same twice."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from crane_lib.errors import CraneError
from crane_study import ROOT, figures
from crane_study.figures import style
from crane_study.figures import style as fonts
from crane_study.figures.alt_text import number
from crane_study.tables.overlap import agreement, intersections
from crane_study.tables.relevance import objective_correlations
from crane_study.tables.transfer import transfer_table
from tests.study.outputs import synthetic


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
        "tokens": figures.token_relevance(synthetic.make_examples(), folder / "tokens"),
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, shared_units, counts):
    folder = tmp_path_factory.mktemp("figures")
    rows = synthetic.make_rows(synthetic.FEW_METHODS)
    describe = style.describe

    def checked(figure):  # called when all is laid out
        legends_lie_free(figure)
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
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF-")
    assert not list(folder.glob(".*"))


def test_files_carry_no_dates(drawn):
    folder, captions = drawn
    for name in captions:
        for stamp in (b"CreationDate", b"matplotlib.org"):
            assert stamp not in (folder / f"{name}.pdf").read_bytes()
            assert stamp not in (folder / f"{name}.png").read_bytes()


def test_captions_are_sentences_that_name_the_uncertainty(drawn):
    _, captions = drawn
    assert all(caption.endswith(".") and len(caption) > 60 for caption in captions.values())
    for name in ("nll", "accuracy", "langspec"):
        assert "5 draws" in captions[name]
    assert "units selected on the base model" in captions["accuracy"]
    assert "Wilson" in captions["guessers"]
    assert "21 rows" in captions["tails"]


def test_the_transfer_has_its_intervals_where_the_table_has_them(drawn, tmp_path):
    folder, captions = drawn
    table = transfer(synthetic.make_rows(synthetic.FEW_METHODS))
    bounds = {"own_low": table["own_drop"] - 0.05, "own_high": table["own_drop"] + 0.1}
    bounds |= {"worst_other_low": np.nan, "worst_other_high": np.nan}
    caption = figures.transfer_figure(table.assign(**bounds), tmp_path / "transfer")
    assert caption == captions["transfer"] + " Lines: 95 % intervals of a paired bootstrap over items."
    text = (tmp_path / "transfer.txt").read_text(encoding="utf-8")
    assert "interval" not in (folder / "transfer.txt").read_text(encoding="utf-8")
    assert "worst other language, 95 % interval" not in text
    own = table[(table["method"] == "contrast") & (table["model"] == "chat") & (table["selected_on"] == "base")]
    lost = 100 * own.set_index("masked_language")["own_drop"]["en"]
    told = f"English: {number(lost - 5)} to {number(lost + 10)};"
    assert f"Chat model, on the masked language, 95 % interval (interval): {told}" in text


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
    import matplotlib

    folder, _ = drawn
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30}):
        figures.guessers(synthetic.make_guessers(), tmp_path / "guessers")
    assert (tmp_path / "guessers.png").read_bytes() == (folder / "guessers.png").read_bytes()


def test_many_layers_are_drawn_as_lines(tmp_path):
    wide = {code: sites["neuron"] for code, sites in synthetic.make_relevance(layers=32, inner=8).items()}
    figures.relevance_by_layer(wide, tmp_path / "layers")
    assert (tmp_path / "layers.png").stat().st_size > 5000


def test_tokens_that_no_font_has_are_numbered(tmp_path, monkeypatch):
    monkeypatch.setattr(fonts, "families", lambda: [fonts.LATIN])
    caption = figures.token_relevance(synthetic.make_examples(), tmp_path / "tokens")
    assert "15 tokens that no font" in caption
    page = (tmp_path / "tokens.html").read_text(encoding="utf-8")
    assert "欧元" in page
    assert 'lang="vi"' in page


def test_html_is_escaped():
    page = figures.token_relevance_html([("en", ["<script>", "&"], [1.0, -1.0])])
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_shade_follows_sign():
    page = figures.token_relevance_html([("en", ["up", "down", "none"], [2.0, -2.0, 0.0])])
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


def test_wilson_interval():
    from crane_study.figures.models import wilson

    low, high = wilson(np.array([0.0, 0.5]), np.array([10.0, 100.0]))
    assert low == pytest.approx([0.0, 0.4038], abs=1e-4)
    assert high == pytest.approx([0.2775, 0.5962], abs=1e-4)
