"""Tables of the set-up."""

import pandas as pd

from crane_study.frames import write_frame
from crane_study.tables import models as tables
from tests.study.outputs import synthetic


def test_guessers_and_facts(tmp_path):
    table = tables.guesser_table(synthetic.make_guessers()).set_index("language")
    assert list(table.columns) == ["n", "model", "overlap", "longest", "shortest", "answer_frequency"]
    assert table.loc["vi", "overlap"] == 0.58
    # Facts are summed over the subjects.
    facts = pd.DataFrame({"subject": ["city", "clock"], "stated": [10, 20], "unnamed_zh": [1, 2], "kept": [9, 18]})
    write_frame(tmp_path / "fact_counts.csv", facts)
    table = tables.facts_table(tmp_path)
    assert table.set_index("subject").loc["all"].tolist() == [30, 3, 27]
    assert table["subject"].tolist() == ["city", "clock", "all"]
