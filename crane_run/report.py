"""report.html: one page that needs nothing else, for a reader with a browser and for one on paper."""

from __future__ import annotations

import hashlib
import io
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from PIL import Image

from crane_lib.errors import CraneError
from crane_lib.files import read_json, write_text
from crane_run.sections import absent_sections
from crane_run.seeds import RECORD, is_current, seeds_sentence, summary_parts
from crane_study.frames import read_frame
from crane_study.labels import METRIC_LABELS, budget_label, first_sentence, language_name, method_label
from crane_study.measure.rows import pick, tidy
from crane_study.paper.claims import (
    NOT_REPRODUCED,
    NOT_RUN,
    REPRODUCED,
    load_rules,
    not_run,
    read_claims,
    verdict_table,
)
from crane_study.paper.published import judge_published, published_langspec, published_overlaps, published_rows
from crane_study.profile import REHEARSAL_SUFFIX
from crane_study.publish import MISSING, TableText, read_not_run

_SECTION = {"token_probability": "03", "accuracy": "04"}  # that measures it
_JUDGED = ("kurtosis", "accuracy")  # what the paper has numbers for
_RANDOM = "random"
COLUMNS = ("Quantity", "Ours", "95 % interval", "Held against", "Published")
Row = tuple[str, str, str, str, str]


def tolerance(claim: str) -> str:
    """By how much a claim's rule lets a number miss, in words."""
    rule = next(rule for rule in load_rules()["claims"] if rule["id"] == claim)
    if "significance" in rule:
        return f"none beyond the significance of p < {rule['significance']:g}"
    if "minimum_draws" in rule:
        return f"none: every one of at least {rule['minimum_draws']} draws has to lie below"
    return "none: the direction has to hold in every case"


class Evidence:
    """The numbers behind the verdicts of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._published = {item["id"]: item for item in judge_published()}
        rows = published_rows()
        scores = published_langspec(rows)
        self._means = scores[scores["model"] == "base"].groupby("method")["langspec_f1"].mean()
        shared = published_overlaps()
        self._shared = {(row.language_a, row.language_b): float(row.share_of_a) for row in shared.itertuples()}

    def rows(self, case: Mapping[str, Any]) -> list[Row]:
        """The numbers behind one verdict, a row a quantity, in the order of `COLUMNS`."""
        if case["verdict"] == NOT_RUN:
            return [("Not run", MISSING, MISSING, case["detail"], MISSING)]
        makers: dict[str, Callable[[Mapping[str, Any]], list[Row]]] = {
            "C1": self._damage,
            "C2": self._rival,
            "C3": self._random,
            "C4": self._shares,
            "C5": self._damage,
        }
        return makers[case["id"]](case)

    def _damage(self, case: Mapping[str, Any]) -> list[Row]:
        """Share of its score that each language loses when it is masked, beside the other language that loses most."""
        model = "base" if case["id"] == "C1" else "chat"
        published: Mapping[str, Any] = {}
        if (case["method"], case["measure"]) == _JUDGED:
            published = self._published[case["id"]]["numbers"].get("relative_drop", {})
        rows = []
        for language, found in case["numbers"]["relative_drop"].items():
            stated = published.get(language)
            rows.append(
                (
                    f"{language_name(language)} masked, share lost",
                    _percent(found["own"]),
                    self._share_lost(case, model=model, language=language),
                    f"{_worst(found)}",
                    f"{_percent(stated['own'])}, against {_worst(stated)}" if stated else MISSING,
                )
            )
        return rows

    def _share_lost(self, case: Mapping[str, Any], *, model: str, language: str) -> str:
        """Interval of the share of its score that a masked language loses."""
        measure = case["measure"]
        if model == "chat":
            where = {**_set(case, model=model), "masked_language": language}
            found = self._look(f"07_transfer_{measure}", where, ("own_low", "own_high"))
            return _interval(found[0], found[1], _percent) if found else MISSING
        found = self._look(
            f"{_SECTION[measure]}_{'nll_rise' if measure == 'token_probability' else 'accuracy_drop'}",
            {**_set(case, model=model), "masked_language": language, "evaluation_language": language},
            ("low", "high"),
        )
        if found is None:
            return MISSING
        low, high = found
        if measure == "token_probability":  # exp(-NLL), so that its share lost follows from the rise of the NLL
            return _interval(1 - np.exp(-low), 1 - np.exp(-high), _percent)
        before = self._unmasked(model, measure, language)
        return _interval(-high / before, -low / before, _percent) if before else MISSING

    def _unmasked(self, model: str, metric: str, language: str) -> float:
        path = self._folder / "results.csv"
        if not path.is_file():
            return 0.0
        found = pick(tidy(read_frame(path)), model=model, metric=metric, masked_language="")
        values = found.loc[found["evaluation_language"] == language, "value"]
        return float(values.iloc[0]) if len(values) else 0.0

    def _rival(self, case: Mapping[str, Any]) -> list[Row]:
        """Mean LangSpec-F1 beside LAPE's, as published and at the common budget."""
        numbers = case["numbers"]
        common = budget_label(numbers["common_budget"])
        stated = f"{self._means['kurtosis']:.3f}, against {self._means['lape']:.3f}"
        rows = [
            (
                f"Mean LangSpec-F1, {budget_label(case['budget'])}",
                f"{numbers['own']:.3f}",
                self._mean_interval(case, case["budget"]),
                f"{numbers['lape_published']:.3f} (LAPE, as published)",
                stated if (case["method"], case["measure"]) == _JUDGED else MISSING,
            ),
            (
                f"Mean LangSpec-F1, both at {common}",
                f"{numbers['own_common']:.3f}",
                self._mean_interval(case, numbers["common_budget"]),
                f"{numbers['lape_common']:.3f} (LAPE, {common})",
                MISSING,
            ),
        ]
        table = f"{_SECTION[case['measure']]}_differences_{case['method']}"
        lape = {"model": "base", "selected_on": "base", "method": "lape", "budget": "published"}
        if found := self._look(table, lape, ("difference", "low", "high")):
            difference, low, high = found
            told = _score(difference), _interval(low, high, _score)
            rows.append(("Difference from LAPE, as published", *told, "0", MISSING))
        return rows

    def _random(self, case: Mapping[str, Any]) -> list[Row]:
        """Mean LangSpec-F1 beside the random draws."""
        numbers = case["numbers"]
        found = self._look(f"{_SECTION[case['measure']]}_langspec", _set(case), ("p_value", "p_holm"))
        p = f", p = {found[0]:.2g} ({found[1]:.2g} with Holm's correction over the table)" if found else ""
        against = (
            f"{numbers['random_highest']:.3f}, highest of {numbers['draws']} random draws "
            f"(mean {numbers['random_mean']:.3f}){p}"
        )
        stated = f"{self._means['kurtosis']:.3f}, against {self._means['random_like_kurtosis']:.3f} (one draw)"
        judged = (case["method"], case["measure"]) == _JUDGED
        interval = self._mean_interval(case, case["budget"])
        return [("Mean LangSpec-F1", f"{numbers['own']:.3f}", interval, against, stated if judged else MISSING)]

    def _mean_interval(self, case: Mapping[str, Any], budget: str) -> str:
        where = {**_set(case), "budget": str(budget)}
        found = self._look(f"{_SECTION[case['measure']]}_langspec", where, ("mean_low", "mean_high"))
        return _interval(found[0], found[1], _score) if found else MISSING

    def _shares(self, case: Mapping[str, Any]) -> list[Row]:
        """Share of a language's set that another's has, too, beside chance."""
        rows = []
        for pair, found in case["numbers"]["pairs"].items():
            first, other = pair.split("-")
            chance = self._look(
                "02_overlaps",
                {"method": case["method"], "budget": str(case["budget"]), "language_a": first, "language_b": other},
                ("chance_low", "chance_high"),
            )
            within = f" ({_interval(chance[0], chance[1], _percent)})" if chance else ""
            against = f"by chance {_percent(found['expected_share_of_first'])}{within}, p = {found['p_value']:.2g}"
            stated = self._shared.get((first, other))
            random = self._shared.get((first, _RANDOM))
            beside = "" if random is None else f", against {_percent(random)} of a random set"
            told = f"{_percent(stated)}{beside}" if stated is not None and case["method"] == _JUDGED[0] else MISSING
            name = f"Share of {language_name(first)} that is {language_name(other)}, too"
            rows.append((name, _percent(found["share_of_first"]), MISSING, against, told))
        return rows

    def _look(self, table: str, where: Mapping[str, str], columns: Sequence[str]) -> tuple[float, ...] | None:
        """Numbers of the first row of one of the run's tables that has these values; None where there are none."""
        path = self._folder / "tables" / f"{table}.csv"
        if not path.is_file():
            return None
        frame = tidy(read_frame(path))
        if any(name not in frame for name in (*where, *columns)):
            return None
        found = pick(frame, **where)[list(columns)].astype(float).dropna().to_numpy()
        return tuple(map(float, found[0])) if len(found) else None


def _set(case: Mapping[str, Any], *, model: str = "base") -> dict[str, str]:
    return {"model": model, "selected_on": "base", "method": case["method"], "budget": str(case["budget"])}


def _worst(found: Mapping[str, Any]) -> str:
    return f"{_percent(found['worst_other_drop'])} ({language_name(found['worst_other'])}, worst other)"


def _percent(share: float) -> str:
    return f"{100 * share:z.1f} %"


def _score(value: float) -> str:
    return f"{value:z.3f}"


def _interval(low: float, high: float, text: Callable[[float], str]) -> str:
    return f"{text(low)} to {text(high)}"


Claims = Sequence[Mapping[str, Any]]
_ENDINGS = {"tables": ".md", "figures": ".png"}  # of the file that must be there


@dataclass(frozen=True)
class Finished:
    """Manifest, captions and verdicts of a run; verdicts are None where no claim was judged."""

    folder: Path
    manifest: dict[str, Any]
    captions: dict[str, str]
    verdicts: Claims | None

    @classmethod
    def read(cls, folder: Path) -> Finished:
        """Read what is there; what is missing stays empty.

        Raises
        ------
        CraneError : a file is there but cannot be read
        """
        claims = folder / "claims.json"
        verdicts = read_claims(claims) if claims.is_file() else None
        return cls(folder, _object(folder / "manifest.json"), _object(folder / "captions.json"), verdicts)

    @property
    def profile(self) -> str:
        """Name of the profile."""
        return str(self.manifest.get("profile", {}).get("name") or self.folder.name)

    @property
    def rehearsal(self) -> bool:
        """Whether the run only rehearsed."""
        return bool(self.manifest.get("profile", {}).get("rehearsal"))

    def sections(self) -> dict[str, dict[str, Any]]:
        """Number -> record of every section that ran or left a table or figure."""
        records = {record["section"][:2]: record for record in self.manifest.get("sections", [])}
        numbers = sorted({*records, *(name.partition("/")[2][:2] for name in self.captions)})
        return {number: records.get(number, {}) for number in numbers}

    def command(self, number: str) -> str:
        """The command that makes a section's outputs."""
        profile = self.profile.removesuffix(REHEARSAL_SUFFIX) + " --rehearse" if self.rehearsal else self.profile
        return f"./run_all.sh --profile {profile} --only {number}"

    def outputs(self, number: str) -> list[str]:
        """Names of a section's tables and figures that are there, tables first, each kind by name."""
        found = []
        for name in self.captions:
            kind, _, stem = name.partition("/")
            if kind in _ENDINGS and stem.startswith(f"{number}_") and self.path(name, _ENDINGS[kind]).is_file():
                found.append(name)
        return sorted(found, key=lambda name: (not name.startswith("tables/"), name))

    def path(self, name: str, ending: str) -> Path:
        """One of the files of a table or figure."""
        return self.folder / f"{name}{ending}"

    def missing(self) -> list[str]:
        """What was not run, and why: a sentence each."""
        records = self.manifest.get("sections", [])
        lines = [
            f"Section {record['section']}: {record.get('error') or 'not done'}"
            for record in records
            if record.get("status") != "done"
        ]
        lines += [
            f"Section {section.name}: was never run; `{self.command(section.number)}` runs it."
            for section in absent_sections(record["section"] for record in records)
        ]
        lines += [
            f"Section {number}, {what}: {reason}."
            for number, entries in read_not_run(self.folder).items()
            for what, reason in entries.items()
        ]
        if self.verdicts is None:
            lines.append("No claim was judged: the section on the claims has not run.")
        else:
            lines += not_run(self.verdicts)
        return lines + [f"{text} (no section of this study does it)." for text in load_rules().get("not_covered", [])]


def _object(path: Path) -> dict[str, Any]:
    """The object in a JSON file, an empty one where there is no such file."""
    value = read_json(path) if path.is_file() else {}
    if not isinstance(value, dict):
        raise CraneError(f"{path}: expected an object, saw {type(value).__name__}; delete it and run again")
    return value


def sentence(text: str) -> str:
    """Text with a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def times(manifest: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Seconds and peak memory of sections and of stages, each with its share of the longest of its kind."""
    groups = []
    for title, key, name in (("Sections", "sections", "section"), ("Stages", "stages", "name")):
        records = manifest.get(key, [])
        longest = max((float(record["seconds"]) for record in records), default=0.0) or 1.0
        rows = [
            {
                "name": record[name],
                "seconds": f"{float(record['seconds']):,.1f}",
                "share": round(100 * float(record["seconds"]) / longest, 1),
                "memory": _mebibytes(record.get("peak_memory_mib")),
                "gpu": _mebibytes(record.get("peak_gpu_memory_mib")),
            }
            for record in records
        ]
        if rows:
            groups.append((title, rows))
    return groups


def _mebibytes(value: Any) -> str:
    return f"{float(value):,.0f}" if isinstance(value, int | float) else MISSING


def about(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the run was made with: everything in the manifest but times, outputs and the profile's own words."""
    told = {
        key: value
        for key, value in manifest.items()
        if key not in ("schema", "sections", "stages", "outputs", "packages", "profile")
    }
    if told.get("commit"):
        told["commit"] += " with uncommitted changes" if told.pop("uncommitted_changes", False) else ""
    packages = {name: version for name, version in manifest.get("packages", {}).items() if version}
    return {"told": _in_words(told), "packages": packages, "profile": _in_words(manifest.get("profile", {}))}


def _in_words(value: Any) -> Any:
    """Nested values as a reader sees them: keys in words, bytes as GiB, nothing as a dash."""
    if isinstance(value, Mapping):
        found = {}
        for key, item in value.items():
            name = str(key)
            if name.endswith("_bytes") and isinstance(item, int):
                name, item = name.removesuffix("_bytes"), f"{item / 2**30:.1f} GiB"
            words = name.replace("_", " ") if name.isidentifier() else name
            found[words[:1].upper() + words[1:] if name.isidentifier() else words] = _in_words(item)
        return found
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_in_words(item) for item in value] if value else "none"
    if value is None or value == {}:
        return MISSING
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


_COLOURS = 256  # of an embedded picture; the file beside it has all
_WIDEST = 1200  # pixels


@dataclass(frozen=True)
class Table:
    """A table of texts: headings, for each column whether it is set to the right, rows."""

    headings: list[str]
    right: list[bool]
    rows: list[list[str]]


def _cells(line: str) -> list[str]:
    """Cells of a line of a Markdown table, as `crane_study.publish.escape_markdown` made them."""
    cells = re.findall(r"((?:\\.|[^\\|])*)\|", line.strip().removeprefix("|"))
    return [re.sub(r"\\(.)", r"\1", cell.strip()).replace("&lt;", "<") for cell in cells]


def read_markdown(path: Path) -> Table:
    """The table in a file that `crane_study.publish.write_table` wrote.

    Raises
    ------
    CraneError : the file holds no such table
    """
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    if len(lines) < 2:
        raise CraneError(f"{path}: holds no table; run the section that makes it again")
    headings, marks, *rows = (_cells(line) for line in lines)
    return Table(headings, [mark.endswith(":") and not mark.startswith(":") for mark in marks], rows)


@dataclass(frozen=True)
class Picture:
    """A picture as it stands in a page."""

    source: str  # a data: address
    width: int
    height: int


def embed(path: Path) -> Picture:
    """A PNG with few colours, as WebP without further loss, in an address that holds it whole.

    Raises
    ------
    CraneError : the file is no picture
    """
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except OSError as error:
        raise CraneError(f"{path}: cannot be read as a picture; delete it and run its section again") from error
    if picture.width > _WIDEST:
        size = (_WIDEST, round(picture.height * _WIDEST / picture.width))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    few = picture.quantize(_COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")
    stream = io.BytesIO()
    few.save(stream, format="WEBP", lossless=True, quality=80, method=4)
    address = f"data:image/webp;base64,{b64encode(stream.getvalue()).decode('ascii')}"
    return Picture(address, picture.width, picture.height)


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
    flags = [number in right for number in range(frame.shape[1])]
    return TableText(list(frame.columns), flags, frame.to_numpy().tolist()).markdown()


def _markdown_overview(verdicts: Claims) -> list[str]:
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


def _markdown_claims(verdicts: Claims) -> list[str]:
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


def _markdown_sections(run: Finished) -> list[str]:
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
        parts += [*_markdown_overview(run.verdicts), *_markdown_claims(run.verdicts)]
    parts += _markdown_sections(run)
    parts += _over_seeds(run.folder)
    parts += ["## Not run", "\n".join(f"- {line}" for line in run.missing()) or "Everything was run."]
    parts += [*_times(run.manifest), *_made_with(run.manifest)]
    if run.rehearsal:
        parts = [f"{part} (REHEARSAL)" if part.startswith("## ") else part for part in parts]
    write_text(run.folder / "report.md", "\n\n".join(parts) + "\n")


NAME = "report.html"
_TEMPLATES = Path(__file__).parent / "templates"
_OPEN_ROWS = 25  # of a table; a longer one is folded up
_MOST_ROWS = 400  # a longer one stands in its file only
_CLASSES = {REPRODUCED: "good", NOT_REPRODUCED: "bad", NOT_RUN: "none"}
_MARKS = {REPRODUCED: "✓", NOT_REPRODUCED: "✗", NOT_RUN: "○"}
_REPORTS = ("report.md", NAME)  # written after the hashes that they would have to hold


def write_html(folder: Path) -> None:
    """Write ``report.html`` into a run's folder, from the files that lie there; what is missing is said.

    Raises
    ------
    CraneError : a file is there but cannot be read
    """
    run = Finished.read(Path(folder))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(code=_code, cell=_cell)
    style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    page = environment.get_template("report.html.jinja").render(
        run=run,
        description=sentence(run.manifest.get("profile", {}).get("description") or ""),
        rehearsed=REHEARSED,
        style=Markup(style),
        style_hash=digest,
        verdicts=run.verdicts,
        summary=_summary(run.verdicts or []),
        overview=_overview(run.verdicts or []),
        claims=_claims(run),
        sections=_sections(run),
        seeds=_seeds(run.folder),
        missing=run.missing(),
        times=times(run.manifest),
        about=about(run.manifest),
        hashes={name: value for name, value in run.manifest.get("outputs", {}).items() if name not in _REPORTS},
    )
    write_text(run.folder / NAME, page)


def _code(text: str) -> Markup:
    """Text in which what stands between backticks is set as code."""
    parts = [escape(part) for part in str(text).split("`")]
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else part for number, part in enumerate(parts)
    )


def _cell(text: str) -> Markup:
    """A verdict with its mark and colour; any other text with its numbers and their % kept together."""
    if text not in _CLASSES:
        return escape(text.replace(" %", "\N{NO-BREAK SPACE}%"))
    return Markup('<span class="verdict {}"><span aria-hidden="true">{} </span>{}</span>').format(
        _CLASSES[text], _MARKS[text], text
    )


def _summary(verdicts: Claims) -> list[str]:
    """A sentence a set: how many claims hold by every measure."""
    lines = []
    words = {
        REPRODUCED: "reproduced",
        "part": "reproduced by some measures only",
        NOT_REPRODUCED: "not reproduced",
        NOT_RUN: "not run",
    }
    for method, budget in dict.fromkeys((item["method"], item["budget"]) for item in verdicts):
        cases: dict[str, set[str]] = {}
        for item in verdicts:
            if (item["method"], item["budget"]) == (method, budget):
                cases.setdefault(item["id"], set()).add(item["verdict"])
        counts = Counter(_together(found) for found in cases.values())
        told = ", ".join(f"{counts[kind]} {text}" for kind, text in words.items() if counts[kind])
        lines.append(f"{method_label(method, budget)}: of {len(cases)} claims {told}.")
    return lines


def _together(verdicts: set[str]) -> str:
    """One word for a claim's verdicts by several measures."""
    if len(verdicts) == 1:
        return next(iter(verdicts))
    return "part" if REPRODUCED in verdicts else NOT_REPRODUCED


def _overview(verdicts: Claims) -> dict[str, Any]:
    """Verdicts at a glance: sets with the number of their measures, measures, a row of verdicts a claim."""
    cases = dict.fromkeys((item["method"], item["budget"], item["measure"]) for item in verdicts if item["measure"])
    sets = Counter(method_label(method, budget) for method, budget, _measure in cases)
    published = {item["id"]: HOLDS[item["verdict"]] for item in judge_published()}
    rows = [
        (claim, statement, [found or MISSING for found in rest], published.get(claim, MISSING))
        for claim, statement, *rest in verdict_table(verdicts).itertuples(index=False, name=None)
    ]
    return {"sets": sets, "measures": [METRIC_LABELS.get(measure, measure) for *_, measure in cases], "rows": rows}


def _claims(run: Finished) -> list[dict[str, Any]]:
    """Every claim with its rule, its numbers and the sentences made of them."""
    verdicts, evidence, claims = run.verdicts or [], Evidence(run.folder), []
    published = {item["id"]: item for item in judge_published()}
    for claim in dict.fromkeys(item["id"] for item in verdicts):
        cases = [item for item in verdicts if item["id"] == claim]
        sentences = [
            (
                method_label(item["method"], item["budget"])
                + (f", {str(METRIC_LABELS.get(item['measure'], item['measure'])).lower()}" if item["measure"] else ""),
                item["verdict"],
                sentence(item["detail"]),
            )
            for item in cases
        ]
        stated = published[claim]
        claims.append(
            {
                **{name: cases[0][name] for name in ("id", "title", "place", "rule", "reads")},
                "verdicts": Counter(item["verdict"] for item in cases),
                "tolerance": tolerance(claim),
                "columns": COLUMNS,
                "cases": [
                    (name, verdict, evidence.rows(case))
                    for (name, verdict, _detail), case in zip(sentences, cases, strict=True)
                ],
                "sentences": sentences,
                "published": f"{HOLDS[stated['verdict']]} in the published numbers. {sentence(stated['detail'])}",
            }
        )
    return claims


def _sections(run: Finished) -> list[dict[str, Any]]:
    """Every section with its tables and figures."""
    found = []
    for number, record in run.sections().items():
        notebook = f"notebooks/{record['section']}.ipynb" if record else ""
        failed = record.get("status", "done") != "done"
        names = [] if failed else run.outputs(number)
        found.append(
            {
                "number": number,
                "title": record.get("title", f"Section {number}"),
                "error": record.get("error") if failed else None,
                "command": run.command(number),
                "notebook": notebook if notebook and (run.folder / notebook).is_file() else "",
                "outputs": [_output(run.folder, name, run.captions[name]) for name in names],
            }
        )
    return found


def _output(folder: Path, name: str, caption: str) -> dict[str, Any]:
    """One table or figure, with links to its files."""
    is_table = name.partition("/")[0].endswith("tables") or "/tables/" in name
    endings = {"CSV": ".csv", "Markdown": ".md", "LaTeX": ".tex"} if is_table else {"PNG": ".png", "PDF": ".pdf"}
    endings |= {} if is_table else {"HTML": ".html", "Text": ".txt"}
    told: dict[str, Any] = {
        "id": name.replace("/", "-"),
        "name": name,
        "caption": caption,
        "links": [(label, name + end) for label, end in endings.items() if (folder / f"{name}{end}").is_file()],
        "table": None,
        "picture": None,
    }
    if is_table:
        table = read_markdown(folder / f"{name}.md")
        return {
            **told,
            "table": table,
            "folded": len(table.rows) > _OPEN_ROWS,
            "left_out": len(table.rows) > _MOST_ROWS,
        }
    text = folder / f"{name}.txt"
    words = text.read_text(encoding="utf-8") if text.is_file() else ""
    return {**told, "picture": embed(folder / f"{name}.png"), "alt": first_sentence(caption), "words": _panels(words)}


def _panels(text: str) -> list[tuple[str, list[str]]]:
    """A description by panel: its heading and its lines."""
    panels: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("  ") and panels:
            panels[-1][1].append(line.strip())
        else:
            panels.append((line.strip(), []))
    return panels


def _seeds(folder: Path) -> dict[str, Any] | None:
    """The summary over model seeds, where one was made of the results that are here now."""
    output = folder / "seeds"
    if not (output / RECORD).is_file():
        return None
    if not is_current(folder, output):
        return {"text": "The summary in seeds/ was made of earlier results; run with --seeds again.", "outputs": []}
    captions = read_json(output / RECORD)["captions"]
    outputs = [_output(folder, f"seeds/{name}", caption) for name, caption in captions.items()]
    return {"text": seeds_sentence(output), "outputs": outputs}
