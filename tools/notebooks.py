"""Keep the outputs of notebooks in the repository, and check that the notebooks still give them.

    python -m tools.notebooks write    run every section under the profile smoke and keep its outputs in notebooks/
    python -m tools.notebooks check    execute them again with nbval and compare every output with the kept one

Tables and printed numbers are compared to the digits that they show, pictures by the words that describe them. The
profile computes in float64, so that rounding, which differs between processors, stays far below those digits.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from pprint import pformat
from typing import Annotated, Any

import nbformat
import papermill
import typer
from nbformat import NotebookNode
from PIL import Image

from crane_lib.errors import CraneError
from crane_lib.files import write_text
from crane_run.sections import NOTEBOOKS, all_sections
from crane_study import ROOT
from crane_study.profile import artifacts_root
from crane_study.progress import progress

PROFILE = "smoke"
SANITIZERS = ROOT / "tests" / "nbval_sanitize.cfg"
PICTURE_WIDTH = 1200  # most pixels of a kept picture
WIDGET = "application/vnd.jupyter.widget-view+json"
INSPECTION = NOTEBOOKS / "inspect.ipynb"  # no section of a run: it looks at a finished one

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)
Artifacts = Annotated[str, typer.Option("--artifacts", metavar="DIR", help="Folder of the run.")]


def with_outputs(notebook: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """Return a notebook with the outputs of its executed copy, without times, metadata and injected parameters."""
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
        for pattern, replacement in re.findall(r"^regex: (.*)\nreplace: (.*)$", SANITIZERS.read_text(), re.MULTILINE):
            kept.text = re.sub(pattern, replacement, kept.text)
        text = kept.text
    else:
        if WIDGET in kept.data:
            raise CraneError(f"cell {cell}: shows a widget, of which nothing can be kept; is it a progress bar?")
        kept.metadata = {kind: {"alt": told["alt"]} for kind, told in output.metadata.items() if "alt" in told}
        if output.output_type == "execute_result":
            kept.execution_count = count
        if "image/png" in kept.data:
            kept.data["image/png"] = small_picture(kept.data["image/png"])
        text = "\n".join(str(text) for kind, text in kept.data.items() if kind.startswith("text/"))
    for folder in sorted({str(ROOT), str(Path.home()), tempfile.gettempdir()} - {"/"}, key=len, reverse=True):
        if folder in text:
            raise CraneError(f"cell {cell}: its output names the folder {folder}, which is another one elsewhere")
    return kept


def small_picture(png: str) -> str:
    """Shrink a picture in base64 to the width that is kept, in 256 colours: a third of the bytes."""
    buffer = BytesIO()
    small = Image.open(BytesIO(b64decode(png))).convert("RGB")
    small.thumbnail((PICTURE_WIDTH, 20 * PICTURE_WIDTH))
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


def keep_inspection(run: Path) -> list[Path]:
    """Execute the inspection notebook on a finished run and keep its outputs; returns it if they changed."""
    with tempfile.TemporaryDirectory(prefix="crane-notebooks-") as folder:
        executed = Path(folder) / "notebooks" / INSPECTION.name
        executed.parent.mkdir()
        given = parameters_of(INSPECTION, run)
        with progress(f"Executing {INSPECTION.name}"):
            papermill.execute_notebook(str(INSPECTION), str(executed), given, progress_bar=False, cwd=str(ROOT))
        return keep_outputs(Path(folder), [INSPECTION])


def parameters_of(notebook: Path, run: Path) -> dict[str, Any]:
    """Return the parameters with which a notebook is executed for its kept outputs."""
    given: dict[str, Any] = {"profile": str(run / "profile.yaml"), "artifacts": str(run.parent)}
    return {**given, "panel": False} if notebook.name == INSPECTION.name else given


def compare_outputs(run: Path, notebooks: Iterable[Path]) -> dict[str, str]:
    """Compare kept outputs with those that a finished run gave; returns {name: where they differ}, without executing.

    Pictures are compared by the words that describe them: their bytes depend on libraries and fonts.
    """
    differing = {}
    for path in notebooks:
        kept = nbformat.read(path, as_version=4)
        executed = nbformat.read(run / "notebooks" / path.name, as_version=4)
        given = with_outputs(nbformat.read(path, as_version=4), executed)
        for cell, now in zip(kept.cells, given.cells, strict=True):
            old, new = _told(cell), _told(now)
            if old != new:
                lines = difflib.unified_diff(old, new, "kept", "now", n=1)
                differing[path.name] = "\n".join([f"cell {cell['id']}", *lines])
                break
    return differing


def _told(cell: NotebookNode) -> list[str]:
    """Lines that tell the outputs of a cell, without pictures."""
    outputs = [dict(output) for output in cell.get("outputs", [])]
    for output in outputs:
        output["data"] = {kind: text for kind, text in output.get("data", {}).items() if kind != "image/png"}
    return pformat(outputs).splitlines()


def check_outputs(run: Path, notebooks: Iterable[Path]) -> dict[str, str]:
    """Execute notebooks with nbval on a copy of a finished run; returns {name: message} of those that differ."""
    paths = list(notebooks)
    with tempfile.TemporaryDirectory(prefix="crane-notebooks-") as folder:
        copy = Path(folder) / "artifacts" / run.name
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("notebooks", "*.partial*"))
        for path in paths:
            book = nbformat.read(path, as_version=4)
            code = [cell for cell in book.cells if cell.cell_type == "code"]
            bare = [cell["id"] for cell in code if cell.execution_count is None]  # nbval would compare nothing
            if bare:
                raise CraneError(f"{path.name}: cell {bare[0]} has no kept output; use python -m tools.notebooks write")
            given = [f"{name} = {value!r}" for name, value in parameters_of(path, copy).items()]
            code[0].source += "\n" + "\n".join(given)  # no cell of its own, so that no cell's number changes
            nbformat.write(book, Path(folder) / path.name)
        said = []
        with progress("Comparing notebooks", len(paths)) as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
            for text in pool.map(_validate, [Path(folder) / path.name for path in paths]):
                said.append(text)
                bar.advance()
    return {path.name: text for path, text in zip(paths, said, strict=True) if text}


def _validate(notebook: Path) -> str:
    """Run nbval on a notebook; returns its message, or nothing if every output is as before."""
    options = ["-q", "--color=no", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(notebook.parent)]
    options += ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", str(SANITIZERS), str(notebook)]
    settings = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "pytest", *options]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=notebook.parent, env=settings, timeout=1800
    )
    return done.stdout + done.stderr if done.returncode else ""


def finished_run(artifacts: Path) -> Path:
    """Run the sections of the profile that are not done yet; returns the run's folder."""
    command = [sys.executable, "-m", "crane_run.cli", "run", "--profile", PROFILE, "--artifacts", str(artifacts)]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise CraneError(f"the sections could not all be run under the profile {PROFILE}; see above")
    return artifacts / PROFILE


@app.command()
def write(artifacts: Artifacts = "") -> None:
    """Run every section under the profile smoke and keep its outputs in notebooks/."""
    paths = [section.path for section in all_sections()]
    run = finished_run(artifacts_root(artifacts or None))
    changed = keep_outputs(run, paths) + keep_inspection(run)
    for path in [*paths, INSPECTION]:
        print(f"{path.name}: {'changed' if path in changed else 'unchanged'}, {path.stat().st_size / 1000:.0f} kB")


@app.command()
def check(artifacts: Artifacts = "") -> None:
    """Execute the notebooks with nbval and compare every output with the kept one."""
    paths = [*(section.path for section in all_sections()), INSPECTION]
    differing = check_outputs(finished_run(artifacts_root(artifacts or None)), paths)
    for name, text in differing.items():
        print(f"{name} differs:\n{text}")
    print(f"{len(paths) - len(differing)} of {len(paths)} notebooks give the outputs that the repository keeps")
    raise typer.Exit(1 if differing else 0)


if __name__ == "__main__":
    try:
        app()
    except CraneError as error:
        print(f"notebooks: {error}", file=sys.stderr)
        raise SystemExit(1) from error
