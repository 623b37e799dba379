"""report.html: one page that needs nothing else, for a reader with a browser and for one on paper."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from crane_lib.files import read_json, write_text
from crane_lib.output.claims import verdict_table
from crane_lib.output.description import first_sentence
from crane_lib.output.evidence import COLUMNS, Evidence, tolerance
from crane_lib.output.finished import Claims, Finished, sentence
from crane_lib.output.html_about import about, times
from crane_lib.output.html_parts import embed, read_markdown
from crane_lib.output.judging import NOT_REPRODUCED, NOT_RUN, REPRODUCED
from crane_lib.output.published import judge_published
from crane_lib.output.report import HOLDS, REHEARSED
from crane_lib.output.seeds import RECORD, is_current, seeds_sentence
from crane_lib.output.style import METRIC_LABELS, method_label
from crane_lib.output.writing import MISSING

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
