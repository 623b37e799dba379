"""report.md and report.html of a run: one context, built once from the run's files, and two templates.

The HTML report is one file that requests nothing else, for a reader with a browser and for one on paper.
"""

from __future__ import annotations

import hashlib
import io
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape
from PIL import Image

from crane_lib.errors import CraneError
from crane_lib.files import read_json, sha256, write_text
from crane_run.evidence import HEADINGS, Evidence, tolerance
from crane_run.manifest import HTML_REPORT, MARKDOWN_REPORT, REPORTS, SEEDS
from crane_run.manifest import NAME as MANIFEST
from crane_run.sections import absent_sections
from crane_study.labels import first_sentence, method_label, name_languages
from crane_study.paper.claims import NOT_APPLICABLE, NOT_REPRODUCED, NOT_RUN, REPRODUCED, UNDECIDED, load_rules
from crane_study.paper.published import judge_published
from crane_study.paper.verdicts import case_label, not_run, read_claims, verdict_table
from crane_study.profile import REHEARSAL_SUFFIX
from crane_study.publish import CAPTIONS, MISSING, TableText, escape_markdown, read_not_run, read_object, read_table

SEEDS_RECORD = "seeds.json"
# A claim is reproduced by this study or not; in the published numbers it holds or does not.
HOLDS = {REPRODUCED: "holds", NOT_REPRODUCED: "does not hold", UNDECIDED: "is undecided"}
HOLDS |= {NOT_APPLICABLE: "does not apply", NOT_RUN: "cannot be judged"}
Verdicts = Sequence[Mapping[str, Any]]

_TEMPLATES = Path(__file__).parent / "templates"
_MARKS = {REPRODUCED: ("good", "✓"), NOT_REPRODUCED: ("bad", "✗"), UNDECIDED: ("none", "?")}  # class and sign
_MARKS |= {NOT_APPLICABLE: ("none", "–"), NOT_RUN: ("none", "○")}
_SOME = "some"
_SUMMARY = {
    REPRODUCED: "reproduced",
    _SOME: "reproduced by some measures only",
    NOT_REPRODUCED: "not reproduced",
    UNDECIDED: "undecided",
    NOT_APPLICABLE: "not applicable",
    NOT_RUN: "not run",
}
_PICTURE_COLOURS = 256  # of an embedded picture; the file beside the report has all
_WIDEST_PICTURE = 1200  # pixels
_TABLE_LINKS = {"CSV": ".csv", "Markdown": ".md", "LaTeX": ".tex"}
_FIGURE_LINKS = {"PNG": ".png", "PDF": ".pdf", "HTML": ".html", "Text": ".txt"}
_NOT_MADE_WITH = ("schema", "sections", "stages", "outputs", "packages", "profile")  # parts of a manifest


def report_context(folder: Path, manifest: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Everything that both templates read, from a run's folder; missing files are reported, not refused."""
    manifest = read_object(folder / MANIFEST) if manifest is None else manifest
    settings = manifest.get("profile", {})
    name_languages(settings.get("languages") or {})
    profile, rehearsal = str(settings.get("name") or folder.name), bool(settings.get("rehearsal"))
    shown = profile.removesuffix(REHEARSAL_SUFFIX) + " --rehearse" if rehearsal else profile
    command = f"./run_all.sh --profile {shown} --only "
    claims = folder / "claims.json"
    verdicts = read_claims(claims) if claims.is_file() else None
    made_with = {key: value for key, value in manifest.items() if key not in _NOT_MADE_WITH}
    if made_with.get("commit"):
        made_with["commit"] += " with uncommitted changes" if made_with.pop("uncommitted_changes", False) else ""
    return {
        "profile": profile,
        "description": sentence(settings.get("description") or ""),
        "models": _models(manifest.get("models", {})),
        "rehearsal": rehearsal,
        "mark": " (REHEARSAL)" if rehearsal else "",  # of every heading
        "manifest": manifest,
        "overview": None if verdicts is None else _overview(verdicts),
        "claims": _claims(folder, verdicts or []),
        "sections": _sections(folder, manifest, command),
        "seeds": _seeds(folder, f"{SEEDS}/"),
        "missing": _missing(folder, manifest, verdicts, command),
        "times": _times(manifest),
        "packages": {name: version for name, version in manifest.get("packages", {}).items() if version},
        "made_with": made_with,
        # The reports cannot hold their own hashes.
        "hashes": {name: value for name, value in manifest.get("outputs", {}).items() if name not in REPORTS},
    }


def _models(models: Mapping[str, Mapping[str, Any]]) -> str:
    """Say where the models come from; empty if nothing is known of them."""
    origins = {}
    for name, origin in models.items():
        keys = ("checkpoint", "precision", "id", "path", "package")
        place = next((str(origin[key]) for key in keys if origin.get(key)), "")
        words = f"{origin['kind']} in {place}" if origin["kind"] == "trained here" and place else origin["kind"]
        origins[name] = words if place in words else f"{words} {place}"
    if not origins:
        return ""
    different = set(origins.values())
    return different.pop() if len(different) == 1 else "; ".join(f"{name}: {words}" for name, words in origins.items())


def write_reports(folder: Path, manifest: Mapping[str, Any] | None = None) -> None:
    """Write ``report.md`` and ``report.html`` into a run's folder; its manifest is read from there if None is given."""
    context = report_context(folder, manifest)
    write_text(folder / MARKDOWN_REPORT, _template("report.md.jinja").render(run=context).strip() + "\n")
    style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    page = _template("report.html.jinja").render(run=context, headings=HEADINGS, style=Markup(style), style_hash=digest)
    write_text(folder / HTML_REPORT, page)


def write_seeds_report(folder: Path) -> Path:
    """Write ``report.md`` into the folder of a summary over model seeds; returns its path."""
    macros: Any = _template("report.md.jinja").module
    text = macros.seeds_part(_seeds(folder, ""))
    write_text(folder / MARKDOWN_REPORT, f"# CRANE: summary over model seeds\n{text}\n")
    return folder / MARKDOWN_REPORT


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=lambda template: str(template).startswith("report.html"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        code=_code, cell=_cell, words=_in_words, md=escape_markdown, pipes=_pipes, embedded=embed
    )
    return environment.get_template(name)


def _pipes(rows: list[list[str]], headings: list[str]) -> str:
    """Rows of texts as a Markdown table."""
    return TableText(headings, [False] * len(headings), rows).markdown().rstrip()


def _code(text: str) -> Markup:
    """Text in which everything between backticks is set as code."""
    parts = [escape(part) for part in str(text).split("`")]
    parts[1::2] = [Markup("<code>{}</code>").format(part) for part in parts[1::2]]
    return Markup("").join(parts)


def _cell(text: str) -> Markup:
    """A verdict with its mark and colour; any other text with its numbers and their % kept on one line."""
    if text not in _MARKS:
        return escape(text.replace(" %", "\N{NO-BREAK SPACE}%"))
    return Markup('<span class="verdict {}"><span aria-hidden="true">{} </span>{}</span>').format(*_MARKS[text], text)


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


def embed(path: Path) -> tuple[str, int, int]:
    """Address (data:), width and height of a PNG file, reduced to few colours, as WebP without further loss."""
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
    return f"data:image/webp;base64,{b64encode(stream.getvalue()).decode('ascii')}", *picture.size


def sentence(text: str, *, stop: str = ".") -> str:
    """Text with a capital first letter and a full stop; an empty text stays empty."""
    return text[:1].upper() + text[1:] + ("" if not text or text.endswith(".") else stop)


def _output(folder: Path, name: str, caption: str) -> dict[str, Any]:
    """A table or figure; `name` is the path of its files without suffix, relative to the folder."""
    is_table, words = _is_table(name), folder / f"{name}.txt"
    endings = _TABLE_LINKS if is_table else _FIGURE_LINKS
    return {
        "name": name,
        "caption": caption,
        "links": [(label, name + end) for label, end in endings.items() if (folder / f"{name}{end}").is_file()],
        "table": read_table(folder / name) if is_table else None,
        "picture": folder / f"{name}.png",
        "alt": first_sentence(caption),
        "description": words.read_text(encoding="utf-8").strip() if words.is_file() else "",
    }


def _is_table(name: str) -> bool:
    return Path(name).parent.name == "tables"


def _overview(verdicts: Verdicts) -> dict[str, Any]:
    """All verdicts in one table with one row per claim, and a sentence per set on how many claims hold."""
    sets: dict[str, dict[str, set[str]]] = {}  # set -> claim -> its verdicts
    for item in verdicts:
        label = method_label(item["method"], item["budget"])
        sets.setdefault(label, {}).setdefault(item["id"], set()).add(item["verdict"])
    summary = []
    for label, seen in sets.items():
        cases = {claim: found - {NOT_APPLICABLE} or found for claim, found in seen.items()}
        kinds = {
            claim: _SOME if REPRODUCED in found else min(found, key=list(_MARKS).index)
            for claim, found in cases.items()
        }
        kinds |= {claim: min(found) for claim, found in cases.items() if len(found) == 1}
        counts = Counter(kinds.values())
        told = ", ".join(f"{counts[kind]} {text}" for kind, text in _SUMMARY.items() if counts[kind])
        summary.append(f"{label}: of {len(cases)} claims {told}.")
    published = {item["id"]: HOLDS[item["verdict"]] for item in judge_published()}
    table = verdict_table(verdicts)
    columns = [heading.rsplit(": ", 1) for heading in table.columns[2:]]
    rows = [
        (claim, statement, [found or MISSING for found in rest], published.get(claim, MISSING))
        for claim, statement, *rest in table.itertuples(index=False, name=None)
    ]
    return {"columns": columns, "sets": Counter(label for label, _ in columns), "rows": rows, "summary": summary}


def _claims(folder: Path, verdicts: Verdicts) -> list[dict[str, Any]]:
    """Every claim with its rule, its numbers and the sentences made of them."""
    evidence, claims = Evidence(folder), []
    for claim in dict.fromkeys(item["id"] for item in verdicts):
        items = [item for item in verdicts if item["id"] == claim]
        stated = evidence.published[claim]
        cases = [
            {
                "name": case_label(item, ", "),
                "verdict": item["verdict"],
                "detail": sentence(item["detail"]),
                "rows": evidence.rows(item),
            }
            for item in items
        ]
        claims.append(
            {
                **items[0],
                "tolerance": tolerance(claim),
                "cases": cases,
                "counts": Counter(item["verdict"] for item in items),
                "published": f"{HOLDS[stated['verdict']]} in the published numbers. {sentence(stated['detail'])}",
            }
        )
    return claims


def _sections(folder: Path, manifest: Mapping[str, Any], command: str) -> list[dict[str, Any]]:
    """Every section that ran or left a table or figure; tables first, each kind by name."""
    captions = {
        name: caption
        for name, caption in sorted(
            read_object(folder / CAPTIONS).items(), key=lambda one: (not _is_table(one[0]), one)
        )
        if (folder / f"{name}{'.csv' if _is_table(name) else '.png'}").is_file()
    }
    records = {record["section"][:2]: record for record in manifest.get("sections", [])}
    sections = []
    for number in sorted({*records, *(Path(name).name[:2] for name in captions)}):
        record = records.get(number, {})
        notebook = f"notebooks/{record.get('section')}.ipynb"
        failed = record.get("status", "done") != "done"
        made = [name for name in captions if not failed and Path(name).name.startswith(f"{number}_")]
        sections.append(
            {
                "number": number,
                "title": record.get("title", f"Section {number}"),
                "command": command + number,
                "error": str(record.get("error")) if failed else "",
                "notebook": notebook if (folder / notebook).is_file() else "",
                "outputs": [_output(folder, name, captions[name]) for name in made],
            }
        )
    return sections


def _seeds(folder: Path, prefix: str) -> dict[str, Any] | None:
    """Summary over model seeds; `prefix` is the path of its files relative to `folder`, empty within the summary."""
    if not (folder / prefix / SEEDS_RECORD).is_file():
        return None
    record = read_json(folder / prefix / SEEDS_RECORD)
    runs = {folder.with_name(f"{folder.name}-seed{seed}"): files for seed, files in record["seeds"].items()}
    kept = [(run / name, digest) for run, files in runs.items() for name, digest in files.items() if run.is_dir()]
    if prefix and any(not path.is_file() or sha256(path) != digest for path, digest in kept):
        return {"text": "The summary in `seeds/` was made of earlier results; run with --seeds again.", "outputs": []}
    text = (
        f"The study with random seeds {', '.join(record['seeds'])}, one model each: the facts and questions drawn, the "
        "wordings held out, the initial weights, the order of training and the random sets all change with the seed. "
        "The profile's own seed, with which its settings were chosen, is not among them. The t-intervals show how "
        "precisely the mean over such studies is known; they rest on few seeds and assume a normal distribution."
    )
    captions = record["captions"].items()
    return {"text": text, "outputs": [_output(folder, prefix + name, caption) for name, caption in captions]}


def _times(manifest: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Seconds and peak memory of sections and stages, each with its share of the longest of its kind."""
    groups = []
    for title, key, name in (("Sections", "sections", "section"), ("Stages", "stages", "name")):
        records = manifest.get(key, [])
        longest = max((record["seconds"] for record in records), default=0) or 1
        rows = [
            {
                "name": record[name],
                "seconds": record["seconds"],
                "share": round(100 * record["seconds"] / longest, 1),
                "memory": record.get("peak_memory_mib"),
                "gpu": record.get("peak_gpu_memory_mib"),
            }
            for record in records
        ]
        groups += [(title, rows)] if rows else []
    return groups


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
