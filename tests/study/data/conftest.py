from types import SimpleNamespace

import pytest

from crane_study.data.cldr import collect_facts
from crane_study.data.documents import make_conversations, write_documents
from crane_study.data.questions import form_questions
from crane_study.profile import load_profile


def make_corpus(random_seed: int) -> SimpleNamespace:
    """All that the default profile's study knows, each training sentence told once."""
    options = load_profile("mini").source.knowledge
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
    made = {"facts": facts, "reports": reports, "by_key": {fact.key: fact for fact in facts}, "questions": questions}
    made |= {"held_out": held_out, "documents": documents, "conversations": conversations}
    return SimpleNamespace(options=options, random_seed=random_seed, **made)


@pytest.fixture(scope="session")
def corpus() -> SimpleNamespace:
    return make_corpus(load_profile("mini").random_seed)
