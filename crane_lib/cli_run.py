"""The command ``crane run``, which ``run_all.sh`` calls."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from crane_lib.errors import CraneError

if TYPE_CHECKING:
    from crane_lib.pipeline.console import Console
    from crane_lib.pipeline.run import Run
    from crane_lib.profile import Profile

Names = Annotated[
    list[str],
    typer.Option("--only", metavar="03", help="Run only this section, or those of a claim (C3); may be repeated."),
]


def _parameters(pairs: list[str]) -> dict[str, Any]:
    """``name=value`` pairs, values read as YAML."""
    parameters = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise CraneError(f"--parameter {pair!r}: expected name=value")
        if name in ("profile", "artifacts"):
            raise CraneError(f"--parameter {pair!r}: give it as --{name}, so that runner and notebooks agree")
        parameters[name] = yaml.safe_load(value)
    return parameters


def run(
    profile: Annotated[
        str, typer.Option("--profile", metavar="NAME", help="Profile: a name in configs/ or a YAML file.")
    ] = "mini",
    only: Names = [],  # noqa: B006 (typer copies it)
    first: Annotated[str, typer.Option("--from", metavar="03", help="Start at this section.")] = "",
    artifacts: Annotated[
        str, typer.Option("--artifacts", metavar="DIR", help="Where results go (default: artifacts/ of the clone).")
    ] = "",
    parameter: Annotated[
        list[str], typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="Set a parameter of the notebooks.")
    ] = [],  # noqa: B006
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            metavar="N",
            min=1,
            show_default=False,
            help="Run up to N independent sections at once (default: as many as suit the profile and the machine).",
        ),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List sections, claims and profiles, run nothing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be run or reused, run nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw this profile's results away first.")] = False,
    seeds: Annotated[
        int,
        typer.Option("--seeds", metavar="N", help="Repeat the study with N model seeds, then sum them up (embedded)."),
    ] = 0,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Walk the profile's path with a small random model and made-up data.")
    ] = False,
    skip_preflight: Annotated[
        bool, typer.Option("--skip-preflight", help="Do not look first whether the profile's needs are met.")
    ] = False,
    lab: Annotated[bool, typer.Option("--lab", help="Open JupyterLab on the inspection notebook instead.")] = False,
    ip: Annotated[str, typer.Option("--ip", help="With --lab: address to listen on (default: 127.0.0.1).")] = "",
    port: Annotated[int, typer.Option("--port", min=0, help="With --lab: port (default: 8888 or the next free).")] = 0,
) -> None:
    """Run the whole study, section by section, and write every table and figure.

    Each section is a notebook. Its tables, figures and executed copy go to artifacts/<profile>/, with report.md,
    claims.json and manifest.json; what its cells print goes to logs/. What did not change since the last run is used
    again; a run that was interrupted goes on where it stopped. The exit code is 0 if every section is done, 1 if one
    failed, 2 for a mistake in the call or a need that is not met, 130 after Ctrl-C or SIGTERM.

    --jobs N shares the cores out to N sections at once, as soon as what they read is made; each takes memory of its
    own, on a GPU too. Texts, models, relevance and selection, on which all sections rest, are made with all cores by
    whichever section comes first. By default the small embedded models have one section a core, at most four, and other
    models one after the other.

    --seeds N trains the embedded model with N random seeds in a row. The first run is the ordinary one; the others go
    to folders of their own, such as artifacts/mini-seed1/. Means, deviations and intervals over the seeds, and how
    often each claim is reproduced, go to artifacts/mini/seeds/ and into report.md. Started again, it goes on where it
    stopped; N times as long as one run.

    Examples: run_all.sh --profile smoke;  run_all.sh --only 03 --only 04;  run_all.sh --only C3;
    run_all.sh --from 02 --dry-run;  run_all.sh --jobs 1;  run_all.sh --profile mini --seeds 3;
    run_all.sh --profile llama2-7b --rehearse
    """
    from crane_lib.pipeline.console import Console, shown
    from crane_lib.pipeline.estimate import check_disk
    from crane_lib.pipeline.run import Run, fitting_jobs
    from crane_lib.pipeline.runner import run_sections
    from crane_lib.pipeline.sections import choose_sections
    from crane_lib.pipeline.seeds import run_seeds, seed_runs
    from crane_lib.pipeline.software import missing_in_container
    from crane_lib.profile import artifacts_root, load_profile

    names = [name for group in only for name in group.split(",")]
    sections = choose_sections(names, first or None)
    console = Console()
    if list_:
        _list(console)
        return
    loaded = load_profile(profile)
    if rehearse:
        from crane_lib.rehearsal import rehearsal_profile

        loaded = rehearsal_profile(loaded, artifacts_root(artifacts or None))
    if lab:
        from crane_lib.pipeline.lab import open_lab

        root = artifacts_root(artifacts or None)
        open_lab(loaded.name if rehearse else profile, root, run_folder=root / loaded.name, ip=ip, port=port)
    folder = artifacts_root(artifacts or None) / loaded.name
    study = Run(loaded, folder, sections, _parameters(parameter), jobs or fitting_jobs(loaded))
    studies = seed_runs(study, seeds) if seeds else [study]
    if dry_run:
        for one in studies:
            if seeds:
                console.say(f"Random seed {one.profile.random_seed}, {shown(one.folder)}:")
            _say_plan(one, console, fresh=fresh)
        return
    if not skip_preflight:
        work = fresh or any(not one.unchanged(section, one.key(section)) for one in studies for section in sections)
        if work and loaded.has_needs and not look_first(loaded, study.folder, only_missing=True):
            raise typer.Exit(2)
        for one in studies if work else []:
            check_disk(one.profile, one.folder)
    if remark := missing_in_container():
        console.say(remark)
    try:
        if seeds:
            code = run_seeds(study, seeds, fresh=fresh, console=console)
        else:
            code = run_sections(study, fresh=fresh, console=console)
    except KeyboardInterrupt:
        print("interrupted; start again to go on where it stopped", file=sys.stderr)
        raise typer.Exit(130) from None
    raise typer.Exit(code)


def _list(console: Console) -> None:
    """Every section, claim and profile."""
    from crane_lib.pipeline.sections import all_claims, all_sections
    from crane_lib.profile import load_profile, profile_names

    console.plan([(section.number, section.title, section.path.name) for section in all_sections()])
    console.plan([(name, claim.title, f"sections {', '.join(claim.numbers)}") for name, claim in all_claims().items()])
    console.plan([("profile", name, told(load_profile(name))) for name in profile_names()])


def _say_plan(study: Run, console: Console, *, fresh: bool) -> None:
    """What would be run or reused, and about how long all of it would take."""
    from crane_lib.pipeline.console import seconds_text
    from crane_lib.pipeline.runner import plan

    board = plan(study, {section.number: study.key(section) for section in study.sections}, fresh=fresh)
    lines = []
    for row in board.rows:
        about = f"about {seconds_text(row.expected)}" if row.expected else "time not known yet"
        lines.append((row.number, row.title, "would be reused" if row.state == "reused" else f"would run, {about}"))
    console.plan(lines)


def look_first(profile: Profile, folder: Path, *, only_missing: bool) -> bool:
    """Say what a profile needs and lacks; False if it lacks something."""
    from crane_lib.preflight import preflight as check_all

    checks = check_all(profile, folder)
    missing = [check for check in checks if not check.met]
    for check in missing if only_missing else checks:
        typer.echo(f"  {'there' if check.met else 'MISSING'}  {check.what}: {check.remark}", err=only_missing)
    if missing:
        count = f"{len(missing)} of {len(checks)} needs are not met"
        typer.echo(f"error: profile {profile.name}: {count}; nothing was run", err=True)
    return not missing


def told(profile: Profile) -> str:
    """What a profile says of itself: what it is and what it takes."""
    needs = profile.needs
    sizes = {
        "GPU": needs.gpu_memory_gb,
        "memory": needs.memory_gb,
        "disk": needs.disk_gb,
        "download": needs.download_gb,
    }
    parts = [f"{name} {size:g} GB" for name, size in sizes.items() if size]
    parts += [f"about {needs.hours:g} h"] if needs.hours else []
    parts += ["licence to accept on the hub"] if profile.is_gated else []
    return profile.description + (f"; needs {', '.join(parts)}" if parts else "")
