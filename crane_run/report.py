"""report.md and report.html of a run: one context, built once from the run's files, and two templates.

The HTML report is one file that requests nothing else, for a reader with a browser and for one on paper.
"""

from __future__ import annotations

import hashlib
import io
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape
from PIL import Image

from crane_lib.errors import CraneError
from crane_lib.files import read_json, sha256, write_text
from crane_run.evidence import HEADINGS, Evidence, Quantity, tolerance
from crane_run.manifest import HTML_REPORT, MARKDOWN_REPORT, REPORTS
from crane_run.manifest import NAME as MANIFEST
from crane_run.sections import absent_sections
from crane_study.labels import METRIC_LABELS, first_sentence, method_label
from crane_study.paper.claims import (
    NOT_REPRODUCED,
    NOT_RUN,
    REPRODUCED,
    load_rules,
    not_run,
    read_claims,
    verdict_table,
)
from crane_study.paper.published import judge_published
from crane_study.profile import REHEARSAL_SUFFIX
from crane_study.publish import CAPTIONS, MISSING, TableText, escape_markdown, read_not_run, read_table

SEEDS = "seeds"  # folder of the summary over model seeds
SEEDS_RECORD = "seeds.json"
# A claim is reproduced by this study or not; in the published numbers it holds or does not.
HOLDS = {REPRODUCED: "holds", NOT_REPRODUCED: "does not hold", NOT_RUN: "cannot be judged"}
Verdicts = Sequence[Mapping[str, Any]]

_TEMPLATES = Path(__file__).parent / "templates"
_CLASSES = {REPRODUCED: "good", NOT_REPRODUCED: "bad", NOT_RUN: "none"}
_MARKS = {REPRODUCED: "✓", NOT_REPRODUCED: "✗", NOT_RUN: "○"}
_PICTURE_COLOURS = 256  # of an embedded picture; the file beside the report has all
_WIDEST_PICTURE = 1200  # pixels
_TABLE_LINKS = {"CSV": ".csv", "Markdown": ".md", "LaTeX": ".tex"}
_FIGURE_LINKS = {"PNG": ".png", "PDF": ".pdf", "HTML": ".html", "Text": ".txt"}


@dataclass(frozen=True)
class Picture:
    """A picture embedded in a page; `source` is a data: address."""

    source: str
    width: int
    height: int


@dataclass(frozen=True)
class Output:
    """A table or figure of a run; `name` is the path of its files without suffix, relative to `folder`."""

    folder: Path
    name: str
    caption: str

    @property
    def is_table(self) -> bool:
        """Return whether it is a table."""
        return Path(self.name).parent.name == "tables"

    @property
    def exists(self) -> bool:
        """Return whether its main file is there."""
        return self.path(".csv" if self.is_table else ".png").is_file()

    def path(self, suffix: str) -> Path:
        """One of its files."""
        return self.folder / f"{self.name}{suffix}"

    @property
    def links(self) -> list[tuple[str, str]]:
        """Label and relative address of each of its files."""
        endings = _TABLE_LINKS if self.is_table else _FIGURE_LINKS
        return [(label, self.name + end) for label, end in endings.items() if self.path(end).is_file()]

    @cached_property
    def table(self) -> TableText:
        """Its cells, if it is a table."""
        return read_table(self.path(""))

    @cached_property
    def picture(self) -> Picture:
        """Its picture with few colours, embedded as WebP, if it is a figure."""
        return embed(self.path(".png"))

    @property
    def alt(self) -> str:
        """Alt text of the picture."""
        return first_sentence(self.caption)

    @property
    def description(self) -> str:
        """Contents of the figure in words; empty where there is no such file."""
        path = self.path(".txt")
        return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


@dataclass(frozen=True)
class SectionReport:
    """A section with its tables and figures; `notebook` is the address of its executed notebook, if it is there."""

    number: str
    title: str
    command: str
    error: str
    notebook: str
    outputs: list[Output]


@dataclass(frozen=True)
class ClaimCase:
    """A verdict for one set and measure, with its sentence and the numbers behind it."""

    name: str
    verdict: str
    detail: str
    rows: list[Quantity]


@dataclass(frozen=True)
class ClaimReport:
    """A claim with its verdicts; `words` are title, place, rule and reads."""

    id: str
    words: Mapping[str, str]
    tolerance: str
    cases: list[ClaimCase]
    published: str

    @property
    def counts(self) -> Counter[str]:
        """Number of cases per verdict."""
        return Counter(case.verdict for case in self.cases)


@dataclass(frozen=True)
class Overview:
    """All verdicts in one table: columns are pairs of set and measure; one row per claim."""

    columns: list[tuple[str, str]]
    rows: list[tuple[str, str, list[str], str]]  # claim, statement, verdicts, whether it holds as published
    summary: list[str]  # one sentence per set

    @property
    def sets(self) -> Counter[str]:
        """Number of columns of each set."""
        return Counter(label for label, _ in self.columns)


@dataclass(frozen=True)
class SeedsReport:
    """Summary over model seeds; without outputs where it was made of earlier results."""

    text: str
    outputs: list[Output]


@dataclass(frozen=True)
class ReportContext:
    """Everything that the reports of a run say; both templates read it and nothing else.

    `overview` is None where no claim was judged.
    """

    profile: str
    description: str
    rehearsal: bool
    manifest: Mapping[str, Any]
    overview: Overview | None
    claims: list[ClaimReport]
    sections: list[SectionReport]
    seeds: SeedsReport | None
    missing: list[str]

    @property
    def mark(self) -> str:
        """Addition to every heading of a rehearsal's report."""
        return " (REHEARSAL)" if self.rehearsal else ""

    @classmethod
    def read(cls, folder: Path, manifest: Mapping[str, Any] | None = None) -> ReportContext:
        """Build the context from a run's folder; missing files are reported, not refused.

        Parameters
        ----------
        manifest : content of the run's manifest; read from the folder if None

        Raises
        ------
        CraneError : a file is there but cannot be read
        """
        manifest = _read_object(folder / MANIFEST) if manifest is None else manifest
        settings = manifest.get("profile", {})
        profile, rehearsal = str(settings.get("name") or folder.name), bool(settings.get("rehearsal"))
        shown = profile.removesuffix(REHEARSAL_SUFFIX) + " --rehearse" if rehearsal else profile
        command = f"./run_all.sh --profile {shown} --only "
        claims = folder / "claims.json"
        verdicts = read_claims(claims) if claims.is_file() else None
        return cls(
            profile=profile,
            description=sentence(settings.get("description") or ""),
            rehearsal=rehearsal,
            manifest=manifest,
            overview=None if verdicts is None else _overview(verdicts),
            claims=_claims(folder, verdicts or []),
            sections=_sections(folder, manifest, command),
            seeds=_seeds(folder),
            missing=_missing(folder, manifest, verdicts, command),
        )

    @property
    def times(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """Seconds and peak memory of sections and stages, each with its share of the longest of its kind."""
        groups = []
        for title, key, name in (("Sections", "sections", "section"), ("Stages", "stages", "name")):
            records = self.manifest.get(key, [])
            longest = max((float(record["seconds"]) for record in records), default=0.0) or 1.0
            rows = [
                {
                    "name": record[name],
                    "seconds": float(record["seconds"]),
                    "share": round(100 * float(record["seconds"]) / longest, 1),
                    "memory": _mebibytes(record.get("peak_memory_mib")),
                    "gpu": _mebibytes(record.get("peak_gpu_memory_mib")),
                }
                for record in records
            ]
            groups += [(title, rows)] if rows else []
        return groups

    @property
    def packages(self) -> dict[str, str]:
        """Version of each installed package."""
        return {name: version for name, version in self.manifest.get("packages", {}).items() if version}

    @property
    def made_with(self) -> dict[str, Any]:
        """Everything in the manifest except times, outputs, packages and the profile."""
        left_out = ("schema", "sections", "stages", "outputs", "packages", "profile")
        told = {key: value for key, value in self.manifest.items() if key not in left_out}
        if told.get("commit"):
            told["commit"] += " with uncommitted changes" if told.pop("uncommitted_changes", False) else ""
        return told

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of every output except the reports, which cannot hold their own."""
        return {name: value for name, value in self.manifest.get("outputs", {}).items() if name not in REPORTS}


def write_reports(folder: Path, manifest: Mapping[str, Any] | None = None) -> None:
    """Write ``report.md`` and ``report.html`` into a run's folder.

    Parameters
    ----------
    manifest : content of the run's manifest; read from the folder if None

    Raises
    ------
    CraneError : a file is there but cannot be read
    """
    context = ReportContext.read(folder, manifest)
    write_text(folder / MARKDOWN_REPORT, _template("report.md.jinja").render(run=context).strip() + "\n")
    style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    page = _template("report.html.jinja").render(run=context, headings=HEADINGS, style=Markup(style), style_hash=digest)
    write_text(folder / HTML_REPORT, page)


def write_seeds_report(folder: Path) -> Path:
    """Write ``report.md`` into the folder of a summary over model seeds; returns its path."""
    seeds = _read_seeds(folder, "")
    macros: Any = _template("report.md.jinja").module
    write_text(folder / MARKDOWN_REPORT, f"# CRANE: summary over model seeds\n{macros.seeds_part(seeds)}\n")
    return folder / MARKDOWN_REPORT


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=lambda template: str(template).startswith("report.html"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(code=_code, cell=_cell, words=_in_words, md=escape_markdown, pipes=_pipes)
    return environment.get_template(name)


def _pipes(rows: list[list[str]], headings: list[str]) -> str:
    """Rows of texts as a Markdown table."""
    return TableText(headings, [False] * len(headings), rows).markdown().rstrip()


def _code(text: str) -> Markup:
    """Text in which everything between backticks is set as code."""
    parts = [escape(part) for part in str(text).split("`")]
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else part for number, part in enumerate(parts)
    )


def _cell(text: str) -> Markup:
    """A verdict with its mark and colour; any other text with its numbers and their % kept on one line."""
    if text not in _CLASSES:
        return escape(text.replace(" %", "\N{NO-BREAK SPACE}%"))
    return Markup('<span class="verdict {}"><span aria-hidden="true">{} </span>{}</span>').format(
        _CLASSES[text], _MARKS[text], text
    )


def _in_words(value: Any) -> Any:
    """Nested values for a reader: keys in words, bytes as GiB, a dash for what is missing."""
    if isinstance(value, Mapping) and value:
        found = {}
        for key, item in value.items():
            name = str(key)
            if name.endswith("_bytes") and isinstance(item, int):
                name, item = name.removesuffix("_bytes"), f"{item / 2**30:.1f} GiB"
            found[sentence(name.replace("_", " "), stop="") if name.isidentifier() else name] = _in_words(item)
        return found
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_in_words(item) for item in value] or "none"
    if value is None or value == {}:
        return MISSING
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def embed(path: Path) -> Picture:
    """Embed a PNG file, reduced to few colours, as WebP without further loss.

    Raises
    ------
    CraneError : the file is not a picture
    """
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except OSError as error:
        raise CraneError(f"{path}: cannot be read as a picture; delete it and run its section again") from error
    if picture.width > _WIDEST_PICTURE:
        size = (_WIDEST_PICTURE, round(picture.height * _WIDEST_PICTURE / picture.width))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    few = picture.quantize(_PICTURE_COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")
    stream = io.BytesIO()
    few.save(stream, format="WEBP", lossless=True, quality=80, method=4)
    address = f"data:image/webp;base64,{b64encode(stream.getvalue()).decode('ascii')}"
    return Picture(address, picture.width, picture.height)


def sentence(text: str, *, stop: str = ".") -> str:
    """Text with a capital first letter and a full stop; an empty text stays empty."""
    return text[:1].upper() + text[1:] + ("" if not text or text.endswith(".") else stop)


def _mebibytes(value: Any) -> str:
    return f"{float(value):,.0f}" if isinstance(value, int | float) else MISSING


def _read_object(path: Path) -> dict[str, Any]:
    """Object in a JSON file, empty if there is no such file."""
    value = read_json(path) if path.is_file() else {}
    if not isinstance(value, dict):
        raise CraneError(f"{path}: expected an object, saw {type(value).__name__}; delete it and run again")
    return value


def _case_name(item: Mapping[str, Any]) -> str:
    """Set and measure of a verdict."""
    measure = str(METRIC_LABELS.get(item["measure"], item["measure"])).lower()
    return method_label(item["method"], item["budget"]) + (f", {measure}" if measure else "")


def _overview(verdicts: Verdicts) -> Overview:
    """All verdicts in one table, with a sentence per set on how many claims hold by every measure."""
    sets: dict[str, dict[str, set[str]]] = {}  # set -> claim -> its verdicts
    columns: dict[tuple[str, str], None] = {}
    for item in verdicts:
        label = method_label(item["method"], item["budget"])
        sets.setdefault(label, {}).setdefault(item["id"], set()).add(item["verdict"])
        if item["measure"]:
            columns[label, str(METRIC_LABELS.get(item["measure"], item["measure"]))] = None
    published = {item["id"]: HOLDS[item["verdict"]] for item in judge_published()}
    words = {
        REPRODUCED: "reproduced",
        "part": "reproduced by some measures only",
        NOT_REPRODUCED: "not reproduced",
        NOT_RUN: "not run",
    }
    summary = []
    for label, cases in sets.items():
        counts = Counter(_over_measures(found) for found in cases.values())
        told = ", ".join(f"{counts[kind]} {text}" for kind, text in words.items() if counts[kind])
        summary.append(f"{label}: of {len(cases)} claims {told}.")
    rows = [
        (claim, statement, [found or MISSING for found in rest], published.get(claim, MISSING))
        for claim, statement, *rest in verdict_table(verdicts).itertuples(index=False, name=None)
    ]
    return Overview(list(columns), rows, summary)


def _over_measures(verdicts: set[str]) -> str:
    """One word for a claim's verdicts by several measures."""
    if len(verdicts) == 1:
        return next(iter(verdicts))
    return "part" if REPRODUCED in verdicts else NOT_REPRODUCED


def _claims(folder: Path, verdicts: Verdicts) -> list[ClaimReport]:
    """Every claim with its rule, its numbers and the sentences made of them."""
    evidence, published = Evidence(folder), {item["id"]: item for item in judge_published()}
    claims = []
    for claim in dict.fromkeys(item["id"] for item in verdicts):
        items = [item for item in verdicts if item["id"] == claim]
        stated = published[claim]
        claims.append(
            ClaimReport(
                claim,
                {name: items[0][name] for name in ("title", "place", "rule", "reads")},
                tolerance(claim),
                [
                    ClaimCase(_case_name(item), item["verdict"], sentence(item["detail"]), evidence.rows(item))
                    for item in items
                ],
                f"{HOLDS[stated['verdict']]} in the published numbers. {sentence(stated['detail'])}",
            )
        )
    return claims


def _sections(folder: Path, manifest: Mapping[str, Any], command: str) -> list[SectionReport]:
    """Every section that ran or left a table or figure; tables first, each kind by name."""
    outputs = [Output(folder, name, caption) for name, caption in _read_object(folder / CAPTIONS).items()]
    outputs = sorted((one for one in outputs if one.exists), key=lambda one: (not one.is_table, one.name))
    records = {record["section"][:2]: record for record in manifest.get("sections", [])}
    sections = []
    for number in sorted({*records, *(Path(one.name).name[:2] for one in outputs)}):
        record = records.get(number, {})
        notebook = f"notebooks/{record.get('section')}.ipynb"
        failed = record.get("status", "done") != "done"
        sections.append(
            SectionReport(
                number,
                record.get("title", f"Section {number}"),
                command + number,
                str(record.get("error")) if failed else "",
                notebook if (folder / notebook).is_file() else "",
                [] if failed else [one for one in outputs if Path(one.name).name.startswith(f"{number}_")],
            )
        )
    return sections


def _seeds(folder: Path) -> SeedsReport | None:
    """Summary over model seeds, where one was made of the results that are here now."""
    output = folder / SEEDS
    if not (output / SEEDS_RECORD).is_file():
        return None
    made_of = next(iter(read_json(output / SEEDS_RECORD)["seeds"].values()))
    if any(not (folder / name).is_file() or sha256(folder / name) != digest for name, digest in made_of.items()):
        return SeedsReport("The summary in `seeds/` was made of earlier results; run with --seeds again.", [])
    return _read_seeds(folder, f"{SEEDS}/")


def _read_seeds(folder: Path, prefix: str) -> SeedsReport:
    """Summary over model seeds; `prefix` is the path of its files relative to `folder`."""
    record = read_json(folder / prefix / SEEDS_RECORD)
    text = (
        f"The whole study with random seeds {', '.join(record['seeds'])}: the facts and questions drawn, the wordings "
        "held out, the initial weights, the order of training and the random sets all change with the seed. The "
        "t-intervals show how precisely the mean over such studies is known; they rest on few seeds and assume a "
        "normal distribution."
    )
    return SeedsReport(text, [Output(folder, prefix + name, told) for name, told in record["captions"].items()])


def _missing(folder: Path, manifest: Mapping[str, Any], verdicts: Verdicts | None, command: str) -> list[str]:
    """One sentence for everything that was not run, with the reason."""
    records = manifest.get("sections", [])
    lines = [
        f"Section {record['section']}: {record.get('error') or 'not done'}"
        for record in records
        if record.get("status") != "done"
    ]
    lines += [
        f"Section {section.name}: was never run; `{command}{section.number}` runs it."
        for section in absent_sections(record["section"] for record in records)
    ]
    lines += [
        f"Section {number}, {what}: {reason}."
        for number, entries in read_not_run(folder).items()
        for what, reason in entries.items()
    ]
    lines += ["No claim was judged: the section on the claims has not run."] if verdicts is None else not_run(verdicts)
    return lines + [f"{text} (no section of this study does it)." for text in load_rules().get("not_covered", [])]
