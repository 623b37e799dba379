import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from crane_lib.errors import CraneError
from crane_study.data.documents import write_conversations
from crane_study.frames import read_frame
from crane_study.loading.models import load_model
from crane_study.options import Loading
from crane_study.profile import Architecture, Training
from crane_study.training import (
    CHAT_TEMPLATE,
    _batches,
    _blocks,
    _optimizers,
    _turns,
    fit,
    make_base_model,
    make_chat_model,
    time_precisions,
)
from tests.small import TEXTS, small_model, small_tokenizer

RECIPE = Training(learning_rate=0.01, batch_size=3, block=8, warmup=0.25, epochs=2)


def test_blocks_are_the_stream_cut_up():
    blocks = _blocks([[1, 2, 3], [4], [5, 6, 7, 8, 9]], 4)
    assert blocks.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    with pytest.raises(CraneError, match="3 training tokens do not fill one block of 4"):
        _blocks([[1, 2], [3]], 4)


def test_the_first_epoch_keeps_the_order_and_each_sees_everything_once():
    generator = torch.Generator().manual_seed(0)
    batches = list(_batches(10, Training(learning_rate=1, batch_size=4, epochs=3), generator))
    assert [len(batch) for batch in batches] == [4, 4, 2] * 3
    epochs = [torch.cat(batches[start : start + 3]).tolist() for start in (0, 3, 6)]
    assert epochs[0] == list(range(10))
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[1] != epochs[0] != epochs[2]


def test_norm_weights_do_not_decay():
    (optimizer,) = _optimizers(small_model(50), RECIPE)
    decayed, plain = optimizer.param_groups
    assert {parameter.ndim for parameter in decayed["params"]} == {2}
    assert {parameter.ndim for parameter in plain["params"]} == {1}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert len(decayed["params"]) + len(plain["params"]) == len(list(small_model(50).parameters()))


def test_muon_gets_the_matrices_of_the_layers_and_adamw_the_rest():
    model = small_model(50)
    adamw, muon = _optimizers(model, RECIPE.model_copy(update={"optimizer": "muon", "matrix_learning_rate": 0.3}))
    (matrices,) = muon.param_groups
    assert (matrices["lr"], matrices["weight_decay"]) == (0.3, 0.1)
    rest = [parameter for group in adamw.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in model.model.embed_tokens.parameters()} < {
        id(parameter) for parameter in rest
    }
    both = [*rest, *matrices["params"]]
    assert len(both) == len({id(parameter) for parameter in both}) == len(list(model.parameters()))


def test_every_precision_is_timed_and_computes_in_its_type():
    seconds = time_precisions(ARCHITECTURE, TRAINING, Loading(device="cpu", dtype="float32"))
    assert list(seconds) == ["float32", "bfloat16"]
    assert all(0 < value < 10 for value in seconds.values())
    losses = {}
    for precision in ("float32", "bfloat16", "float64"):
        model = small_model(50).to(torch.float64 if precision == "float64" else torch.float32)
        losses[precision] = trained(model=model, precision=precision)[1]["loss"].tolist()
    assert losses["float32"] == pytest.approx(losses["float64"], rel=1e-4)
    assert losses["float32"] != losses["bfloat16"] == pytest.approx(losses["float64"], rel=0.05)


def trained(random_seed=0, model=None, precision="float32"):
    model = model or small_model(50)
    tokens = torch.arange(7 * 8).reshape(7, 8) % 50
    options = {"training": RECIPE, "precision": precision, "random_seed": random_seed}
    history = fit(model, tokens, tokens, **options, description="Test")
    return model, history


def test_training_lowers_the_loss_and_depends_on_the_random_seed_only(capsys):
    (model, history), (second, _), (other, _) = trained(), trained(), trained(random_seed=1)
    assert list(history) == ["step", "loss", "learning_rate", "tokens", "seconds"]
    assert history["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert history["tokens"].tolist() == [24, 48, 56, 80, 104, 112]
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert history["learning_rate"].max() <= 0.01
    assert history["learning_rate"].iloc[-1] < 1e-6
    assert not model.training
    assert capsys.readouterr() == ("", "")
    parameters = [torch.cat([value.flatten() for value in one.parameters()]) for one in (model, second, other)]
    assert torch.equal(parameters[0], parameters[1])
    assert not torch.equal(parameters[0], parameters[2])


def test_a_loss_that_explodes_is_an_error():
    model = small_model(50)
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(CraneError, match="the loss became nan at step 1; lower the learning rate"):
        trained(model=model)


def test_the_loss_of_a_conversation_is_on_what_the_assistant_says():
    tokenizer = small_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    turns = [
        {"role": "user", "content": "How many mills?"},
        {"role": "assistant", "content": "three old mills"},
        {"role": "user", "content": "And bridges?"},
        {"role": "assistant", "content": "a grey one"},
    ]
    tokens, labels = _turns(tokenizer, turns)
    assert len(tokens) == len(labels)
    text = tokenizer.decode(tokens)
    assert text == tokenizer.apply_chat_template(turns, tokenize=False)
    said = [token for token, label in zip(tokens, labels, strict=True) if label != -100]
    assert [label for label in labels if label != -100] == said
    assert tokenizer.decode(said) == " three old mills<|end|> a grey one<|end|>"


ARCHITECTURE = Architecture(vocabulary=320, layers=1, hidden=16, intermediate=24, heads=2, max_length=64)
TRAINING = Training(learning_rate=0.01, batch_size=8, block=32)
OPTIONS = {"training": TRAINING, "precision": "float32", "loading": Loading(device="cpu", dtype="float32")}
OPTIONS["random_seed"] = 0


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """A base model and a chat model, made by their stages."""
    root = tmp_path_factory.mktemp("stages")
    corpus, base, chat = (root / name for name in ("corpus", "base", "chat"))
    corpus.mkdir()
    rows = [{"split": "train", "text": text} for text in [*TEXTS["en"], *TEXTS["vi"]]]
    pd.DataFrame([*rows, {"split": "perplexity", "text": "ξξξξ" * 50}]).to_parquet(corpus / "documents.parquet")
    turns = [{"role": "user", "content": "How many mills?"}, {"role": "assistant", "content": "three old mills"}]
    write_conversations(corpus / "conversations.jsonl", [turns] * 40)
    make_base_model(base, corpus=corpus, architecture=ARCHITECTURE, **OPTIONS)
    make_chat_model(chat, corpus=corpus, base=base, **OPTIONS)
    return corpus, base, chat


def test_the_base_model_is_learned_from_the_training_split(stages):
    _corpus, base, _chat = stages
    model, tokenizer = load_model(base / "model", device="cpu")
    config = model.config
    shape = (config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.num_attention_heads)
    assert shape == (1, 16, 24, 2)
    assert config.tie_word_embeddings
    assert config.vocab_size == len(tokenizer) <= 320
    assert tokenizer.chat_template is None
    words = tokenizer(TEXTS["en"] + TEXTS["vi"])["input_ids"]
    assert read_frame(base / "training.csv")["tokens"].iloc[-1] == sum(map(len, words)) // 32 * 32
    assert len(tokenizer("ξ", add_special_tokens=False)["input_ids"]) == 2


def test_the_chat_model_starts_from_the_base_model(stages):
    _corpus, base, chat = stages
    before, _ = load_model(base / "model", device="cpu")
    after, tokenizer = load_model(chat / "model", device="cpu")
    assert tokenizer.chat_template == CHAT_TEMPLATE
    for folder in (base, chat):
        history = read_frame(folder / "training.csv")
        assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    moved = [(a - b).abs().max().item() for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert 0 < max(moved) < 0.3


def test_weights_are_kept_in_half_of_the_precision(stages):
    for folder in stages[1:]:
        model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype="auto")
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}


def test_the_stages_are_deterministic(stages, tmp_path):
    corpus, base, _chat = stages
    make_base_model(tmp_path / "again", corpus=corpus, architecture=ARCHITECTURE, **OPTIONS)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "again" / "model" / name).read_bytes() == (base / "model" / name).read_bytes()
