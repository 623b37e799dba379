"""Selectivity at matched damage on a user's own model and texts: masks of growing size, until the damage is done."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from crane_lib.interventions import masked
from crane_lib.neurons import NEURON, NeuronSet
from crane_lib.nll import document_nll
from crane_lib.selection import marked_indices, top
from crane_study.frames import keep_frame, kept_frame
from crane_study.uncertainty.bootstrap import RESAMPLES, resample_counts
from crane_study.uncertainty.matched_damage import DAMAGES, Response

SHARES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # of the neurons, one dose each
Advance = Callable[[], None]


class Judge:
    """NLL of documents under masks; documents of one number are resampled together in all languages.

    Parameters
    ----------
    documents : token ids by language, as many in each
    kept : folder of the results of masks, from which another start goes on; None to keep nothing
    site : of the units that are masked, ``neuron`` or ``head``
    """

    def __init__(
        self,
        model: PreTrainedModel,
        documents: dict[str, list[np.ndarray]],
        *,
        token_budget: int = 2048,
        kept: Path | None = None,
        site: str = NEURON,
    ) -> None:
        self._site = site
        self._model, self._documents, self._token_budget, self._kept = model, documents, token_budget, kept
        self.languages = tuple(documents)
        self.tokens = np.array([[len(text) - 1 for text in texts] for texts in documents.values()])  # (K, N)
        self.unmasked = self._nll()

    def _nll(self) -> np.ndarray:
        """NLL (K, N) of every document."""
        together = [text for own in self._documents.values() for text in own]  # fewer passes than one per language
        return document_nll(self._model, together, token_budget=self._token_budget)[0].reshape(self.tokens.shape)

    def masked(self, chosen: np.ndarray) -> np.ndarray:
        """NLL (K, N) with the units zeroed that a boolean array (L, units) marks."""
        # The NLL of the unmasked model stands for model and documents: results of others are not read.
        name = hashlib.sha256(np.packbits(chosen).tobytes() + self.unmasked.tobytes()).hexdigest()[:32]
        file = None if self._kept is None else self._kept / f"{self._site}.{name}.parquet"
        if file is not None and (found := kept_frame(file, state=name)) is not None:
            return np.ascontiguousarray(found.to_numpy().T)
        neurons = NeuronSet(sites={self._site: marked_indices(chosen)}, widths={self._site: chosen.shape[1]})
        with masked(self._model, neurons):
            nll = self._nll()
        if file is not None:
            keep_frame(file, pd.DataFrame(nll.T, columns=list(self.languages)), state=name)
        return nll

    def curve(
        self, scores: np.ndarray, own: int, doses: Sequence[int], *, advance: Advance = lambda: None
    ) -> np.ndarray:
        """NLL (doses, K, N) of the unmasked model and under masks of growing size.

        The masks take the highest `scores` (L, I); they end with the first that does twice the largest damage, so that
        resamples reach it, too.
        """
        found = [self.unmasked]
        for dose in doses:
            found.append(self.masked(top(scores, dose)))
            advance()
            rise = (found[-1] - self.unmasked)[own].sum() / self.tokens[own].sum()
            if rise >= 2 * max(DAMAGES):
                break
        return np.stack(found)

    def response(self, method: str, language: str, doses: Sequence[int], nll: np.ndarray, *, units: int) -> Response:
        """Dose-response of a method's masks of a language, of `units` neurons, with resamples of the documents."""
        killed = np.array([0, *doses][: len(nll)], dtype=float)
        weights = np.concatenate(
            list(resample_counts(nll.shape[-1], RESAMPLES, generator=np.random.default_rng(0))), axis=0
        )
        rise = nll - self.unmasked
        drawn = np.einsum("dkn,bn->bdk", rise, weights) / np.einsum("kn,bn->bk", self.tokens, weights)[:, None]
        measured = rise.sum(axis=-1) / self.tokens.sum(axis=-1)
        return Response(method, language, self.languages, killed / units, killed, measured, drawn)
