"""Which section waits for which: for those that make, before it, what it reads.

Sections share nothing but stages, which `crane_lib.study.Study` makes for whoever asks first. So a section's code tells
what it reads: the members of `Study` that it uses, directly or through the library's functions that take a study. A
section waits for the first one that uses the same. If that were ever wrong, nothing would go wrong but the time: a
stage that two sections ask for at once is made by one, under a lock.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from crane_lib.pipeline.code import imported_modules, source_file
from crane_lib.pipeline.sections import Section, plain_code

_STORE = "store"  # the attribute of a study that makes stages


def _attributes(tree: ast.AST, name: str) -> set[str]:
    """What is taken from the object of a name: ``x`` and ``y`` for ``study.x + study.y``."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name
    }


def _functions(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def reachable(names: Iterable[str], uses: Mapping[str, set[str]]) -> set[str]:
    """The names, all that they use, all that those use, and so on; names that use nothing known are kept."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += uses.get(name, ())
    return found


@cache
def _members() -> dict[str, set[str]]:
    """Members of `Study`, each with the attributes of itself that it uses."""
    from crane_lib.study import Study  # here, for it loads pandas

    own = [kind for kind in Study.__mro__ if kind is not object]
    trees = [ast.parse(inspect.getsource(kind)) for kind in reversed(own)]
    return {function.name: _attributes(function, "self") for tree in trees for function in _functions(tree)}


@cache
def _takes_study(file: Path) -> dict[str, tuple[set[str], set[str]]]:
    """A file's functions that take a study: what they use of it, and the names that they mention."""
    return {
        function.name: (_attributes(function, "study"), _mentioned(function))
        for function in _functions(ast.parse(file.read_text(encoding="utf-8")))
        if any(argument.arg == "study" for argument in function.args.args)
    }


def _mentioned(tree: ast.AST) -> set[str]:
    """Names and attributes that occur in a piece of code."""
    nodes = list(ast.walk(tree))
    return {node.id for node in nodes if isinstance(node, ast.Name)} | {
        node.attr for node in nodes if isinstance(node, ast.Attribute)
    }


def stages_read(section: Section) -> set[str]:
    """Members of `Study` that make or read stages and that a section uses, directly or not."""
    code = "\n".join(plain_code(source) for source in section.sources("code"))
    tree = ast.parse(code)
    used = _attributes(tree, "study")
    for module in imported_modules(code):
        file = source_file(module)
        functions = _takes_study(file) if file is not None else {}
        for name in reachable(_mentioned(tree) & set(functions), {key: value[1] for key, value in functions.items()}):
            used |= functions[name][0] if name in functions else set()
    if not used:
        return set()
    members = _members()
    reached = reachable(used, members)
    return {
        name
        for name in reached
        if name in members and not name.startswith("_") and _STORE in reachable([name], members)
    }


def waits_for(sections: Sequence[Section]) -> dict[str, set[str]]:
    """For every section the numbers of those before it that make what it reads, all of them, not only the last."""
    first: dict[str, str] = {}
    found: dict[str, set[str]] = {}
    for section in sections:
        read = stages_read(section)
        found[section.number] = {first[name] for name in read if name in first}
        for name in read:
            first.setdefault(name, section.number)
    return {number: reachable(before, found) for number, before in found.items()}


def by_urgency(seconds: Mapping[str, float], after: Mapping[str, set[str]]) -> list[str]:
    """Names in the order in which they should start: first what the longest chain of work begins with.

    Parameters
    ----------
    seconds : that each takes; ties keep its order
    after : for each name all that come before it
    """

    def chain(name: str) -> float:
        return seconds[name] + max((chain(later) for later in seconds if name in after.get(later, ())), default=0.0)

    return sorted(seconds, key=chain, reverse=True)


def seconds_left(left: Mapping[str, float], after: Mapping[str, set[str]], jobs: int) -> float:
    """Seconds until all is done: each takes the seconds in `left`, started in that order by `jobs` at once."""
    clock, waiting, ends = 0.0, list(left), dict[str, float]()
    while waiting or ends:
        for name in list(waiting):
            if len(ends) < jobs and not after.get(name, set()) & {*waiting, *ends}:
                ends[name] = clock + left[name]
                waiting.remove(name)
        soonest = min(ends, key=lambda name: ends[name])
        clock = ends.pop(soonest)
    return clock
