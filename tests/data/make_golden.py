"""Records attention blocks of transformers' models in golden/<case>/ in this folder.

Each folder holds a tiny checkpoint with random weights and ``golden.npz``, which holds arrays
``<module path>|<name>`` for each attention module:

- ``hidden_states``, and ``key_value_states`` in cross-attention;
- ``attention_mask``: the additive mask passed to the module, including causality and sliding
  windows, with the lowest float32 for forbidden keys;
- ``position_ids``, if they are not 0, 1, ...;
- ``position_bias``: T5's bias, without the mask;
- ``attn_weights``, after softmax;
- ``attn_output``: the module's output, which is the result of the output projection (of BERT and
  RoBERTa: the context before that projection), without the residual that Bloom adds.

``model|attentions.N`` and so on are the weights that the model itself returns. Run it with torch
2.13.0 and transformers 5.23.0 (without network); the tests need neither them nor this script:

    python make_golden.py [CASE ...]     records, then checks
    python make_golden.py --check        compares the recordings with check_golden.py's arithmetic
"""

import inspect
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from check_golden import check
from golden_case import REMOVED
from golden_cases import CASES

FOLDER = Path(__file__).parent / "golden"


def randomise(model, gain):
    """Set random weights, with attention far from uniform, biases not 0 and norms not 1."""
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            noise = torch.randn_like(parameter)
            if "norm" in type(module).__name__.lower():
                parameter.add_(0.3 * noise)
            elif parameter.ndim < 2:  # biases, sinks
                parameter.copy_(0.5 * noise)
            elif isinstance(module, torch.nn.Embedding):
                parameter.copy_(noise)
            else:
                fan_in = parameter.shape[0 if type(module).__name__ == "Conv1D" else -1]
                parameter.copy_(gain * noise / fan_in**0.5)


def save(case, folder):
    """Write the checkpoint, with a config.json like those of published checkpoints."""
    torch.manual_seed(0)
    model = case.model(case.config).eval()
    randomise(model, case.gain)
    if case.is_bfloat16:
        model = model.to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size=case.max_shard_size)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text()) | case.published
    kept = {key: value for key, value in config.items() if value is not REMOVED}
    (folder / "config.json").write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")


def arguments(case, model):
    """Make the arguments of the model's call."""
    names = inspect.signature(model.forward).parameters
    shape = (case.batch_size, case.q_seq_len)
    ids = torch.randint(3, 38, shape)
    encoder_shape = (case.batch_size, case.encoder_seq_len)
    call = {}
    if "input_features" in names:  # whisper: two frames for each position of the encoder
        call["input_features"] = torch.randn(
            case.batch_size, model.config.num_mel_bins, 2 * case.encoder_seq_len
        )
        call["decoder_input_ids"] = ids
    elif case.encoder_seq_len:
        call["input_ids"], call["decoder_input_ids"] = torch.randint(3, 38, encoder_shape), ids
    elif "input_ids" in names:
        call["input_ids"] = ids
    if "pixel_values" in names:
        size = getattr(model.config, "vision_config", model.config).image_size
        call["pixel_values"] = torch.randn(case.batch_size, 3, size, size)
    if case.is_padded:
        call["attention_mask"] = torch.ones_like(call["input_ids"])
        call["attention_mask"][-1, -2:] = 0
    if case.positions:
        call["position_ids"] = torch.tensor(case.positions)
        # without a mask, transformers treats a jump of positions as the start of another sequence
        call["attention_mask"] = torch.ones_like(ids)
    return call


def attention_modules(model):
    """Return the attention modules that contain no other attention module."""
    found = {
        n: m
        for n, m in model.named_modules()
        if type(m).__name__.endswith("Attention") and not isinstance(m, torch.nn.MultiheadAttention)
    }
    return {n: m for n, m in found.items() if not any(o.startswith(f"{n}.") for o in found)}


def inputs_and_outputs(module, positional, keywords, output):
    """Return a module's inputs and outputs by name."""
    given = inspect.signature(module.forward).bind(*positional, **keywords).arguments
    given = given | given.pop("kwargs", {})
    mask = given.get("attention_mask", given.get("mask"))
    if mask is not None and mask.dtype == torch.bool:  # mpt's: True where forbidden
        mask = mask * torch.finfo(torch.float32).min
    output, *position_bias, attn_weights = output
    if "residual" in given:  # bloom adds it within its module
        output = output - given["residual"]
    if hasattr(module, "LayerNorm"):  # albert adds it and norms within its module
        output = module.dense.projected
    return {
        "hidden_states": given["hidden_states"],
        "key_value_states": given.get("key_value_states", given.get("encoder_hidden_states")),
        "attention_mask": mask,
        "position_bias": position_bias[0] if position_bias else given.get("position_bias"),
        "position_ids": given.get("position_ids"),
        "attn_output": output,
        "attn_weights": attn_weights,
    }


def record(case, folder):
    """Run the folder's checkpoint once, and record its attention modules' inputs and outputs."""
    model = hf.AutoModel.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()
    records = {}

    def hook(name):
        def remember(*call):
            for key, value in inputs_and_outputs(*call).items():
                if value is not None and (case.positions or key != "position_ids"):
                    records[f"{name}|{key}"] = value.numpy().copy()

        return remember

    for name, module in attention_modules(model).items():
        module.register_forward_hook(hook(name), with_kwargs=True)
        if hasattr(module, "LayerNorm"):
            module.dense.register_forward_hook(lambda m, _, output: setattr(m, "projected", output))
    torch.manual_seed(1)
    outputs = model(**arguments(case, model), output_attentions=True, use_cache=False)
    for name in ("attentions", "encoder_attentions", "decoder_attentions", "cross_attentions"):
        for number, reported in enumerate(outputs.get(name) or ()):
            records[f"model|{name}.{number}"] = reported.numpy()
    np.savez_compressed(folder / "golden.npz", **records)
    largest = [w.max(-1).mean() for key, w in records.items() if key.endswith("|attn_weights")]
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder.name}: {size / 1024:.0f} KiB, mean largest weight {np.mean(largest):.2f}")


@torch.no_grad()
def main():
    wanted = [argument for argument in sys.argv[1:] if argument != "--check"] or list(CASES)
    for name in wanted:
        folder = FOLDER / name
        if "--check" not in sys.argv:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            save(CASES[name], folder)
            record(CASES[name], folder)
        check(folder)


if __name__ == "__main__":
    main()
