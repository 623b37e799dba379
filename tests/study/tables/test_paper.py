"""The tables of the comparison with the paper where a profile has no chat model."""

from types import SimpleNamespace

from crane_study.paper.claims import NOT_RUN
from crane_study.paper.tolerances import load_tolerances
from crane_study.tables import paper


def test_without_a_chat_model_the_published_directions_stand_alone():
    profile = SimpleNamespace(paper=SimpleNamespace(model=None))
    study = SimpleNamespace(profile=profile, listed=None, has_chat=False)
    table, caption = paper.benchmarks(study, None, "chat", load_tolerances())
    assert len(table)
    assert (table["own_ours"] == NOT_RUN).all()
    assert not (table["own_published"] == NOT_RUN).any()
    assert caption.endswith("NOT RUN: the profile names no chat model.")
