"""Language models within others: Gemma 3 with pictures, adapters of PEFT, quantised weights."""

import warnings

import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import Gemma3Config, Gemma3ForCausalLM, Gemma3ForConditionalGeneration

from crane_lib.ablation import ablation_effects
from crane_lib.errors import CraneError
from crane_lib.interventions import export_masked, masked
from crane_lib.neurons import NeuronSet
from crane_lib.nll import document_nll
from crane_lib.precision import InDouble
from crane_lib.relevance import document_relevance, parts_of, relevance_rules, stream_statistics
from crane_lib.relevance.corpus import fingerprint_weights
from crane_study.loading.models import load_model
from tests.lib.relevance.tiny import distance, documents, hook_count, padded, tiny_model
from tests.small import small_tokenizer

CORPUS = [row.numpy() for row in documents([9, 5, 12])]
BATCH, MASK = padded(documents([9, 5, 12]))
SOME = NeuronSet(
    {"neuron": [np.array([1, 7]), np.array([3])], "up": [np.array([2]), np.array([5, 6])]}, {"neuron": 20, "up": 20}
)


def agree(found, expected, *, tolerance=1e-10, rule="attnlrp"):
    """The same relevance, masked NLL and effects of single neurons; both models as they came."""
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in (found, expected)]
    with InDouble():
        seen, wanted = (document_relevance(model, BATCH, MASK, rule=rule) for model in (found, expected))
        for site, values in (wanted.sites | {"token": wanted.token, "target": wanted.target}).items():
            got = seen.sites[site] if site in seen.sites else getattr(seen, site)
            assert distance(got, values) < tolerance if values.any() else not got.any(), site  # gates under CP-LRP
        neuron = NeuronSet({"neuron": SOME.sites["neuron"]}, {"neuron": 20})
        for neurons in (SOME, neuron):
            nll = []
            for model in (found, expected):
                with masked(model, neurons) as inside:
                    assert inside is model
                    nll.append(document_nll(model, CORPUS, token_budget=100)[0])
            np.testing.assert_allclose(nll[0], nll[1], rtol=tolerance)
        some = np.zeros((2, 20), dtype=bool)
        some[:, 3] = True
        effects = [
            ablation_effects(model, CORPUS, token_budget=100, neurons=some)[:, some] for model in (found, expected)
        ]
        np.testing.assert_allclose(effects[0], effects[1], rtol=0, atol=tolerance)
    norms = [stream_statistics(model, CORPUS, rule=rule).norms for model in (found, expected)]
    assert distance(norms[0], norms[1]) < tolerance
    for model, state in zip((found, expected), before, strict=True):
        assert hook_count(model) == 0
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


# --- Gemma 3 with pictures ---


@pytest.fixture(scope="module")
def whole():
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
    text = {"vocab_size": 400, "hidden_size": 16, "head_dim": 8, "num_key_value_heads": 1, "sliding_window": 5}
    text |= {"layer_types": ["sliding_attention", "full_attention"], "bos_token_id": 0, "eos_token_id": 1}
    config = Gemma3Config(
        text_config=text | sizes,
        vision_config={"hidden_size": 8, "image_size": 28, "patch_size": 14} | sizes,
        mm_tokens_per_image=4,
        image_token_index=399,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Gemma3ForConditionalGeneration(config).eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model.double()


@pytest.fixture(scope="module")
def bare(whole):
    model = Gemma3ForCausalLM(whole.config.text_config).double().eval()
    model.model.load_state_dict(whole.model.language_model.state_dict())
    model.lm_head.load_state_dict(whole.lm_head.state_dict())
    return model


def test_the_language_model_in_gemma_3_with_pictures_is_used_and_the_rest_left_alone(whole, bare):
    with pytest.warns(UserWarning, match="^Gemma3ForConditionalGeneration reads more than text; only its language mod"):
        agree(whole, bare, tolerance=1e-14)
    with pytest.warns(UserWarning, match="reads more than text"), relevance_rules(whole, "cplrp"):
        assert torch.equal(whole(BATCH).logits, bare(BATCH).logits)


def test_gemma_3_with_pictures_is_loaded_and_exported_as_its_language_model(whole, bare, tmp_path):
    tokenizer = small_tokenizer()
    whole.generation_config.eos_token_id = [1, 3]
    for part in (whole, tokenizer):
        part.save_pretrained(tmp_path / "whole")
    with pytest.warns(UserWarning, match=f"^model {tmp_path}/whole: reads more than text; only its language model is"):
        model, tokenizer = load_model(tmp_path / "whole", device="cpu", dtype="float64")
    assert type(model) is Gemma3ForCausalLM
    assert model.generation_config.eos_token_id == [1, 3]
    assert model.name_or_path == str(tmp_path / "whole")
    assert not any("vision" in name for name, _parameter in model.named_parameters())
    bare.save_pretrained(tmp_path / "bare")
    tokenizer.save_pretrained(tmp_path / "bare")
    saved, _tokenizer = load_model(tmp_path / "bare", device="cpu", dtype="float64")
    assert fingerprint_weights(model) == fingerprint_weights(saved)
    ids = torch.tensor([tokenizer("In town number 3 the river")["input_ids"]])
    with InDouble():
        assert distance(model(ids).logits, bare(ids).logits) < 1e-6  # the loaded one has exact rotary frequencies
    with pytest.warns(UserWarning, match="reads more than text"):
        export_masked(whole, tokenizer, SOME, tmp_path / "of whole")
    with pytest.warns(UserWarning, match="reads more than text"):
        again, _tokenizer = load_model(tmp_path / "of whole", device="cpu", dtype="float64")
    export_masked(model, tokenizer, SOME, tmp_path / "of text")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text, _tokenizer = load_model(tmp_path / "of text", device="cpu", dtype="float64")
    with masked(model, SOME):
        expected = model(ids).logits
    assert not torch.allclose(model(ids).logits, expected, atol=1e-3)
    for one in (again, text):
        assert distance(one(ids).logits, expected) < 1e-14


# --- adapters ---

LORA = LoraConfig(
    r=3, lora_alpha=7, lora_dropout=0.5, target_modules=["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]
)
FUSED = LoraConfig(r=2, target_modules=["c_attn", "c_fc", "mlp.c_proj"], fan_in_fan_out=True)


def adapted(kind, config, *names):
    """A model with random adapters of these names, all in force."""
    model = get_peft_model(tiny_model(kind), config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    model.base_model.set_adapter(list(names))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for name, parameter in model.named_parameters():
            if "lora_" in name or "ia3_" in name:
                nn.init.normal_(parameter, std=0.3)
    return model.double().eval()


@pytest.mark.parametrize(
    ("kind", "config", "names", "rule"),
    [
        ("llama", LORA, ("one",), "attnlrp"),
        ("qwen3", LORA, ("one", "other"), "cplrp"),
        ("gpt2", FUSED, ("one",), "attnlrp"),
        ("phi3", LoraConfig(r=2, target_modules="all-linear"), ("one",), "gradient"),
    ],
)
def test_beneath_a_lora_adapter_everything_is_as_in_the_merged_model(kind, config, names, rule):
    model, merged = adapted(kind, config, *names), adapted(kind, config, *names).merge_and_unload()
    assert distance(model(BATCH).logits.detach(), tiny_model(kind)(BATCH).logits.detach()) > 0.1
    agree(model, merged, rule=rule)
    inner = model.get_base_model()  # as load_adapter of transformers leaves it
    expected = document_relevance(model, BATCH, MASK, rule=rule).neuron
    assert torch.equal(document_relevance(inner, BATCH, MASK, rule=rule).neuron, expected)
    assert fingerprint_weights(model) == fingerprint_weights(inner)
    with masked(inner, SOME), pytest.raises(CraneError, match="already masked"), masked(model, SOME):
        pass
    with relevance_rules(inner), pytest.raises(CraneError, match="already in force"), relevance_rules(model):
        pass
    if rule == "cplrp":
        found = document_relevance(model, BATCH, MASK, rule=rule)
        torch.testing.assert_close(found.token.sum(1), found.target, rtol=1e-6, atol=0)


def test_an_adapter_that_is_off_or_merged_is_and_its_strength_is_part_of_the_fingerprint():
    model, plain = adapted("llama", LORA, "one"), tiny_model()
    on, before = fingerprint_weights(model), document_relevance(model, BATCH, MASK)
    with model.disable_adapter():
        agree(model, plain)
        assert fingerprint_weights(model) != on
    for layer in model.modules():
        if isinstance(getattr(layer, "scaling", None), dict):
            layer.scaling["one"] *= 2
    assert fingerprint_weights(model) != on
    assert not torch.equal(document_relevance(model, BATCH, MASK).neuron, before.neuron)
    model.merge_adapter()
    norms = stream_statistics(model, CORPUS).norms
    model.unmerge_adapter()
    assert distance(stream_statistics(model, CORPUS).norms, norms) < 1e-12


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
            r"tuners\.ia3\.layer\.Linear",
        ),
        (LoraConfig(r=2, target_modules=["up_proj"], use_dora=True), r"up_proj: adapter tuners\.lora\.layer\.Linear"),
        (LoraConfig(r=2, target_modules=["up_proj"], lora_bias=True), r"up_proj: adapter tuners\.lora\.layer\.Linear"),
        (LoraConfig(r=2, target_modules=["embed_tokens"]), r"embed_tokens: adapter tuners\.lora\.layer\.Embedding"),
        (LoraConfig(r=2, target_modules=["up_proj"], modules_to_save=["lm_head"]), "lm_head: adapter utils.other"),
        (LoraConfig(r=2, target_modules=["lm_head"]), "lm_head: an adapter of the output embedding"),
        (PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), r"learnt prompt \(PROMPT_TUNING\)"),
    ],
)
def test_other_adapters_are_refused_by_name(config, words):
    model = get_peft_model(tiny_model(), config)
    with pytest.raises(CraneError, match=words):
        document_relevance(model, BATCH, MASK)


def test_a_checkpoint_of_an_adapted_model_is_refused(tmp_path):
    with pytest.raises(CraneError, match="has no place for an adapter; merge it first"):
        export_masked(adapted("llama", LORA, "one"), small_tokenizer(), SOME, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# --- quantised weights ---


class Linear8bitLt(nn.Linear):
    """Stand-in for the class of bitsandbytes, a subclass of nn.Linear."""


class HQQLinear(nn.Module):
    """Stand-in for a class that is no nn.Linear."""

    out_features = 20


class QuantisedTensor(torch.Tensor):
    """Stand-in for the tensors of torchao, which are in an ordinary nn.Linear."""


def of_integers():
    layer = nn.Linear(16, 20, bias=False)
    layer.weight = nn.Parameter(torch.zeros(20, 16, dtype=torch.int8), requires_grad=False)
    return layer


def of_tensor():
    layer = nn.Linear(16, 20, bias=False)
    layer.weight = nn.Parameter(torch.zeros(20, 16).as_subclass(QuantisedTensor))
    return layer


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (Linear8bitLt(16, 20), "Linear8bitLt"),
        (HQQLinear(), "HQQLinear"),
        (of_integers(), "Linear"),
        (of_tensor(), "Linear"),
    ],
)
def test_quantised_weights_in_a_model_are_refused_in_one_line(layer, name):
    model = tiny_model()
    model.model.layers[1].mlp.up_proj = layer
    with pytest.raises(CraneError, match=rf"^model\.layers\.1\.mlp\.up_proj: {name} holds quantised weights, .*plain"):
        document_relevance(model, BATCH, MASK)
    model = tiny_model()
    model.config.quantization_config = {"quant_method": "gptq", "bits": 4}
    with pytest.raises(CraneError, match=r"^LlamaForCausalLM: its weights are quantised \(quant"):
        parts_of(model)
