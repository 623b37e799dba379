"""Numbers of README.md and docs/results.md, filled in from the committed reference runs.

    python -m tools.readme write    # after crane reference
    python -m tools.readme check    # as the tests do

Everything between ``<!-- NAME -->`` and ``<!-- end -->`` is written by the function `NAME`, so that no number is copied
by hand and none is chosen: all methods of a table are shown, best and worst.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from crane_lib.errors import CraneError
from crane_run.references import REFERENCES, Reference, ReferenceTable, read_reference
from crane_run.seeds import SeedsReference, read_seeds_reference
from crane_study import ROOT
from crane_study.labels import budget_label, ordered_languages
from crane_study.measure.rows import EVERYTHING
from crane_study.publish import MISSING
from crane_study.tables.matched_damage import ALL

PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md")
PROFILES = ("gemma3-270m", "mini")  # whose reference runs the README shows
MATCHED = "06_matched_damage"
SEEDS = "mini-seeds"  # committed summary over model seeds
References = Mapping[str, Any]  # runs by profile, and the summary over seeds
_BLOCK = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_WORDS = {"REPRODUCED": "yes", "NOT REPRODUCED": "no", "UNDECIDED": "undecided"}
_WORDS |= {"NOT APPLICABLE": "not applicable", "NOT RUN": "not run"}


def _table(reference: Reference, name: str) -> pd.DataFrame:
    """A table of a reference as a frame, with the columns that name a row in front."""
    return _frame(reference.tables[f"tables/{name}.csv"])


def _frame(table: ReferenceTable) -> pd.DataFrame:
    keys = [row.split(" / ") for row in table.rows]
    frame = pd.DataFrame(keys, columns=table.key)
    return pd.concat([frame, pd.DataFrame(list(table.rows.values()), columns=table.columns)], axis=1)


def _number(value: float, digits: int) -> str:
    """A number without the 0 before its point; a dash where there is none."""
    return MISSING if pd.isna(value) else re.sub(r"\b0\.", ".", f"{value:.{digits}f}")


def _interval(row: pd.Series, digits: int, name: str = "mean") -> str:
    """A value with its interval: ``.760 (.752 to .767)``."""
    if pd.isna(row[name]):
        return MISSING
    value, low, high = (_number(row[key], digits) for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value} ({low} to {high})"


def seeds(references: References) -> str:
    """Rise on the worst other language at 1 nat, and LangSpec-F1, of every method of `mini`: means over model seeds."""
    summary: SeedsReference | None = references.get(SEEDS)
    if summary is None:
        return "The summary over model seeds is not committed yet."
    numbers = list(map(str, summary.random_seeds))
    said = f"Random seeds {', '.join(numbers[:-1])} and {numbers[-1]}; in brackets 95 % t-intervals over the seeds."
    rises = _frame(summary.tables["matched_damage"]).astype({"damage": float})
    rises = rises[rises["damage"] == 1]
    languages = [code for code in ordered_languages(rises["masked_language"]) if code != ALL]
    parts = [said, _wide(rises, ["method"], "masked_language", [ALL, *languages], first=ALL, count=len(numbers))]
    scores = _frame(summary.tables["langspec"])
    scores = scores[(scores["metric"] == "token_probability") & (scores["selected_on"] == "base")]
    names = ["langspec_f1", "precision", "recall"]
    parts.append(_wide(scores, ["method", "budget"], "score", names, first=names[0], count=len(numbers)))
    return "\n\n".join(parts)


_HEADS = {ALL: "1 nat, mean of the languages", "langspec_f1": "LangSpec-F1"}


def _wide(frame: pd.DataFrame, key: list[str], across: str, names: list[str], *, first: str, count: int) -> str:
    """A column per name, each a mean with its interval; rows by the column `first`: rises upwards, scores downwards.

    A dash stands where not all `count` seeds have a value.
    """
    known = frame[frame["seeds"] == count].rename(columns={"low": "mean_low", "high": "mean_high"})
    cells = {(tuple(row[name] for name in key), row[across]): row for _, row in known.iterrows()}
    found = list(dict.fromkeys(zip(*(frame[name] for name in key), strict=True)))
    sign = 1 if first == ALL else -1
    found.sort(key=lambda row: sign * cells[row, first]["mean"] if (row, first) in cells else float("inf"))
    lines = [f"| {' | '.join(['method' if len(key) == 1 else 'sets', *(_HEADS.get(n, n) for n in names)])} |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for method, *budget in found:
        shown = [f"`{method}`{''.join(f', {budget_label(one)}' for one in budget)}"]
        row = (method, *budget)
        shown += [_interval(cells[row, name], 3) if (row, name) in cells else MISSING for name in names]
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines)


def matched_damage(references: References) -> str:
    """Rise on the worst other language at equal damage, of every method of the published model and of `mini`."""
    parts = [
        f"`{name}`:\n\n{_matched(references[name])}"
        for name in PROFILES
        if name in references and f"tables/{MATCHED}.csv" in references[name].tables
    ]
    return "\n\n".join(parts) or "The committed reference runs do not have this table yet."


def _matched(reference: Reference) -> str:
    """One row per method, the most selective at 1 nat first: each language at every damage, and the mean at 1 nat."""
    each = _table(reference, MATCHED).astype({"damage": float, "worst": float})
    summary = _table(reference, "06_matched_summary").astype({"damage": float, "worst": float})
    middle = summary[summary["damage"] == 1].set_index("method")
    languages, damages = ordered_languages(each["masked_language"]), sorted(set(each["damage"]))
    worst = each.set_index(["method", "masked_language", "damage"])["worst"]
    heads = [f"{damage:g} nat{'' if damage == 1 else 's'}: {' / '.join(languages)}" for damage in damages]
    lines = [f"| method | {' | '.join(heads)} | 1 nat, mean (95 % interval) |", "|---" * (len(damages) + 2) + "|"]
    for method, row in middle.sort_values("worst", na_position="last", kind="stable").iterrows():
        cells = [" / ".join(_number(worst[method, language, at], 2) for language in languages) for at in damages]
        lines.append(f"| `{method}` | {' | '.join(cells)} | {_interval(row, 3, 'worst')} |")
    return "\n".join(lines)


def headline(references: References) -> str:
    """LangSpec-F1 of every method of `mini`, with its precision and recall."""
    reference = references["mini"]
    known, answers = _table(reference, "03_langspec"), _table(reference, "05_langspec_f1")
    known = known[(known["metric"] == "token_probability") & (known["selected_on"] == "base")]
    chosen = (answers["selected_on"] == "base") | (answers["method"] == EVERYTHING)  # that mask is the model's own
    answers = answers[chosen].set_index(["method", "budget"])
    answers = answers.rename(columns={"low": "mean_low", "high": "mean_high"})
    parts = [name for name in ("precision", "recall") if name in known]
    heads = ["sets", "by token probability", *parts, "by score of open-ended answers"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for _, row in known.sort_values("mean", ascending=False).iterrows():
        key = (row["method"], row["budget"])
        other = _interval(answers.loc[key], 2) if key in answers.index else ""
        budget = budget_label(row["budget"])
        cells = [f"`{row['method']}`, {budget}", _interval(row, 3), *(_number(row[name], 2) for name in parts), other]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def claims(references: References) -> str:
    """Verdicts on every claim, by token probability / by accuracy: per profile, of the released rule and `contrast`."""
    columns = [(name, method) for name in PROFILES if name in references for method in ("kurtosis", "contrast")]
    heads = ["claim", "paper", "what is claimed", "command", "output", *(f"`{n}`: `{method}`" for n, method in columns)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for number, (place, claim, output) in _CLAIMS.items():
        verdicts = [_verdicts(references[name], number, method) for name, method in columns]
        cells = [number, place, claim, f"`./run_all.sh --only {number}`", output, *verdicts]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _verdicts(reference: Reference, number: str, method: str) -> str:
    """Verdicts on one claim for one method: by token probability / by accuracy, where it has both."""
    cases = {tuple(case.split(" / ")): _WORDS[verdict] for case, verdict in reference.verdicts.items()}
    own = {case[3]: word for case, word in cases.items() if case[:2] == (number, method)}
    return " / ".join(own[name] for name in sorted(own, reverse=True))  # token_probability before accuracy


_CLAIMS = {
    "C1": (
        "abstract; masking on the base model",
        "a mask hurts its own language most",
        "`tables/03_nll_rise`, `04_accuracy_drop`",
    ),
    "C1b": (
        "abstract; masking on the base model",
        "the other languages are preserved",
        "`tables/03_nll_rise`, `04_accuracy_drop`",
    ),
    "C2": (
        "LangSpec-F1, base model",
        "relevance isolates a language better than LAPE",
        "`tables/09_claims`",
    ),
    "C3": ("LangSpec-F1, random sets", "... and better than random units", "`tables/03_langspec`, `04_langspec`"),
    "C4": ("abstract; overlaps", "the languages' sets are not exclusive", "`tables/02_overlaps`"),
    "C5": (
        "base-to-chat transfer",
        "base sets break the chat model's language, too",
        "`tables/07_transfer_*`, `07_langspec`",
    ),
}
BLOCKS: dict[str, Callable[[References], str]] = {
    "seeds": seeds,
    "matched_damage": matched_damage,
    "headline": headline,
    "claims": claims,
}


def filled(text: str) -> str:
    """Text with every block written again."""
    files = {name: REFERENCES / f"{name}.json" for name in PROFILES}
    references: dict[str, Any] = {name: read_reference(path) for name, path in files.items() if path.is_file()}
    if (path := REFERENCES / f"{SEEDS}.json").is_file():
        references[SEEDS] = read_seeds_reference(path)

    def written(found: re.Match[str]) -> str:
        if found[2] not in BLOCKS:
            raise CraneError(f"tools.readme: block {found[2]!r} is none of {', '.join(BLOCKS)}")
        return f"{found[1]}{BLOCKS[found[2]](references)}\n{found[3]}"

    return _BLOCK.sub(written, text)


def main() -> None:
    """Write or check the pages."""
    if sys.argv[1:] not in (["write"], ["check"]):
        raise SystemExit("tools.readme: write or check")
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        if sys.argv[1] == "write":
            page.write_text(after, encoding="utf-8")
        elif after != before:
            raise SystemExit(
                f"{page.name}: numbers are not those of expected/reference; run python -m tools.readme write"
            )


if __name__ == "__main__":
    main()
