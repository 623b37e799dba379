"""Notebooks that check themselves: the outputs that the repository keeps, and whether they still come out the same.

    python -m tools.notebooks write    run every section under the profile smoke and keep its outputs in notebooks/
    python -m tools.notebooks check    execute them once more with nbval and compare every output with the kept one

Tables and printed numbers are compared to the digits that they show, pictures by the words that describe them. The
profile computes in float64, so that rounding, which differs between processors, stays far below those digits.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import nbformat
import typer
from nbformat import NotebookNode
from PIL import Image

from crane_lib.errors import CraneError
from crane_lib.files import write_text
from crane_run.sections import NOTEBOOKS, all_sections
from crane_study.profile import artifacts_root

ROOT = Path(__file__).resolve().parent.parent
PROFILE = "smoke"
SANITIZERS = ROOT / "tests" / "nbval_sanitize.cfg"
PICTURE_WIDTH = 1200  # most pixels of a kept picture
WIDGET = "application/vnd.jupyter.widget-view+json"
INSPECTION = NOTEBOOKS / "inspect.ipynb"  # no section of a run: it looks at a finished one
_TIMEOUT = 1800  # seconds a notebook may take

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)
Artifacts = Annotated[str, typer.Option("--artifacts", metavar="DIR", help="Where the run lies or goes.")]


def volatile_patterns() -> list[tuple[str, str]]:
    """Regular expressions of what may differ between two executions, each with what stands in its place."""
    return re.findall(r"^regex: (.*)\nreplace: (.*)$", SANITIZERS.read_text(encoding="utf-8"), re.MULTILINE)


def with_outputs(notebook: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """A notebook with the outputs of its executed copy, as the repository keeps them.

    Left out are the cell of injected parameters, times, and metadata; cells are counted from 1.

    Raises
    ------
    CraneError : the copy is of another notebook, a cell failed, or an output names a folder of this machine
    """
    done = {cell["id"]: cell for cell in executed.cells}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code, start=1):
        if cell["id"] not in done or done[cell["id"]].source != cell.source:
            raise CraneError(f"cell {cell['id']}: the executed copy has other code; run the section again")
        cell.execution_count = count
        cell.outputs = [_kept(output, cell["id"], count) for output in done[cell["id"]].outputs]
    notebook.metadata["crane"] = {"outputs_of_profile": PROFILE}
    return notebook


def _kept(output: NotebookNode, cell: str, count: int) -> NotebookNode:
    if output.output_type == "error":
        raise CraneError(f"cell {cell}: failed with {output.ename}: {output.evalue}")
    kept = NotebookNode(output)
    if output.output_type == "stream":
        for pattern, replacement in volatile_patterns():
            kept.text = re.sub(pattern, replacement, kept.text)
        texts: Iterable[str] = [kept.text]
    else:
        if WIDGET in kept.data:
            raise CraneError(f"cell {cell}: shows a widget, of which nothing can be kept; is it a progress bar?")
        kept.metadata = {kind: {"alt": told["alt"]} for kind, told in output.metadata.items() if "alt" in told}
        if output.output_type == "execute_result":
            kept.execution_count = count
        if "image/png" in kept.data:
            kept.data["image/png"] = small_picture(kept.data["image/png"])
        texts = [text for kind, text in kept.data.items() if kind.startswith("text/")]
    folders = {str(ROOT), str(Path.home()), tempfile.gettempdir()} - {"/"}
    for folder in sorted(folders, key=len, reverse=True):  # one may lie in another
        if any(folder in text for text in texts):
            raise CraneError(f"cell {cell}: its output names the folder {folder}, which is another one elsewhere")
    return kept


def small_picture(png: str) -> str:
    """A picture in base64, no wider than the repository keeps it, and in 256 colours: a third of the bytes."""
    with Image.open(BytesIO(b64decode(png))) as picture:
        small = picture.convert("RGB")
    small.thumbnail((PICTURE_WIDTH, 20 * PICTURE_WIDTH))
    buffer = BytesIO()
    few = small.quantize(method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(buffer, "PNG", optimize=True)
    return b64encode(buffer.getvalue()).decode("ascii")


def keep_outputs(run: Path, notebooks: Iterable[Path]) -> list[Path]:
    """Write the outputs of a finished run into notebooks; returns those that changed."""
    changed = []
    for path in notebooks:
        executed = run / "notebooks" / path.name
        if not executed.is_file():
            raise CraneError(f"{executed}: no executed copy of {path.name}; run the section first")
        try:
            book = with_outputs(nbformat.read(path, as_version=4), nbformat.read(executed, as_version=4))
        except CraneError as error:
            raise CraneError(f"{path.name}: {error}") from error
        text = nbformat.writes(book) + "\n"
        if text != path.read_text(encoding="utf-8"):
            write_text(path, text)
            changed.append(path)
    return changed


def keep_inspection(run: Path, notebook: Path = INSPECTION) -> bool:
    """Execute the inspection notebook on a finished run and keep its outputs; returns whether they changed."""
    import papermill

    with tempfile.TemporaryDirectory(prefix="crane-notebooks-") as folder:
        executed = Path(folder) / "notebooks" / notebook.name
        executed.parent.mkdir()
        given = parameters_of(notebook, run)
        papermill.execute_notebook(str(notebook), str(executed), given, progress_bar=False, cwd=str(ROOT))
        return bool(keep_outputs(Path(folder), [notebook]))


def parameters_of(notebook: Path, run: Path) -> dict[str, Any]:
    """Parameters with which a notebook is executed for its kept outputs."""
    given: dict[str, Any] = {"profile": str(run / "profile.yaml"), "artifacts": str(run.parent)}
    return {**given, "panel": False} if notebook.name == INSPECTION.name else given


def with_parameters(path: Path, parameters: Mapping[str, Any]) -> NotebookNode:
    """A notebook with parameters as papermill sets them, in the parameters cell itself: no cell's number changes."""
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    book = parameterize_notebook(load_notebook_node(str(path)), dict(parameters))
    place = next(at for at, cell in enumerate(book.cells) if "injected-parameters" in cell.metadata.get("tags", []))
    book.cells[place - 1].source += "\n\n" + book.cells[place].source
    del book.cells[place]
    return book


def unexecuted(path: Path) -> list[str]:
    """Ids of code cells that were never executed: nbval compares nothing there."""
    cells = nbformat.read(path, as_version=4).cells
    return [cell["id"] for cell in cells if cell.cell_type == "code" and cell.execution_count is None]


def check_outputs(run: Path, notebooks: Iterable[Path], *, workers: int | None = None) -> dict[str, str]:
    """Execute notebooks with nbval on a copy of a finished run, which stays as it is.

    Returns
    -------
    for each notebook of which an output differs: what nbval says, with the cell and both outputs
    """
    paths = list(notebooks)
    for path in paths:
        if missing := unexecuted(path):
            raise CraneError(f"{path.name}: cell {missing[0]} has no kept output; use python -m tools.notebooks write")
    with tempfile.TemporaryDirectory(prefix="crane-notebooks-") as folder:
        copy = Path(folder) / "artifacts" / run.name
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("notebooks", "*.partial*"))
        copies = []
        for path in paths:
            copies.append(Path(folder) / path.name)
            nbformat.write(with_parameters(path, parameters_of(path, copy)), copies[-1])
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            said = list(pool.map(_validate, copies))
    return {path.name: text for path, text in zip(paths, said, strict=True) if text}


def _validate(notebook: Path) -> str:
    """What nbval says of a notebook in whose outputs something differs, else nothing."""
    command = [
        *(sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", "-c", os.devnull),
        *("--rootdir", str(notebook.parent), "--nbval", "--nbval-current-env"),
        *("--nbval-sanitize-with", str(SANITIZERS), str(notebook)),
    ]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=notebook.parent,
        env={**os.environ, "PYTHONPATH": path},
        timeout=_TIMEOUT,
    )
    return done.stdout + done.stderr if done.returncode else ""


def finished_run(artifacts: Path) -> Path:
    """Run what of the profile is not done yet; returns the run's folder."""
    command = [sys.executable, "-m", "crane_run.cli", "run", "--profile", PROFILE, "--artifacts", str(artifacts)]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise CraneError(f"the sections could not all be run under the profile {PROFILE}; see above")
    return artifacts / PROFILE


@app.command()
def write(artifacts: Artifacts = "") -> None:
    """Run every section under the profile smoke and keep its outputs in notebooks/."""
    paths = [section.path for section in all_sections()]
    run = finished_run(artifacts_root(artifacts or None))
    changed = keep_outputs(run, paths)
    changed += [INSPECTION] if keep_inspection(run) else []
    for path in [*paths, INSPECTION]:
        print(f"{path.name}: {'changed' if path in changed else 'as it was'}, {path.stat().st_size / 1000:.0f} kB")


@app.command()
def check(artifacts: Artifacts = "") -> None:
    """Execute the notebooks with nbval and compare every output with the kept one."""
    paths = [*(section.path for section in all_sections()), INSPECTION]
    differing = check_outputs(finished_run(artifacts_root(artifacts or None)), paths)
    for name, text in differing.items():
        print(f"{name} differs:\n{text}")
    print(f"{len(paths) - len(differing)} of {len(paths)} notebooks give the outputs that the repository keeps")
    raise typer.Exit(1 if differing else 0)


def main() -> None:
    """Run a command; a mistake is one line."""
    try:
        app()
    except CraneError as error:
        print(f"notebooks: {error}", file=sys.stderr)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
