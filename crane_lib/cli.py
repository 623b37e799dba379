"""The command line: ``crane``, and what ``run_all.sh`` calls."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from crane_lib.errors import CraneError

app = typer.Typer(
    help="CRANE: which neurons of a multilingual language model a language needs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Names = Annotated[list[str], typer.Option("--only", metavar="03", help="Run only this section; may be repeated.")]


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


@app.command()
def run(
    profile: Annotated[
        str, typer.Option("--profile", metavar="NAME", help="Profile: a name in configs/ or a YAML file.")
    ] = "mini",
    only: Names = [],  # noqa: B006 (typer copies it)
    first: Annotated[str, typer.Option("--from", metavar="03", help="Start at this section.")] = "",
    artifacts: Annotated[
        str, typer.Option("--artifacts", metavar="DIR", help="Where results go [default: artifacts/ of the clone].")
    ] = "",
    parameter: Annotated[
        list[str], typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="Set a parameter of the notebooks.")
    ] = [],  # noqa: B006
    list_: Annotated[bool, typer.Option("--list", help="List the sections and profiles, run nothing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be run or reused, run nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw this profile's results away first.")] = False,
) -> None:
    """Run the whole study, section by section, and write every table and figure.

    Each section is a notebook. Its tables, figures and executed copy go to artifacts/<profile>/, with report.md,
    claims.json and manifest.json. What did not change since the last run is used again; a run that was interrupted
    goes on where it stopped. The exit code is 0 if every section is done, 1 if one failed, 2 for a mistake in the
    call, 130 after Ctrl-C.

    Examples: run_all.sh --profile smoke;  run_all.sh --only 03 --only 04;  run_all.sh --from 02 --dry-run
    """
    from crane_lib.pipeline.console import Console, seconds_text
    from crane_lib.pipeline.runner import Run, run_sections
    from crane_lib.pipeline.sections import choose_sections
    from crane_lib.profile import artifacts_root, load_profile, profile_names

    names = [name for group in only for name in group.split(",")]
    sections = choose_sections(names, first or None)
    console = Console()
    if list_:
        console.plan([(section.number, section.title, section.path.name) for section in sections])
        console.plan([("profile", name, load_profile(name).description) for name in profile_names()])
        return
    loaded = load_profile(profile)
    study = Run(loaded, artifacts_root(artifacts or None) / loaded.name, sections, _parameters(parameter))
    if dry_run:
        plan = []
        for section in sections:
            expected = study.expected(section)
            about = f"about {seconds_text(expected)}" if expected else "time not known yet"
            reuse = not fresh and study.unchanged(section, study.key(section))
            plan.append((section.number, section.title, "would be reused" if reuse else f"would run, {about}"))
        console.plan(plan)
        return
    try:
        code = run_sections(study, fresh=fresh, console=console)
    except KeyboardInterrupt:
        print("interrupted; start again to go on where it stopped", file=sys.stderr)
        raise typer.Exit(130) from None
    raise typer.Exit(code)


@app.command()
def mask(
    model: Annotated[Path, typer.Argument(help="Hugging Face directory of the model.")],
    neurons: Annotated[Path, typer.Argument(help="File of neuron sets, as a run writes it (stages/selection_*/).")],
    output: Annotated[Path, typer.Argument(help="Directory to write the masked checkpoint to.")],
    language: Annotated[str, typer.Option("--language", help="Language whose set is zeroed.")],
    draw: Annotated[int, typer.Option("--draw", help="Draw, for files of random sets.")] = -1,
) -> None:
    """Write a checkpoint in which a language's neurons are zeroed for good."""
    from crane_lib.masking import export_masked
    from crane_lib.models.loading import load_model
    from crane_lib.neurons import read_neuron_sets

    sets = read_neuron_sets(neurons)
    chosen = [item for item in sets if item.language == language and item.random_seed == draw]
    if not chosen:
        known = sorted({f"--language {item.language} --draw {item.random_seed}" for item in sets})
        raise CraneError(f"{neurons}: has no set for --language {language} --draw {draw}; it has {'; '.join(known)}")
    network, tokenizer = load_model(model, device="cpu", dtype="auto")
    export_masked(network, tokenizer, chosen[0], output)
    typer.echo(f"{output}: {chosen[0].count()} units of {language!r} ({chosen[0].method}) zeroed")


def main() -> None:
    """Entry point: a mistake of the user's becomes one line and exit code 2."""
    try:
        app(prog_name=os.environ.get("CRANE_PROGRAM"))
    except CraneError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:  # a full disk, say, while a notebook is saved
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}; start again to go on", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
