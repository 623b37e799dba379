"""Choices that transformers would make silently about files of a model: quantised weights, adapters, types, forms."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from crane_lib.errors import CraneError
from crane_lib.interventions import export_masked
from crane_lib.neurons import NeuronSet
from crane_study.loading.models import check_model_directory, load_model
from crane_study.loading.weights import check_config, stored_dtype, tensor_types
from tests.small import small_model

EMBEDDING = "model.embed_tokens.weight"
UP = "model.layers.1.mlp.up_proj.weight"


def settings_of(folder, name="config.json", **changes):
    """Write changes into a file of settings; None removes one."""
    path = folder / name
    found = (json.loads(path.read_text()) if path.is_file() else {}) | changes
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))


def change_weights(path, change):
    save_file({name: change(name, tensor) for name, tensor in load_file(path).items()}, path, {"format": "pt"})


# --- quantised weights ---

QUANTISED = {
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "FineGrainedFP8Config"),
    "gptq": ({"quant_method": "gptq", "bits": 4}, "gptqmodel"),
    "awq": ({"quant_method": "awq", "bits": 4}, "gptqmodel"),
    "bitsandbytes": ({"load_in_4bit": True, "quant_method": "bitsandbytes"}, "bitsandbytes"),
    "compressed-tensors": ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "CompressedTensors"),
    "mxfp4": ({"quant_method": "mxfp4"}, "Mxfp4Config"),
    "a-new-one": ({"quant_method": "a-new-one"}, "take the checkpoint that it was made from"),
    "unknown method": ({"bits": 3}, "take the checkpoint that it was made from"),
}


@pytest.mark.parametrize("method", QUANTISED)
@pytest.mark.parametrize("inside", [False, True], ids=["", "in the settings of a part"])
def test_quantised_weights_are_refused_by_name(folder, method, inside):
    settings, advice = QUANTISED[method]
    named = {"quantization_config": settings}
    settings_of(folder, **({"text_config": named} if inside else named))
    for door in (check_model_directory, load_model):
        with pytest.raises(CraneError) as error:
            door(folder)
        start = f"model {folder}: its weights are quantised ({method}, by quantization_config in config.json), and"
        assert str(error.value).startswith(start)
        assert advice in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(CraneError, match=f"model org/name: its weights are quantised .{method}"):
        check_config({"model_type": "llama", **named}, "org/name")


@pytest.mark.parametrize(
    ("name", "content", "method"),
    [
        ("quantize_config.json", {"bits": 4, "group_size": 128}, "unknown method"),  # of older GPTQ models
        ("quant_config.json", {"w_bit": 4, "quant_method": "AWQ"}, "awq"),
        ("hf_quant_config.json", {"quantization": {"quant_algo": "NVFP4"}}, "nvfp4"),
    ],
)
def test_a_file_beside_may_say_it(folder, name, content, method):
    settings_of(folder, name, **content)
    with pytest.raises(CraneError, match=f"quantised .{method}, by {name}"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8])
@pytest.mark.parametrize("old", [False, True], ids=["safetensors", "bin"])
def test_weights_of_few_bits_are_refused_by_their_type(folder, kind, old):
    """Without a word in config.json, transformers takes the numbers without their scales."""
    path = folder / "model.safetensors"
    change_weights(path, lambda name, tensor: tensor.to(kind) if name == UP else tensor)
    if old:
        torch.save(load_file(path), folder / "pytorch_model.bin")
        path.unlink()
    with pytest.raises(CraneError, match=rf"its weights are quantised \(.*8.*, by tensor {UP}\)"):
        load_model(folder, device="cpu")


def test_whole_numbers_that_are_no_weights_pass(folder):
    path = folder / "model.safetensors"
    extra = {"model.layers.0.self_attn.masked_bias": torch.tensor(-1e9)}
    save_file(load_file(path) | extra, path, {"format": "pt"})
    assert load_model(folder, device="cpu")[0].dtype == torch.float32
    tensors = load_file(path) | {"model.layers.0.attn.bias": torch.ones(4, 4, dtype=torch.uint8)}
    save_file(tensors, path, {"format": "pt"})
    check_model_directory(folder)


# --- what belongs to the model ---


def test_an_adapter_is_refused_whether_peft_is_installed_or_not(folder):
    settings_of(folder, "adapter_config.json", base_model_name_or_path="org/base", peft_type="LORA")
    with pytest.raises(CraneError, match=r"holds an adapter \(adapter_config\.json\).*; merge it"):
        load_model(folder, device="cpu")
    (folder / "config.json").unlink()  # an adapter alone
    with pytest.raises(CraneError, match="holds an adapter"):
        load_model(folder, device="cpu")


def test_weights_without_a_place_in_the_model_are_refused(folder):
    settings_of(folder, num_hidden_layers=1, layer_types=None)
    with pytest.raises(
        CraneError, match=r"hold model\.layers\.1\.input_layernorm\.weight \(9 in all\), for which config"
    ):
        load_model(folder, device="cpu")


def test_of_two_forms_of_weights_one_is_meant(folder):
    """Safetensors come before an old file; a single file and an index are a mistake; a missing part is named."""
    model = small_model(load_file(folder / "model.safetensors")[EMBEDDING].shape[0], random_seed=5)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    kept = load_file(folder / "model.safetensors")[UP]
    assert torch.equal(load_model(folder, device="cpu")[0].model.layers[1].mlp.up_proj.weight, kept)
    (folder / "pytorch_model.bin").unlink()
    model.save_pretrained(folder / "parts", max_shard_size="20kB")
    parts = sorted((folder / "parts").glob("*.safetensors*"))
    assert len(parts) > 2
    for part in parts:
        shutil.copy(part, folder)
    with pytest.raises(CraneError, match=r"has model\.safetensors and model\.safetensors\.index\.json; remove"):
        load_model(folder, device="cpu")
    (folder / "model.safetensors").unlink()
    assert torch.equal(load_model(folder, device="cpu")[0].lm_head.weight, model.lm_head.weight)
    (folder / parts[1].name).unlink()
    with pytest.raises(CraneError, match=rf"lacks {parts[1].name}, a file of"):
        load_model(folder, device="cpu")
    (folder / "model.safetensors.index.json").write_text('{"weight_map"')
    with pytest.raises(CraneError, match=r"model\.safetensors\.index\.json is not an index of weights"):
        load_model(folder, device="cpu")


def test_an_output_matrix_of_its_own_is_used_although_config_ties_it(folder):
    path = folder / "model.safetensors"
    own = load_file(path)[EMBEDDING].flip(0)
    assert "lm_head.weight" not in load_file(path)
    save_file(load_file(path) | {"lm_head.weight": own}, path, {"format": "pt"})
    model, _tokenizer = load_model(folder, device="cpu")
    assert torch.equal(model.lm_head.weight, own)
    assert not torch.equal(model.model.embed_tokens.weight, own)


# --- types of numbers ---


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_auto_is_the_type_of_the_file_whatever_config_names(folder, stored):
    change_weights(folder / "model.safetensors", lambda _name, tensor: tensor.to(stored))
    for named in ("float32", "bfloat16", "float16", None):
        settings_of(folder, dtype=named)
        model, _tokenizer = load_model(folder, device="cpu", dtype="auto")
        assert model.dtype == stored
        for name, tensor in load_file(folder / "model.safetensors").items():
            assert torch.equal(model.get_parameter(name), tensor)
    assert stored_dtype(folder) == str(stored).removeprefix("torch.")


def test_types_of_an_old_file_are_read_without_loading_it(folder):
    expected = tensor_types(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert tensor_types(folder) == expected
    assert expected[UP] == ("float32", 16 * 24)
    assert stored_dtype(folder) == "float32"
    assert load_model(folder, device="cpu", dtype="auto")[0].dtype == torch.float32
    (folder / "pytorch_model.bin").write_bytes(b"damaged")
    assert (tensor_types(folder), stored_dtype(folder)) == ({}, None)


# --- settings of generation ---


def test_a_checkpoint_with_contradictory_settings_of_generation_is_exported(folder, tmp_path):
    """Llama 2 has a temperature and no sampling; such settings cannot be saved as they are."""
    settings_of(folder, "generation_config.json", temperature=0.9, top_p=0.6, do_sample=False)
    model, tokenizer = load_model(folder, device="cpu")
    neurons = NeuronSet({"neuron": [np.array([3]), np.array([], dtype=int)]}, {"neuron": 24})
    export_masked(model, tokenizer, neurons, tmp_path / "masked")
    again, _tokenizer = load_model(tmp_path / "masked", device="cpu")
    assert not again.model.layers[0].mlp.down_proj.weight[:, 3].any()
