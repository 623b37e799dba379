"""ARTIFACT-APPENDIX.md, made from claims, profiles, reference runs and the citation file.

    python -m tools.appendix write    # after a change of one of them
    python -m tools.appendix check    # as the tests do

Every number is read from a file, except the minutes of a person, which no file has: they are estimates.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import yaml

from crane_run.references import REFERENCES, Reference, read_reference
from crane_run.schedule import ON_ALL_THREADS, REST, Board, Row
from crane_run.sections import all_claims, all_sections, choose_sections
from crane_run.seeds import read_seeds_reference
from crane_study import ROOT
from crane_study.labels import budget_label
from crane_study.paper import read_rules
from crane_study.paper.claims import RULES
from crane_study.profile import Profile, load_profile, profile_names
from tools.readme import SEEDS, _interval, _table

PAGE = ROOT / "ARTIFACT-APPENDIX.md"
TEMPLATE = ROOT / "tools" / "appendix.md"
RUN = ("smoke", "mini", "gemma3-270m")  # profiles with reference runs
MODELS = ("base_model", "chat_model")
_METHODS = ("contrast", "penalized", "lape", "kurtosis", "random_global")  # of the table of expected results
_PEOPLE = {"smoke": 5, "mini": 10, "gemma3-270m": 10, "claim": 2, "verify": 2, "seeds": 5}  # minutes, estimated


@cache
def reference(profile: str) -> Reference:
    """The committed reference run of a profile."""
    return read_reference(REFERENCES / f"{profile}.json")


def parts(profile: Profile, sections: Iterable[Any], *, training: bool = False) -> dict[str, dict[str, float]]:
    """Expected seconds of the parts of sections, by section; stages before them count for the first that waits."""
    told, claimed, found = profile.expected_seconds, set[str](), {}
    declared = {section.number: section.declared.stages for section in all_sections()}
    chosen = {section.number: section for section in sections}
    for number, section in chosen.items():
        names = [name for one in (*sorted(section.after - set(chosen)), number) for name in declared[one]]
        names = [name for name in names if name in told and name not in claimed]
        claimed.update(names)
        found[number] = {REST: told[number]} | {n: told[n] for n in names if training or n not in MODELS}
    return found


def minutes(profile: str, sections: Iterable[Any]) -> str:
    """Expected time of sections on the machine of the reference run, from its start to its end."""
    chosen = list(sections)
    work = parts(load_profile(profile), chosen)
    rows = [Row(section.number, section.title, work=dict(work[section.number])) for section in chosen]
    jobs = max(reference(profile).made_with["jobs"])
    board = Board(rows, {section.number: section.after for section in chosen}, jobs)
    return _time(board.most + load_profile(profile).expected_seconds.get("report", 0.0))


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def core_hours(profile: str, *, training: bool = False) -> float:
    """Core-hours of a whole run: seconds of every part times the threads that it computes with."""
    about, loaded = reference(profile).made_with, load_profile(profile)
    most = max(about["threads"])
    share = max(1, most // max(about["jobs"]))
    every = parts(loaded, all_sections(), training=training)
    seconds = [(name, value) for section in every.values() for name, value in section.items()]
    return sum(value * (most if name in ON_ALL_THREADS else share) for name, value in seconds) / 3600


def _cells(row: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, row)) + " |"


def table(head: list[str], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown."""
    return "\n".join([_cells(head), "|" + "---|" * len(head), *map(_cells, rows)])


def needs() -> dict[str, list[str]]:
    """GPU, memory, disk and download of every profile, from the table of the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## What it needs")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {re.sub(r"`([^`]+)`.*", r"\1", row[0]): row[1:5] for row in rows[2:]}


def expected_verdicts(claim: str) -> str:
    """Verdicts of a claim in the reference runs, by profile, method, budget and measure."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for profile in RUN:
        for case, verdict in reference(profile).verdicts.items():
            name, method, budget, measure = case.split(" / ")
            if name == claim:
                kind = "published" if budget == "published" else "common"
                rows.setdefault((method, kind, measure), {})[profile] = verdict
    told = [
        [f"`{method}`", kind, measure, *(found.get(p, "") for p in RUN)]
        for (method, kind, measure), found in rows.items()
    ]
    return table(["set", "budget", "measure", *(f"`{profile}`" for profile in RUN)], told)


def expected_damage() -> str:
    """Main comparison in the reference runs: cost for the worst other language at 1 nat, for a few methods."""
    rows = []
    for method in _METHODS:
        row = [f"`{method}`"]
        for profile in RUN:
            summary = _summary(profile)
            here = summary[summary["method"] == method]
            row.append(_interval(here.iloc[0], 3, "worst") if len(here) else "not in this profile")
        rows.append(row)
    return table(["method", *(f"`{profile}`" for profile in RUN)], rows)


def _summary(profile: str) -> Any:
    found = _table(reference(profile), "06_matched_summary").astype({"damage": float, "worst": float})
    return found[found["damage"] == 1]


def claims() -> str:
    """Major claims with rules, experiments and expected verdicts."""
    rules: Mapping[str, Any] = {rule["id"]: rule for rule in read_rules(RULES)["claims"]}
    shown = []
    for number, (name, (title, _sections)) in enumerate(all_claims().items(), start=1):
        rule = rules[name]
        asked = " ".join(rule["rule"].split())
        shown.append(f"- **({name})** {title}. Experiment E3.{number}. In the paper: {rule['place']}. Rule: {asked}")
    return "\n".join(shown)


def experiment(number: str, title: str, how: list[str], text: str) -> str:
    """An experiment: its cost, its command and what is expected."""
    return f"#### ({number}) {title}\n[{how[0]} + {how[1]} + {how[2]}]\n\n```bash\n{how[3]}\n```\n\n{text}\n"


def experiments() -> str:
    """All experiments."""
    found, every = [], all_sections()
    for number, (name, text) in enumerate(
        {
            "smoke": "The same path with a model too small to know much: the report says that all sections are done.",
            "mini": "All claims on the embedded model. The verdicts are listed under E3, the main comparison under E4.",
        }.items(),
        start=1,
    ):
        command = f"./run_all.sh --profile {name}\ncrane verify artifacts/{name}"
        found.append(
            experiment(f"E{number}", f"Profile `{name}`, whole", [*_cost(name, minutes(name, every)), command], text)
        )
    for number, (claim, (title, _sections)) in enumerate(all_claims().items(), start=1):
        cost = [f"{_PEOPLE['claim']} human-minutes", f"{minutes('mini', _with_needs(claim))} by itself", _disk("mini")]
        text = "After E2 everything is reused. Expected verdicts, in the report and in `claims.json`:"
        text += f"\n\n{expected_verdicts(claim)}"
        found.append(experiment(f"E3.{number}", f"{claim}: {title}", [*cost, f"./run_all.sh --only {claim}"], text))
    text = (
        "Rise of the NLL of the other language that suffers most where the masked one has lost 1 nat per token, mean "
        "of the languages with 95 % interval over documents; a dash: not every language reaches the damage. Table "
        f"`06_matched_summary`; README.md has every method:\n\n{expected_damage()}"
    )
    cost = [f"{_PEOPLE['claim']} human-minutes", f"{minutes('mini', _with_needs('06'))} by itself", _disk("mini")]
    found.append(experiment("E4", "The main comparison", [*cost, "./run_all.sh --only 06"], text))
    command = "crane fetch gemma3-270m --accept-terms gemma\n./run_all.sh --profile gemma3-270m\n"
    command += "crane verify artifacts/gemma3-270m"
    text = "A published model: the columns `gemma3-270m` above. It needs XQuAD (README.md)."
    cost = _cost("gemma3-270m", minutes("gemma3-270m", every))
    found.append(experiment("E5", "A published model", [*cost, command], text))
    seeds = read_seeds_reference(REFERENCES / f"{SEEDS}.json").random_seeds
    command = f"./run_all.sh --seeds {len(seeds)} --only 03,06"
    hours = f"{len(seeds)} trainings and runs, {len(seeds) * core_hours('mini', training=True):.1f} core-hours at most"
    text = (
        f"Models of the random seeds {', '.join(map(str, seeds))}, trained here; README.md shows the committed summary."
    )
    cost = [f"{_PEOPLE['seeds']} human-minutes", hours, f"{len(seeds)} times that of E2"]
    found.append(experiment("E6", "Other random seeds", [*cost, command], text))
    return "\n".join(found)


def _with_needs(name: str) -> list[Any]:
    """Sections that are run for a claim or a section, with all that they wait for."""
    chosen = choose_sections([name], None)
    numbers = {section.number for section in chosen}.union(*(section.after for section in chosen))
    return [section for section in all_sections() if section.number in numbers]


def _disk(profile: str) -> str:
    return f"{needs()[profile][2]} disk"


def _cost(profile: str, compute: str) -> list[str]:
    return [f"{_PEOPLE[profile]} human-minutes", f"{compute} compute", _disk(profile)]


def compute() -> str:
    """Time and core-hours of whole runs, and of those that nobody made."""
    rows = []
    for profile in RUN:
        place = f"{max(reference(profile).made_with['threads'])} threads"
        spent, origin = f"{core_hours(profile):.2f}", "seconds of the profile, measured part by part"
        rows.append([f"`{profile}`", minutes(profile, all_sections()), spent, place, origin])
    seeds = read_seeds_reference(REFERENCES / f"{SEEDS}.json")
    cost = len(seeds.random_seeds) * core_hours("mini", training=True)
    place = ", ".join(seeds.made_with["processor"])
    name = f"`mini` with {len(seeds.random_seeds)} random seeds, trained"
    rows.append([name, "", f"{cost:.2f}", place, "from the seconds of `mini` with training"])
    for profile in profile_names():
        hours = load_profile(profile).needs.hours
        if profile not in (*RUN, "template") and hours:
            gpu = needs()[profile][0]
            rows.append([f"`{profile}`", f"{hours:g} h", "", f"GPU: {gpu}", "estimated, never run whole"])
    return table(["run", "from start to end", "core-hours", "on", "origin"], rows)


def page() -> str:
    """The whole appendix."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    about = reference("mini").made_with
    packages = ", ".join(f"{name} {version}" for name, version in sorted(about["packages"].items()))
    rows = [[f"`{name}`", *row] for name, row in needs().items()]
    common = {budget_label(str(load_profile(profile).selection.budget)) for profile in RUN}
    return TEMPLATE.read_text(encoding="utf-8").format(
        paper=citation["preferred-citation"]["title"],
        version=citation["version"],
        license=citation["license"],
        doi=citation.get("doi", "none yet; it is reserved when the archive is uploaded (docs/provenance.md)"),
        processor=about["processor"],
        threads=max(about["threads"]),
        python=".".join(about["python"].split(".")[:2]),
        packages=packages,
        needs=table(["profile", "GPU", "memory", "disk", "download"], rows),
        claims=claims(),
        experiments=experiments(),
        compute=compute(),
        sections=len(all_sections()),
        runs=", ".join(f"`{profile}`" for profile in RUN),
        common=" or ".join(sorted(common)),
    )


def main() -> None:
    """Write or check the appendix."""
    if sys.argv[1:] not in (["write"], ["check"]):
        raise SystemExit("tools.appendix: write or check")
    text = page()
    if sys.argv[1] == "write":
        PAGE.write_text(text, encoding="utf-8")
    elif text != PAGE.read_text(encoding="utf-8"):
        raise SystemExit(f"{PAGE.name}: is not made from the present files; run python -m tools.appendix write")


if __name__ == "__main__":
    main()
