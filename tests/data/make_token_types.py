"""Records whole models of transformers for pairs of texts, in golden/<case>/token_types.npz.

It runs the checkpoints that make_golden.py wrote, and changes none of their files. Recorded are
``input_ids`` and ``token_type_ids`` of two sequences of 9 and 6 tokens, padded at the end, their
``attention_mask``, and all that make_whole.py records. Run it with torch 2.13.0 and transformers
5.23.0 (without network); the tests need neither them nor this script:

    python make_token_types.py bert albert electra
"""

import sys

import numpy as np
import torch
import transformers as hf
from make_whole import FOLDER, outputs

LENGTHS, NUM_FIRST = (9, 6), (4, 3)


@torch.no_grad()
def record(folder):
    """Record the whole model of a checkpoint."""
    model = hf.AutoModel.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()
    torch.manual_seed(2)
    places = torch.arange(max(LENGTHS))
    is_valid = places < torch.tensor(LENGTHS).unsqueeze(1)
    is_second = (places >= torch.tensor(NUM_FIRST).unsqueeze(1)) & is_valid
    ids = torch.randint(3, model.config.vocab_size - 1, is_valid.shape)
    call = {
        "input_ids": ids.where(is_valid, model.config.pad_token_id or 0),
        "token_type_ids": is_second.long(),
        "attention_mask": is_valid.long(),
    }
    arrays = {**call, **dict(outputs(model, call))}
    file = folder / "token_types.npz"
    np.savez_compressed(file, **{name: array.numpy() for name, array in arrays.items()})
    print(f"{folder.name}: {file.stat().st_size / 1024:.0f} KiB, {len(arrays)} arrays")


if __name__ == "__main__":
    for case in sys.argv[1:]:
        record(FOLDER / case)
