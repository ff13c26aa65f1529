"""Attention in quantised checkpoints: its tensors tell whether it is quantised itself.

The names of tensors are those that each library writes: compressed-tensors 0.20, bitsandbytes,
torchao, quanto, peft and transformers 5.23 were run. Each lists in its own way what it left alone.
"""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from golden import GOLDEN
from safetensors.numpy import load_file

from polyhead_models.checkpoint import CheckpointError, load_checkpoint

ATTENTION = "layers.0.self_attn"
QUERY = f"{ATTENTION}.q_proj"
FP8 = ml_dtypes.float8_e4m3fn
SCALE = np.ones(1, np.float32)
PACKED = np.zeros((8, 64), np.int32)


@pytest.fixture
def changed(tmp_path, write_safetensors):
    """Return a function that copies a recorded Llama with other tensors and settings."""

    def change(tensors=None, removed=(), **settings):
        folder = tmp_path / "llama"
        shutil.copytree(GOLDEN / "llama", folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | settings))
        kept = load_file(folder / "model.safetensors") | (tensors or {})
        kept = {name: array for name, array in kept.items() if name not in removed}
        write_safetensors(folder / "model.safetensors", kept)
        return folder

    return change


@pytest.mark.parametrize(
    "quantization_config",
    [
        {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
        {"quant_method": "fp8", "modules_to_not_convert": [f"model.{QUERY}", "lm_head"]},
        {"quant_method": "compressed-tensors", "ignore": ["re:.*self_attn.*", "lm_head"]},
        {"quant_method": "bitsandbytes", "llm_int8_skip_modules": ["self_attn"]},
        {"quant_method": "quark", "exclude": ["*self_attn*"]},
        {"quant_method": "gptq", "dynamic": {"-:.*attn.*": {}}},
        {"quant_method": "hqq", "skip_modules": ["self_attn.q_proj"]},
        {"quant_method": "modelopt", "exclude_modules": ["model.layers.0.self_attn*"]},
        {"quant_method": "bitnet", "quantization_mode": "offline"},
        {"quant_method": "nobody knows"},
    ],
    ids=lambda settings: settings["quant_method"],
)
def test_plain_attention_is_read_with_any_quantisation_config(changed, quantization_config):
    experts = {
        "layers.0.mlp.gate_proj.weight": np.zeros((4, 64), FP8),
        "layers.0.mlp.gate_proj.weight_scale": SCALE,
        f"{ATTENTION}.k_scale": SCALE,  # scales of a quantised cache of keys and values
        f"{ATTENTION}.k_proj.k_scale": SCALE,
        f"{ATTENTION}.v_proj.v_scale": SCALE,
    }
    folder = changed(experts, quantization_config=quantization_config)
    block = load_checkpoint(folder, 0)
    assert block.weights_sha256() == load_checkpoint(GOLDEN / "llama", 0).weights_sha256()


QUANTISED = {
    "fp8": ({f"{QUERY}.weight_scale_inv": SCALE}, ()),
    "compressed-tensors": ({f"{QUERY}.weight_packed": PACKED}, (f"{QUERY}.weight",)),
    "gptq": ({f"{QUERY}.qweight": PACKED, f"{QUERY}.g_idx": PACKED[0]}, (f"{QUERY}.weight",)),
    "awq": ({f"{QUERY}.qweight": PACKED, f"{QUERY}.qzeros": PACKED}, (f"{QUERY}.weight",)),
    "bitsandbytes 8": ({f"{QUERY}.SCB": SCALE}, ()),
    "bitsandbytes 4": ({f"{QUERY}.weight.absmax": SCALE, f"{QUERY}.weight.quant_map": SCALE}, ()),
    "torchao": ({f"{QUERY}._weight_qdata": PACKED}, (f"{QUERY}.weight",)),
    "quanto": ({f"{QUERY}.weight._data": PACKED}, (f"{QUERY}.weight",)),
    "hqq": ({f"{QUERY}.W_q": PACKED}, (f"{QUERY}.weight",)),
    "static activations": ({f"{QUERY}.input_scale": SCALE}, ()),
    "fake": ({f"{QUERY}.weight_quantizer._amax": SCALE}, ()),
    "sparse": ({f"{QUERY}.bitmask": PACKED}, (f"{QUERY}.weight",)),
    "adapter inside": (
        {f"{QUERY}.base_layer.weight": PACKED, f"{QUERY}.lora_A.default.weight": PACKED},
        (f"{QUERY}.weight",),
    ),
    "adapter beside": ({f"{QUERY}.lora_A.weight": SCALE}, ()),
    "only the output": ({f"{ATTENTION}.o_proj.weight_scale": SCALE}, ()),
    "only the values": ({f"{ATTENTION}.v_proj.qweight": PACKED}, (f"{ATTENTION}.v_proj.weight",)),
}


@pytest.mark.parametrize(("tensors", "removed"), QUANTISED.values(), ids=QUANTISED.keys())
def test_attention_with_tensors_beside_its_weights_is_refused_by_name(changed, tensors, removed):
    folder = changed(tensors, removed)
    with pytest.raises(CheckpointError, match="is not a plain weight with a bias") as caught:
        load_checkpoint(folder, 0)
    assert any(f"holds tensor {name}, so layers.0" in str(caught.value) for name in tensors)
    assert load_checkpoint(folder, 1).weights


@pytest.mark.parametrize("prefix", ["model.", "base_model.model.model."])
def test_quantised_attention_is_recognised_below_a_prefix(changed, prefix):
    renamed = load_file(GOLDEN / "llama" / "model.safetensors")
    tensors = {f"{prefix}{name}": array for name, array in renamed.items()}
    tensors[f"{prefix}{QUERY}.qweight"] = PACKED
    folder = changed(tensors, removed=(*renamed, f"{prefix}{QUERY}.weight"))
    with pytest.raises(CheckpointError, match=f"{prefix}{QUERY}.qweight"):
        load_checkpoint(folder, 0)


@pytest.mark.parametrize(
    "array",
    [np.zeros((64, 64), FP8), np.zeros((64, 16), np.uint8), PACKED, np.zeros((64, 64), np.int8)],
    ids=["fp8", "packed", "packed into int32", "int8"],
)
def test_weights_that_are_no_floats_are_refused_by_their_type_whatever_their_shape(changed, array):
    folder = changed({f"{QUERY}.weight": array}, quantization_config={"ignore": ["re:.*"]})
    with pytest.raises(CheckpointError, match=rf"{QUERY}.weight is stored as [FUI][38]"):
        load_checkpoint(folder, 0)


def test_the_output_projection_may_be_quantised_if_it_is_omitted(changed):
    folder = changed({f"{ATTENTION}.o_proj.weight_scale": SCALE})
    assert load_checkpoint(folder, 0, out_proj=False).weights


def test_weights_that_the_model_rounds_when_it_runs_are_refused(changed):
    online = {"quant_method": "bitnet", "quantization_mode": "online"}
    with pytest.raises(CheckpointError, match="rounds its weights when it runs"):
        load_checkpoint(changed(quantization_config=online), 0)
