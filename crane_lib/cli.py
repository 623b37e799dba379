"""The command line: ``crane``, and what ``run_all.sh`` calls."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crane_lib import cli_verify
from crane_lib.cli_run import look_first, run, told
from crane_lib.errors import CraneError

if TYPE_CHECKING:
    from crane_lib.study import Study

app = typer.Typer(
    help="CRANE: which neurons of a multilingual language model a language needs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command()(run)
cli_verify.register(app)

# The command `run` as a program of its own, for a script that stands for it.
_run_alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_run_alone.command()(run)


@app.command()
def lab(
    profile: Annotated[
        str, typer.Option("--profile", metavar="NAME", help="Profile: a name in configs/ or a YAML file.")
    ] = "mini",
    artifacts: Annotated[
        str, typer.Option("--artifacts", metavar="DIR", help="Where results lie (default: artifacts/ of the clone).")
    ] = "",
    ip: Annotated[str, typer.Option("--ip", help="Address to listen on, such as 0.0.0.0 in a container.")] = "",
    port: Annotated[int, typer.Option("--port", min=0, help="Port (default: 8888 or the next free).")] = 0,
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
        str, typer.Option("--artifacts", metavar="DIR", help="Where results go (default: artifacts/ of the clone).")
    ] = "",
) -> None:
    """Look whether this machine, the hub and the token have what a profile needs; run and write nothing.

    The exit code is 0 if all is there, 2 if something is missing.

    Example: crane preflight --profile llama2-7b
    """
    from crane_lib.profile import artifacts_root, load_profile

    loaded = load_profile(profile)
    typer.echo(f"{loaded.name}: {told(loaded)}")
    if not look_first(loaded, artifacts_root(artifacts or None) / loaded.name, only_missing=False):
        raise typer.Exit(2)


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
    documents: Annotated[int, typer.Option("--documents", metavar="N", min=0, help="First N texts only (0: all).")] = 0,
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
        str, typer.Option("--artifacts", metavar="DIR", help="Where results go (default: artifacts/ of the clone).")
    ] = "",
) -> None:
    """Make a study's relevance statistics, by as many processes as torchrun starts.

    The first process makes the corpus and the models that are missing, then all share the passes. run_all.sh with the
    same profile finds the statistics made and goes on from there. Killed and started again, it goes on where it was.

    Examples: crane relevance --profile mini;  on eight GPUs: torchrun --nproc-per-node 8 -m crane_lib.cli relevance
    --profile mine.yaml --model chat
    """
    _check_one_of("--model", model, ["base", "chat"])
    with _study_of_all_processes(profile, artifacts) as study:
        _check_one_of("--model", model, study.model_names)
        study.relevance(model)


@app.command()
def masks(
    profile: Annotated[str, typer.Option("--profile", metavar="NAME", help="A name in configs/ or a YAML file.")],
    artifacts: Annotated[
        str, typer.Option("--artifacts", metavar="DIR", help="Where results go (default: artifacts/ of the clone).")
    ] = "",
) -> None:
    """Evaluate a study's models under all masks, by as many processes as torchrun starts.

    Perplexity, questions, controls and open answers; what they need is made first. run_all.sh with the same profile
    finds it all and goes on from there. Killed and started again, it goes on where it was.

    Examples: crane masks --profile mini;  on eight GPUs: torchrun --nproc-per-node 8 -m crane_lib.cli masks
    --profile mine.yaml
    """
    with _study_of_all_processes(profile, artifacts) as study:
        study.evaluate_masks()


@contextmanager
def _study_of_all_processes(profile: str, artifacts: str) -> Iterator[Study]:
    """A profile's study, opened by every process that torchrun started; only the first one speaks."""
    from crane_lib.pipeline.runner import alone
    from crane_lib.profile import artifacts_root, load_profile
    from crane_lib.relevance.distributed import processes, rank
    from crane_lib.study import Study

    loaded = load_profile(profile)
    folder = artifacts_root(artifacts or None) / loaded.name
    with processes(), alone(folder) if rank() == 0 else nullcontext():
        yield Study.open(loaded, artifacts=artifacts or None, say=typer.echo if rank() == 0 else _say_nothing)


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
    """Entry point: a mistake of the user's becomes one line and exit code 2.

    Where CRANE_PROGRAM names the script that called ``run``, usage says the script's name instead.
    """
    script = os.environ.pop("CRANE_PROGRAM", "")  # taken away: it is not for the processes that a run starts
    try:
        if script and sys.argv[1:2] == ["run"]:
            _run_alone(sys.argv[2:], prog_name=script)
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
