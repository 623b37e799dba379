"""Tiny notebooks with a parameters cell, and sections made of them."""

import time
from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from crane_run import sections

PARAMETERS = 'profile = "mini"\nartifacts = ""\nvalue = 1'


def write_notebook(path: Path, *cells: str, title="A section", parameters=PARAMETERS) -> Path:
    tagged = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    book = new_notebook(cells=[new_markdown_cell(f"# {title}\n\nText."), tagged, *map(new_code_cell, cells)])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number}"
    nbformat.write(book, path)
    return path


def write_sections(folder: Path, monkeypatch, **declared) -> Path:
    """Make a folder the place of the study's notebooks; its sections are declared as `_00={"needs": [...]}`."""
    folder.mkdir(exist_ok=True)
    names = {number.removeprefix("_"): entry for number, entry in declared.items()}
    (folder / "sections.yaml").write_text(yaml.safe_dump(names))
    monkeypatch.setattr(sections, "NOTEBOOKS", folder)
    monkeypatch.setattr(sections, "DECLARED", folder / "sections.yaml")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def wait_until(condition, *, seconds=300):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def outputs(path: Path) -> str:
    """All that an executed notebook printed."""
    book = nbformat.read(path, as_version=4)
    return "".join(o.get("text", "") for cell in book.cells if cell.cell_type == "code" for o in cell.outputs)


def is_alive(process: int) -> bool:
    """Return whether a process is at work; one that has ended but is still listed is not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class FakeExecution:
    """Execution without a process: `work` does what the section does and returns its error.

    An exception that is returned is raised while the runner waits, as Ctrl-C would be.
    """

    peak_memory_mib = 123.4

    def __init__(self, notebook, output, parameters, *, variables, log, heading):
        self.number, self.output, self.log = notebook.name[:2], output, log
        self.failed = output.with_name(f"{output.stem}.failed.ipynb")
        self.parameters, self.variables = dict(parameters), dict(variables)
        log.parent.mkdir(exist_ok=True)
        output.parent.mkdir(exist_ok=True)
        log.write_text(f"start: {heading}\n")
        self.problem = self.work(output.parent.parent)

    @staticmethod
    def prepare():
        """Start nothing."""

    def work(self, folder):
        """Write the section's outputs into the run's folder."""

    def is_alive(self):
        if isinstance(self.problem, BaseException):
            raise self.problem
        return False

    def result(self):
        if self.problem is None:
            self.output.write_text("executed")
        return self.problem

    def stop(self):
        """End it."""

    def last_line(self):
        return "at work"

    def close(self, text, *, finished=True):
        with self.log.open("a") as stream:
            stream.write(f"{'end: ' if finished else ''}{text}\n")
