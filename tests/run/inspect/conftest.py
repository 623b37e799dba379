"""One small finished study in three languages: a random model, no training, seconds to make."""

import pytest

from crane_run.inspect import open_run
from crane_study.study import Study
from tests.small import TEXTS, write_study

CHINESE = [f"第{n}号镇上，河水流过{n + 3}座旧磨坊和一座灰色的石桥，饕餮纹也在那里。" for n in range(30)]


@pytest.fixture(scope="session")
def study_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("inspected")
    sizes = {"relevance_documents": 12, "perplexity_documents": 4}
    profile = write_study(root, texts={**TEXTS, "zh": CHINESE}, questions=False, **sizes)
    study = Study.open(str(profile), artifacts=root / "artifacts", say=lambda _: None)
    study.selection("base")
    return root


@pytest.fixture(scope="session")
def run(study_root):
    return open_run(str(study_root / "small.yaml"), artifacts=study_root / "artifacts")
