"""Commands that share, compare and look: push, pull, compare, inspect."""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from crane_lib.errors import CraneError
from crane_run.own import Json, check_outputs, show_table

_OVERLAP = ["first", "second", "count_a", "count_b", "shared", "share_of_a", "expected_share_of_a", "p_value"]


def push(
    source: Annotated[Path, typer.Argument(metavar="SETS", help="File of neuron sets, or a folder with such files.")],
    repository: Annotated[str, typer.Argument(metavar="USER/NAME", help="Data set of the hub.")],
    licence: Annotated[str, typer.Option("--licence", metavar="ID", help="Licence of the sets, such as mit.")],
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="What the card calls the model.")] = "",
    private: Annotated[bool, typer.Option("--private", help="Make the data set private.")] = False,
    dry_run: Annotated[
        Path | None, typer.Option("--dry-run", metavar="DIR", help="Write what would be pushed; push nothing.")
    ] = None,
) -> None:
    """Push neuron sets to the Hugging Face hub as a data set with a card.

    Pushed are the sets (JSON, and one table), and of a folder also the scores of the selected units, where it has them
    (crane select --scores), and IA3 adapters in folders of their own; no other file, and no path of this machine. The
    token, which must be allowed to write, is read from the variable HF_TOKEN.

    Examples: crane push sets.json me/neurons --licence mit --dry-run pushed;
    crane push results me/neurons --licence cc-by-4.0 --private
    """
    from crane_study.own.hub_sets import push as push_folder
    from crane_study.own.hub_sets import write_package
    from crane_study.progress import SOON, progress

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise CraneError(f"{repository!r}: expected USER/NAME")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence):
        raise CraneError(f"--licence {licence!r}: expected an identifier of the hub, such as mit or cc-by-4.0")
    if not source.exists():
        raise CraneError(f"{source}: no such file or folder")
    if dry_run is not None and dry_run.exists() and (not dry_run.is_dir() or any(dry_run.iterdir())):
        raise CraneError(f"--dry-run {dry_run}: is not empty; name a new folder")
    with TemporaryDirectory() as folder:
        place = dry_run or Path(folder) / "pushed"
        files = write_package(place, source, repository=repository, licence=licence, model=model)
        if dry_run is None:
            with progress(f"Pushing to {repository}", delay=SOON):
                address = push_folder(place, repository, private=private)
    typer.echo("\n".join(files))
    typer.echo(f"{dry_run}: would be pushed to {repository}" if dry_run is not None else f"pushed: {address}")


def pull(
    name: Annotated[str, typer.Argument(metavar="USER/NAME[@REVISION]", help="Data set that crane push made.")],
    output: Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder for it.")],
    as_json: Json = False,
) -> None:
    """Read neuron sets from the Hugging Face hub.

    Example: crane pull me/neurons@main --out pulled
    """
    from crane_study.own.hub_sets import pull as pull_folder
    from crane_study.progress import SOON, progress

    check_outputs(output / "README.md")
    with progress(f"Reading {name}", delay=SOON):
        found = pull_folder(name, output)
    sets = {str(output / "sets" / f"{file}.json"): [item.language for item in own] for file, own in found.items()}
    if as_json:
        typer.echo(json.dumps({"sets": sets}, ensure_ascii=False))
    else:
        typer.echo("\n".join(f"{path}: {', '.join(languages)}" for path, languages in sets.items()))


def compare(
    first: Annotated[Path, typer.Argument(help="File of neuron sets, result of crane evaluate, or folder of a run.")],
    second: Annotated[Path, typer.Argument(help="Another of the same kind.")],
    output: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write all rows, too (.csv).")] = None,
    as_json: Json = False,
) -> None:
    """Compare two files of neuron sets, two results of crane evaluate, or two runs of a study.

    Sets: neurons shared by every two of them, beside what chance gives. Results: rises under equal sets, or under the
    only method of each. Runs: every number of the tables that both have, and the verdicts that differ. The largest
    differences come first.

    Examples: crane compare sets.json other.json;  crane compare a.parquet b.parquet;
    crane compare artifacts/mini artifacts/mini-seed1 --out differences.csv
    """
    from crane_run.comparing import compare_paths
    from crane_study.frames import write_frame

    check_outputs(output)
    found = compare_paths(first, second)
    name, table = next(iter(found.items()))
    if output is not None:
        write_frame(output, table)
    if as_json:
        typer.echo(json.dumps({one: json.loads(of.to_json(orient="records")) for one, of in found.items()}))
        return
    show_table(table[_OVERLAP] if name == "overlaps" else table)
    for verdict in found["verdicts"].itertuples() if "verdicts" in found else ():
        typer.echo(f"verdict {verdict.case}: {verdict.first}, {verdict.second}")


def inspect(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run, such as artifacts/mini.")],
    neuron: Annotated[
        str, typer.Option("--neuron", metavar="LAYER:INDEX", help="Print this neuron instead of opening a notebook.")
    ] = "",
    model: Annotated[str, typer.Option("--model", help="base or chat.")] = "base",
    language: Annotated[str, typer.Option("--language", help="With --neuron: language of the texts (all).")] = "",
    texts: Annotated[int, typer.Option("--texts", min=1, help="With --neuron: texts read for its tokens.")] = 20,
) -> None:
    """Open JupyterLab on the inspection notebook of a run, or print what is known of one neuron.

    Printed are its values and ranks in every language, and the tokens to which it contributes most.

    Examples: crane inspect artifacts/mini;  crane inspect artifacts/mini --neuron 3:117 --language vi
    """
    if not (run / "stages").is_dir():
        raise CraneError(f"{run}: nothing has been run there; give the folder of a run, such as artifacts/mini")
    if not neuron:
        from crane_run.inspect.lab import open_lab

        open_lab(run.resolve().name, run.resolve().parent, run_folder=run.resolve())
    place = re.fullmatch(r"(\d+):(\d+)", neuron)
    if place is None:
        raise CraneError(f"--neuron {neuron!r}: expected LAYER:INDEX, such as 3:117")
    from crane_run.inspect import open_run
    from crane_run.inspect.ranks import Neuron, neuron_facts, neuron_ranks
    from crane_run.inspect.texts import read_documents, top_pieces

    opened, one = open_run(run.resolve().name, artifacts=run.resolve().parent), Neuron(model, *map(int, place.groups()))
    opened.check(model=model, language=language)
    show_table(neuron_facts(opened, one), digits=5)
    ranks = neuron_ranks(opened, one)
    if language:
        ranks = ranks[ranks["language"] == language]
    typer.echo()
    show_table(ranks.sort_values(["rank", "method"]), digits=5)
    for code in [language] if language else opened.languages:
        typer.echo(f"\nTokens in {code} to which it contributes most, over {texts} texts:")
        show_table(top_pieces(read_documents(opened, one, code, count=texts), count=8), digits=5)


COMMANDS = (push, pull, compare, inspect)
