"""Statements of SECURITY.md that can be read from the code."""

import ast
import re

import pytest
import yaml

from crane_study import ROOT, profile
from tests.test_layout import modules, name_of, tree

CALLS = [
    (name_of(path), node)
    for path in modules()
    for node in ast.walk(tree(path))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
]


def arguments(call):
    """Constant arguments of a call by name."""
    return {given.arg: given.value.value for given in call.keywords if isinstance(given.value, ast.Constant)}


def test_pickled_files_hold_nothing_but_tensors_and_plain_values():
    loads = [(name, call) for name, call in CALLS if ast.unparse(call.func) in ("torch.load", "pickle.load")]
    assert len(loads) >= 2
    assert [name for name, call in loads if arguments(call).get("weights_only") is not True] == []
    assert [name for name, call in CALLS if arguments(call).get("allow_pickle")] == []  # of numpy, false by default
    assert {name for name, _call in loads} == set(re.findall(r"crane_[\w/]+\.py", row("code in weights")))


def test_no_archive_is_unpacked_by_its_own_names_and_no_shell_is_started():
    names = {call.func.attr for _name, call in CALLS}
    assert not names & {"extractall", "unpack_archive", "system", "popen", "unsafe_load", "full_load"}
    assert [name for name, call in CALLS if arguments(call).get("shell")] == []
    loads = [ast.unparse(call) for _name, call in CALLS if ast.unparse(call.func) == "yaml.load"]
    assert all("Loader=_PlainKeys" in load for load in loads)
    assert issubclass(profile._PlainKeys, yaml.SafeLoader)


def test_code_of_a_model_is_run_by_nobody_unless_a_profile_says_so():
    defaults = []
    for path in modules():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.arguments):
                pairs = zip(node.kwonlyargs, node.kw_defaults, strict=True)
                defaults += [ast.unparse(value) for name, value in pairs if name.arg == "trust_remote_code" and value]
            elif isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "trust_remote_code" and node.value:
                defaults.append(ast.unparse(node.value))
            elif isinstance(node, ast.Call):
                assert arguments(node).get("trust_remote_code") is not True, name_of(path)
    assert len(defaults) >= 5
    assert set(defaults) == {"False"}
    for path in (ROOT / "configs").glob("*.yaml"):
        assert yaml.safe_load(path.read_text("utf-8"))["source"].get("trust_remote_code", False) is False


def test_the_container_gives_up_what_it_does_not_need():
    assert re.findall(r"^USER (.*)$", (ROOT / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)[-1] == "1000:1000"
    services = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))["services"]
    for service in services.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


@pytest.mark.parametrize("name", ["base", "installer", "torch-cpu", "torch-cuda"])
def test_every_locked_package_has_a_hash(name):
    text = (ROOT / "requirements" / f"{name}.lock").read_text("utf-8").replace("\\\n", "")
    pinned = [line for line in text.splitlines() if re.match(r"[\w.-]+(\[.*\])?==", line)]
    assert pinned
    assert [line for line in pinned if "--hash=sha256:" not in line] == []


def row(start):
    """The row of SECURITY.md that begins so."""
    return re.search(rf"^\| {start}.*$", (ROOT / "SECURITY.md").read_text("utf-8"), flags=re.MULTILINE)[0]


def test_every_place_that_is_named_is_there():
    for place in re.findall(
        r"`((?:crane_\w+|requirements|tools)/[\w/*.-]+)`", (ROOT / "SECURITY.md").read_text("utf-8")
    ):
        assert list(ROOT.glob(place)), place
