"""A user's own model and texts, from a profile to result rows."""

import json

import pandas as pd
import pytest
import yaml
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from crane_lib.errors import CraneError
from crane_lib.neurons import read_all_sets
from crane_study.frames import read_frame
from crane_study.loading.models import load_model
from crane_study.measure.rows import langspec_of
from crane_study.profile import load_profile
from crane_study.study import Study
from crane_study.tables import models as setup_summary
from crane_study.tables import relevance as landscape
from crane_study.tables.transfer import transfer_table, with_drop_intervals
from crane_study.uncertainty.bootstrap import resample_documents, resample_items
from tests.small import TEXTS, small_model, small_tokenizer, write_lines, write_study, write_ungated


def opened(profile, root, say=lambda _line: None):
    return Study.open(str(profile), artifacts=root / "artifacts", say=say)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study with a base and a chat model and questions, run to its rows."""
    root = tmp_path_factory.mktemp("study")
    profile = write_study(root, chat=True, relevance_documents=10, perplexity_documents=4)
    study = opened(profile, root)
    return profile, root, study, study.all_rows()


def test_a_study_says_what_it_has(done):
    profile, root, study, _rows = done
    assert study.languages == ["en", "vi"]
    assert study.model_names == ["base", "chat"]
    assert study.measures == ["token_probability", "accuracy"]
    assert study.objectives == ["gold_logit", "log_probability"]
    assert study.judged_sets == [("kurtosis", "published"), ("contrast", "0.1")]
    assert study.folder == root / "artifacts" / "small"
    assert load_profile(str(study.folder / "profile.yaml")) == load_profile(str(profile))
    assert not study.trains_model
    assert [study.model(name).folder for name in study.model_names] == [root / "model", root / "chat"]
    stages = {path.name for path in (study.folder / "stages").iterdir()}
    assert "base_model" not in stages
    assert {"corpus", "relevance_base", "selection_chat", "perplexity_base", "nlu_chat"} <= stages


def test_masks_may_be_measured_on_a_sample_of_documents_and_questions(done, tmp_path):
    study, profile = done[2], done[2].profile
    sampled = profile.model_copy(
        update={"evaluation": profile.evaluation.model_copy(update={"documents": 2, "questions": 3})}
    )
    part = Study.open(sampled, artifacts=tmp_path, say=lambda _line: None)
    rows = read_frame(part.perplexity("base") / "documents.parquet")
    whole = read_frame(study.perplexity("base") / "documents.parquet")
    assert rows.groupby("evaluation_language")["document"].nunique().tolist() == [2, 2]
    assert whole.groupby("evaluation_language")["document"].nunique().tolist() == [4, 4]
    for one, count in ((part, 3), (study, 8)):
        rows = one.rows("base")
        assert set(rows.loc[rows["metric"] == "accuracy", "n"]) == {count}


def test_every_model_is_measured_under_its_masks(done):
    _profile, _root, study, rows = done
    masks = rows.groupby("model")[["selected_on", "method"]].apply(lambda part: set(map(tuple, part.to_numpy())))
    every = {("base", item.method) for item in read_all_sets(study.selection("base").folder)}
    transferred = ("kurtosis", "contrast", "lape", "random_like_kurtosis", "random_like_contrast")
    own = ("kurtosis", "contrast")
    assert masks["base"] == {("", "none"), ("base", "everything"), *every, *(("chat", m) for m in own)}
    own = (*own, "everything")
    assert masks["chat"] == {("", "none"), *(("base", m) for m in transferred), *(("chat", m) for m in own)}
    assert set(rows["evaluation_language"]) == {"en", "vi"}
    assert rows["value"].notna().all()
    assert len(langspec_of(rows)) == 2 * (rows[rows["metric"] == "accuracy"]["method"].ne("none").sum() // 2)


@pytest.mark.parametrize("kind", ["documents", "items"])
def test_items_are_of_the_rows_masks_and_have_the_unmasked_model_once(done, kind):
    _profile, _root, study, rows = done
    item, language = ("document", "evaluation_language") if kind == "documents" else ("item", "language")
    key = ["selected_on", "method", "budget", "masked_language", "random_seed"]
    for name in ("base", "chat"):
        frame = getattr(study, kind)(name)
        assert set(frame["model"]) == {name}
        assert not frame.duplicated([*key, language, item]).any()
        masks = rows[rows["model"] == name][key].drop_duplicates()
        assert len(frame[key].drop_duplicates().merge(masks, on=key)) == len(masks)


def test_what_transfers_has_intervals_around_it(done):
    _profile, _root, study, rows = done
    for metric, kind, resample in (
        ("token_probability", study.documents, resample_documents),
        ("accuracy", study.items, resample_items),
    ):
        table = transfer_table(rows, langspec_of(rows), metric=metric)
        found = [resample(kind(name), resamples=200) for name in study.model_names]
        shown = with_drop_intervals(table, found)
        pd.testing.assert_frame_equal(shown[list(table.columns)], table, check_dtype=False)
        # A language whose accuracy is no better than guessing has no share to lose.
        known = shown.dropna(subset=["own_drop", "worst_other_drop"])
        assert metric == "accuracy" or len(known) == len(shown)
        assert (shown["langspec_low"] <= shown["langspec_high"]).all()
        for place in ("own", "worst_other"):
            assert (known[f"{place}_low"] <= known[f"{place}_high"]).all()
        if len(known):
            assert (known["own_low"] <= known["own_drop"]).mean() > 0.9
            assert (known["own_drop"] <= known["own_high"]).mean() > 0.9


def test_the_unmasked_accuracy_is_the_masking_stages_own(done):
    _profile, _root, study, rows = done
    unmasked = study.unmasked_accuracy()
    same = rows[(rows["metric"] == "accuracy") & (rows["method"] == "none")]
    order = ["model", "evaluation_language"]
    pd.testing.assert_frame_equal(
        unmasked.sort_values(order, ignore_index=True), same.sort_values(order, ignore_index=True)
    )


def test_a_second_start_reuses_everything(done):
    profile, root, _study, rows = done
    said = []
    again = opened(profile, root, say=said.append).all_rows()
    pd.testing.assert_frame_equal(again, rows)
    assert len(said) == 13
    assert all(": reused" in line for line in said)


def test_a_change_of_the_users_files_is_seen(tmp_path):
    profile = write_study(tmp_path, questions=False, relevance_documents=8, perplexity_documents=2)

    def keys():
        study = opened(profile, tmp_path)
        return [stage.key for stage in (study.corpus, study.model("base"), study.selection("base"))]

    before = keys()
    assert keys() == before
    write_lines(tmp_path / "vi.jsonl", [{"text": text} for text in TEXTS["vi"][1:]])
    other_text = keys()
    assert [a == b for a, b in zip(before, other_text, strict=True)] == [False, True, False]
    small_model(len(small_tokenizer()), random_seed=5).save_pretrained(tmp_path / "model")
    assert [a == b for a, b in zip(other_text, keys(), strict=True)] == [True, False, False]


def test_a_study_without_questions_and_chat(tmp_path):
    study = opened(write_study(tmp_path, questions=False, relevance_documents=8, perplexity_documents=2), tmp_path)
    assert (study.model_names, study.measures) == (["base"], ["token_probability"])
    with pytest.raises(CraneError, match=r"profile small: names no questions; give source\.questions its files"):
        study.nlu("base")
    with pytest.raises(CraneError, match="profile small: names no chat model"):
        study.model("chat")


# --- real text -----------------------------------------------------------------------------------------------


def paragraphs(path):
    return [p["context"] for article in json.loads(path.read_text("utf-8"))["data"] for p in article["paragraphs"]]


def test_real_paragraphs_in_three_languages(shared, tmp_path):
    files = {language: shared / "data" / f"xquad.{language}.json" for language in ("en", "zh", "vi")}
    if not all(path.is_file() for path in files.values()):
        pytest.skip("no ../shared/data/xquad.*.json")
    texts = {language: paragraphs(path) for language, path in files.items()}
    assert {len(documents) for documents in texts.values()} == {240}
    profile = write_study(tmp_path, texts=texts, questions=False, relevance_documents=12, perplexity_documents=5)
    study = opened(profile, tmp_path)
    rows = study.rows("base")
    assert set(rows["masked_language"]) == {"", "en", "zh", "vi"}
    unmasked = rows[(rows["method"] == "none") & (rows["metric"] == "nll")]
    model, tokenizer = load_model(tmp_path / "model", device="cpu")
    assert len(unmasked) == 3
    assert unmasked["n"].tolist() == [5 * 95] * 3  # five paragraphs, cut at 96 tokens
    documents = pd.read_parquet(study.corpus / "documents.parquet")
    assert set(documents["text"]) <= {text.strip() for paragraphs_ in texts.values() for text in paragraphs_}
    for item in read_all_sets(study.selection("base").folder):
        item.check(model)
    assert tokenizer.decode(tokenizer(texts["zh"][0], add_special_tokens=False)["input_ids"]) == texts["zh"][0]
    assert read_frame(study.perplexity("base") / "rows.csv").equals(rows)


# --- mistakes ------------------------------------------------------------------------------------------------


def written(name, *rows):
    return lambda root: write_lines(root / name, rows)


def removed(name):
    return lambda root: [path.unlink() for path in root.glob(name)]


def other_family(root):
    path = root / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "no-such-family"}))


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (written("vi.jsonl"), r"corpus .*vi\.jsonl: has no text"),
        (
            written("vi.jsonl", {"text": "a"}, {"text": "b"}),
            r"corpus .*vi\.jsonl: has 2 different documents; the statistics need 8 or more",
        ),
        (
            lambda root: (root / "en.jsonl").write_bytes(b'{"text": "caf\xe9"}\n'),
            r"corpus .*en\.jsonl: is not UTF-8 \(byte 13\); convert it first",
        ),
        (
            written("en.jsonl", {"text": "a"}, {"content": "b"}),
            r"corpus .*en\.jsonl: line 2: is not an object with a field 'text'",
        ),
        (removed("en.jsonl"), r"corpus .*en\.jsonl: no such file"),
        (
            written("questions.en.jsonl", {"question": "?", "options": ["a", "b"], "gold": 2}),
            r"questions .*questions\.en\.jsonl: line 1: gold is 2",
        ),
        (lambda root: (root / "model").rename(root / "elsewhere"), "model .*model: no such directory"),
        (removed("model/model.safetensors"), r"model .*model: has no weights \(\*\.safetensors\)"),
        (removed("model/tokenizer*"), r"model .*model: has no tokenizer \(tokenizer\.json\)"),
        (removed("model/config.json"), r"model .*model: has no config\.json"),
        (
            lambda root: small_model(100).save_pretrained(root / "model"),
            r"model .*model: its tokenizer has \d+ tokens, its embedding 100 rows",
        ),
        (other_family, "model .*model: cannot be loaded"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_stage(tmp_path, mistake, words):
    profile = write_study(tmp_path)
    mistake(tmp_path)
    with pytest.raises(CraneError, match=words) as error:
        opened(profile, tmp_path).relevance("base")
    assert "\n" not in str(error.value)
    stages = tmp_path / "artifacts" / "small" / "stages"
    assert {path.name for path in stages.glob("*")} <= {"corpus"}


def test_a_device_that_is_not_there(tmp_path):
    profile = write_study(tmp_path, questions=False)
    profile.write_text(yaml.safe_dump(yaml.safe_load(profile.read_text()) | {"device": "qpu"}))
    with pytest.raises(CraneError, match="device 'qpu': not a device"):
        opened(profile, tmp_path).relevance("base")


def test_a_chat_model_with_another_tokenizer_or_of_another_shape(tmp_path):
    profile = write_study(tmp_path, chat=True, questions=False, relevance_documents=8, perplexity_documents=2)
    config = LlamaConfig.from_pretrained(tmp_path / "chat")
    config.intermediate_size = 28
    LlamaForCausalLM(config).save_pretrained(tmp_path / "chat")
    with pytest.raises(CraneError, match=r"width|wide"):
        opened(profile, tmp_path).perplexity("chat")
    small_tokenizer(TEXTS["vi"]).save_pretrained(tmp_path / "chat")
    with pytest.raises(CraneError, match=r"models .*/model and .*/chat: their tokenizers differ in \d+ tokens"):
        opened(profile, tmp_path).model("chat")


def test_an_artifacts_folder_that_is_a_file(tmp_path):
    (tmp_path / "artifacts").write_text("")
    with pytest.raises(CraneError, match="choose another folder"):
        opened(write_study(tmp_path, questions=False), tmp_path)


def test_a_tokenizer_without_special_tokens(tmp_path):
    profile = write_study(tmp_path, relevance_documents=8, perplexity_documents=2)
    bare = PreTrainedTokenizerFast(tokenizer_object=small_tokenizer().backend_tokenizer)
    for path in (tmp_path / "model").glob("*token*"):
        path.unlink()
    bare.save_pretrained(tmp_path / "model")
    rows = opened(profile, tmp_path).rows("base")
    assert rows["value"].notna().all()


def test_a_model_without_gates_is_studied_as_well(tmp_path):
    profile = write_study(tmp_path, questions=False, relevance_documents=10, perplexity_documents=4)
    write_ungated(tmp_path / "model")
    study = opened(profile, tmp_path)
    rows = study.rows("base")
    assert rows["value"].notna().all()
    assert {"kurtosis", "contrast", "lape", "random_like_kurtosis"} <= set(rows["method"])
    sets = {item.method: item for item in read_all_sets(study.selection("base").folder) if item.budget == "0.1"}
    assert set(sets["kurtosis"].sites) == {"up", "down"}
    statistics = landscape.load(study.relevance("base").folder, study.objectives, study.languages)["gold_logit"]
    assert {site for sites in landscape.magnitudes(statistics).values() for site in sites} == {"neuron", "up", "down"}
    assert all(len(scores) == 2 * (24 + 16) for scores in landscape.kurtosis_scores(statistics).values())
    sizes = setup_summary.model_sizes({"base": study.model("base")})
    assert sizes.loc[0, ["family", "layers", "hidden", "mlp_width", "neurons"]].tolist() == ["gpt2", 2, 16, 24, 48]
