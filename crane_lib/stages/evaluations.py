"""A model evaluated in one state after another (under masks, say); what took long is kept for a start after a kill."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyarrow import ArrowException
from transformers import PreTrainedModel

from crane_lib.errors import CraneError
from crane_lib.files import write_frame
from crane_lib.masking import masked
from crane_lib.neurons import NeuronSet
from crane_lib.progress import progress
from crane_lib.relevance.distributed import barrier, rank, share, world

KEPT_SECONDS = 1.0  # what took less is not kept: a file takes a hundredth of a second
VISIBLE_SECONDS = 60.0  # network file systems may show a new file to other machines only after a while
_STATE = "state"  # column of a kept file that says what it is about

Mask = tuple[str, NeuronSet | None]  # where a set was selected, and the set; None is the unmasked model


def evaluate_states(
    states: Mapping[str, Callable[[], AbstractContextManager[Any]]],
    evaluate: Callable[[], pd.DataFrame],
    *,
    description: str,
    scratch: Path | None = None,
) -> dict[str, pd.DataFrame]:
    """Evaluate a model in every state.

    Under torchrun, where there is a `scratch`, every process calls this; they share the states. The first one gets the
    whole, the others nothing: it may take the folder away while they would still be reading.

    Parameters
    ----------
    states : blocks that hold the model in a state, by names that are good for files
    evaluate : called in each of them; gives a frame of one row or more
    description : of the work, for its progress
    scratch : folder where finished states are kept in files, from where a later call goes on

    Returns
    -------
    what `evaluate` gave, by the name of the state, in the order of `states`

    Raises
    ------
    CraneError : what another process has written is not to be seen from here
    """
    kept = _Kept(scratch)
    found = {name: frame for name in states if (frame := kept.read(name)) is not None}
    missing = kept.agree([name for name in states if name not in found])
    with progress(description, len(states)) if rank() == 0 else nullcontext() as bar:
        if bar is not None:
            bar.skip(len(states) - len(missing))
        for name in kept.own(missing):
            started = time.monotonic()
            with states[name]():
                found[name] = evaluate()
            kept.write(name, found[name], seconds=time.monotonic() - started)
            if bar is not None:
                bar.advance(len(found) + kept.made_elsewhere(set(missing) - set(found)) - bar.done)
    kept.wait()
    return {name: found[name] if name in found else kept.by_another(name) for name in states if rank() == 0}


def units_key(neurons: NeuronSet | None) -> str:
    """Hash of what is zeroed: equal for sets that mask the same units, whatever they are called."""
    digest = hashlib.sha256()
    sites = neurons.sites if neurons is not None else {}
    for site in sorted(sites):
        for layer, indices in enumerate(sites[site]):
            if len(indices):
                digest.update(f"{site} {layer} {len(indices)}\n".encode())
                digest.update(np.ascontiguousarray(indices, dtype="<i8").tobytes())
    return digest.hexdigest()[:32]


def evaluate_masks(
    model: PreTrainedModel,
    masks: list[Mask],
    evaluate: Callable[[], pd.DataFrame],
    *,
    description: str,
    scratch: Path | None = None,
) -> list[tuple[list[int], pd.DataFrame]]:
    """Evaluate a model under every mask; sets of the same units (a global random mask is one for all languages) once.

    The rest of the parameters are those of `evaluate_states`.

    Returns
    -------
    for every distinct mask, in the order of `masks`: its places there, and what `evaluate` gave; in the first process
    """
    places: dict[str, list[int]] = {}
    for place, (_selected_on, neurons) in enumerate(masks):
        places.setdefault(units_key(neurons), []).append(place)
    sets = {key: masks[where[0]][1] for key, where in places.items()}
    states = {key: nullcontext if neurons is None else partial(masked, model, neurons) for key, neurons in sets.items()}
    found = evaluate_states(states, evaluate, description=description, scratch=scratch)
    return [(places[key], frame) for key, frame in found.items()]


class _Kept:
    """Files of finished states in a scratch folder, through which several processes share the work; or no folder."""

    def __init__(self, scratch: Path | None) -> None:
        self._folder = scratch
        self._together = scratch is not None and world() > 1

    def agree(self, missing: list[str]) -> list[str]:
        """What the first process misses: were each to look for itself, they might see different things."""
        return share(missing) if self._together else missing

    def own(self, missing: list[str]) -> list[str]:
        """This process's share."""
        return missing[rank() :: world()] if self._together else missing

    def read(self, name: str) -> pd.DataFrame | None:
        """What was kept, or None where the file is missing, broken or about something else."""
        if self._folder is None:
            return None
        try:
            frame = pd.read_parquet(self._file(name))
            states = frame.pop(_STATE)
        except (OSError, ValueError, KeyError, ArrowException):
            return None
        return frame if len(frame) and (states == name).all() else None

    def write(self, name: str, frame: pd.DataFrame, *, seconds: float) -> None:
        """Keep what took so long, if another process needs it or it is worth a file."""
        if self._folder is not None and (self._together or seconds >= KEPT_SECONDS):
            write_frame(self._file(name), frame.assign(**{_STATE: name}))

    def made_elsewhere(self, names: set[str]) -> int:
        """How many of these other processes have written."""
        return sum(self._file(name).is_file() for name in names) if self._together else 0

    def wait(self) -> None:
        """Wait until every process has done its share."""
        if self._together:
            barrier()

    def by_another(self, name: str) -> pd.DataFrame:
        """What another process has found in a state."""
        patience = time.monotonic() + VISIBLE_SECONDS
        while (frame := self.read(name)) is None:
            if time.monotonic() > patience:
                raise CraneError(
                    f"{self._file(name)}: another process wrote it, but it is not to be seen from here; --artifacts "
                    "must be on a disk that all machines share"
                )
            time.sleep(0.2)
        return frame

    def _file(self, name: str) -> Path:
        assert self._folder is not None  # nothing is kept without one
        return self._folder / f"{name}.parquet"
