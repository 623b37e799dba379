"""Cells that run in the section's own process give the outputs that a kernel gives."""

import json

import nbformat
import papermill
import pytest

from tests.run.notebooks import write_notebook
from tests.run.test_notebook import execute

SHOWN = """
import sys
import pandas as pd
from IPython.display import HTML, Markdown, display, update_display
print("one")
print("to stderr", file=sys.stderr)
display(Markdown("| a |\\n| --: |\\n| 0.1 |"), pd.DataFrame({"a": [1.5, None], "b": ["x", "é"]}))
display({"image/png": "aGFsbG8=", "text/plain": "words"}, raw=True, metadata={"image/png": {"alt": "Drops"}})
display(HTML("<b>late</b>"), display_id="one")
print("two", end="")
"""
CELLS = [
    SHOWN,
    "",
    "update_display(Markdown('changed'), display_id='one')\npd.DataFrame({'a': [1]})",
    "import numpy as np\nnp.float64(0.5)",
    "value + 1;",
    "_ , In[-2], len(Out), __name__",
    "from IPython.display import clear_output\nprint('gone'); clear_output(wait=True); print('stays')",
    "from PIL import Image\nImage.new('RGB', (2, 2))",
    "%pwd",
    "!echo shell",
    "await __import__('asyncio').sleep(0, 'awaited')",
    "import logging, threading\nlogging.basicConfig()\nlogging.getLogger('any').error('logged')",
    "one = threading.Thread(target=print, args=['by a thread'])\none.start()\none.join()",
    "import matplotlib.pyplot as plt\nlen(plt.plot([1, 2]))",
    "class A:\n    __repr__ = lambda self: 'A'\n    _repr_markdown_ = lambda self: ('*a*', {'alt': 'a'})\nA()",
    "def f():\n    raise ValueError('no\\nmore')\nprint('before')\nf()",
    "print('never')",
]


def told(path):
    """Number and outputs of a notebook's cells: printed texts, then the others in order."""
    cells = []
    for cell in nbformat.read(path, as_version=4).cells:
        texts, others = {}, []
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                texts[output.name] = texts.get(output.name, "") + output.text
            else:
                output.pop("traceback", None)  # the lines that it quotes around an error differ
                others.append(json.dumps(output, sort_keys=True))
        cells.append((cell.source, cell.get("execution_count"), texts, others))
    return cells


def test_outputs_are_those_of_a_kernel(tmp_path):
    path, kernel, given = write_notebook(tmp_path / "a.ipynb", *CELLS), tmp_path / "kernel.ipynb", {"value": 3}
    with pytest.raises(papermill.PapermillExecutionError):
        papermill.execute_notebook(str(path), str(kernel), given, kernel_name="python3", progress_bar=False)
    assert execute(path, given) == "cell 19: ValueError: no"
    ours, theirs = told(tmp_path / "out" / "a.failed.ipynb"), told(kernel)
    picture = next(cell for cell in theirs if "plt" in cell[0])
    assert "Figure" in picture[3].pop()  # which matplotlib draws by itself in a kernel
    assert ours == theirs
    assert sum(len(others) for _source, _count, _texts, others in ours) == 13
