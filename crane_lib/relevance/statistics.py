"""The relevance statistics of one language on one model, and the file that holds them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from crane_lib.errors import CraneError
from crane_lib.files import atomic
from crane_lib.relevance.moments import TENSORS, Moments
from crane_lib.relevance.taps import SITES

SCHEMA = "crane.statistics/1"


@dataclass
class Statistics:
    """Moments over the documents of a language, with counts of active tokens.

    Parameters
    ----------
    moments : by site: "neuron", "abs_neuron", "gate", "up" of (L, I) units and "down" of (L, H) units
    active : (L, I) number of tokens with act(g) > 0
    tokens : number of tokens seen, the denominator of `active`
    provenance : what the numbers depend on besides the text: model, rule, seed, dtype, max_length
    labels : free text of the caller, such as the language
    """

    moments: dict[str, Moments]
    active: Tensor
    tokens: int
    provenance: dict[str, str]
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def documents(self) -> int:
        """Number of documents seen."""
        return self.moments["neuron"].count

    def to(self, device: torch.device | str) -> Statistics:
        """Move the tensors to a device; returns the same object."""
        for moments in self.moments.values():
            moments.to(device)
        self.active = self.active.to(device)
        return self

    def merge(self, other: Statistics) -> None:
        """Add the statistics of other documents; `other` stays as it is, the labels of this one stay.

        Raises
        ------
        CraneError : the two do not come from the same model, rule, seed, dtype and truncation
        """
        if self.provenance != other.provenance:
            names = self.provenance.keys() | other.provenance.keys()
            seen = [
                f"{name} {self.provenance.get(name)!r} and {other.provenance.get(name)!r}"
                for name in sorted(names)
                if self.provenance.get(name) != other.provenance.get(name)
            ]
            raise CraneError(f"these statistics cannot be merged: {'; '.join(seen)}")
        for site, moments in self.moments.items():
            moments.merge(other.moments[site])
        self.active = self.active + other.active
        self.tokens += other.tokens

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file; equal statistics give equal bytes."""
        tensors = {"active": self.active}
        for site, moments in self.moments.items():
            tensors |= {f"{site}.{name}": getattr(moments, name) for name in TENSORS}
        header = {
            "schema": SCHEMA,
            "documents": self.documents,
            "tokens": self.tokens,
            "provenance": self.provenance,
            "labels": self.labels,
        }
        # one metadata entry only: the order of several is not fixed
        metadata = {"crane": json.dumps(header, sort_keys=True, ensure_ascii=False)}
        with atomic(path) as temporary:
            save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, temporary, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Statistics:
        """Read a file written by `save`.

        Raises
        ------
        CraneError : the file is missing, damaged, or not of this schema
        """
        if not Path(path).is_file():
            raise CraneError(f"{path}: no such file; compute the statistics first")
        try:
            with safe_open(path, framework="pt") as file:
                header = _checked_header(path, file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise CraneError(f"{path}: is not a readable safetensors file ({error})") from error
        expected = {"active"} | {f"{site}.{name}" for site in SITES for name in TENSORS}
        if tensors.keys() != expected:
            raise CraneError(f"{path}: missing or foreign tensors {sorted(tensors.keys() ^ expected)}; make it anew")
        moments = {site: _read_moments(tensors, site, header["documents"]) for site in SITES}
        return cls(moments, tensors["active"], header["tokens"], header["provenance"], header["labels"])


def _checked_header(path: str | os.PathLike[str], metadata: dict[str, str]) -> dict[str, Any]:
    try:
        header = json.loads(metadata.get("crane", "{}"))
    except json.JSONDecodeError:
        header = {}
    schema = header.get("schema") if isinstance(header, dict) else None
    if schema != SCHEMA:
        raise CraneError(f"{path}: its schema is {schema!r}, expected {SCHEMA!r}; make it anew")
    return header


def _read_moments(tensors: dict[str, Tensor], site: str, count: int) -> Moments:
    moments = Moments((0,))
    moments.count = count
    for name in TENSORS:
        setattr(moments, name, tensors[f"{site}.{name}"].to(torch.float64))
    return moments
