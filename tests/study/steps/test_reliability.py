"""Sets of disjoint parts of the documents, for methods that look at single documents."""

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from crane_lib.rivals import average_precision
from crane_lib.scores import statistics_file
from crane_lib.selection import top
from crane_study.frames import read_frame
from crane_study.steps.reliability import write_part
from crane_study.study import Study
from tests.small import write_study


@pytest.mark.parametrize(
    ("part", "side", "places"), [(2, "a", range(5)), (2, "b", range(5, 10)), (4, "b", range(5, 7))]
)
def test_parts_are_disjoint_halves_of_the_documents(tmp_path, part, side, places):
    values = np.arange(60, dtype=np.float32).reshape(10, 2, 3)
    (tmp_path / "all").mkdir()
    (tmp_path / "part").mkdir()
    save_file({"mean": values}, statistics_file(tmp_path / "all", "activations", "en"))
    write_part(tmp_path / "part", tmp_path / "all", ["en"], part, side)
    found = load_file(statistics_file(tmp_path / "part", "activations", "en"))["mean"]
    np.testing.assert_array_equal(found, values[list(places)])


def test_sets_of_both_halves_are_those_of_their_documents(tmp_path):
    profile = write_study(tmp_path, relevance_documents=16, perplexity_documents=4, questions=False)
    values = yaml.safe_load(profile.read_text(encoding="utf-8"))
    values["selection"] = {"methods": ["kurtosis", "contrast", "lape", "average_precision"], "documents": 16}
    profile.write_text(yaml.safe_dump(values), encoding="utf-8")
    study = Study.open(str(profile), artifacts=tmp_path / "artifacts", say=lambda _line: None)
    frame = read_frame(study.reliability() / "reliability.csv")
    assert set(frame["method"]) == {"kurtosis", "contrast", "lape", "average_precision"}
    rows = frame[frame["method"] == "average_precision"].set_index("language")
    assert set(rows["documents_share"]) == {0.5}
    folder = study.activations("base").folder
    means = {k: load_file(statistics_file(folder, "activations", k))["mean"].astype(float) for k in ("en", "vi")}
    for language, row in rows.iterrows():
        sets = []
        for half in (slice(0, 8), slice(8, 16)):
            together = np.concatenate([item[half] for item in means.values()])
            label = np.repeat([k == language for k in means], 8)
            scores = np.stack([average_precision(label, together[:, layer]) for layer in range(2)])
            sets.append(top(scores, row["count_a"]))
        assert row["shared"] == (sets[0] & sets[1]).sum()
