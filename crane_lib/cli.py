"""The command line: ``crane``, and what ``run_all.sh`` calls."""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from crane_lib.errors import CraneError

if TYPE_CHECKING:
    from crane_lib.profile import Profile

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
    ip: Annotated[str, typer.Option("--ip", help="With --lab: address to listen on [default: 127.0.0.1].")] = "",
    port: Annotated[int, typer.Option("--port", min=0, help="With --lab: port [default: 8888 or the next free].")] = 0,
) -> None:
    """Run the whole study, section by section, and write every table and figure.

    Each section is a notebook. Its tables, figures and executed copy go to artifacts/<profile>/, with report.md,
    claims.json and manifest.json. What did not change since the last run is used again; a run that was interrupted
    goes on where it stopped. The exit code is 0 if every section is done, 1 if one failed, 2 for a mistake in the
    call or a need that is not met, 130 after Ctrl-C.

    --seeds N trains the embedded model with N random seeds in a row. The first run is the ordinary one; the others go
    to folders of their own, such as artifacts/mini-seed1/. Means, deviations and intervals over the seeds, and how
    often each claim is reproduced, go to artifacts/mini/seeds/ and into report.md. Started again, it goes on where it
    stopped; N times as long as one run.

    Examples: run_all.sh --profile smoke;  run_all.sh --only 03 --only 04;  run_all.sh --from 02 --dry-run;
    run_all.sh --profile mini --seeds 3;  run_all.sh --profile llama2-7b --rehearse
    """
    from crane_lib.pipeline.console import Console, seconds_text
    from crane_lib.pipeline.runner import Run, run_sections
    from crane_lib.pipeline.sections import choose_sections
    from crane_lib.pipeline.seeds import run_seeds, seed_runs
    from crane_lib.profile import artifacts_root, load_profile, profile_names

    names = [name for group in only for name in group.split(",")]
    sections = choose_sections(names, first or None)
    console = Console()
    if list_:
        console.plan([(section.number, section.title, section.path.name) for section in sections])
        console.plan([("profile", name, _told(load_profile(name))) for name in profile_names()])
        return
    loaded = load_profile(profile)
    if rehearse:
        from crane_lib.rehearsal import rehearsal_profile

        loaded = rehearsal_profile(loaded, artifacts_root(artifacts or None))
    if lab:
        from crane_lib.pipeline.lab import open_lab

        root = artifacts_root(artifacts or None)
        open_lab(loaded.name if rehearse else profile, root, run_folder=root / loaded.name, ip=ip, port=port)
    study = Run(loaded, artifacts_root(artifacts or None) / loaded.name, sections, _parameters(parameter))
    studies = seed_runs(study, seeds) if seeds else [study]
    if dry_run:
        for one in studies:
            plan = []
            for section in sections:
                expected = one.expected(section)
                about = f"about {seconds_text(expected)}" if expected else "time not known yet"
                reuse = not fresh and one.unchanged(section, one.key(section))
                plan.append((section.number, section.title, "would be reused" if reuse else f"would run, {about}"))
            if seeds:
                console.say(f"Random seed {one.profile.random_seed}, {one.folder}:")
            console.plan(plan)
        return
    if loaded.has_needs and not skip_preflight:
        work = fresh or any(not study.unchanged(section, study.key(section)) for section in sections)
        if work and not _look_first(loaded, study.folder, only_missing=True):
            raise typer.Exit(2)
    try:
        if seeds:
            code = run_seeds(study, seeds, fresh=fresh, console=console)
        else:
            code = run_sections(study, fresh=fresh, console=console)
    except KeyboardInterrupt:
        print("interrupted; start again to go on where it stopped", file=sys.stderr)
        raise typer.Exit(130) from None
    raise typer.Exit(code)


@app.command()
def lab(
    profile: Annotated[
        str, typer.Option("--profile", metavar="NAME", help="Profile: a name in configs/ or a YAML file.")
    ] = "mini",
    artifacts: Annotated[
        str, typer.Option("--artifacts", metavar="DIR", help="Where results lie [default: artifacts/ of the clone].")
    ] = "",
    ip: Annotated[str, typer.Option("--ip", help="Address to listen on, such as 0.0.0.0 in a container.")] = "",
    port: Annotated[int, typer.Option("--port", min=0, help="Port [default: 8888 or the next free].")] = 0,
) -> None:
    """Open JupyterLab on a run's inspection notebook; its address, with a token, is printed.

    Examples: crane lab;  crane lab --profile my-study.yaml --port 9000;  in a container: crane lab --ip 0.0.0.0
    """
    from crane_lib.pipeline.lab import open_lab
    from crane_lib.profile import artifacts_root, load_profile

    root = artifacts_root(artifacts or None)
    open_lab(profile, root, run_folder=root / load_profile(profile).name, ip=ip, port=port)


@app.command()
def preflight(
    profile: Annotated[str, typer.Option("--profile", metavar="NAME", help="A name in configs/ or a YAML file.")],
    artifacts: Annotated[
        str, typer.Option("--artifacts", metavar="DIR", help="Where results go [default: artifacts/ of the clone].")
    ] = "",
) -> None:
    """Look whether this machine, the hub and the token have what a profile needs; run and write nothing.

    The exit code is 0 if all is there, 2 if something is missing.

    Example: crane preflight --profile llama2-7b
    """
    from crane_lib.profile import artifacts_root, load_profile

    loaded = load_profile(profile)
    typer.echo(f"{loaded.name}: {_told(loaded)}")
    if not _look_first(loaded, artifacts_root(artifacts or None) / loaded.name, only_missing=False):
        raise typer.Exit(2)


def _look_first(profile: Profile, folder: Path, *, only_missing: bool) -> bool:
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


def _told(profile: Profile) -> str:
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


@app.command()
def mask(
    model: Annotated[Path, typer.Argument(help="Hugging Face directory of the model.")],
    neurons: Annotated[Path, typer.Argument(help="File of neuron sets, as a run writes it (stages/selection_*/).")],
    output: Annotated[Path, typer.Argument(help="Directory to write the masked checkpoint to.")],
    language: Annotated[str, typer.Option("--language", help="Language whose set is zeroed.")],
    draw: Annotated[int, typer.Option("--draw", help="Draw, for files of random sets.")] = -1,
) -> None:
    """Write a checkpoint in which a language's neurons are zeroed for good.

    Example: crane mask models/llama-2-7b artifacts/mini/stages/selection_base/contrast@0.1.json masked --language vi
    """
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


@app.command()
def statistics(
    model: Annotated[Path, typer.Argument(help="Hugging Face directory of the model.")],
    texts: Annotated[Path, typer.Argument(help="Texts: .txt (parted by blank lines) or .jsonl (field 'text').")],
    output: Annotated[Path, typer.Argument(help="File to write, such as vi.safetensors.")],
    seed: Annotated[str, typer.Option("--seed", help="Explained: gold_logit or log_probability.")] = "gold_logit",
    rule: Annotated[str, typer.Option("--rule", help="attnlrp, cplrp or gradient.")] = "attnlrp",
    max_length: Annotated[int, typer.Option("--max-length", min=2, help="Texts are cut after so many tokens.")] = 2048,
    token_budget: Annotated[int, typer.Option("--token-budget", min=1, help="Tokens of a batch, pads too.")] = 8192,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16, float64, or auto: as stored.")] = "auto",
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu, cuda, or map: one model over all GPUs of this machine.")
    ] = "auto",
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Compute every layer twice, for less memory.")
    ] = False,
    documents: Annotated[int, typer.Option("--documents", metavar="N", min=0, help="First N texts only [0: all].")] = 0,
) -> None:
    """Compute the relevance statistics of one file of texts on one model.

    The output (safetensors) holds, for every neuron and weight row, the moments of its relevance over the texts, and
    how often each neuron fires. What is finished is kept in OUTPUT.shards/ on the way: started again after a kill,
    the same command goes on from there, also with another number of processes.

    Examples: crane statistics models/llama-2-7b vi.jsonl vi.safetensors --dtype bfloat16;
    on two GPUs: torchrun --nproc-per-node 2 -m crane_lib.cli statistics models/llama-2-7b vi.jsonl vi.safetensors
    """
    from crane_lib.models.loading import load_model
    from crane_lib.progress import advancing, progress
    from crane_lib.relevance import stream_statistics
    from crane_lib.relevance.distributed import barrier, processes, rank
    from crane_lib.stages.local import read_documents
    from crane_lib.stages.texts import token_ids

    _check_one_of("--seed", seed, ["gold_logit", "log_probability"])
    _check_one_of("--rule", rule, ["attnlrp", "cplrp", "gradient"])
    _check_one_of("--dtype", dtype, ["auto", "float32", "bfloat16", "float64"])
    if output.is_dir():
        raise CraneError(f"{output}: is a directory; give the file to write, such as {output / 'vi.safetensors'}")
    shards = output.with_name(output.name + ".shards")
    with processes():
        network, tokenizer = load_model(model, device=device, dtype=dtype)
        tokens = token_ids(read_documents(texts)[: documents or None], tokenizer, max_length=max_length)
        if not tokens:
            raise CraneError(f"corpus {texts}: has no text of two tokens or more")
        started = time.monotonic()
        before: list[int] = []  # documents done by an earlier start
        with progress("Relevance", len(tokens)) if rank() == 0 else nullcontext() as bar:
            advance = advancing(bar) if bar is not None else None

            def told(done: int, total: int) -> None:
                if not before:
                    before.append(done)
                if advance is not None:
                    advance(done, total)

            found = stream_statistics(
                network,
                tokens,
                seed=seed,
                rule=rule,
                token_budget=token_budget,
                max_length=max_length,
                checkpointing=checkpointing,
                folder=shards,
                labels={"texts": texts.name},
                progress=told,
            )
        seconds = time.monotonic() - started
        barrier()  # the others have read the shards too
        if rank() == 0:
            found.save(output)
            shutil.rmtree(shards, ignore_errors=True)
            speed = f"{before[0]} documents were done before" if before[0] else f"{found.tokens / seconds:.0f} tokens/s"
            typer.echo(f"{output}: {found.documents} documents, {found.tokens} tokens in {seconds:.1f} s ({speed})")


@app.command()
def relevance(
    profile: Annotated[str, typer.Option("--profile", metavar="NAME", help="A name in configs/ or a YAML file.")],
    model: Annotated[str, typer.Option("--model", help="Which of the study's models: base or chat.")] = "base",
    artifacts: Annotated[
        str, typer.Option("--artifacts", metavar="DIR", help="Where results go [default: artifacts/ of the clone].")
    ] = "",
) -> None:
    """Make a study's relevance statistics, by as many processes as torchrun starts.

    The first process makes the corpus and the models that are missing, then all share the passes. run_all.sh with the
    same profile finds the statistics made and goes on from there. Killed and started again, it goes on where it was.

    Examples: crane relevance --profile mini;  on eight GPUs: torchrun --nproc-per-node 8 -m crane_lib.cli relevance
    --profile mine.yaml --model chat
    """
    from crane_lib.pipeline.runner import alone
    from crane_lib.profile import artifacts_root, load_profile
    from crane_lib.relevance.distributed import processes, rank
    from crane_lib.study import Study

    loaded = load_profile(profile)
    _check_one_of("--model", model, ["base", "chat"])
    folder = artifacts_root(artifacts or None) / loaded.name
    with processes(), alone(folder) if rank() == 0 else nullcontext():
        study = Study.open(loaded, artifacts=artifacts or None, say=typer.echo if rank() == 0 else _say_nothing)
        _check_one_of("--model", model, study.model_names)
        study.relevance(model)


@app.command(hidden=True)
def relevance_passes(file: Annotated[Path, typer.Argument(help="What to do, as the stage wrote it.")]) -> None:
    """Do the passes of a relevance stage that starts processes of its own; not meant to be called by hand."""
    from crane_lib.relevance.distributed import processes
    from crane_lib.stages.passes import run_file

    with processes():
        run_file(file)


def _check_one_of(option: str, value: str, known: list[str]) -> None:
    if value not in known:
        raise CraneError(f"{option} {value!r}: expected one of {', '.join(known)}")


def _say_nothing(_line: str) -> None:
    """What processes other than the first say."""


def _let_others_speak(error: Exception) -> None:
    """Wait a moment if other processes may say the same better: torchrun ends all as soon as one has ended.

    So a mistake that all processes notice is said once, by the first, and what one process did wrong is not followed
    by the complaints of those that waited for it.
    """
    number = min(int(os.environ.get("RANK", "0")), 8)
    waiting = type(error).__name__ == "OtherProcessEnded"  # by name, for its module loads torch
    time.sleep(10.0 if waiting else 2.0 + number / 2 if number else 0.0)


def main() -> None:
    """Entry point: a mistake of the user's becomes one line and exit code 2."""
    try:
        app(prog_name=os.environ.get("CRANE_PROGRAM"))
    except CraneError as error:
        _let_others_speak(error)
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:  # a full disk, say, while a notebook is saved
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}; start again to go on", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
