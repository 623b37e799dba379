"""Disk that the relevance pass of a real profile takes: a pass with as many documents, but a made-up model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from crane_lib import stream_statistics
from crane_lib.relevance import Statistics
from crane_lib.relevance import corpus as stream
from crane_lib.relevance.moments import TENSORS
from crane_study.loading.models import load_model
from crane_study.profile import load_profile
from crane_study.steps.relevance import Passes, most_files
from tests.small import PASSES, TEXTS, write_model


def file_bytes(architecture) -> int:
    """Bytes of a file of statistics: five moments in float64 of every unit, three sums of every neuron."""
    width, hidden = architecture["intermediate_size"], architecture["hidden_size"]
    return architecture["num_hidden_layers"] * 8 * (len(TENSORS) * (4 * width + hidden) + 3 * width)


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Numbers of files of statistics that there are after each is written."""
    counts, save = [], Statistics.save

    def counted(self, path):
        save(self, path)
        counts.append(sum(1 for _ in tmp_path.rglob("*.safetensors")) - 1)  # without the model

    monkeypatch.setattr(Statistics, "save", counted)
    return counts


@pytest.fixture
def made_up(monkeypatch):
    """Passes that compute nothing: the relevance of a document comes from its first token."""
    original = stream.document_relevance

    def pass_over(model, input_ids, attention_mask, **settings):
        if not found:
            found.append(original(model, input_ids[:1, :2], None, **settings))
        rows = input_ids[:, 0].double()
        values = {
            name: (rows.view(-1, *[1] * (value.dim() - 1)) * value).to(value.dtype)
            for name, value in tensors(found[0]).items()
        }
        return replace(found[0], **values, lengths=attention_mask.sum(1))

    def tensors(item):
        return {name: value for name, value in vars(item).items() if torch.is_tensor(value) and name != "lengths"}

    found = []
    monkeypatch.setattr(stream, "document_relevance", pass_over)


def test_files_of_a_pass_stay_below_the_bound(tmp_path, watched, made_up, monkeypatch):
    network = load_model(write_model(tmp_path / "model"), device="cpu")[0]
    documents = {language: [np.arange(n % 5 + 2) for n in range(192)] for language in ("en", "vi")}
    monkeypatch.setattr(stream, "SHARDS", 8)
    monkeypatch.setattr("crane_study.steps.relevance.SHARDS", 8)
    options = replace(PASSES, objectives=["gold_logit", "log_probability"], token_budget=8)
    passes = Passes(corpus=tmp_path, model=tmp_path / "model", options=options)
    for path, statistics in passes.run(network, documents, scratch=tmp_path / "scratch"):
        (tmp_path / "out" / path).parent.mkdir(parents=True, exist_ok=True)
        statistics.save(tmp_path / "out" / path)
    results, bound = most_files(documents=192, languages=2, objectives=2)
    assert len(list((tmp_path / "out").rglob("*.safetensors"))) == results
    assert 0.8 * bound < max(watched) <= bound
    assert len(watched) > 3 * bound  # so many there would be if none were removed


@pytest.mark.parametrize("name", ["llama2-7b", "qwen3-8b", "qwen2.5-0.5b"])
def test_the_statistics_of_a_real_profile_fit_in_the_disk_that_it_asks_for(name):
    """The statistics of one model, and those of the other while it is computed, in 85 % of what preflight checks."""
    profile = load_profile(name)
    documents, objectives = profile.source.relevance_documents, len(profile.relevance.objectives)
    results, most = most_files(documents=documents, languages=len(profile.languages), objectives=objectives)
    needed = (results + most) * file_bytes(profile.source.architecture) / 1e9
    assert needed < 0.85 * profile.needs.disk_gb, f"{results} and {most} files, {needed:.1f} GB"


def test_the_bytes_of_a_file(tmp_path):
    model = write_model(tmp_path / "model")
    network, tokenizer = load_model(model, device="cpu")
    stream_statistics(network, [tokenizer(TEXTS["en"][0])["input_ids"]]).save(tmp_path / "one.safetensors")
    config = network.config
    sizes = {key: getattr(config, key) for key in ("intermediate_size", "hidden_size", "num_hidden_layers")}
    assert 0 <= (tmp_path / "one.safetensors").stat().st_size - file_bytes(sizes) < 8_000  # the header
