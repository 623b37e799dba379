"""Whatever a file or a server holds: what is read is right or refused in one line, without a traceback or a hang.

``CRANE_FUZZ=3000 python -m pytest tests/faults/test_bad_input.py`` tries so many inputs of each kind instead of few.
"""

import copy
import json
import os
import resource
import time
from functools import partial

import httpx2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crane_lib.errors import CraneError
from crane_lib.files import write_json
from crane_lib.neurons import NeuronSet, read_neuron_sets, write_neuron_sets
from crane_lib.relevance.moments import Moments
from crane_lib.relevance.statistics import Statistics, read_header
from crane_lib.relevance.taps import SITES
from crane_study.data.user_files import read_documents, read_open_questions, read_questions
from crane_study.loading.gguf_files import check_gguf
from crane_study.loading.models import check_model_directory
from crane_study.loading.weights import weight_bytes
from crane_study.measure.judge_endpoint import EndpointJudge
from crane_study.measure.judgings import Endpoint, Judging, parse_judging
from crane_study.own.exchange import read_kinit
from crane_study.paper.lape_list import read_lape_list
from crane_study.profile import load_profile
from tests.gguf_model import write_gguf
from tests.small import write_model, write_study

EXAMPLES = int(os.environ.get("CRANE_FUZZ", "40"))
LONGEST = 5.0  # seconds of processor time for one input
MOST = 1 << 20  # KiB that all inputs of a kind may add to this process

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
odd = st.sampled_from(
    [
        2**64,
        -(2**70),
        1e400,
        "",
        "\0",
        "\ud83d",
        "no",
        "../../etc/passwd",
        "/dev/zero",
        "~",
        "[" * 3000,
        "a" * 5000,
        {},
        [],
    ]
)
values = st.recursive(
    plain | odd,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def changed(draw, value):
    """A JSON value with one to three places replaced, removed or doubled."""
    value = copy.deepcopy(value)
    for _change in range(draw(st.integers(1, 3))):
        inside, place = {"": value}, ""
        while isinstance(inside[place], (dict, list)) and inside[place] and draw(st.integers(0, 3)):
            inside = inside[place]
            place = draw(st.sampled_from(sorted(inside, key=str) if isinstance(inside, dict) else range(len(inside))))
        kind = draw(st.sampled_from(["replaced", "replaced", "removed", "doubled"]))
        if kind == "removed" and inside is not value and "" not in inside:
            del inside[place]
        elif kind == "doubled" and isinstance(inside, list):
            inside.append(copy.deepcopy(inside[place]))
        else:
            inside[place] = draw(values)
        value = inside[""] if place == "" and "" in inside and len(inside) == 1 else value
    return value


@st.composite
def damaged(draw, data):
    """Bytes that are cut off, or have places overwritten, removed or repeated."""
    data = bytearray(data)
    for _damage in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, min(len(data), draw(st.sampled_from([64, 4096, 1 << 30])))))
        end = start + draw(st.integers(0, 16))
        kind = draw(st.sampled_from(["overwrite", "overwrite", "remove", "repeat", "cut"]))
        if kind == "overwrite":
            data[start:end] = draw(
                st.binary(max_size=16) | st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\xff\x7f", b"{", b'"'])
            )
        elif kind == "remove":
            del data[start:end]
        elif kind == "repeat":
            data[start:start] = data[start:end]
        else:
            del data[start:]
    return bytes(data)


def tried(read):
    """Read one input: it is read, or refused in one line that a terminal can show, in reasonable time."""
    began, found, said = time.process_time(), None, "error"
    try:
        found = read()
    except CraneError as error:
        said = str(error)
    assert time.process_time() - began < LONGEST
    assert len(said.splitlines()) == 1, repr(said)
    assert len(said) < 2000
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("inputs")


@pytest.fixture(autouse=True)
def _bounded_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST


def fuzzed(*strategies, share=1.0):
    """Try a share of the examples of these strategies, the same ones each time unless there are many."""
    few = max(1, int(EXAMPLES * share))
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    limits = settings(max_examples=few, deadline=None, database=None, derandomize=True, suppress_health_check=quiet)
    return lambda test: limits(given(*strategies)(test))


@pytest.fixture(scope="module")
def profile(folder):
    path = write_study(folder / "study", questions=True)
    return path, yaml.safe_load(path.read_text(encoding="utf-8"))


FULL = load_profile("mini").resolved() | {"paper": {"lape_list": "l.pth", "lape_list_languages": ["en", "zh", "vi"]}}


@fuzzed(st.data())
def test_profiles(profile, data):
    path, value = profile
    target = path.with_name("fuzzed.yaml")
    kind = data.draw(st.sampled_from(["value", "full", "bytes", "text"]))
    if kind == "bytes":
        target.write_bytes(data.draw(damaged(path.read_bytes())))
    elif kind == "text":
        target.write_text(data.draw(st.text(max_size=200)), encoding="utf-8", errors="surrogatepass")
    else:
        given_value = data.draw(changed(value if kind == "value" else FULL))
        target.write_text(json.dumps(given_value) if data.draw(st.booleans()) else yaml.safe_dump(given_value))
    found = tried(lambda: load_profile(str(target)))
    assert found is None or found.languages


SETS = [
    NeuronSet({"neuron": [np.array([0, 3]), np.array([], dtype=np.int64)]}, {"neuron": 8}, "m", "contrast", "0.1", code)
    for code in ("en", "vi")
]


@pytest.fixture(scope="module")
def set_file(folder):
    write_neuron_sets(folder / "sets.json", SETS)
    return folder / "sets.json"


@fuzzed(st.data())
def test_neuron_sets(set_file, data):
    target = set_file.with_name("fuzzed.json")
    if data.draw(st.booleans()):
        target.write_text(json.dumps(data.draw(changed(json.loads(set_file.read_text())))))
    else:
        target.write_bytes(data.draw(damaged(set_file.read_bytes())))
    for item in tried(lambda: read_neuron_sets(target)) or []:
        assert item.count() >= 0
        assert item.killed_share() >= 0


tensors = st.sampled_from(
    [
        torch.tensor([1, 2]),
        torch.tensor([9]),
        torch.tensor([-1]),
        torch.tensor(3),
        torch.tensor([1.0, float("nan")]),
        torch.empty(0, dtype=torch.int64),
        torch.tensor([[1]]),
        torch.tensor([1], dtype=torch.int32),
        torch.empty(3, dtype=torch.int64, device="meta"),
    ]
)


@fuzzed(st.lists(st.lists(tensors | plain, max_size=3) | plain, max_size=8) | values, st.data())
def test_lists_of_lape(folder, value, data):
    path = folder / "list.pth"
    torch.save(value, path)
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(damaged(path.read_bytes())))
    names = data.draw(st.sampled_from([(), ("en", "vi")]))
    for item in tried(partial(read_lape_list, path, layers=2, width=8, languages=names)) or []:
        assert item.layers == 2
    tried(partial(read_kinit, path))


@fuzzed(st.data())
def test_kinits_dictionaries(folder, data):
    pairs = st.lists(st.tuples(st.integers(-3, 9), st.integers(-3, 9)), max_size=3)
    mask = data.draw(st.sampled_from([torch.zeros(2, 8), torch.zeros(2, 3, 8), torch.zeros(4), torch.zeros(1 << 9, 0)]))
    listed = {"en": data.draw(pairs | values), "vi": data.draw(pairs)}
    results = {"mlp": {"selected_indices_by_language": listed, "selected_mask": mask}}
    value = {"languages": ["en", "vi"], "results": results, "method": data.draw(plain)}
    torch.save(
        data.draw(st.just(value) | changed({**value, "results": {"mlp": {"selected_mask": 3}}})), folder / "kinit.pt"
    )
    for item in tried(partial(read_kinit, folder / "kinit.pt")) or []:
        assert item.count() >= 0


TABLE = [
    {"question": "Who?", "options": ["a", "b"], "gold": 1, "text": "A text."},
    {"text": "B", "options": "[]", "gold": "0"},
]
ENDINGS = [
    ".txt",
    ".json",
    ".jsonl",
    ".csv",
    ".parquet",
    ".json.gz",
    ".csv.bz2",
    ".jsonl.xz",
    ".parquet.zst",
    ".JSON",
    ".doc",
]


def table_file(folder, data):
    """A file of texts or questions in some format, with mistakes in its values or its bytes."""
    path = folder / f"table{data.draw(st.sampled_from(ENDINGS))}"
    rows = data.draw(st.just(TABLE) | changed(TABLE))
    text = data.draw(st.text(max_size=300)).encode("utf-8", "surrogatepass")
    lines = "".join(json.dumps(row) + "\n" for row in rows) if isinstance(rows, list) else json.dumps(rows)
    content = data.draw(
        st.sampled_from([lines.encode(), json.dumps(rows).encode(), text, b"question,options\nWho?,[]\n"])
    )
    if ".parquet" in path.name:
        pd.DataFrame(
            {"text": ["a", None], "options": [["a", "b"], []], "gold": [0, 1], "question": ["q", "r"]}
        ).to_parquet(folder / "whole.parquet")
        content = (folder / "whole.parquet").read_bytes()
    if data.draw(st.booleans()):
        content = data.draw(damaged(content))
    if path.suffix in (".gz", ".bz2", ".xz", ".zst") and data.draw(st.integers(0, 3)):
        import bz2
        import gzip
        import lzma

        packed = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(path.suffix, bytes)(content)
        content = data.draw(st.just(packed) | damaged(packed))
    path.write_bytes(content)
    return path


@fuzzed(st.data())
def test_texts(folder, data):
    path = table_file(folder, data)
    for text in tried(partial(read_documents, path)) or []:
        assert text == text.encode().decode().strip()


@fuzzed(st.data())
def test_questions(folder, data):
    path = table_file(folder, data)
    found = tried(partial(read_questions, path))
    if found is not None:
        assert all(0 <= gold < len(options) for gold, options in zip(found["gold"], found["options"], strict=True))
    tried(partial(read_open_questions, {"en": path}))


REPLY = {
    "choices": [
        {"message": {"role": "assistant", "content": '{"score": 7, "reason": "fine"}'}, "finish_reason": "stop"}
    ]
}
scores = st.sampled_from(
    ['{"score": 10}', "<think>", "</think>", "```json", "{", "}", '"', '{"score": 3, "reason": "x"}']
)


@fuzzed(st.lists(scores | st.text(max_size=10), max_size=12).map("".join))
def test_texts_of_judges(content):
    for text in (content, content * 500):
        found = tried(partial(parse_judging, text))
        assert found is None or 1 <= found.score <= 10


@fuzzed(st.data())
def test_replies_of_judges(folder, monkeypatch, data):
    statuses = st.sampled_from([200] * 6 + [400, 404, 422, 429, 500])
    replies = [
        (
            data.draw(statuses),
            data.draw(changed(REPLY).map(lambda v: json.dumps(v).encode()) | damaged(json.dumps(REPLY).encode())),
        )
        for _reply in range(4)
    ]
    given_replies = iter(replies)

    def answer(_request):
        status, body = next(given_replies, (200, json.dumps(REPLY).encode()))
        return httpx2.Response(status, content=body)

    judge = EndpointJudge(Endpoint("http://127.0.0.1:1/v1", "m", "k"), folder / "none", first_wait=0.0, concurrency=1)
    client = httpx2.Client(transport=httpx2.MockTransport(answer))
    monkeypatch.setattr(EndpointJudge, "_client", lambda _self: client)
    monkeypatch.setattr(Judging, "write", lambda _self, _file: None)
    found = tried(lambda: judge.score(pd.DataFrame({"text": ["Who?"], "answer": ["He."]})))
    assert found is None or found["score"].dropna().between(1, 10).all()


@pytest.fixture(scope="module")
def gguf(folder):
    write_gguf(folder / "whole.gguf")
    return (folder / "whole.gguf").read_bytes()


@fuzzed(st.data(), share=0.5)
def test_headers_of_gguf_files(folder, gguf, data):
    path = folder / "damaged.gguf"
    head = gguf[: 1 << data.draw(st.integers(3, 18))]
    path.write_bytes(data.draw(damaged(head)))
    tried(partial(check_gguf, path))


@pytest.fixture(scope="module")
def model(folder):
    return write_model(folder / "model")


@fuzzed(st.data())
def test_directories_of_models(model, data):
    name = data.draw(
        st.sampled_from(["config.json", "model.safetensors", "index", "quantize_config.json", "pytorch_model.bin"])
    )
    path = model / ("model.safetensors.index.json" if name == "index" else name)
    before = path.read_bytes() if path.is_file() else None
    if name == "model.safetensors":
        path.write_bytes(data.draw(damaged(before)))
    elif name == "pytorch_model.bin":
        path.write_bytes(data.draw(st.binary(max_size=50) | damaged(b"PK\3\4" + b"\0" * 60)))
    else:
        start = (
            json.loads(before) if before else {"weight_map": {"a": "../../model.safetensors"}, "quant_method": "gptq"}
        )
        path.write_text(json.dumps(data.draw(changed(start))))
    try:
        tried(lambda: (check_model_directory(model), weight_bytes(model, "float32")))
    finally:
        path.unlink() if before is None else path.write_bytes(before)


@pytest.fixture(scope="module")
def statistics(folder):
    moments = {site: Moments((2, 3)) for site in SITES}
    for found in moments.values():
        found.update(torch.randn(4, 2, 3, dtype=torch.float64))
    sums = [torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3)]
    Statistics(moments, *sums, tokens=9, provenance={"model": "m"}).save(folder / "whole.safetensors")
    return folder / "whole.safetensors"


def with_header(data, header, crane):
    """A safetensors file with another table of tensors, whose own header is `crane`."""
    table = json.dumps(header | {"__metadata__": {"crane": crane}}).encode()
    return len(table).to_bytes(8, "little") + table + data


@fuzzed(st.data())
def test_files_of_statistics(statistics, data):
    path, whole = statistics.with_name("fuzzed.safetensors"), statistics.read_bytes()
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(damaged(whole)))
    else:
        size = int.from_bytes(whole[:8], "little")
        table = json.loads(whole[8 : 8 + size])
        own = json.loads(table.pop("__metadata__")["crane"])
        content = json.dumps(data.draw(changed(own))) if data.draw(st.booleans()) else data.draw(st.text(max_size=50))
        path.write_bytes(
            with_header(
                whole[8 + size :],
                data.draw(st.just(table) | changed(table).filter(lambda v: isinstance(v, dict))),
                content,
            )
        )
    tried(partial(read_header, path))
    found = tried(partial(Statistics.load, path))
    assert found is None or found.moments["neuron"].mean.shape == found.active.shape


@fuzzed(values)
def test_json_of_any_kind(folder, value):
    path = folder / "any.json"
    try:
        write_json(path, {"schema": "crane.neurons/1", "sets": value})
    except (ValueError, UnicodeEncodeError):  # NaN, or half a character
        return
    tried(partial(read_neuron_sets, path))
