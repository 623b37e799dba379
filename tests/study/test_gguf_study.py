"""A GGUF file in place of a model's directory: in a profile, and for the commands that take a model."""

import numpy as np
import yaml
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from crane_lib.neurons import NeuronSet, write_neuron_sets
from crane_run.cli import app
from crane_study.loading.gguf_files import as_directory
from crane_study.study import Study
from tests.gguf_model import write_gguf
from tests.small import write_study


def test_a_gguf_file_stands_for_its_model(tmp_path, monkeypatch):
    monkeypatch.setenv("CRANE_CACHE", str(tmp_path / "cache"))
    profile = write_study(tmp_path, questions=False)
    file = tmp_path / "small.gguf"
    write_gguf(file)
    settings = yaml.safe_load(profile.read_text())
    settings["source"]["base_model"] = "small.gguf"
    profile.write_text(yaml.safe_dump(settings))
    stage = Study.open(str(profile), artifacts=tmp_path / "artifacts").model("base")
    assert stage.folder == as_directory(file)

    sites = {"neuron": [np.array([3, 5]), np.array([], dtype=np.int64)]}
    chosen = NeuronSet(sites, {"neuron": 64}, method="contrast", budget="0.1", language="vi")
    write_neuron_sets(tmp_path / "sets.json", [chosen])
    command = ["mask", str(file), str(tmp_path / "sets.json"), str(tmp_path / "masked"), "--language", "vi"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    masked, before = (
        AutoModelForCausalLM.from_pretrained(folder).model.layers[0].mlp.down_proj.weight
        for folder in (tmp_path / "masked", stage.folder)
    )
    assert masked[:, [3, 5]].abs().max() == 0
    assert masked.count_nonzero() == before.count_nonzero() - before[:, [3, 5]].count_nonzero()
