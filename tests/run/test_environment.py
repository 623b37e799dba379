"""The environment's files agree with one another, and the scripts that make it work without making it."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from crane_study import ROOT

LOCKS = ("base", "torch-cpu", "torch-cuda", "installer")
SCRIPTS = ("run_all.sh", "run_tests.sh", ".ci/run", "tools/container.sh")


def entries(name):
    """Entries of a file of requirements, each on one line with its hashes."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(r"^[^#\n].*", text, re.M)


def requirements(lines):
    """{name: requirement}, by the reference parser."""
    found = [Requirement(line.partition(" --hash")[0]) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def pins(name):
    """{name: version} of a lock."""
    found = requirements(entries(f"{name}.lock"))
    assert all(str(requirement.specifier).startswith("==") for requirement in found.values())
    return {name: str(requirement.specifier)[2:] for name, requirement in found.items()}


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """tools/environment.py of an empty clone with small locks."""
    make_clone(tmp_path)
    spec = importlib.util.spec_from_file_location("crane_environment_tool", tmp_path / "tools" / "environment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "GPU_DEVICES", ())
    monkeypatch.delenv("CRANE_TORCH", raising=False)
    return module


def make_clone(root):
    """A clone with the real scripts, small locks and a command line that prints how it was called."""
    small = {"base": "Some_Package==1.0", "torch-cpu": "torch==2.0+cpu", "torch-cuda": "torch==2.0"}
    for folder in ("requirements", "tools", "crane_run"):
        (root / folder).mkdir(parents=True)
    for name, pin in (small | {"installer": "uv==1"}).items():
        (root / "requirements" / f"{name}.lock").write_text(f"{pin} \\\n    --hash=sha256:00\n")
    for name in ("tools/environment.py", "tools/environment.sh", "run_all.sh"):
        shutil.copy(ROOT / name, root / name)
    (root / "crane_run" / "__init__.py").touch()
    code = "import os, sys\nprint(sys.prefix, os.getcwd(), sys.argv[1:], sep='|')\n"
    (root / "crane_run" / "cli.py").write_text(code)


def make_environment(folder, packages):
    """A virtual environment without pip that claims to hold these packages; gives its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name, version in packages.items():
        (site / f"{name}-{version}.dist-info").mkdir()
    return folder / "bin" / "python"


def start(root, *arguments, cwd, **settings):
    """Run run_all.sh of a clone with nothing active but what `settings` says."""
    kept = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CONDA_PREFIX") and "CRANE" not in k}
    given = kept | {"CRANE_TORCH": "cpu"} | settings
    command = ["bash", str(root / "run_all.sh"), *arguments]
    return subprocess.run(command, cwd=cwd, env=given, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", LOCKS)
def test_every_lock_entry_is_pinned_and_hashed_and_read_as_the_reference_parser_reads_it(tool, name):
    for entry in entries(f"{name}.lock"):
        assert re.fullmatch(r"[\w.-]+==[^\s;]+( ; sys_platform == '\w+')?( +--hash=sha256:[0-9a-f]{64})+", entry), entry
    parsed = requirements(entries(f"{name}.lock"))
    needed = {key for key, requirement in parsed.items() if requirement.marker is None or requirement.marker.evaluate()}
    assert needed
    found = tool.read_lock(ROOT / "requirements" / f"{name}.lock")
    assert found == {key: version for key, version in pins(name).items() if key in needed}


def test_scripts_are_valid_and_no_host_or_machine_path_is_written_down():
    for path in [*SCRIPTS, "tools/environment.sh"]:
        subprocess.run(["bash", "-n", str(ROOT / path)], check=True)
        assert os.access(ROOT / path, os.X_OK) == (path in SCRIPTS)
    for path in [*(f"requirements/{name}.lock" for name in LOCKS), "environment.yml", "Dockerfile"]:
        text = (ROOT / path).read_text(encoding="utf-8")
        assert not re.search(r"https?:|file:|index-url|find-links|trusted-host", text), path


def test_locks_and_python_agree_with_one_another_and_with_what_is_asked_for(tool):
    base, cuda, cpu, installer = (pins(name) for name in ("base", "torch-cuda", "torch-cpu", "installer"))
    assert not set(base) & set(cuda)
    assert cpu["torch"] == f"{cuda['torch']}+cpu"
    assert all(installer[name] == base[name] for name in set(installer) & set(base))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = requirements([*project["dependencies"], *project["optional-dependencies"]["test"]])
    asked = {name: requirements(entries(f"{name}.in")) for name in ("base", "torch", "installer")}
    assert set(declared) == set(asked["base"]) | set(asked["torch"])
    pairs = ((asked["base"], base), (asked["torch"], cuda), (asked["installer"], installer), (declared, base | cuda))
    for wanted, locked in pairs:
        assert all(locked[name] in requirement.specifier for name, requirement in wanted.items())
    assert (project["requires-python"], tool.PYTHON) == (">=3.11,<3.12", (3, 11))
    python, *from_conda, from_pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert re.fullmatch(r"python=3\.11\.\d+", python)  # test_container.py: the same as the image's
    assert from_conda == ["pip"]
    assert sorted(from_pip["pip"]) == ["-r requirements/base.lock", "-r requirements/torch-cuda.lock"]


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
def test_difference_names_the_package(tool, tmp_path, have, expected):
    for name, version in have.items():
        (tmp_path / "site" / f"{name}-{version}.dist-info").mkdir(parents=True)
    assert tool.difference(tool.installed([str(tmp_path / "site")])) == expected


@pytest.mark.parametrize(
    ("build", "chosen", "gpu", "fresh"),
    [
        ("cpu", "", False, True),
        ("cpu", "", True, False),
        ("cpu", "cpu", True, True),
        ("cuda", "", False, True),
        ("cuda", "cpu", False, False),
    ],
)
def test_stamp_lapses_with_locks_place_and_build(tool, monkeypatch, build, chosen, gpu, fresh):
    tool.VENV.mkdir()
    assert not tool.is_fresh()
    monkeypatch.setenv("CRANE_TORCH", chosen)
    monkeypatch.setattr(tool, "has_gpu", lambda: gpu)
    tool.STAMP.write_text(tool.stamp(build).replace(str(tool.ROOT), "/elsewhere"))
    assert not tool.is_fresh()
    tool.STAMP.write_text(tool.stamp(build))
    assert tool.is_fresh() == fresh
    tool.LOCKS["base"].write_text("some-package==1.1\n")
    assert not tool.is_fresh()


def test_gpu_is_what_the_driver_says(tool, tmp_path, monkeypatch):
    program, one = tmp_path / "nvidia-smi", "echo 'GPU 0: some'"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for devices, answer, expected in (
        ((), one, False),
        ((tmp_path,), one, True),
        ((tmp_path,), "echo none", False),
        ((tmp_path,), "exit 9", False),
    ):
        program.write_text(f"#!/bin/sh\n{answer}\n")
        monkeypatch.setattr(tool, "GPU_DEVICES", devices)
        assert tool.has_gpu() == expected


@pytest.fixture
def steps(tool, monkeypatch):
    """Collects the programs that an installation starts; those with a word of `tool.failing` in them fail."""
    started, tool.failing = [], []

    def run(command, *, what, check=True):
        assert what
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


def test_installation_takes_the_cpu_build_and_stamps_last(tool, steps):
    assert tool.main(["install"]) == 0
    cpu_build = "-m pip install --require-hashes --no-deps -r .*torch-cpu.lock"
    parts = ["-m venv", "installer.lock", cpu_build, "uv pip .*base", "-I -c import crane_run.cli, "]
    assert all(re.search(part, step) for part, step in zip(parts, steps, strict=True))
    assert tool.STAMP.read_text() == tool.stamp("cpu")
    assert (tool.SITE_PACKAGES / "crane.pth").read_text() == f"{tool.ROOT}\n"
    assert os.access(tool.VENV / "bin" / "crane", os.X_OK)
    steps.clear()
    assert tool.main(["install"]) == 0
    assert steps == []
    assert all(importlib.util.find_spec(name) for name in tool.IMPORTS.split(", "))


@pytest.mark.parametrize(
    ("choice", "gpu", "failing", "status", "stamp"),
    [
        ("", True, "nothing", 0, "cuda"),
        ("", False, "torch-cpu", 0, "cuda"),  # no wheel of the CPU build
        ("cpu", False, "torch-cpu", 2, None),  # asked for by name: nothing replaces it
        ("", False, "uv pip", 0, "cpu"),  # pip takes over
        ("cuda", False, "uv pip", 0, "cuda"),
        ("gpu", False, "nothing", 2, None),
    ],
)
def test_the_build_of_torch_fits_the_machine(tool, steps, monkeypatch, capsys, choice, gpu, failing, status, stamp):
    tool.failing.append(failing)
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


def test_what_was_interrupted_is_made_again_and_what_is_the_users_own_kept(tool, steps, capsys):
    (tool.VENV / "mine").mkdir(parents=True)
    assert tool.main(["install"]) == 2
    assert "move it away" in capsys.readouterr().err
    assert (tool.VENV / "mine").exists()
    make_environment(tool.VENV, {"some_package": "1.0", "torch": "2.0+cpu"})
    assert tool.main(["install"]) == 0  # it matches
    assert steps == []
    assert tool.is_fresh()
    shutil.rmtree(tool.VENV)
    tool.failing.append("base.lock")
    assert tool.main(["install"]) == 2
    assert not tool.is_fresh()
    (tool.VENV / "half").touch()
    tool.failing.clear()
    assert tool.main(["install"]) == 0
    assert "the last installation was interrupted" in capsys.readouterr().err
    assert not (tool.VENV / "half").exists()
    assert tool.is_fresh()


def test_a_failed_installation_says_what_to_do(tool, capsys):
    command = [sys.executable, "-c", "print('no index'); raise SystemExit(1)"]
    assert not tool.run(command, what="trying", check=False)
    with pytest.raises(tool.EnvironmentProblem, match="without a package index, set CRANE_PYTHON"):
        tool.run(command, what="installing")
    assert capsys.readouterr().err == "crane: trying\ncrane: installing\nno index\n"


def test_a_long_step_of_an_installation_says_that_it_lasts(tool, capsys, monkeypatch):
    monkeypatch.setattr(tool, "TELL_SECONDS", 0.1)
    program = [sys.executable, "-c", "import time; print('x' * 100_000); time.sleep(0.5)"]
    assert tool.run(program, what="installing")
    first, *later = capsys.readouterr().err.splitlines()
    assert first == "crane: installing"
    assert later
    assert set(later) <= {f"crane: installing, {seconds} s so far" for seconds in range(20)}


def test_run_all_takes_what_matches_or_says_what_it_saw(tmp_path):
    root, elsewhere = tmp_path / "a clone", tmp_path / "else where"
    elsewhere.mkdir()
    make_clone(root)
    right = {"some_package": "1.0", "torch": "2.0+cpu"}
    active = make_environment(tmp_path / "right one", right)
    own = make_environment(root / ".venv", right)
    make_environment(tmp_path / "stale", {"some_package": "0.9", "torch": "2.0"})

    done = start(root, "--quick", "a b", cwd=elsewhere, VIRTUAL_ENV=str(active.parent.parent))
    assert done.stdout == f"{tmp_path / 'right one'}|{elsewhere}|['run', '--quick', 'a b']\n"
    done = start(root, cwd=elsewhere, CONDA_PREFIX=str(tmp_path / "stale"), PATH=f"{own.parent}:{os.environ['PATH']}")
    assert done.stdout.startswith(f"{root / '.venv'}|")
    assert "some-package is 0.9, the lock says 1.0; .venv is used instead" in done.stderr
    done = start(root, cwd=tmp_path, CRANE_PYTHON="stale/bin/python")
    assert done.stdout.startswith(f"{tmp_path / 'stale'}|")
    assert "going on with it, as you asked" in done.stderr
    done = start(root, cwd=elsewhere)
    assert (done.stdout.partition("|")[0], done.stderr) == (str(root / ".venv"), "")

    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "dirname"):
        (programs / name).symlink_to(str(shutil.which(name)))
    (programs / "python3").write_text(f"#!{shutil.which('bash')}\necho 3.12\n")
    (programs / "python3").chmod(0o755)
    shutil.rmtree(root / ".venv")
    seen = "python3.11 is not there, python3 is 3.12"
    for settings, message in (({}, seen), ({"CRANE_PYTHON": "nowhere"}, "CRANE_PYTHON is 'nowhere'")):
        done = start(root, cwd=tmp_path, PATH=str(programs), **settings)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert message in done.stderr
