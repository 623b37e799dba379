"""Commands that check a finished run: ``crane verify`` and ``crane reference``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crane_lib.errors import CraneError

if TYPE_CHECKING:
    from crane_lib.pipeline.compare import Comparison
    from crane_lib.pipeline.verify import Finding

_SHOWN = 20  # of a kind, unless --all
_RUN = typer.Argument(metavar="RUN", help="Folder of a finished run, such as artifacts/mini.")


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(verify)
    app.command()(reference)


def verify(
    run: Annotated[Path, _RUN],
    against: Annotated[
        str,
        typer.Option(
            "--against",
            metavar="REFERENCE",
            help="A reference file, the folder of another run, or none (default: the profile's in expected/reference).",
        ),
    ] = "",
    exact: Annotated[bool, typer.Option("--exact", help="Allow no difference: for runs of the same machine.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="Name every difference, not only the largest.")] = False,
) -> None:
    """Check a finished run against its manifest, and its numbers against a reference run.

    Every file must be there with its recorded hash, no other file may lie among them, and the records of the stages
    must be complete. Numbers of all tables, of results.csv and of claims.json are compared with the tolerances of
    expected/tolerances.yaml, verdicts as they are. Each difference is named with table, row, column, value, reference
    and tolerance. The exit code is 0 if all is well, 1 if something differs, 2 if there is nothing to check.

    Examples: crane verify artifacts/mini;  crane verify artifacts/mini --against other/artifacts/mini --exact
    """
    from crane_lib.pipeline.verify import verify as check

    finding = check(run, against=against, exact=exact)
    _tell(run, finding, limit=None if all_ else _SHOWN)
    if not finding.holds:
        raise typer.Exit(1)


def reference(
    run: Annotated[Path, _RUN],
    output: Annotated[Path, typer.Argument(help="File to write, such as expected/reference/mini.json.")],
    allow_dirty: Annotated[
        bool, typer.Option("--allow-dirty", help="Take a run made from a tree with uncommitted changes, too.")
    ] = False,
) -> None:
    """Write the numbers of a finished run into one small file, for others to be held against.

    The run must be as its manifest says, with every section of the study done, and made from a commit as it is.

    Example: crane reference artifacts/mini expected/reference/mini.json
    """
    from crane_lib.output.tolerances import load_tolerances
    from crane_lib.pipeline.reference import reference_of, write_reference
    from crane_lib.pipeline.verify import NO_REFERENCE
    from crane_lib.pipeline.verify import verify as check

    finding = check(run, against=NO_REFERENCE)
    if finding.manifest is None or finding.problems:
        more = f" (and {len(finding.problems) - 1} more)" if len(finding.problems) > 1 else ""
        raise CraneError(f"{run}: is no reference: {finding.problems[0]}{more}; run the study again")
    if finding.unfinished:
        raise CraneError(f"{run}: is no reference: {finding.unfinished}")
    if finding.manifest.uncommitted_changes and not allow_dirty:
        raise CraneError(
            f"{run}: was made from a tree with uncommitted changes, which nobody else has; commit them and run the "
            "study again, or give --allow-dirty"
        )
    rules = load_tolerances().reproduction.of_profile(str(finding.manifest.profile.get("name")))
    made = reference_of(run, finding.manifest, rules=rules)
    write_reference(output, made)
    rows = sum(len(table.rows) for table in made.tables.values())
    kilobytes = output.stat().st_size / 1000
    typer.echo(f"{output}: {rows} rows of {len(made.tables)} tables, {len(made.verdicts)} verdicts, {kilobytes:.0f} kB")


def _tell(run: Path, finding: Finding, *, limit: int | None) -> None:
    manifest = finding.manifest
    if manifest is not None:
        changed = ", with uncommitted changes" if manifest.uncommitted_changes else ""
        typer.echo(f"{run}: profile {manifest.profile.get('name')}, commit {manifest.commit or 'unknown'}{changed}")
        sections, stages = len(manifest.sections), len(manifest.stages)
        typer.echo(f"  files: {finding.files} looked at, of {sections} sections and {stages} stages")
    _list("PROBLEM", finding.problems, limit)
    if finding.comparison is not None and finding.reference is not None:
        _tell_comparison(finding.comparison, finding, limit=limit)
    for note in finding.notes:
        typer.echo(f"  note: {note}")
    differences = len(finding.comparison.differences) if finding.comparison else 0
    if finding.holds:
        typer.echo(f"{run}: OK")
    else:
        counts = f"{len(finding.problems)} problems, {differences} differences from the reference"
        typer.echo(f"{run}: NOT OK ({counts})")


def _tell_comparison(found: Comparison, finding: Finding, *, limit: int | None) -> None:
    about = finding.reference.made_with if finding.reference else {}
    typer.echo(f"  reference: {finding.against} (made at commit {about.get('commit')} on {about.get('processor')})")
    typer.echo(
        f"  numbers: {found.numbers} in {found.tables} tables, {found.equal} equal to every digit kept; "
        f"verdicts: {found.equal_verdicts} of {found.verdicts} equal"
    )
    if found.numbers:
        share = round(100 * found.could_fail / found.numbers)
        typer.echo(
            f"  power: {found.could_fail} of these numbers ({share} %) would be out of tolerance if the run had "
            f"reported 0 ({found.zeros} are 0 in the reference)"
        )
    _list("DIFFERENT", [str(one) for one in found.differences], limit)
    told = [str(one) for one in found.information]
    if told:
        shown = told if limit is None else told[:3]
        more = f", and {len(told) - len(shown)} more (--all names them)" if len(told) > len(shown) else ""
        typer.echo(f"  note: {len(told)} differences that do not count: {'; '.join(shown)}{more}")


def _list(kind: str, lines: list[str], limit: int | None) -> None:
    for line in lines if limit is None else lines[:limit]:
        typer.echo(f"  {kind} {line}")
    if limit is not None and len(lines) > limit:
        typer.echo(f"  ... and {len(lines) - limit} more; --all names them")
