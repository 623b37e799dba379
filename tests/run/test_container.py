"""The image's files agree with the locks and with one another, and tools/container.sh calls buildah as it should."""

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from crane_study import ROOT

STUDY = "/home/crane/study"

# It answers as buildah would, notes each call, and fails in the verb that BUILDAH_FAILS names.
STAND_IN_FOR_BUILDAH = """#!/bin/sh
printf '%s' "$STORAGE_DRIVER" >> "$BUILDAH_CALLS"
for argument in "$@"; do printf ' %s' "'$argument'" >> "$BUILDAH_CALLS"; done
echo >> "$BUILDAH_CALLS"
for argument in "$@"; do case $argument in
    *:/etc/xdg/pip/pip.conf:ro) settings=${argument#--volume=}; cat "${settings%%:*}" > "$BUILDAH_CALLS.pip.conf" ;;
esac; done
[ "$1" != "$BUILDAH_FAILS" ] || { echo "no luck" >&2; exit 3; }
case $1 in from) echo working ;; inspect) echo 0123abc ;; images) echo 2 GB ;; esac
"""


def instructions():
    """The Dockerfile's instructions in their order, with their arguments."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", " ").splitlines()
    return [(line.split()[0], " ".join(line.split()[1:])) for line in lines if line]


def of(name):
    return [arguments for instruction, arguments in instructions() if instruction == name]


def image_settings():
    """{name: value} of the Dockerfile's ENV."""
    return dict(pair.split("=", 1) for line in of("ENV") for pair in shlex.split(line))


COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]


def test_the_dockerfile_is_clean_pins_all_keeps_no_secret_and_ends_as_an_ordinary_user():
    pinned = re.fullmatch(r"BASE=python:(3\.11\.\d+)-slim-bookworm@sha256:[0-9a-f]{64}", of("ARG")[0])
    assert of("FROM") == ["${BASE}"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["dependencies"][0] == f"python={pinned[1]}"
    installations = re.findall(r"pip install [^|;&]+", ";".join(of("RUN")))
    assert installations
    for line in installations:
        assert "--require-hashes --no-deps" in line
        (lock,) = re.findall(r'-r "?/opt/requirements/([\w$-]+)\.lock', line)
        for name in (lock.replace("$TORCH", build) for build in ("cpu", "cuda")):
            assert (ROOT / "requirements" / f"{name}.lock").is_file()
            assert f"requirements/{name}.lock" in " ".join(of("COPY"))
    # A change of the source leaves the layers of packages.
    steps = [(name, arguments) for name, arguments in instructions() if name in ("COPY", "RUN", "ARG", "USER", "CMD")]
    source = next(i for i, (_, arguments) in enumerate(steps) if arguments.endswith(" . ."))
    assert not [arguments for _, arguments in steps[source:] if "pip install" in arguments]
    assert ("ARG", 'COMMIT=""') in steps[source:]
    assert [name for name, _ in steps[-2:]] == ["USER", "CMD"]
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program, "hadolint is in the lock; install it"
    done = subprocess.run([program, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert (of("USER"), of("HEALTHCHECK")) == (["1000:1000"], ["NONE"])
    assert not re.search(r"TOKEN|KEY|PASSWORD", " ".join(of("ENV") + of("ARG")))
    assert (image_settings()["CRANE_IMAGE"], image_settings()["CRANE_COMMIT"]) == ("crane", "${COMMIT}")
    ignored = set((ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines())
    assert {".git", ".venv", "artifacts/*", "shared", ".env", "pip.conf", "/*.tar.gz", "**/__pycache__"} <= ignored
    needed = {".ci", "tests", "notebooks", "expected", "requirements", "Dockerfile", "compose.yaml", "environment.yml"}
    assert not needed & ignored


def test_the_command_crane_is_there_for_every_user_and_finds_the_library(tmp_path):
    (script,) = (arguments for arguments in of("RUN") if "/bin/crane" in arguments)
    steps = [name for name, _ in instructions()]
    assert steps.index("USER") > instructions().index(("RUN", script))  # made by root, so it is root's
    environment, study = tmp_path / "crane", tmp_path / "study"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    study.mkdir()
    for package in ("crane_lib", "crane_study", "crane_run"):
        (study / package).symlink_to(ROOT / package)
    path = f"{environment / 'bin'}:{os.environ['PATH']}"
    here = script.replace("/opt/crane", str(environment)).replace(STUDY, str(study))
    subprocess.run(["sh", "-c", here], check=True, env={"PATH": path})
    assert (environment / "bin" / "crane").stat().st_mode & 0o777 == 0o755
    called = os.environ | {"PATH": path, "PYTHONPATH": sysconfig.get_path("purelib")}
    command = ["crane", "verify", "artifacts/none"]
    done = subprocess.run(command, env=called, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr.startswith("error: artifacts/none: has no manifest.json")


def test_services_share_the_image_and_its_folders_and_have_no_privilege():
    assert set(SERVICES) == {"study", "study-sealed", "study-gpu", "lab"}
    assert set(COMPOSE["volumes"]) == {"cache"}
    for service in SERVICES.values():
        assert service["image"] == "crane"
        assert set(service["build"]["args"]) == {"TORCH", "COMMIT"}
        assert set(service["build"]["secrets"]) == set(re.findall(r"type=secret,id=([\w.]+)", " ".join(of("RUN"))))
        mounted = dict(volume.split(":") for volume in service["volumes"])
        cache = f"{image_settings()['HOME']}/.cache"
        assert mounted == {"./artifacts": f"{STUDY}/artifacts", "cache": cache}
        assert (service["tmpfs"], service.get("network_mode", "none")) == (["/tmp"], "none")
        assert not {"privileged", "pid", "ipc", "cap_add", "devices"} & set(service)
        assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert all(value is None for value in service["environment"].values())  # handed on, never written down
        assert "CRANE_IMAGE" not in service["environment"]
    assert [name for name, service in SERVICES.items() if not service["read_only"]] == ["lab"]
    for key, names in (
        ("network_mode", ["study-sealed"]),
        ("profiles", ["study-gpu", "lab"]),
        ("ports", ["lab"]),
        ("deploy", ["study-gpu"]),
    ):
        assert [name for name, service in SERVICES.items() if key in service] == names
    (device,) = SERVICES["study-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    text = " ".join((ROOT / "tools" / "container.sh").read_text(encoding="utf-8").replace("\\\n", " ").split())
    assert " ".join(SERVICES["lab"]["command"]) in text
    assert of("WORKDIR") == [STUDY]
    assert f'study="{STUDY}"' in text
    assert "git -C \"$root\" describe --always --abbrev=40 --exclude='*' --dirty" in text
    (default,) = re.fullmatch(r"\$\{CRANE_PIP_CONF:-(.+)\}", COMPOSE["secrets"]["pip.conf"]["file"]).groups()
    settings = configparser.ConfigParser()
    settings.read_string((ROOT / default).read_text(encoding="utf-8"))
    assert settings.sections() == []


# ---- tools/container.sh ---------------------------------------------------------------------------------------------


@pytest.fixture
def tool(tmp_path):
    """Call tools/container.sh with a stand-in for buildah that notes its calls in calls.txt and fails in a verb."""
    program = tmp_path / "bin" / "buildah"
    program.parent.mkdir()
    program.write_text(STAND_IN_FOR_BUILDAH)
    program.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name not in ("STORAGE_DRIVER", "CRANE_IMAGE")}
    kept |= {"PATH": f"{program.parent}:{os.environ['PATH']}", "BUILDAH_CALLS": str(tmp_path / "calls.txt")}

    def call(*arguments, fails: str = "", **settings):
        command = ["bash", str(ROOT / "tools" / "container.sh"), *arguments]
        given = kept | {"BUILDAH_FAILS": fails} | settings
        return subprocess.run(command, env=given, capture_output=True, text=True, check=False)

    return call


def calls(tmp_path):
    """The stand-in's calls, without the storage driver that each names first."""
    lines = [shlex.split(line) for line in (tmp_path / "calls.txt").read_text().splitlines()]
    assert {line[0] for line in lines} == {"overlay"}
    return [line[1:] for line in lines]


def test_build_gives_the_build_and_the_commit(tool, tmp_path):
    assert tool("size").stdout == "sha256:0123abc 2 GB\n"
    assert tool("build", "--torch", "cpu").returncode == 0
    call = calls(tmp_path)[-1]
    assert (call[0], call[-1]) == ("bud", str(ROOT))
    assert {"--tag=crane", "--build-arg=TORCH=cpu"} <= set(call)
    assert [option for option in call if re.fullmatch(r"--build-arg=COMMIT=([0-9a-f]{40}(-dirty)?)?", option)]
    assert not [option for option in call if "BASE" in option or "--volume" in option or "--secret" in option]
    assert tool("build", "--base-from-debootstrap").returncode == 0
    assert {"--pull-never", "--build-arg=BASE=localhost/crane-stand-in-base"} <= set(calls(tmp_path)[-1])


def test_settings_of_the_machine_are_mounted_only(tool, tmp_path):
    for name in ("ca.crt", "own.conf"):
        (tmp_path / name).touch()
    options = ["--ca", f"{tmp_path}/ca.crt", "--pip-conf", f"{tmp_path}/own.conf", "--wheels", str(tmp_path)]
    assert tool("build", *options).returncode == 0
    (call,) = calls(tmp_path)
    assert f"--secret=id=pip.conf,src={tmp_path}/own.conf" in call
    volumes = [option.removeprefix("--volume=").split(":") for option in call if option.startswith("--volume")]
    assert all(mode == "ro" for *_, mode in volumes)
    certificates, wheels = "/etc/ssl/certs/ca-certificates.crt", "/run/crane-wheels"
    assert [inside for _, inside, _ in volumes] == [certificates, "/etc/uv/uv.toml", wheels, "/etc/xdg/pip/pip.conf"]
    made = configparser.ConfigParser()
    made.read_string((tmp_path / "calls.txt.pip.conf").read_text())
    assert dict(made["global"]) == {"find-links": wheels, "cert": certificates}
    assert not Path(volumes[1][0]).exists()  # the folder of settings is gone


@pytest.mark.parametrize(("fails", "status"), [("", 0), ("run", 3)])
def test_run_hands_the_digest_on_and_removes_the_container(tool, tmp_path, fails, status):
    options = ["-v", "/out:/in", "-e", "A=b", "--user", "7:8"]
    assert tool("run", *options, "--", "./run_all.sh", "--profile", "a b", fails=fails).returncode == status
    run, removal = calls(tmp_path)[-2:]
    named = ["--env=CRANE_IMAGE=crane", "--env=CRANE_IMAGE_DIGEST=sha256:0123abc"]
    command = ["working", "--", "./run_all.sh", "--profile", "a b"]
    assert run == ["run", "--hostname=localhost", *named, *options, *command]
    assert removal == ["rm", "working"]
    assert tool("run").returncode == 0
    assert calls(tmp_path)[-2][-3:] == ["working", "--", "./run_all.sh"]
    assert tool("test", "tests").returncode == 0
    call = calls(tmp_path)[-2]
    assert "23456:23456" in call
    assert call[-4:] == ["--", "./run_tests.sh", "-m", "not slow"]


def test_problems_are_one_line(tool, tmp_path):
    for fails, arguments, message in (
        ("inspect", ["run"], "there is no image 'crane'; make it with"),
        ("from", ["run"], "buildah from failed"),
        ("bud", ["build"], "buildah bud failed, its last lines are above"),
        ("", ["build", "--ca", "/no/such/file"], "/no/such/file does not exist"),
        ("", ["build", "--tag", "x"], "unknown option '--tag'"),
        ("", ["build", "--torch"], "--torch needs a value"),
        ("", [], "unknown command ''"),
    ):
        done = tool(*arguments, fails=fails)
        assert done.returncode == 2
        assert message in done.stderr.splitlines()[-1]
    for name in ("bash", "dirname", "mktemp", "rm"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    done = tool("size", PATH=str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "buildah is not installed" in done.stderr
