"""The commands of the README are executed: here, with stand-ins for what they name, or by the test named below."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from crane_lib import cli
from crane_lib.neurons import NeuronSet, write_neuron_sets
from crane_lib.pipeline import lab
from crane_lib.pipeline.reference import REFERENCES, read_reference
from crane_lib.pipeline.sections import all_sections
from crane_lib.profile import profile_names
from tests.pipeline.small_run import make_run
from tests.small import TEXTS, write_lines, write_model, write_study

ROOT = Path(cli.__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = ("./run_all.sh", "./run_tests.sh", "crane ", "python ", "docker ", "conda ", "torchrun ")
# Commands that take minutes or another program: the file that executes them, or looks at all that they name.
# And what of the command that file must name.
ELSEWHERE = {
    "./run_tests.sh": (".ci/run", "run_tests.sh"),
    "docker ": ("tests/test_container.py", "compose.yaml"),
    "python tools/container.py": ("tests/test_container.py", "container_build"),
    "python tools/make_archive.py": ("tests/test_make_archive.py", "make_archive"),
    "python -m tools.notebooks write": ("tests/test_notebooks.py", "keep_outputs"),
    "conda env create -f environment.yml": ("tests/test_container.py", "environment.yml"),
}

NEEDS_INDEX = "python requirements/update.py"  # resolves against a package index, which tests do not ask


def commands():
    """Commands of the README: lines of its bash blocks, and code between backticks that begins like one."""
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    rest = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", rest)]
    found = [re.sub(r"\s+#.*", "", line).strip() for line in lines]
    found += [span for span in spans if span.startswith(PROGRAMS) and span != "crane verify"]  # a name in a sentence
    return list(dict.fromkeys(found))


class Became(Exception):
    """Raised in place of becoming another program."""


def become(_program, command):
    raise Became(*command)


def is_elsewhere(command):
    return any(command.startswith(start) for start in ELSEWHERE)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder in which everything that commands name lies."""
    write_model(tmp_path / "MODEL")
    write_lines(tmp_path / "vi.jsonl", [{"text": text} for text in TEXTS["vi"]])
    write_neuron_sets(
        tmp_path / "SETS",
        [NeuronSet(sites={"neuron": [[0], [1]]}, widths={"neuron": 24}, method="m", budget="0.1", language="vi")],
    )
    for name in ("my-study", "mine"):
        write_study(tmp_path, name=name)
    make_run(tmp_path / "artifacts" / "mini")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRANE_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def test_there_are_commands_and_every_program_is_known():
    found = commands()
    assert len(found) > 20
    assert all(command.startswith((*PROGRAMS, "hf ")) for command in found), found


@pytest.mark.parametrize("command", [item for item in commands() if item.startswith("./run_all.sh")])
def test_studies(place, command, monkeypatch):
    monkeypatch.setattr(lab.os, "execv", become)
    arguments = shlex.split(command)[1:]
    at_once = {"--list", "--help", "--dry-run", "--lab"} & set(arguments)
    result = CliRunner().invoke(cli.app, ["run", *arguments, *([] if at_once else ["--dry-run"])])
    if "--lab" in at_once:
        assert isinstance(result.exception, Became)
        assert "jupyterlab" in result.exception.args
        return
    assert result.exit_code == 0, result.output
    if not at_once:
        assert "would run" in result.output


@pytest.mark.parametrize("command", [item for item in commands() if item.startswith("crane ")])
def test_the_other_commands(place, command):
    arguments = shlex.split(command)[1:]
    result = CliRunner().invoke(cli.app, arguments)
    if arguments[0] == "preflight":
        assert result.exit_code == 2
        assert "MISSING" in result.output
    elif arguments[0] == "verify":
        assert "artifacts/mini: profile mini" in result.output
        assert result.exit_code == 1  # the small stand-in is not the reference run
    else:
        assert result.exit_code == 0, f"{result.output}{result.exception}"


@pytest.mark.parametrize("start", ELSEWHERE)
def test_what_is_executed_elsewhere(start):
    file, named = ELSEWHERE[start]
    assert named in (ROOT / file).read_text(encoding="utf-8")
    assert any(command.startswith(start) for command in commands()), f"{start}: not in the README any more"


def test_nothing_is_left_out():
    done = ("./run_all.sh", "crane ", "hf ")
    assert [item for item in commands() if not item.startswith(done) and not is_elsewhere(item)] == [NEEDS_INDEX]


def test_the_scripts_are_what_the_commands_say():
    for name in ("run_all.sh", "run_tests.sh"):
        assert (ROOT / name).stat().st_mode & 0o111
        assert subprocess.run(["bash", "-n", str(ROOT / name)], check=False).returncode == 0


def test_the_claims_table_has_the_verdicts_of_the_reference_run():
    told = {}
    for row in re.findall(r"^\| (C\d) \|(.*)\|$", README, flags=re.MULTILINE):
        *_, kurtosis, contrast = (cell.strip() for cell in row[1].split("|"))
        told[row[0]] = {"kurtosis": kurtosis.split(" / "), "contrast": contrast.split(" / ")}
    found = {}
    for case, verdict in read_reference(REFERENCES / "mini.json").verdicts.items():
        claim, method, _budget, measure = case.split(" / ")
        word = {"REPRODUCED": "yes", "NOT REPRODUCED": "no"}[verdict]
        found.setdefault(claim, {}).setdefault(method, {})[measure] = word
    measures = ("token_probability", "accuracy", "-")  # as the table has them; C4 has none
    assert told == {
        claim: {method: [words[name] for name in measures if name in words] for method, words in methods.items()}
        for claim, methods in found.items()
    }


def test_every_path_and_profile_that_it_names_is_there():
    for target in re.findall(r"\]\((?!http|#)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
    for name in re.findall(r"`((?:notebooks|expected|configs|docs|requirements)/[\w./-]*)`", README):
        assert (ROOT / name).exists(), name
    for section in all_sections():
        assert f"`notebooks/{section.path.name}`" in README
    for name in profile_names():
        assert f"`{name}`" in README or name == "template"


def test_python_examples_import(place):
    for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        imports = "\n".join(line for line in block.splitlines() if line.startswith(("from ", "import ")))
        assert imports
        exec(compile(imports, "README.md", "exec"), {})
    assert sys.modules["crane_lib.study"]
