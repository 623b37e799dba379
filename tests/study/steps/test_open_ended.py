"""Open questions, answers under masks and their judging, from a user's own model to rows."""

import itertools
from contextlib import nullcontext

import nbformat
import pandas as pd
import pytest
import yaml

from crane_lib.errors import CraneError
from crane_lib.files import read_json
from crane_lib.interventions import masked
from crane_lib.methods import TOP_ROWS
from crane_lib.neurons import read_neuron_sets
from crane_run.sections import NOTEBOOKS
from crane_study.data.corpora import make_embedded_corpus
from crane_study.frames import read_frame
from crane_study.loading.models import load_model
from crane_study.measure.generation import answer_nll, chat_prompt, greedy_answers
from crane_study.measure.judgings import KEY, MODEL, URL
from crane_study.measure.rows import COLUMNS
from crane_study.paper.verdicts import read_claims
from crane_study.publish import read_not_run
from crane_study.steps.open_ended import make_embedded_questions
from crane_study.study import Study
from crane_study.tables.open_ended import available_rows
from tests.small import write_study
from tests.study.measure.judge_server import judging, reply, stub_server

QUESTIONS = {
    "en": ["How many mills?", "Where is the river?", "Which bridge?"],
    "vi": ["Mấy cối?", "Sông nào?", "Cầu gì?"],
}
MASK = ["selected_on", "method", "budget", "masked_language", "random_seed"]
SECRET = "secret-key-456"


@pytest.fixture(autouse=True)
def _plain_network(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", URL, MODEL, KEY):
        monkeypatch.delenv(name, raising=False)


def written(root, **changes):
    """A small study with open questions; returns the profile's path."""
    path = write_study(root, chat=True, questions=False, relevance_documents=10, perplexity_documents=4)
    values = yaml.safe_load(path.read_text())
    for language, questions in QUESTIONS.items():
        (root / f"open.{language}.txt").write_text("\n".join(questions))
    asked = {language: f"open.{language}.txt" for language in QUESTIONS}
    values["open_ended"] = {"questions": asked, "max_new_tokens": 6, "random_draws": 2, "batch_size": 4} | changes
    path.write_text(yaml.safe_dump(values))
    return path


def opened(path, say=lambda _line: None):
    return Study.open(str(path), artifacts=path.parent / "artifacts", say=say)


def endpoint(monkeypatch, url, *, model="some-model", key=SECRET):
    for name, value in ((URL, url), (MODEL, model), (KEY, key)):
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return opened(written(tmp_path_factory.mktemp("open")))


@pytest.fixture(scope="module")
def answers(study):
    return pd.read_parquet(study.open_answers() / "answers.parquet")


def test_every_mask_has_every_answer(study, answers):
    random = [("random_like_kurtosis", "published"), ("random_like_contrast", "0.1")]
    once = [("kurtosis", "published"), ("contrast", "0.1"), ("lape", "published"), ("lape", "0.1")]
    expected = {("", "none", "", "", -1)}
    for language in study.languages:
        expected |= {("base", *pair, language, -1) for pair in once}
        expected |= {("base", *pair, language, draw) for pair, draw in itertools.product(random, range(2))}
        expected |= {("chat", *pair, language, -1) for pair in [*once[:3], ("kurtosis", TOP_ROWS)]}
        expected.add(("chat", "everything", "1", language, -1))
    assert set(answers[MASK].itertuples(index=False, name=None)) == expected
    assert len(answers) == len(expected) * 6
    assert not answers.duplicated([*MASK, "language", "question"]).any()
    assert (answers["model"] == "chat").all()
    assert (answers["nll_tokens"] == answers["tokens"] + answers["finished"]).all()
    assert answers["nll"].ge(0).all()


def test_answers_are_those_of_the_masked_model_and_their_nll_of_the_unmasked_one(study, answers):
    model, tokenizer = load_model(study.model("chat").folder, device="cpu")
    prompts = [chat_prompt(tokenizer, text) for text in [*QUESTIONS["en"], *QUESTIONS["vi"]]]
    sets = [("", None)]
    for name, selected_on in (("contrast@0.1", "base"), ("kurtosis@published", "chat")):
        found = read_neuron_sets(study.selection(selected_on) / f"{name}.json")
        sets += [(selected_on, neurons) for neurons in found]
    texts = []
    for selected_on, neurons in sets:
        with masked(model, neurons) if neurons else nullcontext():
            found = greedy_answers(model, tokenizer, prompts, max_new_tokens=6)
        key = [selected_on, *((neurons.method, neurons.budget, neurons.language) if neurons else ("none", "", ""))]
        mine = answers[(answers[MASK[:4]] == key).all(axis=1)]
        texts.append([answer.text for answer in found])
        assert mine["answer"].tolist() == texts[-1]
        nll = answer_nll(model, prompts, [answer.ids for answer in found])
        assert mine["nll"].tolist() == pytest.approx(nll.tolist(), rel=1e-4)
    assert any(one != texts[0] for one in texts)


def test_the_offline_judge_scores_form_if_no_answer_is_known(study):
    rows, items = study.open_rows(), study.open_items()
    assert list(rows) == list(COLUMNS)
    assert set(rows["metric"]) == {"judge_score"}
    assert (rows["n"] == 3).all()
    assert rows["value"].between(1, 10).all()
    assert items["facts"].isna().all()
    assert items["reason"].str.contains("no expected answer").all()
    assert not (study.open_scores() / "agreement.csv").is_file()
    said = []
    opened(study.folder.parents[1] / "small.yaml", said.append).open_rows()
    assert said
    assert all(": reused" in line for line in said)


def test_both_judges_and_what_they_agree_on(tmp_path, monkeypatch):
    path = written(tmp_path, judge="both", judgings=2, random_draws=0)
    with stub_server(lambda _n, body: judging(2 if "Vietnam" in str(body) else 5), key=SECRET) as (url, stub):
        endpoint(monkeypatch, url)
        said = []
        study = opened(path, said.append)
        rows = study.open_rows()
        asked = len(stub.bodies)
        assert set(rows["metric"]) == {"judge_score", "judge_score_offline"}
        assert set(rows[rows["metric"] == "judge_score"]["value"]) == {5.0}
        assert set(study.open_items()["judge"]) == {"endpoint"}
        table = read_frame(study.open_scores() / "agreement.csv")
        assert table["language"].tolist() == ["en", "vi", "all"]
        assert table["n"].tolist()[-1] == len(study.open_items())
        # Everything but the judge's own cache is deleted.
        for name in ("open_scores", "open_scores_endpoint"):
            (tmp_path / "artifacts" / "small" / "stages" / name / "stage.json").unlink()
        pd.testing.assert_frame_equal(opened(path).open_rows(), rows)
        assert len(stub.bodies) == asked
        endpoint(monkeypatch, url, model="other-model")
        opened(path).open_rows()
        assert len(stub.bodies) == 2 * asked
    files = [file for file in (tmp_path / "artifacts").rglob("*") if file.is_file()]
    assert any("judge_cache" in str(file) for file in files)
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]
    assert not any(SECRET in line for line in said)


def test_an_endpoint_without_a_key(tmp_path):
    said = []
    with pytest.raises(CraneError, match="judge: CRANE_JUDGE_URL is not set"):
        opened(written(tmp_path, judge="endpoint"), said.append).open_scores()
    assert not said  # not after hours of answers


def test_a_judge_that_gives_no_score_is_found_before_answers(tmp_path, monkeypatch):
    with stub_server(lambda _n, _body: reply("hm"), key=SECRET, picky=True) as (url, _stub):
        endpoint(monkeypatch, url)
        with pytest.raises(CraneError, match=r"gives no score from 1 to 10 \(hm\)"):
            opened(written(tmp_path, judge="endpoint")).open_scores()
    assert not (tmp_path / "artifacts" / "small" / "stages" / "open_answers").exists()


@pytest.fixture(scope="module")
def profiles(tmp_path_factory):
    """Two profiles of one study, whose judges are the endpoint and both."""
    path = written(tmp_path_factory.mktemp("judges"), judgings=1, random_draws=0)
    values = yaml.safe_load(path.read_text())
    for judge in ("endpoint", "both"):
        values["open_ended"]["judge"] = judge
        path.with_name(f"{judge}.yaml").write_text(yaml.safe_dump(values))
    return path.parent


def run_section(name, profile):
    """Run the code of a section's notebook here."""
    space: dict[str, object] = {}
    for cell in nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, space)
        if "parameters" in cell.metadata.get("tags", []):
            space |= {"profile": str(profile), "artifacts": str(profile.parent / "artifacts")}


def test_an_endpoint_that_fails_leaves_the_offline_scores(profiles, monkeypatch):
    study = opened(profiles / "both.yaml")
    rows, reason = available_rows(study)
    assert reason.startswith("judge: CRANE_JUDGE_URL is not set")
    assert set(rows["metric"]) == {"judge_score_offline"}
    some = lambda _n, body: reply("hm") if "How many mills" in str(body) else judging(5)  # noqa: E731
    with stub_server(some, key=SECRET) as (url, _stub):
        endpoint(monkeypatch, url, key="another-key")
        again, reason = available_rows(study)
        assert "refuses the key (401)" in reason
        pd.testing.assert_frame_equal(again, rows)
        endpoint(monkeypatch, url)
        complete, reason = available_rows(study)
    assert not reason
    items = study.open_items()
    few = int(items["score"].isna().sum())
    counted = f"{few} of {len(items)} answers have fewer than 1 judgings, {few} of them none"
    assert read_not_run(study.folder)["05"]["judgings"] == f"{counted}; most often: no usable score (hm)"
    assert list(dict.fromkeys(complete["metric"])) == ["judge_score", "judge_score_offline"]  # the main judge first
    offline = complete[complete["metric"] == "judge_score_offline"]
    assert offline["value"].tolist() == pytest.approx(rows["value"].tolist())
    assert offline["n"].tolist() == rows["n"].tolist()


@pytest.mark.parametrize(("judge", "kept"), [("endpoint", set()), ("both", {"judge_score_offline"})])
def test_no_section_loses_its_results_without_a_judge(profiles, capsys, judge, kept):
    folder = profiles / "artifacts" / "small"
    for section in ("07_transfer", "09_claims"):
        run_section(section, profiles / f"{judge}.yaml")
        said = capsys.readouterr().out
        assert "NOT RUN: open-ended answers: judge: CRANE_JUDGE_URL is not set" in said
    measured = {"nll", "perplexity", "token_probability"}
    assert set(read_frame(folder / "results.csv")["metric"]) == measured | kept
    assert len(read_frame(folder / "langspec.csv"))
    assert read_claims(folder / "claims.json")
    assert set(read_frame(folder / "tables" / "07_langspec.csv")["metric"]) == {"token_probability"}


def test_missing_parts_are_named(tmp_path):
    def lacking(name, **changes):
        (tmp_path / name).mkdir()
        return opened(write_study(tmp_path / name, questions=False, **changes))

    without_chat, without_questions = lacking("a"), lacking("b", chat=True)
    assert without_chat.no_open_ended == "the profile names no chat model (source.chat_model)"
    assert without_questions.no_open_ended == "the profile names no open questions (open_ended.questions)"
    with pytest.raises(CraneError, match="profile small: the profile names no chat model"):
        without_chat.open_scores()


def test_a_changed_question_file_changes_the_key(tmp_path):
    path = written(tmp_path)
    before = opened(path).open_questions.key
    assert opened(path).open_questions.key == before
    (tmp_path / "open.en.txt").write_text("Who?\nWhere?\nWhen?")
    assert opened(path).open_questions.key != before


def test_embedded_questions(tmp_path):
    knowledge = {"facts_per_subject": 12, "facts_per_answer": 4, "train_passes": {"en": 1, "zh": 1, "vi": 1}}
    knowledge |= dict.fromkeys(("question_groups_per_subject", "relevance_passes", "chat_passes"), 1)
    for name in ("corpus", "questions"):
        (tmp_path / name).mkdir()
    make_embedded_corpus(tmp_path / "corpus", knowledge=knowledge, random_seed=0)
    make_embedded_questions(tmp_path / "questions", corpus=tmp_path / "corpus", count=9, random_seed=0)
    frame = pd.read_parquet(tmp_path / "questions" / "questions.parquet")
    assert frame.groupby("language").size().to_dict() == {"en": 9, "vi": 9, "zh": 9}
    benchmark = pd.read_json(tmp_path / "corpus" / "questions.vi.jsonl", lines=True)
    assert set(frame["key"]) <= set(benchmark["key"])
    assert not set(frame["text"]) & set(benchmark["question"])  # worded in another way
    known = {(entry["subject"], entry["answer_key"]) for entry in read_json(tmp_path / "questions" / "knowledge.json")}
    assert set(zip(frame["subject"], frame["answer_key"], strict=True)) <= known
