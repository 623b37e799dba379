"""The three packages stay slim, and one name means one thing."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

from crane_study import ROOT

LINES = {"crane_lib": 4_500, "crane_lib crane_study crane_run": 31_000}
# The same word names a topic in every folder: who knows a section knows its files.
TOPICS = {
    "benchmarks",
    "confounds",
    "controls",
    "effects",
    "ground_truth",
    "heads",
    "likelihoods",
    "masks",
    "matched_damage",
    "models",
    "objectives",
    "open_ended",
    "overlap",
    "questions",
    "relevance",
    "selection",
    "steering",
    "transfer",
}
TOPIC_FOLDERS = {"crane_lib", "data", "figures", "loading", "measure", "steps", "tables", "uncertainty"}
MOST_PARAMETERS = 8
TYPER_COMMANDS = tuple(f"crane_run/{name}.py" for name in ("cli", "own", "steer"))  # each parameter is an option
DRAWING_LIBRARIES = {"seaborn", "crane_study.figures.style", "crane_study.figures.panels"}


def modules(packages: str = "crane_lib crane_study crane_run") -> list[Path]:
    """Python files of the packages."""
    return [path for package in packages.split() for path in sorted((ROOT / package).rglob("*.py"))]


def name_of(path: Path) -> str:
    """Path of a file from the root of the repository."""
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    """Syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> set[str]:
    """Names of the modules that a file imports."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize(("packages", "limit"), LINES.items(), ids=list(LINES))
def test_packages_are_slim(packages: str, limit: int) -> None:
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in modules(packages))
    assert lines <= limit


def test_class_names_are_unique() -> None:
    places = defaultdict(set)
    for path in modules():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                places[node.name].add(name_of(path))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_files_of_one_name_have_one_topic() -> None:
    places = defaultdict(list)
    for path in modules():
        if path.stem != "__init__":
            places[path.stem].append(path)
    unrelated = {
        stem: [name_of(path) for path in found]
        for stem, found in places.items()
        if len(found) > 1 and not (stem in TOPICS and TOPIC_FOLDERS.issuperset(path.parent.name for path in found))
    }
    assert unrelated == {}


def test_few_functions_have_many_parameters() -> None:
    many = []
    for path in modules():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and name_of(path) not in TYPER_COMMANDS:
                names = [given.arg for given in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                if len([name for name in names if name not in ("self", "cls")]) > MOST_PARAMETERS:
                    many.append(f"{name_of(path)}: {node.name}")
    assert len(many) < 5, many


def test_figures_are_drawn_with_seaborn() -> None:
    folder = ROOT / "crane_study" / "figures"
    assert "seaborn" in imports(folder / "style.py")
    words = folder / "alt_text.py"  # draws nothing
    drawing = [p for p in sorted(folder.glob("*.py")) if p != words and "matplotlib" in " ".join(imports(p))]
    assert [name_of(path) for path in drawing if not imports(path) & DRAWING_LIBRARIES] == []


def test_the_library_does_without_data_frames_and_the_machine_room() -> None:
    heavy = {"pandas", "papermill", "rich", "typer", "seaborn", "matplotlib"}
    found = {name_of(path): heavy & {name.partition(".")[0] for name in imports(path)} for path in modules("crane_lib")}
    assert {name: names for name, names in found.items() if names} == {}
