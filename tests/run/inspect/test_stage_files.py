import shutil

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from crane_lib.errors import CraneError
from crane_run.inspect import draw_file, list_files, load_file, open_run, read_tensor
from crane_run.inspect.html import _thinned
from crane_run.inspect.stage_files import describe_file

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def own(study_root, tmp_path_factory):
    """A run of one's own to which files can be added."""
    root = tmp_path_factory.mktemp("own")
    shutil.copytree(study_root / "artifacts" / "small", root / "small")
    return open_run("small", artifacts=root)


def test_every_file_of_a_run_is_listed_loaded_and_described(run):
    loaded = {name: load_file(run, name) for name in list_files(run)}
    assert {"corpus/documents.parquet", "selection_base/contrast@0.1.json"} <= set(loaded)
    assert {one.kind for one in loaded.values()} == {"tensors", "table", "sets", "json"}
    assert all(describe_file(one).startswith(("<table>", "<pre")) for one in loaded.values())
    assert draw_file(loaded["relevance_base/tokens.json"]) is None
    assert "language" in describe_file(loaded["relevance_base/tokens.json"])


DRAWN = {
    ("relevance_base/gold_logit.vi.safetensors", "neuron.mean"): "neuron.mean (2 × 24), all values",
    ("corpus/documents.parquet", "language"): "Column language: rows with each value (all)",
    ("selection_base/contrast@0.1.json", ""): "Units that contrast at 0.1 selects in each layer",
}


def test_files_are_drawn_from_the_runs_own_values(run):
    for (name, part), told in DRAWN.items():
        png, caption = draw_file(load_file(run, name), part)
        assert png.startswith(PNG)
        assert caption.startswith(told)
    loaded = load_file(run, "relevance_base/gold_logit.vi.safetensors")
    expected = run.statistics("base")["vi"].moments["neuron"].mean.numpy()
    np.testing.assert_array_equal(read_tensor(loaded, "neuron.mean"), expected)
    with pytest.raises(CraneError, match="has no tensor 'x'; it has abs_head"):
        read_tensor(loaded, "x")


def test_files_of_ones_own(own):
    folder = own.folder / "stages" / "mine"
    folder.mkdir()
    pd.DataFrame({"a$b$": [1.0, np.nan, 3.0], "word": ["x", "$y$", "x"]}).to_csv(folder / "rows.csv", index=False)
    (folder / "lines.jsonl").write_text('{"n": 1}\n\n{"n": 2}\n')
    arrays = {"three": np.ones((2, 3, 4)), "scalar": np.array(2.0), "nan": np.array([np.nan, -1.0])}
    save_file(arrays, folder / "t.safetensors")
    for name, parts in (("rows.csv", ("a$b$", "word")), ("lines.jsonl", ("n",)), ("t.safetensors", None)):
        loaded = load_file(own, f"mine/{name}")
        assert parts is None or loaded.parts == parts
        for part in loaded.parts:
            assert draw_file(loaded, part)[0].startswith(PNG)
    with pytest.raises(CraneError, match="has no column 'x'"):
        draw_file(load_file(own, "mine/rows.csv"), "x")


def test_damaged_files_and_those_outside_the_run_are_refused(own):
    for name in ("broken.safetensors", "broken.parquet", "broken.jsonl"):
        (own.folder / "stages" / name).write_text("nothing of the kind")
        with pytest.raises(CraneError, match=r"^.* (is damaged|cannot be read as) .*$"):
            load_file(own, name)
    (own.folder / "outside.json").write_text("{}")
    for name in ("../outside.json", str(own.folder / "outside.json"), "no.json"):
        with pytest.raises(CraneError, match="the run has no such file"):
            load_file(own, name)
    (own.folder / "stages" / "a.pth").write_bytes(b"")
    with pytest.raises(CraneError, match="cannot be drawn"):
        load_file(own, "a.pth")


def test_thinning_keeps_what_stands_out():
    rows = np.zeros((2, 5000))
    rows[1, 4321] = -7
    thin = _thinned(rows)
    assert thin.shape[1] <= 1024
    assert thin.min() == -7
    assert _thinned(rows[:, :1000]).shape == (2, 1000)
