"""The environment's files agree with one another, and the scripts that make it work without making it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from crane_study import ROOT

REQUIREMENTS = ROOT / "requirements"
LOCKS = ("base", "torch-cpu", "torch-cuda", "installer")
SCRIPTS = ("run_all.sh", "run_tests.sh", ".ci/run")


def entries(name: str) -> list[str]:
    """The lock's entries, each on one line with its hashes."""
    text = (REQUIREMENTS / f"{name}.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def pins(name: str) -> dict[str, Version]:
    """{name: version}, by the reference parser."""
    found = {}
    for entry in entries(name):
        requirement = Requirement(entry.partition(" --hash")[0])
        (specifier,) = requirement.specifier
        assert specifier.operator == "=="
        found[canonicalize_name(requirement.name)] = Version(specifier.version)
    return found


def asked_for(name: str) -> dict[str, Requirement]:
    """{name: requirement} of an input file."""
    lines = (REQUIREMENTS / f"{name}.in").read_text(encoding="utf-8").splitlines()
    parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/environment.py of an empty clone with small locks."""
    make_clone(tmp_path)
    spec = importlib.util.spec_from_file_location("crane_environment_tool", tmp_path / "tools" / "environment.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "GPU_DEVICES", ())
    monkeypatch.delenv("CRANE_TORCH", raising=False)
    return module


def make_clone(root: Path) -> None:
    """A clone with the real scripts, small locks and a command line that prints how it was called."""
    (root / "requirements").mkdir(parents=True)
    locks = {
        "base": "Some_Package==1.0",
        "torch-cpu": "torch==2.0+cpu",
        "torch-cuda": "torch==2.0",
        "installer": "uv==1",
    }
    for name, pin in locks.items():
        (root / "requirements" / f"{name}.lock").write_text(f"{pin} \\\n    --hash=sha256:00\n")
    (root / "tools").mkdir()
    for name in ("environment.py", "environment.sh"):
        shutil.copy(ROOT / "tools" / name, root / "tools" / name)
    shutil.copy(ROOT / "run_all.sh", root)
    (root / "crane_run").mkdir()
    (root / "crane_run" / "__init__.py").touch()
    (root / "crane_run" / "cli.py").write_text(
        "import os, sys\nprint(sys.prefix, os.getcwd(), sys.argv[1:], sep='|')\n"
    )


def make_environment(folder: Path, packages: dict[str, str]) -> Path:
    """A virtual environment without pip that claims to hold these packages; gives its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name, version in packages.items():
        (site / f"{name}-{version}.dist-info").mkdir()
    return folder / "bin" / "python"


def start(root: Path, *arguments: str, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run run_all.sh of a clone with nothing active but what `settings` says."""
    kept = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CONDA_PREFIX") and "CRANE" not in k}
    command = ["bash", str(root / "run_all.sh"), *arguments]
    return subprocess.run(
        command, cwd=cwd, env=kept | {"CRANE_TORCH": "cpu"} | settings, capture_output=True, text=True, check=False
    )


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOCKS)
def test_every_lock_entry_is_pinned_and_hashed(name: str) -> None:
    assert pins(name)
    for entry in entries(name):
        assert re.fullmatch(r"[\w.-]+==[^\s;]+( ; sys_platform == '\w+')?( +--hash=sha256:[0-9a-f]{64})+", entry), entry


@pytest.mark.parametrize("path", [*(f"requirements/{name}.lock" for name in LOCKS), "environment.yml", "Dockerfile"])
def test_no_host_or_machine_path_is_written_down(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert not re.search(r"https?:|file:|index-url|find-links|trusted-host", text)


def test_locks_agree_with_one_another() -> None:
    together = [pins("base"), pins("torch-cuda")]
    assert not set(together[0]) & set(together[1])
    cuda, cpu = together[1]["torch"], pins("torch-cpu")["torch"]
    assert cpu.public == cuda.public
    assert (cpu.local, cuda.local) == ("cpu", None)
    shared = set(pins("installer")) & set(pins("base"))
    assert all(pins("installer")[name] == pins("base")[name] for name in shared)


@pytest.mark.parametrize(("asked", "locked"), [("base", "base"), ("torch", "torch-cuda"), ("installer", "installer")])
def test_inputs_are_locked_as_asked(asked: str, locked: str) -> None:
    for name, requirement in asked_for(asked).items():
        assert pins(locked)[name] in requirement.specifier, name


def test_project_dependencies_are_those_of_the_lock(project: dict[str, Any]) -> None:
    lines = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["test"]]
    declared = {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}
    assert set(declared) == {*asked_for("base"), *asked_for("torch")}
    locked = {**pins("base"), **pins("torch-cuda")}
    for name, requirement in declared.items():
        assert locked[name] in requirement.specifier, name


def test_conda_environment_holds_python_and_the_lock_only() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, *from_conda, from_pip = environment["dependencies"]
    assert re.fullmatch(r"python=3\.11\.\d+", python)  # tests/test_container.py: the same as the image's
    assert from_conda == ["pip"]
    assert sorted(from_pip["pip"]) == ["-r requirements/base.lock", "-r requirements/torch-cuda.lock"]
    for line in from_pip["pip"]:
        assert (ROOT / line.removeprefix("-r ")).is_file()


def test_python_is_the_same_everywhere(project: dict[str, Any], tool: ModuleType) -> None:
    assert project["project"]["requires-python"] == ">=3.11,<3.12"
    assert tool.PYTHON == (3, 11)
    assert re.search(r"^ARG BASE=python:3\.11\.\d+-slim-bookworm@", (ROOT / "Dockerfile").read_text(), re.M)


@pytest.mark.parametrize("path", [*SCRIPTS, "tools/environment.sh"])
def test_scripts_are_valid_bash(path: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / path)], check=True)
    assert os.access(ROOT / path, os.X_OK) == (path in SCRIPTS)


# ---- is this environment right? -------------------------------------------------------------------------------------


def test_lock_is_read_as_the_reference_parser_reads_it(tool: ModuleType) -> None:
    for name in LOCKS:
        needed = {
            canonicalize_name(requirement.name): str(next(iter(requirement.specifier)).version)
            for requirement in (Requirement(entry.partition(" --hash")[0]) for entry in entries(name))
            if requirement.marker is None or requirement.marker.evaluate()
        }
        assert tool.read_lock(REQUIREMENTS / f"{name}.lock") == needed


@pytest.mark.parametrize(
    ("have", "expected"),
    [
        ({"some_package": "1.0", "torch": "2.0"}, ""),
        ({"Some.Package": "1.0", "torch": "2.0+cpu", "more": "3"}, ""),
        ({"some_package": "1.1", "torch": "2.0"}, "some-package is 1.1, the lock says 1.0"),
        ({"torch": "2.0"}, "some-package is missing, the lock says 1.0"),
        ({}, "torch is missing, the lock says 2.0 (2 packages differ)"),
    ],
)
def test_difference_names_the_package(tool: ModuleType, tmp_path: Path, have: dict[str, str], expected: str) -> None:
    for name, version in have.items():
        (tmp_path / "site" / f"{name}-{version}.dist-info").mkdir(parents=True)
    assert tool.difference(tool.installed([str(tmp_path / "site")])) == expected


def test_stamp_lapses_with_locks_place_and_build(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    tool.VENV.mkdir()
    assert not tool.is_fresh()
    cases = [
        ("cpu", "", False, True),
        ("cpu", "cuda", False, False),
        ("cpu", "", True, False),
        ("cpu", "cpu", True, True),
    ]
    cases += [("cuda", "", True, True), ("cuda", "", False, True), ("cuda", "cpu", False, False)]
    for build, chosen, gpu, fresh in cases:
        tool.STAMP.write_text(tool.stamp(build))
        monkeypatch.setenv("CRANE_TORCH", chosen)
        monkeypatch.setattr(tool, "has_gpu", lambda gpu=gpu: gpu)
        assert tool.is_fresh() == fresh, (build, chosen, gpu)
    monkeypatch.delenv("CRANE_TORCH")
    tool.STAMP.write_text(tool.stamp("cuda").replace(str(tool.ROOT), "/elsewhere"))
    assert not tool.is_fresh()
    tool.STAMP.write_text(tool.stamp("cuda"))
    tool.LOCKS["base"].write_text("some-package==1.1\n")
    assert not tool.is_fresh()


@pytest.mark.parametrize(
    ("answer", "expected"), [("echo 'GPU 0: some'", True), ("echo none", False), ("exit 9", False)]
)
def test_gpu_is_what_the_driver_says(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, expected: bool
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not tool.has_gpu()
    monkeypatch.setattr(tool, "GPU_DEVICES", (tmp_path,))
    assert tool.has_gpu() == expected


# ---- installation, without installing -------------------------------------------------------------------------------


@pytest.fixture
def steps(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collects the programs that an installation starts; those with a word of `tool.failing` in them fail."""
    started: list[str] = []
    tool.failing = []  # type: ignore[attr-defined]

    def run(command: list[str], *, check: bool = True) -> bool:
        text = " ".join(command)
        if "-m venv" in text:
            make_environment(tool.VENV, {})
        started.append(text)
        failed = any(word in text for word in tool.failing)
        if failed and check:
            raise tool.EnvironmentProblem("failed")
        return not failed

    monkeypatch.setattr(tool, "run", run)
    return started


def test_installation_takes_the_cpu_build_and_stamps_last(tool: ModuleType, steps: list[str]) -> None:
    assert tool.main(["install"]) == 0
    parts = [
        "-m venv",
        "installer.lock",
        "-m pip install --require-hashes --no-deps -r .*torch-cpu.lock",
        "uv pip .*base",
        "-I -c import crane_run.cli, ",
    ]
    assert all(re.search(part, step) for part, step in zip(parts, steps, strict=True))
    assert tool.STAMP.read_text() == tool.stamp("cpu")
    assert (tool.SITE_PACKAGES / "crane.pth").read_text() == f"{tool.ROOT}\n"
    assert os.access(tool.VENV / "bin" / "crane", os.X_OK)
    steps.clear()
    assert tool.main(["install"]) == 0
    assert steps == []


@pytest.mark.parametrize(
    ("choice", "gpu", "failing", "status", "stamp"),
    [
        ("", True, "torch-cpu", 0, "cuda"),
        ("cuda", False, "torch-cpu", 0, "cuda"),
        ("", False, "torch-cpu", 0, "cuda"),  # no wheel of the CPU build
        ("cpu", False, "torch-cpu", 2, None),  # asked for by name: nothing replaces it
        ("", False, "uv pip", 0, "cpu"),  # pip takes over
        ("cuda", False, "uv pip", 0, "cuda"),
        ("gpu", False, "", 2, None),
    ],
)
def test_the_build_of_torch_fits_the_machine(
    tool: ModuleType,
    steps: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    choice: str,
    gpu: bool,
    failing: str,
    status: int,
    stamp: str | None,
) -> None:
    tool.failing.append(failing or "nothing")
    monkeypatch.setenv("CRANE_TORCH", choice)
    monkeypatch.setattr(tool, "has_gpu", lambda: gpu)
    assert tool.main(["install"]) == status
    if stamp:
        assert tool.STAMP.read_text() == tool.stamp(stamp)
        tried = [step for step in steps if f"torch-{stamp}.lock" in step]
        assert ("uv pip" in tried[0]) == (stamp == "cuda")
        assert "-m pip install" in [step for step in steps if "base.lock" in step][-1] or failing != "uv pip"
    told = capsys.readouterr().err
    assert ("finds no wheel of torch 2.0+cpu" in told) == (failing == "torch-cpu" and (choice, gpu) == ("", False))
    assert ("CRANE_TORCH is 'gpu'" in told) == (choice == "gpu")


def test_what_is_imported_to_be_compiled_is_there(tool: ModuleType) -> None:
    for name in tool.IMPORTS:
        assert importlib.util.find_spec(name), name


def test_interrupted_installation_is_made_again(
    tool: ModuleType, steps: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tool.failing.append("base.lock")
    assert tool.main(["install"]) == 2
    assert not tool.is_fresh()
    (tool.VENV / "half").touch()
    tool.failing.clear()
    assert tool.main(["install"]) == 0
    assert "the last installation was interrupted" in capsys.readouterr().err
    assert not (tool.VENV / "half").exists()
    assert tool.is_fresh()


def test_environment_of_ones_own_is_taken_over_if_it_matches(tool: ModuleType, steps: list[str]) -> None:
    make_environment(tool.VENV, {"some_package": "1.0", "torch": "2.0+cpu"})
    assert tool.main(["install"]) == 0
    assert steps == []
    assert tool.is_fresh()


def test_foreign_folder_is_not_removed(tool: ModuleType, steps: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (tool.VENV / "mine").mkdir(parents=True)
    assert tool.main(["install"]) == 2
    assert "move it away" in capsys.readouterr().err
    assert (tool.VENV / "mine").exists()
    assert steps == []


# ---- run_all.sh -----------------------------------------------------------------------------------------------------


def test_run_all_takes_what_matches(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "a clone", tmp_path / "else where"
    elsewhere.mkdir()
    make_clone(root)
    right = {"some_package": "1.0", "torch": "2.0+cpu"}
    active = make_environment(tmp_path / "right one", right)
    own = make_environment(root / ".venv", right)
    stale = make_environment(tmp_path / "stale", {"some_package": "0.9", "torch": "2.0"})

    def used(done: subprocess.CompletedProcess[str]) -> tuple[str, str, str]:
        assert done.returncode == 0, done.stderr
        prefix, folder, arguments = done.stdout.strip().split("|")
        return prefix, folder, arguments

    answer = used(start(root, "--quick", "a b", cwd=elsewhere, VIRTUAL_ENV=str(active.parent.parent)))
    assert answer == (str(tmp_path / "right one"), str(elsewhere), "['run', '--quick', 'a b']")

    done = start(root, cwd=elsewhere, CONDA_PREFIX=str(tmp_path / "stale"), PATH=f"{own.parent}:{os.environ['PATH']}")
    assert used(done)[0] == str(root / ".venv")
    assert "some-package is 0.9, the lock says 1.0; .venv is used instead" in done.stderr

    done = start(root, cwd=tmp_path, CRANE_PYTHON="stale/bin/python")
    assert used(done)[0] == str(tmp_path / "stale")
    assert "going on with it, as you asked" in done.stderr
    assert stale.exists()

    done = start(root, cwd=elsewhere)
    assert used(done)[0] == str(root / ".venv")
    assert done.stderr == ""


def test_run_all_without_a_fitting_python_says_what_it_saw(tmp_path: Path) -> None:
    make_clone(tmp_path / "clone")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "dirname"):
        (programs / name).symlink_to(str(shutil.which(name)))
    (programs / "python3").write_text(f"#!{shutil.which('bash')}\necho 3.12\n")
    (programs / "python3").chmod(0o755)
    done = start(tmp_path / "clone", cwd=tmp_path, PATH=str(programs))
    assert done.returncode == 2
    assert "python3.11 is not there, python3 is 3.12" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = start(tmp_path / "clone", cwd=tmp_path, PATH=str(programs), CRANE_PYTHON="nowhere")
    assert done.returncode == 2
    assert "CRANE_PYTHON is 'nowhere'" in done.stderr
