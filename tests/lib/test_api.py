"""The public API of the library."""

import subprocess
import sys
import tomllib

import pytest

import crane_lib
from crane_lib.errors import CraneError
from crane_lib.methods import METHODS, Method, register, selects_rows
from crane_study import ROOT


def test_every_public_name_imports_and_another_is_refused():
    for name in crane_lib.__all__:
        assert getattr(crane_lib, name) is not None
        assert name in dir(crane_lib)
    with pytest.raises(AttributeError, match="crane_lib has no 'relevence'; it has METHODS, CraneError"):
        crane_lib.relevence  # noqa: B018


def test_the_version_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert crane_lib.__version__ == project["version"]


def test_imports_stay_small():
    for code, absent in [
        ("import crane_lib", {"torch", "pandas", "numpy"}),
        ("from crane_lib import METHODS, NeuronSet, langspec", {"torch", "pandas"}),
        ("import crane_lib; [getattr(crane_lib, name) for name in crane_lib.__all__]", {"papermill", "rich", "typer"}),
    ]:
        program = f"import sys; {code}; print(*{absent!r} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
        assert done.stdout.split() == []


def test_methods_have_names_labels_and_colours_of_their_own():
    for field in ("label", "colour"):
        assert len({getattr(method, field) for method in METHODS.values()}) == len(METHODS)
    assert all(name == method.name for name, method in METHODS.items())
    assert {name for name, method in METHODS.items() if method.published} == {"kurtosis", "lape", "njunlp"}
    assert not any(method.code for method in METHODS.values())
    with pytest.raises(CraneError, match="method 'lape' is already registered; choose another name"):
        register(Method("lape", "Another", "#000000", scores=lambda units: units.firing))
    assert METHODS["lape"].label == "LAPE"
    # Variants of a method have its unit.
    names = ("kurtosis", "kurtosis_z", "random_like_kurtosis", "contrast_weighted")
    assert [selects_rows(name) for name in names] == [True, True, False, False]
