"""Commands of the README and of docs/ are executed, with stand-ins; test_readme_containers.py has the rest."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from unittest.mock import Mock

import pytest
import yaml
from typer.testing import CliRunner

import crane_study.fetch
from crane_lib.errors import CraneError
from crane_lib.neurons import NeuronSet, write_neuron_sets
from crane_run import cli
from crane_run.console import RESULTS, Console
from crane_run.inspect import lab
from crane_run.references import REFERENCES, Reference, read_reference
from crane_run.schedule import Board, Row
from crane_run.sections import all_sections
from crane_study.profile import profile_names
from tests.readme import README, ROOT, commands, split, starting
from tests.run.small_run import make_run
from tests.run.test_make_archive import call, tool  # noqa: F401  (a fixture)
from tests.small import TEXTS, write_lines, write_model, write_study
from tools import expected_seconds, many_languages, notebooks
from tools.readme import SEEDS, filled, matched_damage, seeds

LIBRARY = ("python", "-m", "crane_run.cli")
# One kind per function; export, docker, conda and tools/container.sh are tried in test_readme_containers.py.
TRIED = (("./run_all.sh",), ("./run_tests.sh",), ("crane",), LIBRARY, ("python", "-m", "tools.notebooks"))
TRIED += (("python", "requirements/update.py"), ("tools/container.sh",), ("python", "tools/make_archive.py"))
TRIED += (("python", "-m", "tools.expected_seconds"), ("python", "-m", "tools.many_languages"))
TRIED += (("source",), ("export",), ("docker",), ("conda",), ("hf",))  # the last is no program of ours
FOLDERS = "notebooks|expected|configs|docs|requirements|tests|tools|crane_lib|crane_study|crane_run"


class Became(Exception):
    """Raised in place of becoming another program."""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder in which everything that commands name lies."""
    write_model(tmp_path / "MODEL")
    write_lines(tmp_path / "vi.jsonl", [{"text": text} for text in TEXTS["vi"]])
    some = NeuronSet(sites={"neuron": [[0], [1]]}, widths={"neuron": 24}, method="m", budget="0.1", language="vi")
    write_neuron_sets(tmp_path / "SETS", [some])
    for name in ("my-study", "mine"):
        profile = write_study(tmp_path, name=name)
        settings = yaml.safe_load(profile.read_text(encoding="utf-8"))
        settings["selection"] = {"methods": ["contrast", "kurtosis", "lape"], "random_draws": 5}
        settings |= {"controls": {"draws": 1}, "evaluation": {"batch_size": 64, "documents": 4, "questions": 4}}
        profile.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    make_run(tmp_path / "artifacts" / "mini")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRANE_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(crane_study.fetch, "fetch", lambda model, **_given: tmp_path / model.name)  # no network
    return tmp_path


def study_in_dry_run(arguments, monkeypatch):
    """Call `run` as run_all.sh does, without running a section."""
    monkeypatch.setattr(lab.os, "execv", Mock(side_effect=Became))
    at_once = {"--list", "--help", "--dry-run", "--lab"} & set(arguments)
    result = CliRunner().invoke(cli.app, ["run", *arguments, *([] if at_once else ["--dry-run"])])
    if "--lab" in at_once:
        assert isinstance(result.exception, Became)
        assert "jupyterlab" in lab.os.execv.call_args.args[1]
        return
    assert result.exit_code == 0, result.output
    assert at_once or "would run" in result.output


def other_command(arguments):
    """Call `crane` with these arguments."""
    result = CliRunner().invoke(cli.app, arguments)
    # The machine lacks a GPU and weights; the small stand-in is not the reference run.
    expected = {"preflight": (2, "MISSING"), "verify": (1, "artifacts/mini: profile mini")}
    status, text = expected.get(arguments[0], (0, ""))
    assert result.exit_code == status, f"{result.output}{result.exception}"
    assert text in result.output


@pytest.mark.parametrize("command", starting("./run_all.sh"))
def test_studies(place, command, monkeypatch):
    settings, (_, *arguments) = split(command)
    read = "".join((ROOT / "tools" / f"environment.{kind}").read_text() for kind in ("py", "sh"))
    assert all(name in read or name.startswith("PIP_") for name in settings)
    study_in_dry_run(arguments, monkeypatch)


def prepare(place, command):
    """Make what an earlier command of the page would have made."""
    write_lines(place / "en.jsonl", [{"text": text} for text in TEXTS["en"]])
    (place / "prompts.txt").write_text("The river\nOver the bridge\n")
    if "--statistics" in command or ".json" in command.replace(".jsonl", ""):
        corpora = ["--corpus", "en=en.jsonl", "--corpus", "vi=vi.jsonl"]
        other_command(["relevance", "--model", "MODEL", *corpora, "--out", "stats"])
        for name in ("sets", "A", "B"):
            written = ["--out", f"{name}.json", "--scores", "scores.parquet"]
            other_command(["select", "--statistics", "stats", "--budget", "0.1", *written])


@pytest.mark.parametrize("command", [*starting("crane"), *starting(*LIBRARY)])
def test_the_other_commands(place, command):
    prepare(place, command)
    other_command(shlex.split(command.removeprefix(" ".join(LIBRARY)).removeprefix("crane")))


@pytest.mark.parametrize("command", starting("./run_tests.sh"))
def test_the_script_of_the_tests_hands_its_arguments_on(tmp_path, command):
    python = tmp_path / "python"  # it says what it is called with, and that it is a Python 3.11
    python.write_text('#!/bin/sh\necho "$*" >> "${0%/*}/calls"\necho 3.11\n')
    python.chmod(0o755)
    settings = {"CRANE_PYTHON": str(python), "CRANE_TEST_PROCESSES": "3", "PATH": os.environ["PATH"]}
    subprocess.run(["bash", "-c", command], cwd=ROOT, env=settings, check=True)
    called = (tmp_path / "calls").read_text().splitlines()
    assert {"-m ruff check", "-m mypy"} <= set(called)
    assert any("importlinter" in line for line in called)
    (tests,) = (line for line in called if line.startswith("-m pytest -n 3 "))  # types are checked beside them
    assert tests.endswith(command.removeprefix("./run_tests.sh"))


@pytest.mark.parametrize("command", starting("python", "tools/make_archive.py"))
def test_an_archive_is_made_twice_where_the_readme_makes_it(tool, command, monkeypatch):  # noqa: F811
    make_run(tool.ROOT / "artifacts" / "mini")
    monkeypatch.chdir(tool.ROOT)
    for _ in range(2):
        status, said = call(tool, *shlex.split(command)[2:])
        assert status == 0, said
        assert tool.git("status", "--porcelain") == b""  # a run after it is of a clean tree


@pytest.mark.parametrize("command", starting("python", "-m", "tools.notebooks"))
def test_notebooks_are_written_from_a_finished_run(command, tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "finished_run", lambda _folder: tmp_path)
    for name in ("keep_outputs", "keep_inspection"):
        monkeypatch.setattr(notebooks, name, Mock(return_value=[]))
    result = CliRunner().invoke(notebooks.app, command.split()[3:])
    assert result.exit_code == 0, result.output
    notebooks.keep_outputs.assert_called_once_with(tmp_path, [section.path for section in all_sections()])
    notebooks.keep_inspection.assert_called_once_with(tmp_path)


@pytest.mark.parametrize("command", starting("python", "requirements/update.py"))
def test_locks_are_written_by_a_program_that_starts(command):  # it asks a package index, which tests do not
    subprocess.run([sys.executable, *command.split()[1:], "--help"], cwd=ROOT, capture_output=True, check=True)


@pytest.mark.parametrize("command", starting("python", "-m", "tools.expected_seconds"))
def test_the_seconds_of_a_profile_are_taken_from_a_run(command, tmp_path, monkeypatch):
    monkeypatch.setenv("CRANE_ARTIFACTS", str(tmp_path))
    with pytest.raises(
        CraneError, match=r"no run of section 00 is recorded here; \./run_all\.sh --profile mini --fresh"
    ):
        expected_seconds.main(*command.split()[3:])


@pytest.mark.parametrize("command", starting("python", "-m", "tools.many_languages"))
def test_many_languages_are_rehearsed(command, tmp_path, monkeypatch):  # for good in test_corpora_options.py
    monkeypatch.setattr(many_languages, "crane", called := Mock())
    monkeypatch.setattr(many_languages, "_STEPS", 1)
    many_languages.main(tmp_path / command.split()[3], names=2)
    assert [call.args[0][0] for call in called.call_args_list] == ["relevance", "select", "evaluate", "bench"]


@pytest.mark.parametrize("command", starting("source"))
def test_the_environment_to_activate_is_the_one_that_is_made(command, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("environment", ROOT / "tools" / "environment.py")
    environment = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(environment)
    folder = environment.VENV.relative_to(ROOT)
    assert command.split()[1:] == [str(folder / "bin" / "activate")]
    site = tmp_path / "site-packages"
    for made in (tmp_path / folder / "bin", site):
        made.mkdir(parents=True)
    monkeypatch.setattr(environment, "VENV", tmp_path / folder)
    monkeypatch.setattr(environment, "SITE_PACKAGES", site)
    environment.make_importable()
    assert os.access(tmp_path / folder / "bin" / "crane", os.X_OK)


def test_no_command_is_left_out_and_the_readme_is_short():
    assert len(re.sub(r"<!-- \w+ -->.*?<!-- end -->", "", README, flags=re.DOTALL).split()) < 1800  # without tables
    found = commands()
    assert len(found) > 40
    known = {command for start in TRIED for command in starting(*start)}
    assert [command for command in found if command not in known] == []
    assert [start for start in TRIED if not starting(*start)] == []


def test_the_last_lines_of_a_run_are_those_that_are_printed(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "artifacts" / "mini"
    folder.mkdir(parents=True)
    for name in RESULTS:
        (folder / name).touch() if "." in name else (folder / name).mkdir()
    monkeypatch.chdir(tmp_path)
    Console().finish(folder, Board([Row(section.number, section.title, None) for section in all_sections()]))
    printed = re.sub(r"(?<=done in ).*", "<time>", capsys.readouterr().out)
    assert f"The run ends with\n\n```\n{printed}```\n" in README


def test_its_numbers_are_those_of_the_reference_run(tmp_path, monkeypatch):  # best and worst alike
    assert filled(README) == README, "run python -m tools.readme write"
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert filled(results) == results, "run python -m tools.readme write"
    reference = json.loads((REFERENCES / "mini.json").read_text(encoding="utf-8"))
    rows = reference["tables"]["tables/03_langspec.csv"]["rows"]
    row = next(name for name in rows if "contrast_mean / 0.1 / token_probability" in name)
    place = reference["tables"]["tables/03_langspec.csv"]["columns"].index("mean")
    assert f"| `contrast_mean`, 10 % | {rows[row][place]:.3f}".replace(" 0.", " .") in results
    reference["tables"]["tables/03_langspec.csv"]["rows"][row][place] += 0.01
    (tmp_path / "mini.json").write_text(json.dumps(reference), encoding="utf-8")
    monkeypatch.setattr("tools.readme.REFERENCES", tmp_path)
    assert filled(results) != results


def test_its_first_table_has_every_method_at_equal_damage_the_most_selective_first():
    languages, rises = ("en", "zh", "vi"), {"lape": (0.5, 0.25, 0.75), "contrast": (0.25, 0.125, 0.0)}
    cells = {
        f"{m} / {k} / {d:g}": [x * d]
        for m, of in rises.items()
        for k, x in zip(languages, of, strict=True)
        for d in (1, 2)
    }
    cells["kurtosis / en / 1"] = cells["kurtosis / zh / 1"] = cells["kurtosis / vi / 1"] = [None]
    cells |= {f"kurtosis / {k} / 2": [None] for k in languages}
    means = {"lape / 1": [0.5, 0.4, 0.6], "contrast / 1": [0.125, 0.1, 0.15], "kurtosis / 1": [None] * 3}
    tables = {
        "tables/06_matched_damage.csv": {"key": ["method", "masked_language", "damage"], "columns": ["worst"]},
        "tables/06_matched_summary.csv": {"key": ["method", "damage"], "columns": ["worst", "worst_low", "worst_high"]},
    }
    for table, rows in zip(tables.values(), (cells, means), strict=True):
        table["rows"] = rows
    given = {"profile": {}, "made_with": {}, "verdicts": {}, "sha256": {}, "tables": tables}
    first, _, heads, _, *rows = matched_damage({"mini": Reference.model_validate(given)}).splitlines()
    assert first == "`mini`:"
    assert heads == "| method | 1 nat: en / zh / vi | 2 nats: en / zh / vi | 1 nat, mean (95 % interval) |"
    assert rows == [
        "| `contrast` | .25 / .12 / .00 | .50 / .25 / .00 | .125 (.100 to .150) |",
        "| `lape` | .50 / .25 / .75 | 1.00 / .50 / 1.50 | .500 (.400 to .600) |",
        "| `kurtosis` | – / – / – | – / – / – | – |",
    ]


def seeds_summary(folder):
    """A committed summary of three seeds, in a folder."""
    numbers = ["mean", "low", "high", "seeds"]
    rises = {f"contrast / {damage} / {k}": [0.1 * damage, 0.05, 0.15, 3] for damage in (1, 2) for k in ("vi", "all")}
    rises |= {"lape / 1 / vi": [0.3, 0.25, 0.35, 3], "lape / 1 / all": [0.01, None, None, 1]}
    scores = {
        f"base / base / {method} / {budget} / {metric} / {score}": [value, value - 0.125, value + 0.125, 3]
        for (method, budget), of in {("lape", "published"): 0.25, ("contrast", "0.1"): 0.5}.items()
        for metric, shift in (("token_probability", 0), ("accuracy", 1))
        for score, value in (("langspec_f1", of + shift), ("precision", 0.75), ("recall", 0.5))
    }
    keys = {"matched_damage": ["method", "damage", "masked_language"]}
    keys["langspec"] = ["model", "selected_on", "method", "budget", "metric", "score"]
    tables = {
        name: {"key": keys[name], "columns": numbers, "rows": rows}
        for name, rows in (("matched_damage", rises), ("langspec", scores))
    }
    given = {"schema": "crane.seeds-reference/1", "profile": "mini", "random_seeds": [1, 2, 5], "made_with": {}}
    (folder / f"{SEEDS}.json").write_text(json.dumps(given | {"tables": tables}), encoding="utf-8")


def test_the_means_over_model_seeds_are_those_of_the_committed_summary(tmp_path, monkeypatch):
    for path in REFERENCES.glob("m*i.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr("tools.readme.REFERENCES", tmp_path)
    assert "is not committed yet" in seeds({})
    seeds_summary(tmp_path)
    block = re.search(r"<!-- seeds -->\n(.*?)\n<!-- end -->", filled(README), flags=re.DOTALL)[1]
    assert block.splitlines() == [
        "Random seeds 1, 2 and 5; in brackets 95 % t-intervals over the seeds.",
        "",
        "| method | 1 nat, mean of the languages | vi |",
        "|---|---|---|",
        "| `contrast` | .100 (.050 to .150) | .100 (.050 to .150) |",
        "| `lape` | – | .300 (.250 to .350) |",  # only one seed reaches the damage in every language
        "",
        "| sets | LangSpec-F1 | precision | recall |",
        "|---|---|---|---|",
        "| `contrast`, 10 % | .500 (.375 to .625) | .750 (.625 to .875) | .500 (.375 to .625) |",
        "| `lape`, as published | .250 (.125 to .375) | .750 (.625 to .875) | .500 (.375 to .625) |",
    ]


def test_the_claims_table_has_the_verdicts_of_the_reference_runs():
    heads = re.search(r"^\| claim \|.*\| output \|(.*)\|$", README, flags=re.MULTILINE)[1].split("|")
    columns = [tuple(re.findall(r"`(\S+)`", head)) for head in heads]
    told = {}
    for claim, row in re.findall(r"^\| (C\w+) \|(.*)\|$", README, flags=re.MULTILINE):
        cells = row.split("|")[-len(columns) :]
        told |= {
            (claim, *column): sorted(cell.strip().split(" / ")) for column, cell in zip(columns, cells, strict=True)
        }
    found = {}
    for profile in {profile for profile, _method in columns}:
        for case, verdict in read_reference(REFERENCES / f"{profile}.json").verdicts.items():
            claim, method, _budget, _measure = case.split(" / ")
            word = {"REPRODUCED": "yes", "NOT REPRODUCED": "no"}.get(verdict, verdict.lower())
            found.setdefault((claim, profile, method), []).append(word)
    assert told == {place: sorted(words) for place, words in found.items()}


def test_every_path_and_profile_that_it_names_is_there():
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "expected/README.md")]
    for page in [*pages, *(ROOT / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", text):
            assert (page.parent / target).exists(), (page, target)
        for name in re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", text):
            assert (ROOT / name).exists() or "NN" in name, (page, name)
    for section in all_sections():
        assert f"`notebooks/{section.path.name}`" in README
    for name in profile_names():
        assert f"`{name}`" in README or name == "template"
