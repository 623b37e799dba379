from dataclasses import dataclass

import pandas as pd
import pytest

from crane_study.data.cldr import Fact, collect_facts
from crane_study.data.documents import Conversation, make_conversations, write_documents
from crane_study.data.questions import Question, form_questions
from crane_study.profile import EmbeddedSource, Knowledge, load_profile


@dataclass(frozen=True)
class Corpus:
    """All that the default profile's study knows, each training sentence told once."""

    options: Knowledge
    random_seed: int
    facts: list[Fact]
    reports: list[dict]
    questions: dict[str, list[Question]]
    held_out: set[str]
    documents: pd.DataFrame
    conversations: list[Conversation]

    @property
    def by_key(self) -> dict[str, Fact]:
        return {fact.key: fact for fact in self.facts}


def make_corpus(random_seed: int) -> Corpus:
    source = load_profile("mini").source
    assert isinstance(source, EmbeddedSource)
    options = source.knowledge
    facts, reports = collect_facts(
        per_subject=options.facts_per_subject, per_answer=options.facts_per_answer, random_seed=random_seed
    )
    questions = form_questions(facts, groups_per_subject=options.question_groups_per_subject, random_seed=random_seed)
    held_out = {question.key for question in questions["en"]}
    documents = write_documents(
        facts,
        held_out=held_out,
        train_passes={"en": 2, "zh": 1, "vi": 1},
        relevance_passes=options.relevance_passes,
        random_seed=random_seed,
    )
    conversations = make_conversations(facts, held_out=held_out, passes=2, random_seed=random_seed)
    return Corpus(options, random_seed, facts, reports, questions, held_out, documents, conversations)


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    return make_corpus(load_profile("mini").random_seed)
