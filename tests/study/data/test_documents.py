"""Documents for training, relevance and perplexity must not have sentences in common."""

import re
from collections import Counter

import pytest

from crane_study.data import documents, wordings
from crane_study.data.cldr import LANGUAGES
from crane_study.data.documents import SPLITS, make_conversations, split_wordings, write_documents
from tests.study.data.conftest import make_corpus

SEPARATOR = "\n\x00\n"  # joins texts so that nothing is found across their borders


def sentence_text(facts, sentence, language):
    """The words of a sentence named fact#wording or fact?wording."""
    key, mark, wording = re.fullmatch(r"(.*)([#?])(\d+)", sentence).groups()
    if mark == "#":
        return wordings.statement(facts[key], language, int(wording))
    return wordings.questions(facts[key], language)[int(wording)]


def of(corpus, split, language):
    return corpus.documents.query("split == @split and language == @language")


def sentences(corpus, split, language):
    return [sentence for row in of(corpus, split, language)["sentences"] for sentence in row]


def text_of(corpus, split, languages=LANGUAGES):
    return SEPARATOR.join(text for language in languages for text in of(corpus, split, language)["text"])


def chat_text(corpus):
    return SEPARATOR.join(message["content"] for turns in corpus.conversations for message in turns)


@pytest.fixture(scope="module", params=[0, 5], ids="random_seed={}".format)
def studied(request, corpus):
    """The default profile's corpus, and one with another random seed."""
    return corpus if request.param == corpus.random_seed else make_corpus(request.param)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("split", "other"), [("relevance", "train"), ("perplexity", "train"), ("perplexity", "relevance")]
)
def test_no_sentence_is_in_two_splits(studied, language, split, other):
    facts, own = studied.by_key, set(sentences(studied, split, language))
    assert len(own) == len(studied.facts)
    assert not own & set(sentences(studied, other, language))
    elsewhere = text_of(studied, other, LANGUAGES if other == "train" else [language])
    assert [s for s in sorted(own) if sentence_text(facts, s, language) in elsewhere] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_questions_about_benchmark_facts_are_not_trained_on_and_others_are(studied, language):
    trained, own, chat = text_of(studied, "train"), text_of(studied, "train", [language]), chat_text(studied)
    held_out = [fact for fact in studied.facts if fact.key in studied.held_out]
    assert len(held_out) >= 200
    asked = [text for fact in held_out for text in wordings.questions(fact, language)]
    assert [text for text in asked if text in trained or text in chat] == []
    others = [fact for fact in studied.facts if fact.key not in studied.held_out]
    asked = [text for fact in others for text in wordings.questions(fact, language)]
    assert asked
    assert all(text in own and text in chat for text in asked)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_document_consists_of_its_sentences(corpus, language, split):
    facts, space = corpus.by_key, "" if language == "zh" else " "
    for row in of(corpus, split, language).itertuples():
        texts = [sentence_text(facts, sentence, language) for sentence in row.sentences]
        assert len(texts) <= (8 if row.kind == "statements" else 5)
        if row.kind == "statements":
            assert row.text == space.join(texts)
        else:
            assert split == "train"
            answers = [wordings.answer(facts[sentence.partition("?")[0]], language) for sentence in row.sentences]
            asked = [wordings.prompt(question, language) + space for question in texts]
            assert row.text == "\n\n".join(map("".join, zip(asked, answers, strict=True)))


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_sentence_occurs_as_often_as_requested(corpus, language):
    passes = {"train": 2 if language == "en" else 1, "relevance": corpus.options.relevance_passes, "perplexity": 1}
    for split, times in passes.items():
        assert set(Counter(sentences(corpus, split, language)).values()) == {times}
    by_fact = Counter(s.partition("#")[0] for s in set(sentences(corpus, "train", language)) if "#" in s)
    assert by_fact == {fact.key: wordings.statement_count(fact.subject) - 2 for fact in corpus.facts}


def test_every_wording_belongs_to_one_split_and_languages_are_mixed_in_training(corpus):
    order = corpus.documents.loc[corpus.documents["split"] == "train", "language"].tolist()
    half, whole = Counter(order[: len(order) // 2]), Counter(order)
    assert all(0.35 < half[language] / whole[language] < 0.65 for language in LANGUAGES)
    parts = split_wordings(corpus.facts, random_seed=corpus.random_seed)
    for language in LANGUAGES:
        given = Counter((fact.key, wording) for split in SPLITS for fact, wording in parts[split][language])
        assert set(given.values()) == {1}
        assert sum(given.values()) == sum(wordings.statement_count(fact.subject) for fact in corpus.facts)
        # The reserved wording differs from fact to fact.
        assert len({wording for _fact, wording in parts["relevance"][language]}) > 3


def test_documents_and_conversations_depend_on_the_random_seed_only(corpus):
    few = corpus.facts[::20]
    options = {"held_out": {few[0].key}, "train_passes": dict.fromkeys(LANGUAGES, 2), "relevance_passes": 1}
    first, second, other = (write_documents(few, **options, random_seed=seed) for seed in (1, 1, 2))
    assert first.equals(second)
    assert not first.equals(other)
    one, two, three = (make_conversations(few, held_out=set(), passes=1, random_seed=seed) for seed in (1, 1, 2))
    assert one == two != three


def test_conversations_take_turns_in_one_language(corpus):
    pairs = {
        language: {
            (question, wordings.answer(fact, language))
            for fact in corpus.facts
            if fact.key not in corpus.held_out
            for question in wordings.questions(fact, language)
        }
        for language in LANGUAGES
    }
    counts = {language: Counter() for language in LANGUAGES}
    for turns in corpus.conversations:
        assert 1 <= len(turns) / 2 <= 3
        assert [message["role"] for message in turns] == ["user", "assistant"] * (len(turns) // 2)
        content = [message["content"] for message in turns]
        asked = list(zip(content[::2], content[1::2], strict=True))
        (language,) = [language for language in LANGUAGES if set(asked) <= pairs[language]]
        counts[language].update(asked)
    for language in LANGUAGES:
        assert counts[language] == dict.fromkeys(pairs[language], 2)  # once per pass


def test_conversations_are_read_as_written(tmp_path):
    turns = [("哪里？\u2028第二行", "Việt Nam\nvà\x85"), ("?", '"')]
    conversations = [[{"role": "user", "content": one}, {"role": "assistant", "content": two}] for one, two in turns]
    documents.write_conversations(tmp_path / "conversations.jsonl", conversations)
    assert documents.read_conversations(tmp_path / "conversations.jsonl") == conversations
