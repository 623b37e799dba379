"""Released checkpoints: taken when their recipe is the study's own, refused when they are damaged or foreign."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from crane_lib.errors import CraneError
from crane_run.manifest import describe_models, describe_run, write_manifest
from crane_run.release import write_checkpoint
from crane_study import checkpoints
from crane_study.checkpoints import CARD, FOLDER_VARIABLE, read_card
from crane_study.profile import CONFIGS, load_profile
from crane_study.store import Store
from crane_study.study import Study

ARCHITECTURE = {"vocabulary": 320, "layers": 1, "hidden": 16, "intermediate": 24, "heads": 2, "max_length": 64}


def small_profile(folder, *, learning_rate=0.01, weights="released", **changes):
    content = yaml.safe_load((CONFIGS / "smoke.yaml").read_text(encoding="utf-8")) | {
        "name": "tiny",
        "dtype": "float32",
    }
    content |= changes
    knowledge = content["source"]["knowledge"] | {"facts_per_subject": 8, "train_passes": {"en": 1, "zh": 1, "vi": 1}}
    training = {"learning_rate": learning_rate, "batch_size": 16, "block": 32}
    content["source"] |= {"knowledge": knowledge, "architecture": ARCHITECTURE, "base": training, "chat": training}
    content["source"]["weights"] = weights
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_profile(str(path))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that trained its models, and the folder of checkpoints with what it released."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(root / "checkpoints"))
        study = Study.open(small_profile(root), artifacts=root / "artifacts", say=lambda _line: None)
        for name in ("base", "chat"):
            study.model(name)
        about = describe_run(study.folder, study.profile, [])
        write_manifest(study.folder, about | {"commit": "c" * 40, "uncommitted_changes": False})
        write_checkpoint(study.folder, root / "checkpoints" / "tiny")
    return study, root / "checkpoints"


@pytest.fixture
def released(trained, tmp_path, monkeypatch):
    """A copy of the checkpoints, which a study looks into."""
    import shutil

    shutil.copytree(trained[1], tmp_path / "checkpoints")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "checkpoints"))
    return tmp_path / "checkpoints" / "tiny"


def opened(folder, said, **changes):
    return Study.open(small_profile(folder, **changes), artifacts=folder / "artifacts", say=said.append)


def test_a_study_of_the_same_recipe_takes_the_released_models_and_says_so(trained, released, tmp_path):
    said = []
    study = opened(tmp_path, said)
    for name in ("base", "chat"):
        taken, made = study.model(name), trained[0].model(name)
        for file in ("training.csv", *(f"model/{file}" for file in ("model.safetensors", "tokenizer.json"))):
            assert (taken / file).read_bytes() == (made / file).read_bytes()
    assert said[1] == "models: released checkpoint tiny; --retrain trains them here"
    records = {record["name"]: record for record in Store(study.folder / "stages").records()}
    origins = describe_models(study.profile, records)
    assert [(origin["kind"], origin["checkpoint"]) for origin in origins.values()] == [
        ("released checkpoint", "tiny"),
        ("released checkpoint", "tiny"),
    ]
    records = {record["name"]: record for record in Store(trained[0].folder / "stages").records()}
    assert describe_models(study.profile, records)["base"]["kind"] == "trained here"
    assert describe_models(study.profile, records)["base"]["precision"] in ("float32", "bfloat16")


def test_a_checkpoint_is_an_ordinary_model_directory_with_a_card(released):
    model = AutoModelForCausalLM.from_pretrained(released / "chat")
    assert model.config.num_hidden_layers == 1
    assert AutoTokenizer.from_pretrained(released / "chat").chat_template
    card = json.loads((released / CARD).read_text(encoding="utf-8"))
    words = (released / "README.md").read_text(encoding="utf-8")
    assert card["commit"] == "c" * 40
    for told in (card["commit"], card["command"], card["recipe"]["texts"], card["files"]["base/model.safetensors"]):
        assert told in words
    assert f"base {card['training']['base']['loss']:.3f}" in words


@pytest.mark.parametrize(
    ("changes", "differing"),
    [
        ({"learning_rate": 0.02}, "base.learning_rate, chat.learning_rate"),
        ({"random_seed": 1}, "random_seed, texts, conversations"),
        ({"dtype": "float64"}, "dtype"),
    ],
)
def test_a_checkpoint_of_another_recipe_is_not_used(released, tmp_path, changes, differing):
    said = []
    assert opened(tmp_path, said, **changes).checkpoint is None
    assert said[1].endswith(f"no released checkpoint has their recipe (tiny differs in {differing})")


def test_retraining_does_not_look_at_checkpoints(released, tmp_path):
    (released / CARD).write_text("{", encoding="utf-8")
    said = []
    profile = small_profile(tmp_path).retrained()
    study = Study.open(profile, artifacts=tmp_path / "artifacts", say=said.append)
    assert study.checkpoint is None
    with pytest.raises(CraneError, match=r"--retrain: profile llama2-7b has models of its own"):
        load_profile("llama2-7b").retrained()


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: flip(folder / "base" / "model.safetensors"),
            "damaged: its SHA-256 is [0-9a-f]{64}, the card says",
        ),
        (lambda folder: (folder / "base" / "tokenizer.json").unlink(), "tokenizer.json: missing from the checkpoint"),
        (lambda folder: (folder / "base" / "extra.json").write_text("{}"), "extra.json: not on the checkpoint's card"),
        (lambda folder: (folder / CARD).write_text('{"schema": "other/1"}'), "not a card of a checkpoint"),
    ],
)
def test_a_damaged_or_foreign_checkpoint_is_refused_with_what_to_do(released, tmp_path, damage, message):
    damage(released)
    study = opened(tmp_path, [])
    with pytest.raises(CraneError, match=f"{message}.*git checkout -- artifacts/checkpoints.*--retrain"):
        study.model("base")
    assert not (study.folder / "stages" / "base_model").exists()


def test_only_models_that_the_run_trained_from_committed_code_are_released(trained, released, tmp_path):
    with pytest.raises(CraneError, match="exists already"):
        write_checkpoint(trained[0].folder, released)
    study = opened(tmp_path, [])
    for name in ("base", "chat"):
        study.model(name)
    about = describe_run(study.folder, study.profile, []) | {"commit": "c" * 40, "uncommitted_changes": False}
    write_manifest(study.folder, about)
    with pytest.raises(CraneError, match="its models were not trained in this run; run it with --retrain"):
        write_checkpoint(study.folder, tmp_path / "new")
    about = describe_run(trained[0].folder, trained[0].profile, []) | {"commit": "c" * 40, "uncommitted_changes": True}
    write_manifest(trained[0].folder, about)
    with pytest.raises(CraneError, match="made from code that is not committed"):
        write_checkpoint(trained[0].folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_faster_precision_is_measured_once_and_kept(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "crane_study.training.time_precisions", lambda *_: calls.append(1) or {"float32": 0.5, "bfloat16": 1.1}
    )
    said = []
    for _ in range(2):
        study = opened(tmp_path, said, weights="trained")
        assert study._training_precision == "float32"
    assert len(calls) == 1
    told = "training in float32, the faster here (two blocks in float32 0.50 s, bfloat16 1.10 s)"
    assert said == ["models: timing float32 and bfloat16 on this machine", told, told]
    monkeypatch.setattr("crane_study.training.time_precisions", lambda *_: {"float32": 1.1, "bfloat16": 0.5})
    assert opened(tmp_path, said, weights="trained", learning_rate=0.5)._training_precision == "bfloat16"
    assert opened(tmp_path, said, weights="trained", dtype="float64")._training_precision == "float64"


def test_a_name_that_the_checkpoints_have_is_refused(tmp_path):
    with pytest.raises(CraneError, match="artifacts/checkpoints holds the released checkpoints"):
        small_profile(tmp_path, name="checkpoints")


@pytest.mark.parametrize(
    "name", [path.parent.name for path in sorted(checkpoints.checkpoints_root().glob(f"*/{CARD}"))]
)
def test_the_checkpoints_of_the_repository_are_whole(name):
    folder = checkpoints.checkpoints_root() / name
    for model in ("base", "chat"):
        assert checkpoints.file_hashes(folder, model)
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 10_000_000
    assert read_card(folder)["profile"] == name


def test_training_smoke_again_gives_the_released_models(tmp_path):
    """In float64 processors differ in the last digits, far below the float32 in which the weights are kept."""
    study = Study.open(load_profile("smoke").retrained(), artifacts=tmp_path, say=lambda _line: None)
    for name in ("base", "chat"):
        made, kept = (
            load_file(folder / "model.safetensors")
            for folder in (study.model(name) / "model", checkpoints.checkpoints_root() / "smoke" / name)
        )
        assert made.keys() == kept.keys()
        for key, value in kept.items():
            torch.testing.assert_close(made[key], value, rtol=1e-6, atol=1e-8)
