"""Multiple-choice questions through the harness, compared with one forward pass per token."""

import os
import socket

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, normalizers, processors
from tokenizers.models import BPE
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from crane_lib.errors import CraneError
from crane_lib.interventions import masked
from crane_lib.neurons import NeuronSet
from crane_study.loading.models import load_model
from crane_study.measure.questions import Harness, write_tasks
from tests.small import small_model, write_lines, write_model
from tests.study.measure.test_likelihoods import slow_log_likelihood

LANGUAGES = ("en", "zh")
DELIMITERS = {"zh": ""}
WORDS = ["mill", "stone", "bridge", "grey", "river", "town", "past"]


def questions(language):
    generator = np.random.default_rng(0 if language == "en" else 1)
    asked = []
    for number in range(24):
        options = [WORDS[i] for i in generator.permutation(len(WORDS))[: 3 + number % 2]]
        if language == "en":
            question, prompt = f"What runs past {number}?", f"Question: What runs past {number}?\nAnswer:"
        else:
            question, prompt = f"什么流过{number}？", f"问题：什么流过{number}？\n答案："
        gold = int(generator.integers(len(options)))
        asked.append({"question": question, "prompt": prompt, "options": options, "gold": gold})
    return asked


@pytest.fixture(scope="module")
def model_and_tokenizer(tmp_path_factory):
    return load_model(write_model(tmp_path_factory.mktemp("model"), chat=True), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def question_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")
    return {language: write_lines(folder / f"{language}.jsonl", questions(language)) for language in LANGUAGES}


def make_harness(model_and_tokenizer, question_files, folder, *, chat=False):
    write_tasks(folder, question_files, delimiters=DELIMITERS, chat=chat)
    return Harness(*model_and_tokenizer, folder, batch_size=5, chat=chat)


@pytest.fixture(scope="module")
def harness(model_and_tokenizer, question_files, tmp_path_factory):
    return make_harness(model_and_tokenizer, question_files, tmp_path_factory.mktemp("tasks"))


def asked_tokens(tokenizer, row, *, chat):
    if chat:
        turn = [{"role": "user", "content": row["question"]}]
        text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    return [tokenizer.bos_token_id, *tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]]


def slow_answers(model, tokenizer, language, *, chat):
    """Correct or not, per question."""
    delimiter = DELIMITERS.get(language, " ")
    answers, margins = [], []
    for row in questions(language):
        context = asked_tokens(tokenizer, row, chat=chat)
        scores = [
            slow_log_likelihood(model, context, tokenizer(delimiter + option, add_special_tokens=False)["input_ids"])
            for option in row["options"]
        ]
        answers.append(int(np.argmax(scores)) == row["gold"])
        margins.append(np.diff(sorted(scores))[-1])
    assert min(margins) > 1e-4  # no answer depends on the last digit
    return answers


def in_order(found, language):
    rows = found[found["language"] == language]
    assert rows["item"].tolist() == list(range(24))
    return rows["correct"].tolist()


def test_the_harness_scores_as_a_slow_loop(model_and_tokenizer, harness):
    found = harness.accuracy()
    assert found["correct"].dtype == bool
    for language in LANGUAGES:
        expected = slow_answers(*model_and_tokenizer, language, chat=False)
        assert in_order(found, language) == expected
        assert 0 < sum(expected) < 24


@pytest.mark.parametrize("parallel", [True, False])
def test_groups_reach_the_items_and_translations_are_sampled_together(model_and_tokenizer, tmp_path, parallel):
    files = {}
    for place, language in enumerate(LANGUAGES):
        step = 4 if parallel else 4 + place
        asked = [row | {"group": f"group {n // step}"} for n, row in enumerate(questions(language))]
        files[language] = write_lines(tmp_path / f"{language}.jsonl", asked)
    write_tasks(tmp_path / "tasks", files, delimiters=DELIMITERS, chat=False)
    whole = Harness(*model_and_tokenizer, tmp_path / "tasks", batch_size=5, chat=False).accuracy()
    assert whole.query("language == 'en'")["group"].tolist() == [f"group {n // 4}" for n in range(24)]
    found = Harness(*model_and_tokenizer, tmp_path / "tasks", batch_size=5, chat=False, sample=(9, 1)).accuracy()
    drawn = [found.query("language == @language")["item"].tolist() for language in LANGUAGES]
    assert [len(items) for items in drawn] == [9, 9]
    assert (drawn[0] == drawn[1]) == parallel
    kept = found.merge(whole, on=["language", "item", "group", "correct"])
    assert len(kept) == 18


def test_a_mask_changes_the_scores_only_while_it_is_active(model_and_tokenizer, harness, monkeypatch):
    model, tokenizer = model_and_tokenizer
    before = harness.accuracy()
    neurons = NeuronSet(sites={"neuron": [np.arange(0, 24, 2), np.arange(12)]}, widths={"neuron": 24})
    with masked(model, neurons):
        inside = harness.accuracy()
        for language in LANGUAGES:
            assert in_order(inside, language) == slow_answers(model, tokenizer, language, chat=False)
    assert not inside.equals(before)
    assert harness.accuracy().equals(before)
    monkeypatch.setattr(harness.requests, "log_likelihoods", lambda _model: np.full(harness.requests.count, np.nan))
    with pytest.raises(CraneError, match="log-likelihoods are NaN"):
        harness.accuracy()


def test_a_chat_model_is_asked_in_its_template_and_nothing_is_fetched_or_printed(
    model_and_tokenizer, question_files, tmp_path, monkeypatch, capfd
):
    def refuse(*_arguments, **_options):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = dict(os.environ)
    found = make_harness(model_and_tokenizer, question_files, tmp_path, chat=True).accuracy()
    assert dict(os.environ) == before
    assert capfd.readouterr() == ("", "")
    list(tqdm([1, 2], desc="Mine"))
    assert "Mine: 100%" in capfd.readouterr().err
    for language in LANGUAGES:
        assert in_order(found, language) == slow_answers(*model_and_tokenizer, language, chat=True)


def test_changed_questions_and_those_with_other_fields_are_read(model_and_tokenizer, tmp_path):
    """The cache of data sets belongs to the task folder."""
    path, tasks = tmp_path / "q.jsonl", tmp_path / "tasks"
    with_subject = [row | ({"subject": "rivers"} if number % 2 else {}) for number, row in enumerate(questions("en"))]
    for rows in (questions("en")[:5], questions("en")[:3], with_subject):
        write_lines(path, rows)
        write_tasks(tasks, {"en": path}, delimiters={}, chat=False)
        assert len(Harness(*model_and_tokenizer, tasks, batch_size=8, chat=False).accuracy()) == len(rows)


def test_mistakes_are_found_before_the_harness_starts(model_and_tokenizer, tmp_path):
    with pytest.raises(CraneError, match="has no task definitions"):
        Harness(*model_and_tokenizer, tmp_path, batch_size=1, chat=False)
    path = write_lines(tmp_path / "q.jsonl", [questions("en")[0] | {"gold": 7}])
    with pytest.raises(CraneError, match="line 1"):
        write_tasks(tmp_path / "tasks", {"en": path}, delimiters={}, chat=False)


def merging_tokenizer(*, template="<s> $A"):
    """Single letters, of which some pairs merge; no spaces are needed between words."""
    letters = ["<s>", "</s>", "?", *"กขคงจบนมะา", "กา", "มา", "านะ", "นะ"]
    merges = [("ก", "า"), ("น", "ะ"), ("า", "นะ")]
    backend = Tokenizer(BPE({piece: n for n, piece in enumerate(letters)}, merges, unk_token="?"))
    backend.normalizer = normalizers.Replace(Regex("\u200b"), "")
    special = [("<s>", 0), ("</s>", 1)]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="?")


def asked_in_thai(tokenizer, folder, rows, *, delimiter=""):
    path = write_lines(folder / "q.jsonl", [{"question": q, "options": o, "gold": 0} for q, o in rows])
    write_tasks(folder / "tasks", {"th": path}, delimiters={"th": delimiter}, chat=False)
    return Harness(small_model(len(tokenizer)), tokenizer, folder / "tasks", batch_size=3, chat=False)


# Options of which all, some, none merge with the end of the question; one question that merges as a whole.
CLOZE = [
    ("ขมก", ["า", "าน"]),
    ("ขก", ["า", "บ", "านะ", "นะบ"]),
    ("คงจ", ["บ", "นะ"]),
    ("ก", ["า", "บา"]),
    ("ก  ", ["า", "บ"]),
]


@pytest.mark.parametrize("template", ["<s> $A", "<s> $A </s>"])
def test_options_that_merge_with_the_question_count_the_same_text(tmp_path, template):
    """The log-likelihoods of whole texts differ as those of their options, because the beginning is common."""
    tokenizer = merging_tokenizer(template=template)
    harness = asked_in_thai(tokenizer, tmp_path, CLOZE)
    model, margins = small_model(len(tokenizer)), []
    for question, options in CLOZE:
        texts = [tokenizer(question + option, add_special_tokens=False)["input_ids"] for option in options]
        totals = [slow_log_likelihood(model, [0], ids) for ids in texts]
        margins.append(totals[0] - max(totals[1:]))
    found = harness.accuracy()
    np.testing.assert_allclose(found["margin"], margins, rtol=1e-4, atol=1e-4)
    assert found["correct"].tolist() == [margin > 0 for margin in margins]
    assert 0 < found["correct"].sum() < len(CLOZE)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["บ", "\u200b"], "option 2 adds no token to the prompt"),
        (["บ", "α", "β"], "options 2 and 3 have the same tokens"),
        (["บ", "น" * 129], "option 2 has 129 tokens, the model reads 128"),
    ],
)
def test_an_option_that_cannot_be_scored_is_named(tmp_path, options, problem):
    with pytest.raises(CraneError, match=f"questions: question 2 in 'th': {problem}"):
        asked_in_thai(merging_tokenizer(), tmp_path, [CLOZE[0], ("ขมก", options)])


@pytest.mark.parametrize("column", [["7", "007", "١٢٣", "²", "0x1f"], ["2024-01-01", "2024-01-02"], ["true", "null"]])
def test_questions_and_options_that_look_like_values_stay_texts(model_and_tokenizer, tmp_path, column):
    folder = tmp_path / "pbs.123[3].server"
    folder.mkdir()
    path = write_lines(folder / "q.jsonl", [{"question": text, "options": column, "gold": 1} for text in column])
    harness = make_harness(model_and_tokenizer, {"en": path}, folder / "tasks")
    asked = [instance.args for instance in harness._tasks["crane_en"].instances]
    assert asked == [(text, f" {option}") for text in column for option in column]
