"""Every python and bash block of docs/ is run in a folder with a small random model, or declared here with a reason."""

import re
import shlex
import sys
from contextlib import contextmanager
from unittest.mock import patch

import pytest

from crane_lib.methods import METHODS
from crane_lib.neurons import NeuronSet, write_neuron_sets
from crane_study.own import named_methods
from tests.readme import ROOT
from tests.run.test_docs import _own_tables  # noqa: F401  (a fixture: what a page registers is removed)
from tests.run.test_readme import LIBRARY, other_command, place, study_in_dry_run  # noqa: F401  (a fixture)
from tests.small import TEXTS, write_lines

DOCS = ROOT / "docs"
BLOCK = re.compile(r'^```(python|bash|yaml)(?: title="([\w.-]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
ELSEWHERE = {  # blocks of (page, language) -> the test that runs them
    ("own-study.md", "bash"): "test_readme.py",
    ("container.md", "bash"): "test_readme.py and test_readme_containers.py",
    ("distributed.md", "bash"): "starts many processes; test_docs.py reads every option, test_parallel.py starts two",
    ("families.md", "python"): "test_docs.py, on models of these families",
}
NOT_RUN = {  # start of a command -> reason
    "docker": "an image; test_readme_containers.py and test_container.py",
    "python tools/make_archive.py": "needs the history; test_make_archive.py",
    "torchrun": "starts processes; test_docs.py reads every option, test_parallel.py starts two",
    "crane crate": "a run of its own; test_crate.py",
    "crane verify artifacts/": "a run of its own; test_verify.py",
    "crane reference": "a run of its own; test_verify.py",
    "crane checkpoint": "trained models; test_checkpoints.py",
    "crane seeds": "runs of several seeds; test_model_seeds.py",
    "python -m tools.rounding": "five whole runs; test_smoke.py makes two and compares their bytes",
    "python -m tools.verdict_noise": "runs with other settings; test_smoke.py judges one under noise",
    "for seed in": "runs of several seeds; test_readme.py asks for one in a dry run",
}
GIVEN = {"own-study.md": {"path": "MODEL", "texts": TEXTS["vi"]}}  # names that a page's code takes from its reader


def pages():
    """Names of the pages, from docs/."""
    return [path.relative_to(DOCS).as_posix() for path in sorted(DOCS.rglob("*.md"))]


def blocks(name):
    """Language, file name and text of the blocks of a page that may have to be run."""
    return [match.groups() for match in BLOCK.finditer((DOCS / name).read_text(encoding="utf-8"))]


def commands(text):
    """Commands of a bash block, without comments."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [words for line in lines if (words := re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip())]


def run_command(command, monkeypatch):
    """Run a command in this process; a study as a dry run, for test_smoke.py runs one."""
    words = shlex.split(command)
    if words[0] == "./run_all.sh":
        study_in_dry_run(words[1:], monkeypatch)
    elif words[0] == "crane" or tuple(words[: len(LIBRARY)]) == LIBRARY:
        other_command(words[1:] if words[0] == "crane" else words[len(LIBRARY) :])
    else:
        pytest.fail(f"{command}: run it in tests/run/test_doc_blocks.py, or name it in NOT_RUN with a reason")


@contextmanager
def own_process():
    """Forget the methods that a command registers, as its process would."""
    with patch.dict(METHODS), patch.dict(named_methods._LOADED):
        yield


@pytest.fixture
def folder(place, monkeypatch):  # noqa: F811
    """The folder of test_readme.py, with what pages name beside it."""
    for language, texts in TEXTS.items():
        write_lines(place / f"{language}.jsonl", [{"text": text} for text in texts])
    some = NeuronSet(sites={"neuron": [[0], [1]]}, widths={"neuron": 24}, method="contrast", language="vi")
    for name in ("contrast@0.1.json", "sets.json"):
        write_neuron_sets(place / name, [some])
    monkeypatch.syspath_prepend(str(place))
    yield place
    for path in place.glob("*.py"):  # those of a page, which its code may have imported
        sys.modules.pop(path.stem, None)


def runs_code(name):
    """Return whether something of a page is run here."""
    return any(kind != "yaml" and (name, kind) not in ELSEWHERE for kind, *_ in blocks(name))


@pytest.mark.parametrize("name", list(filter(runs_code, pages())))
def test_the_blocks_of_a_page_run_in_their_order(folder, name, monkeypatch):
    names = {"__name__": "page", **GIVEN.get(name, {})}
    for kind, file, text in blocks(name):
        if file:
            (folder / file).write_text(text, encoding="utf-8")
        if (name, kind) in ELSEWHERE:
            continue
        if kind == "python":
            exec(compile(text, name, "exec"), names)
        elif kind == "bash":
            for command in commands(text):
                if not command.startswith(tuple(NOT_RUN)):
                    with own_process():
                        run_command(command, monkeypatch)


def test_no_block_escapes_and_no_exception_is_out_of_date():
    everything = [(name, kind, text) for name in pages() for kind, _file, text in blocks(name)]
    for name in pages():  # a block that is indented, or in a language of another spelling, would not be seen
        fences = re.findall(r"^ *```(\w+)", (DOCS / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert set(fences) <= {"python", "bash", "yaml", "ini"}, name
        assert len([kind for kind in fences if kind != "ini"]) == len(blocks(name)), name
    assert {(name, kind) for name, kind, _text in everything} >= {*ELSEWHERE, *((name, "python") for name in GIVEN)}
    here = [line for name, kind, text in everything if kind == "bash" for line in commands(text)]
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in here)] == []
