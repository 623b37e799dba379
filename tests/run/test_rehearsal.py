"""A rehearsal walks the whole path of a profile of published models, offline, and says that it is one."""

import json
import os
import re
import subprocess
import sys

import pytest
from transformers import AutoConfig

from crane_lib.errors import CraneError
from crane_run.rehearsal import rehearsal_profile
from crane_run.sections import all_sections
from crane_study import ROOT
from crane_study.profile import load_profile
from crane_study.study import Study

MODELS = {"llama2-7b": "llama", "qwen2.5-0.5b": "qwen2", "qwen3-8b": "qwen3"}


@pytest.mark.parametrize(("name", "judge"), zip(MODELS, ("endpoint", "both", "offline"), strict=True))
def test_models_tasks_and_judges_of_every_real_profile(tmp_path, name, judge):
    real = load_profile(name)
    real = real.model_copy(update={"open_ended": real.open_ended.model_copy(update={"judge": judge})})
    profile = rehearsal_profile(real, tmp_path)
    assert (profile.name, profile.rehearsal) == (f"{name}-rehearsal", True)
    assert profile.open_ended.judge == "offline"  # no judge that is paid for is asked
    study = Study.open(profile, artifacts=tmp_path, say=lambda line: None)
    assert load_profile(str(study.folder / "profile.yaml")) == profile
    assert set(study.judges) <= {"offline"}
    config = AutoConfig.from_pretrained(study.model("base").folder)
    given = real.source.architecture
    assert config.model_type == MODELS[name]
    assert config.tie_word_embeddings == given["tie_word_embeddings"]
    ratio = config.num_attention_heads / config.num_key_value_heads
    assert ratio == pytest.approx(min(4, given["num_attention_heads"] / given["num_key_value_heads"]))
    accuracy = study.unmasked_accuracy()
    assert set(accuracy["evaluation_language"]) == {"en", "zh", "vi"}
    assert set(accuracy["model"]) == {"base", "chat"}
    written = (tmp_path / f"{name}-rehearsal.material/key").stat().st_mtime_ns
    assert rehearsal_profile(real, tmp_path) == profile
    assert (tmp_path / f"{name}-rehearsal.material/key").stat().st_mtime_ns == written


def test_profiles_that_download_nothing_need_no_rehearsal(tmp_path):
    with pytest.raises(CraneError, match="profile mini downloads nothing; run it as it is"):
        rehearsal_profile(load_profile("mini"), tmp_path)
    real = load_profile("qwen3-8b")
    bare = real.model_copy(update={"source": real.source.model_copy(update={"architecture": {}})})
    with pytest.raises(CraneError, match="does not say of what kind its models are"):
        rehearsal_profile(bare, tmp_path)


@pytest.mark.slow
def test_a_rehearsal_goes_through_every_section(tmp_path):
    command = [sys.executable, "-m", "crane_run.cli", "run", "--profile", "llama2-7b", "--rehearse"]
    command += ["--artifacts", str(tmp_path)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "llama2-7b-rehearsal"
    assert f"All {len(all_sections())} sections done" in done.stdout
    for section in (
        "05",
        "10",
        "11",
    ):  # a published model's own run may leave these out, or ask a judge that is paid for
        assert list((folder / "tables").glob(f"{section}_*.csv"))
    tables = sorted((folder / "tables").glob("*.md"))
    assert len(tables) >= 10
    files = [path.with_suffix(suffix) for path in tables for suffix in (".md", ".tex")]
    assert all("REHEARSAL" in path.read_text(encoding="utf-8") for path in files)
    captions = json.loads((folder / "captions.json").read_text())
    assert sum(name.startswith("figures/") for name in captions) >= 8
    assert all("REHEARSAL" in caption for caption in captions.values())
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert "**REHEARSAL.**" in report
    assert all("REHEARSAL" in line for line in re.findall(r"^## .*", report, re.MULTILINE))
    assert not re.search(r"This section failed", report)
