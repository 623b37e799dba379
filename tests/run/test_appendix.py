"""The artifact's appendix is made from the files that it speaks of."""

import re

import yaml

from crane_study import ROOT
from tests.run.test_doc_blocks import commands
from tests.run.test_docs import parsed
from tools import appendix


def test_it_is_made_from_the_present_files():
    assert appendix.page() == appendix.PAGE.read_text(encoding="utf-8"), "run python -m tools.appendix write"


def test_a_verdict_and_a_number_of_a_reference_run_are_in_it(monkeypatch):
    mini, case = appendix.reference("mini"), "C2 / contrast / 0.1 / accuracy"
    other = {**mini.verdicts, case: "NOT RUN" if mini.verdicts[case] != "NOT RUN" else "UNDECIDED"}
    changed = mini.model_copy(update={"verdicts": other})
    read = appendix.reference
    monkeypatch.setattr(appendix, "reference", lambda name: changed if name == "mini" else read(name))
    before, after = appendix.PAGE.read_text(encoding="utf-8").splitlines(), appendix.page().splitlines()
    (line,) = [new for old, new in zip(before, after, strict=True) if old != new]
    assert line.startswith("| `contrast` | common | accuracy |")


def test_core_hours_are_the_seconds_of_every_part_times_its_threads():
    told = yaml.safe_load((ROOT / "configs" / "mini.yaml").read_text(encoding="utf-8"))["expected_seconds"]
    twice = {"corpus", "base_model", "chat_model", "relevance_base", "relevance_chat"}
    sums = {name: seconds * (2 if name in twice else 1) for name, seconds in told.items() if name != "report"}
    trained = sum(sums.values()) / 3600
    assert abs(appendix.core_hours("mini", training=True) - trained) < 1e-9
    released = trained - (sums["base_model"] + sums["chat_model"]) / 3600
    assert abs(appendix.core_hours("mini") - released) < 1e-9


def test_every_claim_and_every_command_is_one_of_this_version():
    text = appendix.PAGE.read_text(encoding="utf-8")
    rules = yaml.safe_load((ROOT / "expected" / "claims.yaml").read_text(encoding="utf-8"))["claims"]
    assert re.findall(r"^- \*\*\((\w+)\)\*\*", text, flags=re.MULTILINE) == [rule["id"] for rule in rules]
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL) for line in commands(block)]
    for line in lines:
        first, *words = line.split()
        if first != "source":
            assert parsed(["run", *words] if first == "./run_all.sh" else words), line
