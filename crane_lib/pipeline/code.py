"""Which code a stage depends on: the modules its own module imports, followed through the library."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGE = _ROOT.name


def source_file(module: str) -> Path | None:
    """Source file of a module of the library, None for anything else."""
    parts = module.split(".")
    if parts[0] != _PACKAGE:
        return None
    base = _ROOT.joinpath(*parts[1:])
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def imported_modules(source: str) -> set[str]:
    """Names of the library's modules that a piece of Python imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            # "from package import x": x may be a module of its own.
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found.update(name for name in names if source_file(name) is not None)
    return found


@cache
def _direct(module: str) -> tuple[str, ...]:
    file = source_file(module)
    return tuple(sorted(imported_modules(file.read_text(encoding="utf-8")))) if file else ()


def closure(modules: Iterable[str]) -> list[str]:
    """The modules and everything of the library that they import, directly or not, sorted."""
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in seen and source_file(module) is not None:
            seen.add(module)
            waiting += _direct(module)
    return sorted(seen)


@cache
def _digest(file: Path) -> str:
    """Hash of a source file, of the data files that lie beside it, and of those in ``expected/`` that it names."""
    source = file.read_bytes()
    digest = hashlib.sha256(source)
    named = [path for path in (_ROOT.parent / "expected").glob("*.*") if path.name.encode() in source]
    for data in sorted([*file.parent.glob("*.yaml"), *named]):
        digest.update(data.read_bytes())
    return digest.hexdigest()


def code_fingerprint(modules: Iterable[str]) -> str:
    """Hash of the source of `modules` and of all of the library they depend on."""
    digest = hashlib.sha256()
    for module in closure(modules):
        file = source_file(module)
        if file is not None:
            digest.update(f"{module}:{_digest(file)}\n".encode())
    return digest.hexdigest()[:16]
