"""Records vectors of heads of transformers in golden/<case>/vectors.npz in this folder.

It runs the checkpoints that make_golden.py wrote on the inputs that make_whole.py recorded, and
changes none of their files. Recorded are, of layer 1, ``query``, ``key``, ``value`` and
``context``: what the family's own attention function takes and gives, (batch_size, heads, seq_len,
head_dim).
So queries and keys are rotated and normed, and keys have num_kv_heads heads. T5's code has no such
function: its projections are recorded, and what its output projection takes. Its arrays begin with
``encoder_``, ``decoder_`` or ``cross_``. Run it with torch 2.13.0 and transformers 5.23.0 (without
network); the tests need neither them nor this script:

    python make_vectors.py bert gpt2 llama qwen3 gemma2 t5
"""

import sys
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from transformers.masking_utils import eager_mask

FOLDER = Path(__file__).parent / "golden"
LAYER = 1
T5 = {
    "encoder_": "encoder.block.1.layer.0.SelfAttention",
    "decoder_": "decoder.block.1.layer.0.SelfAttention",
    "cross_": "decoder.block.1.layer.1.EncDecAttention",
}


def record_calls(model, found):
    """Note what layer 1's attention function takes and gives."""
    own = sys.modules[type(model).__module__].eager_attention_forward

    def spy(module, query, key, value, *others, **named):
        output, weights = own(module, query, key, value, *others, **named)
        if getattr(module, "layer_idx", LAYER) == LAYER:
            context = output.transpose(1, 2)
            found.update(query=query, key=key, value=value, context=context)
        return output, weights

    hf.AttentionInterface.register("spy", spy)
    hf.AttentionMaskInterface.register("spy", eager_mask)
    model.config._attn_implementation = "spy"


def record_projections(model, found):
    """Note what the projections of T5's attention give and take."""
    for prefix, path in T5.items():
        attention = model.get_submodule(path)

        def split(array, num_heads=attention.n_heads):
            return array.unflatten(-1, (num_heads, -1)).transpose(1, 2)

        for kind, module in (("query", attention.q), ("key", attention.k), ("value", attention.v)):
            module.register_forward_hook(
                lambda _, __, output, name=prefix + kind, split=split: found.update(
                    {name: split(output)}
                )
            )
        attention.o.register_forward_pre_hook(
            lambda _, inputs, name=f"{prefix}context", split=split: found.update(
                {name: split(inputs[0])}
            )
        )


@torch.no_grad()
def record(folder):
    """Record the vectors of a checkpoint."""
    model = hf.AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    found = {}
    (record_projections if folder.name == "t5" else record_calls)(model, found)
    recorded = np.load(folder / "whole.npz")
    names = ("input_ids", "attention_mask", "decoder_input_ids")
    model.eval()(**{name: torch.from_numpy(recorded[name]) for name in names if name in recorded})
    file = folder / "vectors.npz"
    np.savez_compressed(file, **{name: array.numpy() for name, array in found.items()})
    shapes = {name: tuple(array.shape) for name, array in found.items()}
    print(f"{folder.name}: {file.stat().st_size / 1024:.0f} KiB, {shapes}")


if __name__ == "__main__":
    for case in sys.argv[1:]:
        record(FOLDER / case)
