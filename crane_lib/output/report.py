"""report.md: the verdicts, the numbers behind them, and every table and figure of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from crane_lib.files import write_text
from crane_lib.output.claims import verdict_table
from crane_lib.output.finished import Claims, Finished, sentence
from crane_lib.output.judging import NOT_REPRODUCED, NOT_RUN, REPRODUCED
from crane_lib.output.published import judge_published
from crane_lib.output.seeds import is_current, summary_parts
from crane_lib.output.style import METRIC_LABELS, method_label
from crane_lib.output.writing import markdown

# A claim can be reproduced by this study; in the published numbers it holds or it does not.
HOLDS = {REPRODUCED: "holds", NOT_REPRODUCED: "does not hold", NOT_RUN: "cannot be judged"}
REHEARSED = (
    "A small model with random weights and made-up texts and questions stand in for the real ones: every number and "
    "verdict below shows that the path works, and nothing else."
)
LONGEST_TABLE = 40  # rows; longer ones are linked
_CASES = "REPRODUCED, NOT REPRODUCED, or NOT RUN where the rows that the rule needs are missing"


def _table(frame: pd.DataFrame, *, right: Sequence[int] = ()) -> str:
    """A Markdown table of texts, the columns numbered in `right` set to the right."""
    return markdown(frame, right=[number in right for number in range(frame.shape[1])])


def _overview(verdicts: Claims) -> list[str]:
    """Verdicts at a glance, with the same rules on the published numbers in the last column."""
    table = verdict_table(verdicts)
    table = table.rename(columns={"claim": "Claim", "statement": "Statement"})
    published = {item["id"]: HOLDS[item["verdict"]] for item in judge_published()}
    table["Published numbers (accuracy)"] = [published.get(claim, "") for claim in table["Claim"]]
    return [
        "## Verdicts",
        "Each claim is judged by a rule fixed beforehand in `expected/claims.yaml`, for the released rule and for "
        f"contrast, by each measure: {_CASES}. C4 has no measure; its verdict stands in a method's first column. The "
        "last column says whether the claim holds by the same rule in the paper's published accuracies "
        "(`expected/published.csv`), which give only what C1 and C5 need. For programs: [claims.json](claims.json).",
        _table(table).rstrip(),
    ]


def _claims(verdicts: Claims) -> list[str]:
    """Every claim with its rule and, for each method and measure, the sentence made of its numbers."""
    parts = ["## The claims and their numbers"]
    published = {item["id"]: item for item in judge_published()}
    for claim in dict.fromkeys(item["id"] for item in verdicts):
        cases = [item for item in verdicts if item["id"] == claim]
        first = cases[0]
        parts.append(f"### {claim}. {first['title']}")
        parts.append(f"In the paper: {first['place']}. Reads: {first['reads']}. Rule: {first['rule']}")
        lines = []
        for item in cases:
            measure = str(METRIC_LABELS.get(item["measure"], item["measure"])).lower()
            name = method_label(item["method"], item["budget"]) + (f", {measure}" if measure else "")
            lines.append(f"- **{name}: {item['verdict']}.** {sentence(item['detail'])}")
        if claim in published:
            item = published[claim]
            lines.append(
                f"- By the same rule it {HOLDS[item['verdict']]} in the published numbers. {sentence(item['detail'])}"
            )
        parts.append("\n".join(lines))
    return parts


def _outputs(run: Finished, number: str) -> list[str]:
    """Tables and figures of a section, tables first."""
    parts = []
    for name in run.outputs(number):
        if name.startswith("tables/"):
            text = run.path(name, ".md").read_text(encoding="utf-8").rstrip()
            rows = text.count("\n|") - 2
            links = f"[CSV]({name}.csv), [Markdown]({name}.md), [LaTeX]({name}.tex)"
            caption, _, table = text.partition("\n\n")
            parts.append(f"**{caption}** ({links})")
            parts.append(table if rows <= LONGEST_TABLE else f"{rows} rows: see the files.")
        else:
            parts.append(f"![{name.partition('/')[2]}]({name}.png)")
            parts.append(f"*{run.captions[name]}* ([PDF]({name}.pdf))")
    return parts


def _sections(run: Finished) -> list[str]:
    """One part a section: the command that makes it, how it went, its tables and figures."""
    sections = run.sections()
    parts = ["## Tables and figures"] if sections else []
    for number, record in sections.items():
        parts.append(f"### {number}. {record.get('title', 'Section ' + number)}")
        parts.append(f"Made by `{run.command(number)}`.")
        if record.get("status", "done") != "done":
            parts.append(f"**This section failed:** {record.get('error')}")
        else:
            parts += _outputs(run, number)
    return parts


def _over_seeds(folder: Path) -> list[str]:
    """The summary over model seeds, where one was made (`--seeds`) of the results that are here now."""
    output = folder / "seeds"
    if not (output / "seeds.json").is_file():
        return []
    if not is_current(folder, output):
        return ["## Over model seeds", "The summary in `seeds/` was made of earlier results; run with --seeds again."]
    return ["## Over model seeds", *summary_parts(output, prefix="seeds/", longest=LONGEST_TABLE)]


def _times(manifest: Mapping[str, Any]) -> list[str]:
    """Seconds of sections and stages."""
    rows = [("section", record["section"], record["seconds"]) for record in manifest.get("sections", [])]
    rows += [("stage", record["name"], record["seconds"]) for record in manifest.get("stages", [])]
    if not rows:
        return []
    table = pd.DataFrame([(kind, name, f"{seconds:.1f}") for kind, name, seconds in rows])
    table.columns = pd.Index(["Kind", "Name", "Seconds"])
    return [
        "## Times",
        "Seconds of each section when it last ran, and of the stages it makes or uses again.",
        _table(table, right=[2]).rstrip(),
    ]


def _made_with(manifest: Mapping[str, Any]) -> list[str]:
    """Commit, machine and versions."""
    if not manifest:
        return []
    commit = manifest.get("commit") or "unknown"
    changed = " with uncommitted changes" if manifest.get("uncommitted_changes") else ""
    machine = manifest.get("machine", {})
    versions = ", ".join(f"{name} {version}" for name, version in manifest.get("packages", {}).items() if version)
    return [
        "## Made with",
        f"Commit `{commit}`{changed}; random seed {manifest.get('random_seed')}; {machine.get('processor')}, "
        f"{machine.get('cores')} cores; Python {manifest.get('python')}; {versions}. All of it, with the hash of every "
        "file: [manifest.json](manifest.json).",
    ]


def write_report(folder: Path) -> None:
    """Write ``report.md`` into a run's folder, from the files that lie there.

    Reads ``claims.json``, ``captions.json``, ``manifest.json`` and what ``tables/`` and ``figures/`` hold; what is
    missing is said, not refused.

    Raises
    ------
    CraneError : a file is there but cannot be read
    """
    run = Finished.read(Path(folder))
    description = run.manifest.get("profile", {}).get("description")
    parts = [f"# CRANE: report of profile `{run.profile}`", *([sentence(description)] if description else [])]
    if run.rehearsal:
        parts.append(f"**REHEARSAL.** {REHEARSED}")
    if run.verdicts is None:
        parts += ["## Verdicts", "No claim has been judged yet: run the section on the claims."]
    else:
        parts += [*_overview(run.verdicts), *_claims(run.verdicts)]
    parts += _sections(run)
    parts += _over_seeds(run.folder)
    parts += ["## Not run", "\n".join(f"- {line}" for line in run.missing()) or "Everything was run."]
    parts += [*_times(run.manifest), *_made_with(run.manifest)]
    if run.rehearsal:
        parts = [f"{part} (REHEARSAL)" if part.startswith("## ") else part for part in parts]
    write_text(run.folder / "report.md", "\n\n".join(parts) + "\n")
