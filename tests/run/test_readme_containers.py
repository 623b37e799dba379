"""Documented commands for docker, conda and buildah name what Dockerfile, compose.yaml and tools/container.sh have.

There is no Docker engine in a test, so its command lines are parsed and compared with the files.
"""

import argparse
import re
import shlex
import subprocess

import pytest
import yaml

from crane_run import manifest as software
from tests.readme import ROOT, TEXT, split, starting
from tests.run.test_container import SERVICES, calls, image_settings, of, tool  # noqa: F401  (a fixture)
from tests.run.test_readme import other_command, place, study_in_dry_run  # noqa: F401  (a fixture)

COMPOSE_TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
IMAGE = image_settings()[software.IMAGE_VARIABLE]
MOUNTED = {f"{of('WORKDIR')[0]}/artifacts", f"{image_settings()['HOME']}/.cache"}  # outlive a container
VARIABLES = set(re.findall(r"\$\{(\w+)", COMPOSE_TEXT))  # that compose.yaml reads, or hands on
VARIABLES |= {name for service in SERVICES.values() for name in service["environment"]}


def check_inside(command, monkeypatch):
    """Call a command of the image as it can be called here."""
    command = command or yaml.safe_load(of("CMD")[0])
    if command[0] == "./run_all.sh":
        study_in_dry_run(command[1:], monkeypatch)
    else:
        assert f"> /opt/crane/bin/{command[0]} " in " ".join(of("RUN"))
        other_command(command[1:])


def parsed(words, *positional, repeated=(), once=(), flags=()):
    """Parse a command line that has these options only."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    for name in (*positional, *once):
        parser.add_argument(name)
    for name in repeated:
        parser.add_argument(name, action="append", default=[])
    for name in flags:
        parser.add_argument(name, action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser.parse_args(words)


@pytest.mark.parametrize("command", starting("docker", "build"))
def test_docker_build(command):
    given = parsed(split(command)[1][2:], "context", once=["-t"], repeated=["--build-arg", "--secret"])
    assert (given.context, given.t, given.command) == (".", IMAGE, [])
    arguments = dict(one.split("=", 1) for one in given.build_arg)
    assert set(arguments) <= {one.partition("=")[0] for one in of("ARG")}
    assert (ROOT / "requirements" / f"torch-{arguments.get('TORCH', 'cuda')}.lock").is_file()
    for secret in given.secret:
        named = dict(part.split("=", 1) for part in secret.split(","))
        assert f"--mount=type=secret,id={named['id']}" in " ".join(of("RUN"))
        assert f"/{named['src']}" in (ROOT / ".gitignore").read_text().splitlines()
        assert named["src"] in (ROOT / ".dockerignore").read_text().splitlines()


@pytest.mark.parametrize("command", starting("docker", "run"))
def test_docker_run(place, command, monkeypatch):  # noqa: F811
    words = split(command)[1][2:]
    given = parsed(words, "image", flags=["--rm", "--init"], once=["--user", "--gpus"], repeated=["-v", "-e"])
    assert given.image == IMAGE
    assert given.user in (None, "$(id -u):$(id -g)")
    assert given.gpus in (None, "all")
    assert {volume.split(":")[1] for volume in given.v} <= MOUNTED
    assert {setting.split("=")[0] for setting in given.e} <= {software.DIGEST_VARIABLE}
    check_inside(given.command, monkeypatch)


@pytest.mark.parametrize("command", starting("docker", "compose"))
def test_docker_compose(place, command, monkeypatch):  # noqa: F811
    settings, (_docker, _compose, verb, *rest) = split(command)
    assert set(settings) <= VARIABLES
    given = parsed(rest, "service", flags=["--rm"] if verb == "run" else [])
    assert verb in {"build", "run", "up"}
    assert ("ports" in SERVICES[given.service]) == (verb == "up")
    if verb == "run":
        check_inside(given.command, monkeypatch)


def test_variables_folders_and_names_of_the_image_are_told():
    exported = {part.partition("=")[0] for command in starting("export") for part in split(command)[1][1:]}
    assert exported == {"CRANE_UID", "CRANE_GID", "COMMIT", software.DIGEST_VARIABLE}
    assert exported <= VARIABLES
    assert {name for name in re.findall(r"\$\{(\w+)", COMPOSE_TEXT) if name not in TEXT} == set()
    named = set(re.findall(r":(/home/crane/[\w./-]*)", TEXT))
    assert named == MOUNTED
    assert named == {volume.split(":")[1] for service in SERVICES.values() for volume in service["volumes"]}
    (line,) = set(re.findall(r"docker image inspect [^)]*", TEXT))
    assert shlex.split(line)[3:] == ["--format", "{{.Id}}", IMAGE]
    (create,), (activate,) = starting("conda", "env"), starting("conda", "activate")
    *_, file = create.split()
    assert create == f"conda env create -f {file}"
    assert yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))["name"] == activate.split()[-1]


def test_the_commit_is_named_with_what_is_not_committed(git, tmp_path):
    (line,) = set(re.findall(r"git describe [^)]*", TEXT + (ROOT / "docs" / "provenance.md").read_text()))
    (tmp_path / "file").write_text("1")
    git(tmp_path, ["tag", "v1"])
    for form in (r"[0-9a-f]{40}", r"[0-9a-f]{40}-dirty"):
        found = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert re.fullmatch(form, found.stdout.strip())
        (tmp_path / "file").write_text("2")


def test_tools_container_as_the_readme_calls_it(place, tool, tmp_path, monkeypatch):  # noqa: F811
    (build,), (run,), (checks,) = (starting("tools/container.sh", verb) for verb in ("build", "run", "test"))
    assert build == "tools/container.sh build"
    offered = re.findall(r"--[\w-]+", *re.findall(r"tools/container\.sh build .*# (.*)", TEXT))
    assert len(offered) == 3
    given = {"--torch": ["cpu"], "--wheels": [str(tmp_path)]}
    assert tool("build", *(word for option in offered for word in [option, *given.get(option, [])])).returncode == 0
    wanted = {"--build-arg=TORCH=cpu", f"--volume={tmp_path}:/run/crane-wheels:ro", "--pull-never"}
    assert wanted <= set(calls(tmp_path)[-1])
    arguments = [word.replace("$PWD", "/here") for word in shlex.split(run)[1:]]
    assert tool(*arguments).returncode == 0
    call = calls(tmp_path)[-2]
    assert call[call.index("-v") + 1] == f"/here/artifacts:{of('WORKDIR')[0]}/artifacts"
    inside = call[call.index("--") + 1 :]
    assert inside == arguments[arguments.index("--") + 1 :]
    check_inside(inside, monkeypatch)
    assert checks == "tools/container.sh test"
    assert "${@:-smoke lab tests}" in (ROOT / "tools" / "container.sh").read_text(encoding="utf-8")
