"""Tolerances of the comparison with the paper."""

import numpy as np
import pytest
import yaml

from crane_lib.errors import CraneError
from crane_study.paper.tolerances import TOLERANCES, load_tolerances

CONTENT = yaml.safe_load(TOLERANCES.read_text(encoding="utf-8"))
EVERYTHING = CONTENT["reproduction"] | {
    "rules": [{"why": "whatever is left", "metrics": ["accuracy"], "absolute": 0.4}]
}
TASKS = {"en": "MMLU", "zh": "C-Eval", "vi": "Belebele-vi"}


def test_an_accuracys_tolerance_is_its_binomial_error():
    found = load_tolerances()
    assert found.accuracy("Belebele-vi", 0.36, masked=False) == pytest.approx(1.96 * 0.6 * 0.8 / 30)
    assert found.accuracy("Belebele-vi", 0.36, masked=True) == pytest.approx(1.96 * 2**0.5 * 0.48 / 30)
    spread = found.accuracy("MMLU", 0.5, masked=True, deviation=0.3)
    assert spread == pytest.approx(1.96 * np.hypot(0.3, (2 * 0.25 / 14042) ** 0.5))
    with pytest.raises(CraneError, match="has no benchmark 'CMMLU'; it has MMLU"):
        found.accuracy("CMMLU", 0.3, masked=False)
    # Published accuracies, some cut after six digits, are multiples of one question.
    items = {task: benchmark.items for task, benchmark in found.benchmarks.items()}
    for task, value in (("MMLU", 0.457911), ("C-Eval", 0.34695393759286774), ("Belebele-vi", 0.4066666666666667)):
        assert value * items[task] == pytest.approx(round(value * items[task]), abs=0.02)


def test_the_tolerance_of_langspec_covers_95_percent_of_what_the_errors_do():
    before = {"en": 0.46, "zh": 0.35, "vi": 0.37}
    after = {"en": 0.35, "zh": 0.28, "vi": 0.28}
    found = load_tolerances()
    tolerance = found.langspec_f1(before, after, target="en", tasks=TASKS)
    assert tolerance == found.langspec_f1(before, after, target="en", tasks=TASKS)
    assert 0.01 < tolerance < 0.1
    assert found.langspec_f1(before, after, target="en", tasks=TASKS, deviation=0.05) > 2 * tolerance
    many = {task: benchmark.model_copy(update={"items": 10**12}) for task, benchmark in found.benchmarks.items()}
    exact = found.model_copy(update={"benchmarks": many})
    assert exact.langspec_f1(before, after, target="en", tasks=TASKS) < 1e-4


def test_the_tolerance_of_langspec_on_judge_scores_is_that_of_70_questions():
    before, after = {"en": 7.9, "zh": 6.8, "vi": 7.0}, {"en": 6.0, "zh": 4.0, "vi": 3.4}
    found = load_tolerances()
    released = found.open_langspec(before, after, target="vi", beta=4.0, form="released")
    assert released == found.open_langspec(before, after, target="vi", beta=4.0, form="released")
    assert released != found.open_langspec(before, after, target="vi")
    assert 0.01 < released < 0.3
    hundredfold = found.model_copy(update={"judge": found.judge.model_copy(update={"questions": 700_000})})
    # Errors that small move the score in proportion to their size.
    smaller = hundredfold.open_langspec(before, after, target="vi", beta=4.0, form="released")
    assert smaller == pytest.approx(released / 100, rel=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": -1}, "z: Input should be greater than 0"),
        ({"benchmarks": {"MMLU": {"items": 0}}}, "benchmarks.MMLU.items"),
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
        ({"reproduction": EVERYTHING}, "names neither tables nor columns"),
    ],
)
def test_a_wrong_value_is_named(tmp_path, change, message):
    path = tmp_path / "tolerances.yaml"
    path.write_text(yaml.safe_dump({**CONTENT, **change}))
    with pytest.raises(CraneError, match=message):
        load_tolerances(path)
