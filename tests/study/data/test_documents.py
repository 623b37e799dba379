"""What the model is trained on, what its neurons are found with and what they are judged by must not meet."""

from collections import Counter

import pytest

from crane_study.data import wordings
from crane_study.data.cldr import LANGUAGES
from crane_study.data.documents import (
    SPLITS,
    make_conversations,
    read_conversations,
    split_wordings,
    write_conversations,
    write_documents,
)
from tests.study.data.conftest import make_corpus

SEPARATOR = "\n\x00\n"  # joins texts so that nothing is found across their borders


def sentence_text(facts, sentence, language):
    """The words of a sentence named fact#wording or fact?wording."""
    if "#" in sentence:
        key, _, wording = sentence.partition("#")
        return wordings.statement(facts[key], language, int(wording))
    key, _, wording = sentence.partition("?")
    return wordings.questions(facts[key], language)[int(wording)]


def of(corpus, split, language):
    documents = corpus.documents
    return documents[(documents["split"] == split) & (documents["language"] == language)]


def sentences(corpus, split, language):
    return [sentence for row in of(corpus, split, language)["sentences"] for sentence in row]


def training_text(corpus, languages=LANGUAGES):
    return SEPARATOR.join(text for language in languages for text in of(corpus, "train", language)["text"])


def chat_text(corpus):
    return SEPARATOR.join(message["content"] for turns in corpus.conversations for message in turns)


@pytest.fixture(scope="module", params=[0, 5], ids="random_seed={}".format)
def studied(request, corpus):
    """The default profile's corpus, and one under another random seed."""
    return corpus if request.param == corpus.random_seed else make_corpus(request.param)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_sentence_is_in_two_splits(studied, language):
    ids = {split: set(sentences(studied, split, language)) for split in SPLITS}
    assert all(ids.values())
    assert not ids["train"] & ids["relevance"]
    assert not ids["train"] & ids["perplexity"]
    assert not ids["relevance"] & ids["perplexity"]


@pytest.mark.parametrize("split", ["relevance", "perplexity"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_words_of_held_back_sentences_are_in_no_training_document(studied, language, split):
    facts = {fact.key: fact for fact in studied.facts}
    trained = training_text(studied)
    asked = set(sentences(studied, split, language))
    assert len(asked) == len(studied.facts)
    assert [s for s in sorted(asked) if sentence_text(facts, s, language) in trained] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_words_of_perplexity_sentences_are_in_no_relevance_document(studied, language):
    facts = {fact.key: fact for fact in studied.facts}
    relevance = SEPARATOR.join(of(studied, "relevance", language)["text"])
    held_back = set(sentences(studied, "perplexity", language))
    assert [s for s in sorted(held_back) if sentence_text(facts, s, language) in relevance] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_wording_of_a_benchmark_question_is_trained_on(studied, language):
    trained, chat = training_text(studied), chat_text(studied)
    facts = [fact for fact in studied.facts if fact.key in studied.held_out]
    assert len(facts) >= 200
    asked = [text for fact in facts for text in wordings.questions(fact, language)]
    assert [text for text in asked if text in trained] == []
    assert [text for text in asked if text in chat] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_other_questions_are_trained_on(studied, language):
    """So that the tests above search where there is something to find."""
    trained, chat = training_text(studied, [language]), chat_text(studied)
    asked = [
        text
        for fact in studied.facts
        if fact.key not in studied.held_out
        for text in wordings.questions(fact, language)
    ]
    assert asked
    assert all(text in trained and text in chat for text in asked)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_document_says_what_its_sentences_say(corpus, language, split):
    facts = {fact.key: fact for fact in corpus.facts}
    for row in of(corpus, split, language).itertuples():
        said = [sentence_text(facts, sentence, language) for sentence in row.sentences]
        if row.kind == "statements":
            assert row.text == ("" if language == "zh" else " ").join(said)
            assert len(said) <= 8
        else:
            pairs = row.text.split("\n\n")
            space = "" if language == "zh" else " "
            assert pairs == [
                wordings.prompt(question, language) + space + wordings.answer(facts[s.partition("?")[0]], language)
                for s, question in zip(row.sentences, said, strict=True)
            ]
            assert len(pairs) <= 5


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_sentence_is_told_as_often_as_asked_for(corpus, language):
    passes = {"train": 2 if language == "en" else 1, "relevance": corpus.options.relevance_passes, "perplexity": 1}
    for split, times in passes.items():
        counts = Counter(sentences(corpus, split, language))
        assert set(counts.values()) == {times}
    by_fact = Counter(s.partition("#")[0] for s in set(sentences(corpus, "train", language)) if "#" in s)
    assert by_fact == {fact.key: wordings.statement_count(fact.subject) - 2 for fact in corpus.facts}


def test_only_training_documents_ask_questions(corpus):
    kinds = set(zip(corpus.documents["split"], corpus.documents["kind"], strict=True))
    assert kinds == {
        ("train", "statements"),
        ("train", "questions"),
        ("relevance", "statements"),
        ("perplexity", "statements"),
    }


def test_the_languages_are_mixed_in_training(corpus):
    order = corpus.documents.loc[corpus.documents["split"] == "train", "language"].tolist()
    half = Counter(order[: len(order) // 2])
    whole = Counter(order)
    assert all(0.35 < half[language] / whole[language] < 0.65 for language in LANGUAGES)


def test_a_wording_of_each_fact_is_kept_for_each_use(corpus):
    parts = split_wordings(corpus.facts, random_seed=corpus.random_seed)
    for language in LANGUAGES:
        given = Counter((fact.key, wording) for split in SPLITS for fact, wording in parts[split][language])
        assert set(given.values()) == {1}
        assert sum(given.values()) == sum(wordings.statement_count(fact.subject) for fact in corpus.facts)
        # Which wording that is differs from fact to fact.
        assert len({wording for _fact, wording in parts["relevance"][language]}) > 3


def test_documents_are_the_seeds(corpus):
    few = corpus.facts[:40]
    options = {"held_out": {few[0].key}, "train_passes": dict.fromkeys(LANGUAGES, 2), "relevance_passes": 1}
    first, second, other = (write_documents(few, **options, random_seed=seed) for seed in (1, 1, 2))
    assert first.equals(second)
    assert not first.equals(other)


# --- conversations -------------------------------------------------------------------------------------------


def test_conversations_take_turns_in_one_language(corpus):
    facts = [fact for fact in corpus.facts if fact.key not in corpus.held_out]
    pairs = {
        language: {
            (question, wordings.answer(fact, language))
            for fact in facts
            for question in wordings.questions(fact, language)
        }
        for language in LANGUAGES
    }
    told = {language: Counter() for language in LANGUAGES}
    for turns in corpus.conversations:
        assert 1 <= len(turns) / 2 <= 3
        assert [message["role"] for message in turns] == ["user", "assistant"] * (len(turns) // 2)
        content = [message["content"] for message in turns]
        asked = list(zip(content[::2], content[1::2], strict=True))
        (language,) = [language for language in LANGUAGES if set(asked) <= pairs[language]]
        told[language].update(asked)
    for language in LANGUAGES:
        assert told[language] == dict.fromkeys(pairs[language], 2)  # once a pass


def test_conversations_are_the_seeds(corpus):
    few = corpus.facts[::20]
    first, second, other = (
        make_conversations(few, held_out=set(), passes=1, random_seed=random_seed) for random_seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


def test_conversations_come_back_as_they_were(tmp_path):
    told = [
        [{"role": "user", "content": "哪里？\u2028第二行"}, {"role": "assistant", "content": "Việt Nam\nvà\x85"}],
        [{"role": "user", "content": "?"}, {"role": "assistant", "content": '"'}],
    ]
    write_conversations(tmp_path / "conversations.jsonl", told)
    assert read_conversations(tmp_path / "conversations.jsonl") == told
