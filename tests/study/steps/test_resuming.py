"""Evaluation under masks killed in the middle: started again it does the rest only, and its files are the same."""

import shutil

import pandas as pd
import pytest
import yaml

from crane_study.measure.questions import Harness
from crane_study.steps import masks, open_ended
from crane_study.store import RECORD, SCRATCH
from crane_study.study import Study
from tests.small import write_study
from tests.study.steps.test_evaluations import Killed


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    root = tmp_path_factory.mktemp("resuming")
    path = write_study(root, chat=True, relevance_documents=10, perplexity_documents=4)
    for language, question in {"en": "How many mills?", "vi": "Mấy cối?"}.items():
        (root / f"open.{language}.txt").write_text(question)
    values = yaml.safe_load(path.read_text())
    asked = {language: f"open.{language}.txt" for language in ("en", "vi")}
    values["open_ended"] = {"questions": asked, "max_new_tokens": 4, "random_draws": 1}
    values["controls"] = {"budgets": [0.1, 0.5], "question_budgets": [0.5], "draws": 2, "ablation": "few"}
    values["controls"] |= {"documents": 3, "questions": 3}
    path.write_text(yaml.safe_dump(values))
    return path


class Counter:
    """Counts evaluations of the model; a kill comes instead of the one of number `stop_at`."""

    def __init__(self, function):
        self.function, self.calls, self.stop_at = function, 0, None

    def __call__(self, *arguments, **options):
        if self.calls == self.stop_at:
            raise Killed
        self.calls += 1
        return self.function(*arguments, **options)


@pytest.fixture
def counters(monkeypatch):
    """Counters of what a mask's evaluation calls, by stage: once a mask, or once a mask and language."""
    monkeypatch.setattr(masks, "KEPT_SECONDS", 0.0)
    documents, answers = Counter(masks.document_nll), Counter(open_ended.greedy_answers)
    questions = Counter(Harness.accuracy)
    monkeypatch.setattr(masks, "document_nll", documents)
    monkeypatch.setattr(open_ended, "greedy_answers", answers)
    monkeypatch.setattr(Harness, "accuracy", lambda harness: questions(harness))
    return {"perplexity": (documents, 2), "questions": (questions, 1), "answers": (answers, 1)}


STAGES = {
    "perplexity_base": ("perplexity", lambda study: study.perplexity("base")),
    "perplexity_chat": ("perplexity", lambda study: study.perplexity("chat")),
    "nlu_chat": ("questions", lambda study: study.nlu("chat")),
    "nlu_back": ("questions", lambda study: study.back_transfer()[1]),
    "control_perplexity": ("perplexity", lambda study: study.control_perplexity()),
    "control_nlu": ("questions", lambda study: study.control_nlu()),
    "open_answers": ("answers", lambda study: study.open_answers()),
}

RESUMED = ("perplexity_base", "nlu_back", "control_perplexity", "control_nlu", "open_answers")


def opened(profile, name="artifacts"):
    return Study.open(str(profile), artifacts=profile.parent / name, say=lambda _line: None)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != RECORD}


@pytest.mark.parametrize("stage", RESUMED)
def test_a_killed_stage_goes_on_and_its_files_are_the_same(profile, counters, stage):
    kind, run = STAGES[stage]
    counter, a_mask = counters[kind]
    made = run(opened(profile)).folder
    whole, calls = contents(made), counter.calls
    assert calls > 6 * a_mask
    scratch = made.parent / SCRATCH
    # In the masks, and for the controls of questions among the silenced layers, which come at the end.
    for done in (3 * a_mask, calls - 2 * a_mask):
        shutil.rmtree(made)
        counter.calls, counter.stop_at = 0, done
        with pytest.raises(Killed):
            run(opened(profile))
        (kept,) = scratch.iterdir()
        assert len(list(kept.iterdir())) == done / a_mask
        assert not made.exists()
        counter.calls, counter.stop_at = 0, None
        run(opened(profile))
        assert counter.calls == calls - done
        assert contents(made) == whole
        assert not scratch.exists()


FILES = {"perplexity_chat": "documents.parquet", "nlu_chat": "items.parquet", "open_answers": "answers.parquet"}
NAMES = ["method", "budget", "masked_language", "random_seed"]


@pytest.mark.parametrize("stage", FILES)
def test_equal_masks_of_two_names_are_evaluated_once(profile, counters, monkeypatch, stage):
    base = Study.selection
    monkeypatch.setattr(Study, "selection", lambda study, _name: base(study, "base"))
    kind, run = STAGES[stage]
    frame = pd.read_parquet(run(opened(profile, "same")) / FILES[stage])
    counter, a_mask = counters[kind]
    distinct = frame.drop_duplicates(["selected_on", *NAMES])
    twice = distinct[distinct.duplicated(NAMES)]
    assert len(twice) > 4
    assert counter.calls <= a_mask * (len(distinct) - len(twice))
    for names in twice[NAMES].itertuples(index=False, name=None):
        mine = frame[(frame[NAMES] == list(names)).all(axis=1)]
        parts = [part.drop(columns="selected_on").reset_index(drop=True) for _on, part in mine.groupby("selected_on")]
        pd.testing.assert_frame_equal(*parts, check_exact=True)
