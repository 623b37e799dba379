"""Documented commands for docker, conda and buildah name what Dockerfile, compose.yaml and tools/container.sh have.

There is no Docker engine in a test, so its command lines are parsed: images, services, users, mounted folders, build
arguments, secrets, variables and the commands inside the image are compared with the files. buildah has a stand-in.
"""

import argparse
import re
import shlex
import subprocess

import pytest
import yaml

from crane_run import manifest as software
from tests.readme import ROOT, TEXT, split, starting
from tests.run.test_container import calls, of, tool  # noqa: F401  (a fixture)
from tests.run.test_readme import other_command, place, study_in_dry_run  # noqa: F401  (a fixture)

COMPOSE_TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES = COMPOSE["services"]
OWN_USER = "$(id -u):$(id -g)"
GIT = r"git describe [^)]*"
IMAGE_ID = r"docker image inspect [^)]*"


def image_settings():
    """{name: value} of the Dockerfile's ENV."""
    return dict(pair.split("=", 1) for line in of("ENV") for pair in shlex.split(line))


def mount_targets():
    """Folders of the image that outlive a container."""
    return {f"{of('WORKDIR')[0]}/artifacts", f"{image_settings()['HOME']}/.cache/huggingface"}


def secrets_of_the_dockerfile():
    return set(re.findall(r"--mount=type=secret,id=([\w.]+)", " ".join(of("RUN"))))


def compose_variables():
    """Names that compose.yaml reads from the caller's environment."""
    handed_on = {name for service in SERVICES.values() for name in service["environment"]}
    return set(re.findall(r"\$\{(\w+)", COMPOSE_TEXT)) | handed_on


def check_inside(command, monkeypatch):
    """A command in the image: a program that is there, called as it can be called."""
    if not command:
        command = yaml.safe_load(of("CMD")[0])
    if command[0] == "./run_all.sh":
        study_in_dry_run(command[1:], monkeypatch)
    else:
        assert f"> /opt/crane/bin/{command[0]} " in " ".join(of("RUN"))
        other_command(command[1:])


def parser(*names):
    made = argparse.ArgumentParser(exit_on_error=False)
    for name in names:
        made.add_argument(name)
    return made


@pytest.mark.parametrize("command", starting("docker", "build"))
def test_docker_build(command):
    line = parser("-t", "context")
    line.add_argument("--build-arg", action="append", default=[])
    line.add_argument("--secret", action="append", default=[])
    given = line.parse_args(split(command)[1][2:])
    assert given.context == "."
    assert given.t == image_settings()[software.IMAGE_VARIABLE]
    arguments = dict(one.split("=", 1) for one in given.build_arg)
    assert set(arguments) <= {one.partition("=")[0] for one in of("ARG")}
    if "TORCH" in arguments:
        assert (ROOT / "requirements" / f"torch-{arguments['TORCH']}.lock").is_file()
    for secret in given.secret:
        named = dict(part.split("=", 1) for part in secret.split(","))
        assert named["id"] in secrets_of_the_dockerfile()
        assert f"/{named['src']}" in (ROOT / ".gitignore").read_text().splitlines()
        assert named["src"] in (ROOT / ".dockerignore").read_text().splitlines()


@pytest.mark.parametrize("command", starting("docker", "run"))
def test_docker_run(place, command, monkeypatch):  # noqa: F811
    line = parser("image")
    for flag in ("--rm", "--init"):
        line.add_argument(flag, action="store_true")
    for option in ("--user", "--gpus"):
        line.add_argument(option)
    for option in ("-v", "-e"):
        line.add_argument(option, action="append", default=[])
    line.add_argument("command", nargs=argparse.REMAINDER)
    given = line.parse_args(split(command)[1][2:])
    assert given.image == image_settings()[software.IMAGE_VARIABLE]
    assert given.user in (None, OWN_USER)
    assert given.gpus in (None, "all")
    assert {volume.split(":")[1] for volume in given.v} <= mount_targets()
    assert {setting.split("=")[0] for setting in given.e} <= {software.DIGEST_VARIABLE}
    check_inside(given.command, monkeypatch)


@pytest.mark.parametrize("command", starting("docker", "compose"))
def test_docker_compose(place, command, monkeypatch):  # noqa: F811
    settings, (_docker, _compose, verb, *rest) = split(command)
    assert set(settings) <= compose_variables()
    line = parser("service")
    if verb == "run":
        line.add_argument("--rm", action="store_true")
        line.add_argument("command", nargs=argparse.REMAINDER)
    given = line.parse_args(rest)
    service = SERVICES[given.service]
    assert verb in {"build", "run", "up"}
    assert ("ports" in service) == (verb == "up")
    if verb == "run":
        check_inside(given.command, monkeypatch)


def test_exported_variables_are_read_and_every_one_that_is_read_is_told():
    exported = {part.partition("=")[0] for command in starting("export") for part in split(command)[1][1:]}
    assert exported == {"CRANE_UID", "CRANE_GID", "COMMIT", software.DIGEST_VARIABLE}
    assert exported <= compose_variables()
    assert {name for name in re.findall(r"\$\{(\w+)", COMPOSE_TEXT) if name not in TEXT} == set()


def test_every_folder_of_the_image_that_it_names_is_mounted():
    named = set(re.findall(r":(/home/crane/[\w./-]*)", TEXT))
    assert named == mount_targets()
    assert named == {volume.split(":")[1] for service in SERVICES.values() for volume in service["volumes"]}


def test_the_commit_is_named_with_what_is_not_committed(git, tmp_path):
    asked = set(re.findall(GIT, TEXT)) | set(re.findall(GIT, (ROOT / "docs" / "provenance.md").read_text()))
    (line,) = asked
    clone = tmp_path / "clone"
    clone.mkdir()
    (clone / "file").write_text("1")
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "first"], ["tag", "v1"]):
        subprocess.run(["git", "-C", str(clone), *arguments], check=True)
    for form in (r"[0-9a-f]{40}", r"[0-9a-f]{40}-dirty"):
        found = subprocess.run(
            ["bash", "-c", line], cwd=clone, capture_output=True, text=True, check=True
        ).stdout.strip()
        assert re.fullmatch(form, found)
        (clone / "file").write_text("2")


def test_the_digest_is_asked_of_the_image_that_is_built():
    (line,) = set(re.findall(IMAGE_ID, TEXT))
    assert shlex.split(line)[3:] == ["--format", "{{.Id}}", image_settings()[software.IMAGE_VARIABLE]]
    assert {service["image"] for service in SERVICES.values()} == {image_settings()[software.IMAGE_VARIABLE]}


def test_conda_makes_the_environment_that_is_activated():
    (create,), (activate,) = starting("conda", "env"), starting("conda", "activate")
    *_, file = create.split()
    assert create == f"conda env create -f {file}"
    assert yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))["name"] == activate.split()[-1]


# ---- tools/container.sh ---------------------------------------------------------------------------------------------


def container_line(verb):
    """The one call of tools/container.sh with this verb: its arguments, with folders filled in."""
    (line,) = starting("tools/container.sh", verb)
    return [word.replace("$PWD", "/here") for word in shlex.split(line)[1:]]


def test_container_build_as_the_readme_calls_it(tool, tmp_path):  # noqa: F811
    assert tool(*container_line("build")).returncode == 0
    (call,) = calls(tmp_path)
    assert (call[0], call[-1]) == ("bud", str(ROOT))
    assert {"--tag=crane", "--build-arg=TORCH=cuda"} <= set(call)
    (line,) = re.findall(r"tools/container\.sh build .*# (.*)", TEXT)
    offered = re.findall(r"--[\w-]+", line)
    assert len(offered) == 3
    given = {"--torch": ["cpu"], "--wheels": [str(tmp_path)]}
    assert tool("build", *(word for option in offered for word in [option, *given.get(option, [])])).returncode == 0
    wanted = {"--build-arg=TORCH=cpu", f"--volume={tmp_path}:/run/crane-wheels:ro", "--pull-never"}
    assert wanted <= set(calls(tmp_path)[-1])


def test_container_run_as_the_readme_calls_it(place, tool, tmp_path, monkeypatch):  # noqa: F811
    arguments = container_line("run")
    assert tool(*arguments).returncode == 0
    call, _removal = calls(tmp_path)[-2:]
    assert call[call.index("-v") + 1] == f"/here/artifacts:{of('WORKDIR')[0]}/artifacts"
    inside = call[call.index("--") + 1 :]
    assert inside == arguments[arguments.index("--") + 1 :]
    check_inside(inside, monkeypatch)


def test_the_checks_of_the_image_are_those_that_the_readme_names():
    assert container_line("test") == ["test"]
    assert "${@:-smoke lab tests}" in (ROOT / "tools" / "container.sh").read_text(encoding="utf-8")
