import ast
from pathlib import Path

import pytest

import crane_lib
from crane_study import fingerprints as code
from crane_study.fingerprints import closure, code_fingerprint, imported_modules

LIBRARY = Path(crane_lib.__file__).parent

FILES = {
    "__init__.py": "",
    "alone.py": "import os\n",
    "user.py": "from package.maths import add\nimport numpy\n",
    "maths.py": "import package.deep.inner\n",
    "deep/__init__.py": "",
    "deep/inner.py": "def f():\n    from package import late\n    return late\n",
    "late.py": "from package import user  # a circle\n",
    "other.py": "x = 1\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of its own instead of the library."""
    root = tmp_path / "package"
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(code, "ROOT", tmp_path)
    monkeypatch.setattr(code, "_PACKAGES", ("package",))

    def forget():
        code._direct.cache_clear()
        code._digest.cache_clear()

    forget()
    yield root, forget
    forget()


def test_imports_are_followed_through_functions_and_circles(package):
    found = set(closure(["package.user"]))
    assert found == {"package", *(f"package.{name}" for name in ("user", "maths", "deep.inner", "late"))}
    assert closure(["package.alone"]) == ["package.alone"]
    assert closure(["package.absent", "numpy"]) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import package.maths as m, numpy", {"package.maths"}),
        ("from package import maths, other", {"package", "package.maths", "package.other"}),
        ("from package.maths import add", {"package.maths"}),
        ("if x:\n    import package.late", {"package.late"}),
        ("import packages, package_other", set()),
    ],
)
def test_both_ways_to_import_a_module_are_seen(package, source, found):
    assert imported_modules(source) == found


@pytest.mark.parametrize("name", [name for name in FILES if "__init__" not in name])
def test_the_fingerprint_changes_with_the_files_that_are_depended_on(package, name):
    root, forget = package
    before = code_fingerprint(["package.user"])
    (root / name).write_text(FILES[name] + "# changed\n")
    forget()
    changes = name not in ("alone.py", "other.py")
    assert (code_fingerprint(["package.user"]) != before) == changes
    (root / name).write_text(FILES[name])
    forget()
    assert code_fingerprint(["package.user"]) == before


def test_a_new_import_counts(package):
    root, forget = package
    found = {code_fingerprint(["package.alone"])}
    for name, text in (("alone.py", "import package.other\n"), ("other.py", "x = 2\n")):
        (root / name).write_text(text)
        forget()
        found.add(code_fingerprint(["package.alone"]))
    assert len(found) == 3


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=lambda path: str(path.relative_to(LIBRARY)))
def test_the_library_imports_itself_by_full_name(path):
    """Relative imports and imports by name would not be followed."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.ImportFrom) and node.level)
        by_name = isinstance(node, ast.Name) and node.id in ("import_module", "__import__")
        assert not by_name or path == LIBRARY / "__init__.py"  # which names its modules for type checkers, too


@pytest.mark.parametrize(
    ("stage", "needed", "not_needed"),
    [
        ("crane_study.data.corpora", "crane_study.data.cldr", "crane_lib.interventions"),
        ("crane_study.steps.relevance", "crane_lib.relevance.rules", "crane_lib.methods"),
        ("crane_study.steps.selection", "crane_lib.relevance.moments", "crane_study.measure.questions"),
        ("crane_study.steps.masks", "crane_lib.specificity", "crane_lib.selection"),
    ],
)
def test_stages_depend_on_what_they_use_and_not_on_figures(stage, needed, not_needed):
    found = closure([stage])
    assert needed in found
    assert not_needed not in found
    assert not any(module.startswith("crane_study.figures") for module in found)
