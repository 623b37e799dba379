"""Tiny notebooks with a parameters cell."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PARAMETERS = 'profile = "mini"\nartifacts = ""\nvalue = 1'


def write_notebook(path: Path, *cells: str, title="A section", parameters=PARAMETERS) -> Path:
    tagged = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    book = new_notebook(cells=[new_markdown_cell(f"# {title}\n\nText."), tagged, *map(new_code_cell, cells)])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number}"
    nbformat.write(book, path)
    return path


def outputs(path: Path) -> str:
    """All that an executed notebook printed."""
    book = nbformat.read(path, as_version=4)
    return "".join(o.get("text", "") for cell in book.cells if cell.cell_type == "code" for o in cell.outputs)


def is_alive(process: int) -> bool:
    """Whether a process works; one that only waits for its parent to take note of its end does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
