"""Which section waits for which: for those that make, before it, what it reads.

Sections share nothing but stages, which `crane_lib.study.Study` makes for whoever asks first. So a section's code tells
what it reads: the members of `Study` that it uses, directly or through the library's functions that take a study. A
section waits for the first one that uses the same. If that were ever wrong, nothing would go wrong but the time: a
stage that two sections ask for at once is made by one, under a lock.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from crane_lib.pipeline.code import imported_modules, source_file
from crane_lib.pipeline.sections import Section, plain_code

_STORE = "store"  # the attribute of a study that makes stages
_WORTH = 0.5  # seconds that must be gained for a second of a free place: times are estimates


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


@dataclass(frozen=True)
class Plan:
    """What starts when, of work of which some waits for other work.

    Parameters
    ----------
    order : names in the order in which they should start
    after : for each name all that come before it
    jobs : how many are at work at once
    """

    order: Sequence[str]
    after: Mapping[str, set[str]]
    jobs: int

    def next(self, waiting: Mapping[str, float], running: Mapping[str, float]) -> str | None:
        """What should start now, None if nothing may or should; both arguments give the seconds each needs yet.

        Of what may start it is that with which all ends soonest, if afterwards each start is of the first in order. A
        place is left free until something ends where that gains enough: when the last step before two long chains is
        at work, a third, starting now, would delay one of them.
        """
        names = self._ready(waiting, running)
        if not names:
            return None
        ends = {name: self._seconds(*_started(name, waiting, running), self._first) for name in names}
        best = min(names, key=lambda name: round(ends[name]))  # to the second: else rounding errors would decide ties
        if running:
            idle = min(running.values())
            held = idle + self._seconds(waiting, _later(running, idle), self._first)
            if held + _WORTH * idle < ends[best]:
                return None
        return best

    def seconds(self, waiting: Mapping[str, float], running: Mapping[str, float]) -> float:
        """Seconds until all is done."""
        return self._seconds(waiting, running, self.next)

    def _ready(self, waiting: Mapping[str, float], running: Mapping[str, float]) -> list[str]:
        """What may start now, in order."""
        if len(running) >= self.jobs:
            return []
        open_ = {*waiting, *running}
        return [name for name in self.order if name in waiting and open_.isdisjoint(self.after.get(name, ()))]

    def _first(self, waiting: Mapping[str, float], running: Mapping[str, float]) -> str | None:
        return next(iter(self._ready(waiting, running)), None)

    def _seconds(
        self,
        waiting: Mapping[str, float],
        running: Mapping[str, float],
        choose: Callable[[Mapping[str, float], Mapping[str, float]], str | None],
    ) -> float:
        clock = 0.0
        while True:
            while (name := choose(waiting, running)) is not None:
                waiting, running = _started(name, waiting, running)
            if not running:
                return clock
            soonest = min(running.values())
            clock += soonest
            running = _later(running, soonest)


def _started(
    name: str, waiting: Mapping[str, float], running: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """The same when `name` has started."""
    return {key: left for key, left in waiting.items() if key != name}, {**running, name: waiting[name]}


def _later(running: Mapping[str, float], seconds: float) -> dict[str, float]:
    """What is still at work so many seconds later."""
    return {name: left - seconds for name, left in running.items() if left > seconds}
