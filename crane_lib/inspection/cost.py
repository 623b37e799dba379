"""What masking one neuron costs: the NLL of held-out texts with and without it, in every language."""

from __future__ import annotations

import numpy as np
import pandas as pd

from crane_lib.evaluation.perplexity import document_nll
from crane_lib.evaluation.rows import mask_labels
from crane_lib.evaluation.uncertainty import drop_intervals, resample_documents
from crane_lib.inspection.ranks import Neuron, check_neuron
from crane_lib.inspection.run import FinishedRun
from crane_lib.masking import masked
from crane_lib.neurons import NeuronSet
from crane_lib.relevance import parts_of
from crane_lib.stages.texts import token_ids


def masking_cost(run: FinishedRun, neuron: Neuron, *, count: int) -> pd.DataFrame:
    """NLL a token of a sample of the held-out texts, unmasked and with one neuron zeroed.

    Parameters
    ----------
    count : most texts a language

    Returns
    -------
    frame with language, nll, nll_masked, change, low and high (its 95 % interval from the paired bootstrap over
    documents, as in section 03), documents and tokens
    """
    check_neuron(run, neuron)
    model, tokenizer = run.model(neuron.model)
    parts, options = parts_of(model), run.profile.relevance
    chosen = [[neuron.index] if layer == neuron.layer else [] for layer in range(len(parts.layers))]
    indices = [np.array(layer, dtype=np.int64) for layer in chosen]
    one = NeuronSet({"neuron": indices}, parts.widths, method="one neuron", language="")
    frames, records = [], []
    for language in run.languages:
        texts = run.sample("perplexity", language, count=count).tolist()
        documents = token_ids(texts, tokenizer, max_length=options.max_length)
        before, tokens = document_nll(model, documents, token_budget=options.token_budget)
        with masked(model, one):
            after, _ = document_nll(model, documents, token_budget=options.token_budget)
        for nll, neurons in ((before, None), (after, one)):
            labels = {"profile": run.profile.name, "model": neuron.model, "evaluation_language": language}
            labels |= mask_labels(neurons, selected_on="")
            frames.append(pd.DataFrame({"document": range(len(nll)), "nll": nll, "tokens": tokens}).assign(**labels))
        sizes = {"documents": len(documents), "tokens": int(tokens.sum())}
        means = {"nll": before.sum() / tokens.sum(), "nll_masked": after.sum() / tokens.sum()}
        records.append({"language": language, **means, **sizes})
    resampled = resample_documents(
        pd.concat(frames, ignore_index=True), metric="nll", random_seed=run.profile.random_seed
    )
    intervals = drop_intervals(resampled)[["evaluation_language", "change", "low", "high"]]
    table = pd.DataFrame(records).merge(intervals.rename(columns={"evaluation_language": "language"}), on="language")
    return table[["language", "nll", "nll_masked", "change", "low", "high", "documents", "tokens"]]
