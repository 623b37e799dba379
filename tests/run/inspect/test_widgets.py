"""The panel without a browser: controls are set, and what stands in the tabs is read."""

import re
import shutil

import pytest

from crane_run.inspect import Neuron, highest_ranked, open_run
from crane_run.inspect.widgets import Inspector


@pytest.fixture
def panel(run):
    return Inspector(run, Neuron("base", 1, 7), "vi", documents=6)


def text(widget):
    return re.sub(r"<[^>]+>", " ", widget.value.partition("</style>")[2])


def test_it_opens_on_the_neuron_given_and_follows_the_controls(panel, run):
    assert "Base model, layer 1, neuron 7" in text(panel.facts)
    assert "Top documents of 6 read in Vietnamese" in text(panel.texts)
    assert "Base model, layer 1, neuron 7; Vietnamese" in text(panel.status)
    assert panel.cost.value == ""
    panel.method.value, panel.rank.value = "lape", 3
    expected = highest_ranked(run, "base", "vi", method="lape", rank=3)
    assert panel.chosen == expected
    assert f"layer {expected.layer}, neuron {expected.index}" in text(panel.facts)
    panel.language.value = "zh"
    assert "read in Chinese" in text(panel.texts)
    assert 'lang="zh"' in panel.texts.value


def test_masking_and_a_text_of_ones_own_are_computed_when_asked(panel):
    panel.measure.click()
    assert "NLL, masked" in text(panel.cost)
    assert "data:image/png;base64," in panel.cost.value
    panel.text.value = "Ở thị trấn số 3, con sông chảy."
    panel.read.click()
    assert "Ở" in panel.sentence.value
    panel.neuron.value = 3
    assert panel.cost.value == panel.sentence.value == ""
    panel.text.value = ""
    panel.read.click()
    assert "no text has two tokens or more" in text(panel.status)


OUT_OF_RANGE = {
    ("neuron", 24): "neuron 24: a layer of the base model has the neurons 0 to 23",
    ("neuron", -1): "neuron -1: a layer of the base model has the neurons 0 to 23",
    ("layer", 2): "layer 2: the base model has the layers 0 to 1",
    ("rank", 49): "rank 49: the base model has 48 neurons, ranks go from 1",
}


def test_what_is_out_of_range_is_said_and_put_right_again(panel):
    for (control, value), message in OUT_OF_RANGE.items():
        getattr(panel, control).value = value
        assert message in text(panel.status)
        assert 'role="alert"' in panel.status.value
        getattr(panel, control).value = 1
        assert 'role="alert"' not in panel.status.value
        assert "Values" not in text(panel.status)
        assert panel.facts.value


def test_files_are_chosen_and_drawn_part_by_part(panel):
    panel.name.value = "relevance_base/gold_logit.en.safetensors"
    assert "neuron.mean" in panel.part.options
    panel.part.value = "up.mean"
    assert "up.mean (2 × 24)" in text(panel.file)
    panel.name.value = "selection_base/contrast@0.1.json"
    assert panel.part.options == ()
    assert "Units that contrast at 0.1 selects" in text(panel.file)


def test_a_run_that_is_taken_away_is_said(study_root, tmp_path):
    shutil.copytree(study_root / "artifacts" / "small", tmp_path / "small")
    panel = Inspector(open_run("small", artifacts=tmp_path), Neuron("base", 0, 0), "en", documents=2)
    shutil.rmtree(tmp_path / "small" / "stages" / "relevance_base")
    panel.name.value = "relevance_base/tokens.json"
    assert "the run has no such file" in text(panel.file)
