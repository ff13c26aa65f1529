"""Records results of torch.nn.MultiheadAttention in torch_mha/ in this folder.

Each case is a state dict, ``<case>.safetensors``, and a call, ``<case>.npz``: query, key, value,
output and attn_weights (per head). It was run once, with torch 2.13.0 and safetensors; the tests
need neither torch nor this script.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

FOLDER = Path(__file__).parent / "torch_mha"
CASES = {
    "packed": {"embed_dim": 16, "num_heads": 4},
    "separate": {"embed_dim": 16, "num_heads": 2, "kdim": 12, "vdim": 20},
    "no_bias": {"embed_dim": 12, "num_heads": 3, "bias": False},
    "causal": {"embed_dim": 16, "num_heads": 4},
}


def record(case, module, kdim, vdim):
    module = module.eval()
    query = torch.randn(2, 5, module.embed_dim)
    key, value = torch.randn(2, 7, kdim), torch.randn(2, 7, vdim)
    # torch's masks are True where a query may NOT attend
    mask = torch.ones(5, 7, dtype=torch.bool).triu(1) if case == "causal" else None
    output, attn_weights = module(
        query, key, value, attn_mask=mask, need_weights=True, average_attn_weights=False
    )
    np.savez(
        FOLDER / f"{case}.npz",
        query=query.numpy(),
        key=key.numpy(),
        value=value.numpy(),
        output=output.numpy(),
        attn_weights=attn_weights.numpy(),
    )


@torch.no_grad()
def main():
    FOLDER.mkdir(exist_ok=True)
    torch.manual_seed(0)
    for case, arguments in CASES.items():
        module = torch.nn.MultiheadAttention(**arguments, batch_first=True)
        for parameter in module.parameters():  # because torch initialises biases to zero
            parameter.normal_(std=0.5)
        embed_dim = arguments["embed_dim"]
        record(case, module, arguments.get("kdim", embed_dim), arguments.get("vdim", embed_dim))
        save_file(module.state_dict(), FOLDER / f"{case}.safetensors")
    # two modules in one file: self_attn and multihead_attn
    layer = torch.nn.TransformerDecoderLayer(16, 4, dim_feedforward=8, batch_first=True)
    for parameter in layer.parameters():
        parameter.normal_(std=0.5)
    record("decoder_layer", layer.multihead_attn, 16, 16)
    save_file(layer.state_dict(), FOLDER / "decoder_layer.safetensors")


if __name__ == "__main__":
    main()
