"""The public API of the library."""

import subprocess
import sys

import pytest

import crane_lib
from crane_lib.errors import CraneError
from crane_lib.methods import METHODS, Method, register, selects_rows
from crane_study import ROOT


@pytest.mark.parametrize("name", crane_lib.__all__)
def test_every_public_name_imports(name):
    assert getattr(crane_lib, name) is not None
    assert name in dir(crane_lib)


def test_another_name_is_refused():
    with pytest.raises(AttributeError, match="crane_lib has no 'relevence'; it has METHODS, CraneError"):
        crane_lib.relevence  # noqa: B018


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import crane_lib", {"torch", "pandas", "numpy"}),
        ("from crane_lib import METHODS, NeuronSet, langspec", {"torch", "pandas"}),
        ("import crane_lib; [getattr(crane_lib, name) for name in crane_lib.__all__]", {"papermill", "rich", "typer"}),
    ],
)
def test_imports_stay_small(code, absent):
    program = f"import sys; {code}; print(*{absent!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


def test_methods_have_names_labels_and_colours_of_their_own():
    for field in ("label", "colour"):
        assert len({getattr(method, field) for method in METHODS.values()}) == len(METHODS)
    assert all(name == method.name for name, method in METHODS.items())
    assert {name for name, method in METHODS.items() if method.published} == {"kurtosis", "lape"}
    assert not any(method.code for method in METHODS.values())


def test_a_name_is_registered_once():
    with pytest.raises(CraneError, match="method 'lape' is already registered; choose another name"):
        register(Method("lape", "Another", "#000000", scores=lambda units: units.firing))
    assert METHODS["lape"].label == "LAPE"


def test_variants_of_a_method_have_its_unit():
    assert selects_rows("kurtosis")
    assert selects_rows("kurtosis_z")
    assert not selects_rows("random_like_kurtosis")
    assert not selects_rows("contrast_weighted")
