import math

import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from crane_lib.errors import CraneError
from crane_lib.specificity import langspec

TARGETS = {"en": "MMLU", "zh": "C-Eval", "vi": "Belebele-vi"}

# Accuracy on MMLU, C-Eval and Belebele-vi of Llama-2-7B as it is and masked, restated from the authors' figures.
UNMASKED = {"MMLU": 0.457911, "C-Eval": 0.34695393759286774, "Belebele-vi": 0.3722}
MASKED = {
    ("LAPE", "en"): (0.4576, 0.3350668647845468, 0.3711),
    ("LAPE", "vi"): (0.4553, 0.33803863298662706, 0.3833),
    ("LAPE", "zh"): (0.4589089873237431, 0.3410104011887073, 0.3778),
    ("CRANE", "en"): (0.3483, 0.2800891530460624, 0.2811),
    ("CRANE", "vi"): (0.3517, 0.2816, 0.2233),
    ("CRANE", "zh"): (0.4366, 0.3313521545319465, 0.3344),
    ("random", "en"): (0.4249, 0.3179791976225854, 0.3678),
    ("random", "vi"): (0.4486, 0.32689450222882616, 0.36),
    ("random", "zh"): (0.4375, 0.3165, 0.36),
}
BASE_F = {
    ("LAPE", "en"): 0.0013,
    ("LAPE", "zh"): 0.0337,
    ("LAPE", "vi"): 0.0,
    ("CRANE", "en"): 0.3391,
    ("CRANE", "zh"): 0.0796,
    ("CRANE", "vi"): 0.4907,
    ("random", "en"): 0.1301,
    ("random", "zh"): 0.1547,
    ("random", "vi"): 0.0611,
}
CHAT_F = {
    ("LAPE", "en"): 0.0,
    ("LAPE", "zh"): 0.0253,
    ("LAPE", "vi"): 0.0,
    ("CRANE", "en"): 0.1121,
    ("CRANE", "zh"): 0.0160,
    ("CRANE", "vi"): 0.4346,
}
OPEN_F = {
    ("CRANE", "en"): 0.359,
    ("CRANE", "vi"): 0.697,
    ("CRANE", "zh"): 0.549,
    ("LAPE", "zh"): 0.178,
}
OPEN_UNMASKED = {"en": 7.9, "vi": 6.985714285714286, "zh": 6.814285714285714}
OPEN_MASKED = {
    ("CRANE", "en"): {"en": 6.0, "vi": 3.357, "zh": 3.971},
    ("CRANE", "vi"): {"en": 7.971, "vi": 5.457, "zh": 6.086},
    ("CRANE", "zh"): {"en": 6.914, "vi": 3.686, "zh": 4.071},
    # 471 points for 70 answers, which the authors' figures round to 6.729: enough to move F in its third digit.
    ("LAPE", "zh"): {"en": 8.029, "vi": 7.186, "zh": 471 / 70},
}


@pytest.mark.parametrize("key", sorted(BASE_F))
def test_the_authors_figures_for_the_base_model(key):
    masked = dict(zip(UNMASKED, MASKED[key], strict=True))
    assert round(langspec(UNMASKED, masked, target=TARGETS[key[1]]).f, 4) == BASE_F[key]


@pytest.mark.parametrize("key", sorted(OPEN_MASKED))
def test_the_authors_figures_for_open_ended_answers(key):
    found = langspec(OPEN_UNMASKED, OPEN_MASKED[key], target=key[1], beta=4, form="released")
    assert round(found.f, 3) == OPEN_F[key]


@pytest.fixture(scope="module")
def published(shared):
    path = shared / "reference" / "paper_results.csv"
    if not path.is_file():
        pytest.skip("no ../shared/reference/paper_results.csv")
    frame = pd.read_csv(path, keep_default_na=False)
    return frame.assign(method=frame["method"].str.removesuffix(" (layer-matched)"))


def scores(published, *, model, method, language, metric, tasks):
    rows = published[
        (published["model"] == model)
        & (published["method"] == method)
        & (published["masked_language"] == language)
        & (published["metric"] == metric)
        & published["task"].isin(tasks)
    ]
    return dict(zip(rows["task"], rows["value"].astype(float), strict=True))


@pytest.mark.parametrize(("model", "expected"), [("Llama-2-7b-hf", BASE_F), ("Llama-2-7b-chat-hf", CHAT_F)])
def test_every_released_accuracy(published, model, expected):
    kinds = {"model": model, "metric": "accuracy", "tasks": list(TARGETS.values())}
    unmasked = scores(published, method="none", language="", **kinds)
    for (method, language), value in expected.items():
        masked = scores(published, method=method, language=language, **kinds)
        assert round(langspec(unmasked, masked, target=TARGETS[language]).f, 4) == value, (method, language)


def judged_range(unmasked, masked, target):
    """Smallest and largest F that scores rounded to three digits leave possible."""
    for sign in (1, -1):
        moved = {task: score + sign * (5e-4 if task == target else -5e-4) for task, score in masked.items()}
        yield langspec(unmasked, moved, target=target, beta=4, form="released").f


def test_every_released_judgement(published):
    tasks = {language: f"open-ended-{language}" for language in TARGETS}
    kinds = {"model": "Llama-2-7b-chat-hf", "metric": "judge score 1-10", "tasks": list(tasks.values())}
    unmasked = scores(published, method="none", language="", **kinds)
    rows = published[published["metric"].str.startswith("LangSpec-F") & published["task"].eq("open-ended")]
    assert len(rows) == 9
    for row in rows.itertuples():
        masked = scores(published, method=row.method, language=row.masked_language, **kinds)
        low, high = judged_range(unmasked, masked, tasks[row.masked_language])
        assert low - 5e-4 <= float(row.value) <= high + 5e-4, (row.method, row.masked_language)
        assert high - low < 0.003


# --- by hand -------------------------------------------------------------------------------------------------

BEFORE = {"en": 0.8, "zh": 0.5, "vi": 0.4}
AFTER = {"en": 0.4, "zh": 0.4, "vi": 0.5}  # drops .4, .1, 0


@pytest.mark.parametrize(("other", "others"), [("mean", 0.05), ("sum", 0.1), ("max", 0.1)])
def test_precision_and_recall(other, others):
    found = langspec(BEFORE, AFTER, target="en", other=other)
    assert found.precision == pytest.approx(0.4 / (0.4 + others), rel=1e-12)
    assert found.recall == pytest.approx(0.5, rel=1e-12)
    assert found.f == pytest.approx(2 / (1 / found.precision + 1 / found.recall), rel=1e-12)


def test_a_gain_elsewhere_is_not_held_against_a_mask():
    better = langspec(BEFORE, {"en": 0.4, "zh": 0.9, "vi": 0.9}, target="en")
    assert better.precision == 1.0
    assert better == langspec(BEFORE, BEFORE | {"en": 0.4}, target="en")


@pytest.mark.parametrize("after", [{"en": 0.8}, {"en": 0.9}])
def test_a_mask_that_does_not_hurt_its_target_scores_nothing(after):
    found = langspec(BEFORE, AFTER | after, target="en")
    assert (found.precision, found.recall, found.f) == (0.0, 0.0, 0.0)


def test_nothing_changed():
    assert langspec(BEFORE, BEFORE, target="zh").f == 0.0


def test_a_target_that_had_nothing_to_lose():
    found = langspec({"en": 0.0, "zh": 0.5}, {"en": 0.0, "zh": 0.1}, target="en", form="released", beta=4)
    assert (found.precision, found.recall, found.f) == (0.0, 0.0, 0.0)


def test_all_damage_on_the_target():
    found = langspec({"en": 0.6, "zh": 0.5}, {"en": 0.0, "zh": 0.5}, target="en")
    assert (found.precision, found.recall, found.f) == (1.0, 1.0, 1.0)


SCORE = st.floats(0.01, 1)
THREE = st.tuples(SCORE, SCORE, SCORE).map(lambda values: dict(zip(("a", "b", "c"), values, strict=True)))


@given(unmasked=THREE, masked=THREE, beta=st.floats(0.2, 5))
def test_the_released_form_is_the_standard_one_at_the_inverse_beta(unmasked, masked, beta):
    released = langspec(unmasked, masked, target="a", beta=beta, form="released")
    standard = langspec(unmasked, masked, target="a", beta=1 / beta)
    assert released.f == pytest.approx(standard.f, rel=1e-9)
    assert (released.precision, released.recall) == (standard.precision, standard.recall)


@given(unmasked=THREE, masked=THREE, beta=st.floats(0.2, 5))
def test_f_lies_between_precision_and_recall(unmasked, masked, beta):
    found = langspec(unmasked, masked, target="a", beta=beta)
    assume(found.f > 0)
    low, high = sorted((found.precision, found.recall))
    assert low * (1 - 1e-12) <= found.f <= high * (1 + 1e-12)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.5, 4.0])
def test_the_standard_form_is_the_one_of_the_textbooks(beta):
    # As if 3 of 4 chosen were right and 3 of 6 right ones chosen: F in counts, which knows no P and R.
    hits, missed, wrong = 3, 3, 1
    expected = (1 + beta**2) * hits / ((1 + beta**2) * hits + beta**2 * missed + wrong)
    found = langspec({"t": 0.6, "o": 0.5}, {"t": 0.3, "o": 0.4}, target="t", beta=beta)
    assert (found.precision, found.recall) == (pytest.approx(0.75), pytest.approx(0.5))
    assert found.f == pytest.approx(expected, rel=1e-9)


def test_a_large_beta_weighs_recall_in_one_form_and_precision_in_the_other():
    values = {"unmasked": {"t": 0.6, "o": 0.5}, "masked": {"t": 0.3, "o": 0.4}, "target": "t"}
    assert langspec(**values, beta=50).f == pytest.approx(0.5, abs=1e-3)
    assert langspec(**values, beta=50, form="released").f == pytest.approx(0.75, abs=1e-3)


@pytest.mark.parametrize(
    ("masked", "target"),
    [({"en": 1.0, "zh": 1.0}, "en"), (BEFORE | {"ja": 1.0}, "en"), (BEFORE, "ja"), ({}, "en")],
)
def test_other_tasks_are_refused(masked, target):
    with pytest.raises(CraneError, match=f"the same two or more tasks with '{target}' among them"):
        langspec(BEFORE, masked, target=target)


def test_one_task_says_nothing_of_specificity():
    with pytest.raises(CraneError, match="two or more tasks"):
        langspec({"en": 1.0}, {"en": 0.5}, target="en")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_are_finite(bad):
    with pytest.raises(CraneError, match="a score is not finite"):
        langspec(BEFORE, AFTER | {"vi": bad}, target="en")
    with pytest.raises(CraneError, match="a score is not finite"):
        langspec(BEFORE | {"en": bad}, AFTER, target="en")
