"""Methods by name, of the registry or of a user's own file: ``contrast``, or ``mine.py:mine``."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from crane_lib.errors import CraneError
from crane_lib.methods import METHODS, Method, register
from crane_lib.neurons import HEAD

_OWN_COLOUR = "#994F00"
_LOADED: dict[str, Method] = {}  # by ``file.py:name``


def method_of(text: str) -> Method:
    """Find a method by its name, or load it from ``file.py:name``: a `Method`, or a function from `UnitScores`.

    The file is run: name only files that you trust. What it defines is registered.

    Raises
    ------
    CraneError : an unknown method, with the nearest known one, or a file without it
    """
    file, colon, name = text.rpartition(":")
    if not colon:
        if text in METHODS:
            return METHODS[text]
        near = get_close_matches(text, METHODS, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(METHODS)}"
        raise CraneError(f"unknown method {text!r}{hint} A method of your own is file.py:name")
    if text not in _LOADED:
        found = getattr(_run(Path(file)), name, None)
        if not callable(found) and not isinstance(found, Method):
            raise CraneError(f"{text}: {file} defines no method or function {name!r}")
        own = found if isinstance(found, Method) else Method(name, name, _OWN_COLOUR, scores=found)
        _LOADED[text] = own if METHODS.get(own.name) is own else register(own)  # the file may have registered it
    return _LOADED[text]


def for_unit(unit: str, methods: Sequence[Method]) -> None:
    """Refuse methods that cannot select this unit, ``neuron`` or ``head``."""
    unfit = [method.name for method in methods if unit == HEAD and not method.of_heads]
    if unfit:
        fit = ", ".join(name for name, method in METHODS.items() if method.of_heads)
        raise CraneError(f"method {unfit[0]}: reads what attention heads do not have; methods for heads: {fit}")


def methods_of(texts: Sequence[str], *, without: Sequence[str] = ()) -> list[Method]:
    """Find several methods; all of the registry that need not more than statistics and activations if none is named."""
    if texts:
        return [method_of(text) for text in texts]
    return [method for method in METHODS.values() if method.needs in ("", "activations") and method.name not in without]


def _run(path: Path) -> object:
    if not path.is_file():
        raise CraneError(f"{path}: no such file; a method of your own is file.py:name")
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise CraneError(f"{path}: is not a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file does
        raise CraneError(f"{path}: {type(error).__name__}: {error}") from error
    return module
