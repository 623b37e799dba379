"""Judgings on disk, and when a refusal is one answer's and to be kept, too."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import dataclass
from pathlib import Path

from crane_lib.errors import CraneError
from crane_lib.evaluation.judges_protocol import parse_judging
from crane_lib.files import read_json, write_json

SCHEMA = "crane.judging/1"
_HOPELESS = 5  # different answers refused, and none judged: then it is not the answers


@dataclass(frozen=True)
class Judging:
    """What one judging came to: a score (NaN: missing) and its reason, or why there is none."""

    score: float
    reason: str

    @property
    def is_missing(self) -> bool:
        """Whether there is no score."""
        return math.isnan(self.score)


def keep(file: Path, judging: Judging) -> None:
    """Write a judging to its file."""
    score = None if judging.is_missing else judging.score
    write_json(file, {"schema": SCHEMA, "score": score, "reason": judging.reason, "refused": judging.is_missing})


def read_kept(file: Path) -> Judging | None:
    """A judging made before, None where there is none or it cannot be read."""
    if not file.is_file():
        return None
    try:
        value = read_json(file)
    except CraneError:
        return None
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        return None
    if value.get("refused") is True and isinstance(value.get("reason"), str):
        return Judging(float("nan"), value["reason"])
    parsed = parse_judging(json.dumps(value))
    return Judging(*parsed) if parsed is not None else None


class Refusals:
    """Requests that a server refuses, held back until one judging shows that it does judge.

    From then on a refusal is the answer's own, counts as missing and is kept. As long as nothing was judged, the
    fault may as well be with address, model or protocol, so nothing is kept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._works = False
        self._waiting: list[tuple[Path, Judging]] = []
        self._answers: set[str] = set()
        self._first: CraneError | None = None

    def judged(self) -> None:
        """Note that the server gave a score, now or in an earlier run."""
        with self._lock:
            self._works = True
            for file, judging in self._waiting:
                keep(file, judging)
            self._waiting.clear()

    def add(self, file: Path, said: str, *, answer: str, error: CraneError) -> Judging:
        """The missing judging of a refused request.

        Parameters
        ----------
        file : of the judging
        said : the server's reason
        answer : what identifies the answer, of which several judgings may be refused
        error : raised here where every answer so far was refused, and they are many
        """
        judging = Judging(float("nan"), f"refused ({said})")
        with self._lock:
            if self._works:
                keep(file, judging)
                return judging
            self._waiting.append((file, judging))
            self._answers.add(answer)
            self._first = self._first or error
            if len(self._answers) >= _HOPELESS:
                raise self._first
        return judging

    def check(self) -> None:
        """Raise the first refusal if nothing was judged."""
        if self._first is not None and not self._works:
            raise self._first
