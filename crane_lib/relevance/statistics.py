"""Relevance statistics of one language on one model, and their file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from crane_lib.errors import CraneError
from crane_lib.files import atomic, hash_arrays
from crane_lib.relevance.moments import TENSORS, Moments
from crane_lib.relevance.taps import SITES

SCHEMA = "crane.statistics/5"
SUMS = ("active", "magnitude", "norms", "head_norms")  # tensors (L, units) beside the moments
NO_CORPUS = "0" * 32  # fingerprint of no documents


def corpus_fingerprint(documents: Iterable[np.ndarray]) -> str:
    """128-bit hash of a multiset of documents (token ids); hashes of parts add up to that of the whole, in any order.

    It is the sum modulo 2^128 of the BLAKE2b hashes of the ids as little-endian 64-bit integers, in hexadecimal.
    """
    total = 0
    for document in documents:
        ids = np.asarray(document).astype("<i8").tobytes()
        total += int.from_bytes(hashlib.blake2b(ids, digest_size=16).digest(), "little")
    return _hexadecimal(total)


def _hexadecimal(value: int) -> str:
    return f"{value % (1 << 128):032x}"


@dataclass
class Statistics:
    """Moments over the documents of a language, with sums over their tokens.

    Parameters
    ----------
    moments : by site: "neuron", "abs_neuron", "gate" (unless the MLP is ungated), "up" of (L, I) units, "down" of
        (L, H) units, and "head", "abs_head" and "head_magnitude" of (L, heads) units, see `DocumentRelevance`
    active : (L, I) number of tokens with act(g) > 0
    magnitude : (L, I) sum over tokens of |h|
    norms : (L, I) norm of every neuron's column of `down_proj`, a property of the model
    head_norms : (L, heads) root mean square of the norms of a head's columns of the output projection
    tokens : number of tokens that count, the denominator of `active` and `magnitude`
    provenance : settings that the numbers depend on: model, rule, objective, dtype, max_length, skip_first_tokens
    labels : free text of the caller, such as the language
    corpus : `corpus_fingerprint` of the documents, cut at max_length
    """

    moments: dict[str, Moments]
    active: Tensor
    magnitude: Tensor
    norms: Tensor
    head_norms: Tensor
    tokens: int
    provenance: dict[str, str]
    labels: dict[str, str] = field(default_factory=dict)
    corpus: str = NO_CORPUS

    @property
    def documents(self) -> int:
        """Number of documents seen."""
        return self.moments["neuron"].count

    def to(self, device: torch.device | str) -> Statistics:
        """Move the tensors to a device and return this object."""
        for moments in self.moments.values():
            moments.to(device)
        for name in SUMS:
            setattr(self, name, getattr(self, name).to(device))
        return self

    def merge(self, other: Statistics) -> None:
        """Add the statistics of other documents; `other` and the labels of this object are not changed.

        Raises
        ------
        CraneError : model, rule, objective, dtype or truncation differ
        """
        if self.moments.keys() != other.moments.keys():
            raise CraneError(
                f"statistics of {sorted(self.moments)} cannot be merged with those of {sorted(other.moments)}"
            )
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
        self.magnitude = self.magnitude + other.magnitude
        self.tokens += other.tokens
        self.corpus = _hexadecimal(int(self.corpus, 16) + int(other.corpus, 16))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file; equal statistics give equal bytes."""
        tensors = {name: getattr(self, name) for name in SUMS}
        for site, moments in self.moments.items():
            tensors |= {f"{site}.{name}": getattr(moments, name) for name in TENSORS}
        header = {
            "schema": SCHEMA,
            "sites": [site for site in SITES if site in self.moments],
            "documents": self.documents,
            "tokens": self.tokens,
            "corpus": self.corpus,
            "provenance": self.provenance,
            "labels": self.labels,
        }
        tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
        header["sha256"] = _seal(header, tensors)
        # a single metadata entry, because the order of several is not fixed
        metadata = {"crane": json.dumps(header, sort_keys=True, ensure_ascii=False)}
        with atomic(path) as temporary:
            save_file(tensors, temporary, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Statistics:
        """Read a file written by `save`.

        Raises
        ------
        CraneError : the file is missing, damaged, or not of this schema
        """
        with _opened(path) as (file, header):
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        if header.get("sha256") != _seal(header, tensors):
            raise CraneError(f"{path}: was changed after it was written; remove it and make it again")
        moments = {site: Moments((0,)) for site in header["sites"]}
        sums = {name: tensors[name] for name in SUMS}
        for site, found in moments.items():
            found.count = header["documents"]
            for name in TENSORS:
                setattr(found, name, tensors[f"{site}.{name}"].to(torch.float64))
        seen = {site: found.mean.shape for site, found in moments.items() if site != "down"}
        seen |= {name: values.shape for name, values in sums.items()}
        heads = {shape for name, shape in seen.items() if "head" in name}
        if len(heads) != 1 or set(seen.values()) - heads - {sums["active"].shape}:
            raise CraneError(f"{path}: its tensors differ in shape; make it again")
        about = {name: header[name] for name in ("tokens", "provenance", "labels", "corpus")}
        return cls(moments, **sums, **about)


def _seal(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Hash of a header, but for the hash itself, and of all tensors."""
    about = {name: value for name, value in header.items() if name != "sha256"}
    return hash_arrays({k: v.numpy() for k, v in tensors.items()}, about=json.dumps(about, sort_keys=True))


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the header of a file of statistics, and check that all its numbers are there, not what they are.

    Returns
    -------
    schema, sites, documents, tokens, corpus, provenance, labels and sha256

    Raises
    ------
    CraneError : the file is missing, damaged, or not of this schema
    """
    with _opened(path) as (_file, header):
        return header


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Open file and its header, both checked."""
    if not Path(path).is_file():
        raise CraneError(f"{path}: no such file; compute the statistics first")
    try:
        with safe_open(path, framework="pt") as file:  # compares the size of the file with its table of tensors
            try:
                header = json.loads((file.metadata() or {}).get("crane", "{}"))
            except (ValueError, RecursionError):
                header = {}
            schema = header.get("schema") if isinstance(header, dict) else None
            if schema != SCHEMA:
                older = str(schema).startswith("crane.statistics/")
                told = "of an older version" if older else "not a file of statistics"
                raise CraneError(f"{path}: its schema is {schema!r}, expected {SCHEMA!r} ({told}); make it again")
            sites = header.get("sites", [])
            if not set(SITES) - {"gate"} <= set(sites) <= set(SITES):
                raise CraneError(f"{path}: has the sites {sites}, expected {list(SITES)}; make it again")
            differing = set(file.keys()) ^ {*SUMS, *(f"{site}.{name}" for site in sites for name in TENSORS)}
            if differing:
                raise CraneError(f"{path}: missing or unknown tensors {sorted(differing)}; make it again")
            numbers = [header["documents"], header["tokens"], int(header["corpus"], 16)]
            texts = {**header["provenance"], **header["labels"]}.values()
            if any(type(n) is not int or n < 0 for n in numbers) or not all(isinstance(text, str) for text in texts):
                raise CraneError(
                    f"{path}: has counts {numbers}, or other provenance or labels than texts; make it again"
                )
            yield file, header
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise CraneError(f"{path}: is not a readable safetensors file ({error}); make it again") from error
