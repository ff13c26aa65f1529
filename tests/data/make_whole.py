"""Records whole models of transformers in golden/<case>/whole.npz in this folder.

It runs the checkpoints that make_golden.py wrote, and changes none of their files; those of
whole_forms.py it writes itself. Recorded are:

- the inputs: ``input_ids`` with three sequences of 9, 5 and 7 tokens, or as OTHER_LENGTHS says,
  padded at their ends, and their ``attention_mask``; ``pixel_values``; ``input_features``;
  ``decoder_input_ids``;
- ``hidden_states.K``, what enters layer K, and ``attentions.K``, the weights of layer K;
- ``last_hidden_state``, the output; the highest ``hidden_states.K`` is mostly the same.

In encoder-decoders they begin with ``encoder_`` or ``decoder_``, but for the decoder's
``last_hidden_state``, and there are ``cross_attentions.K``. In CLIP they begin with ``text_`` or
``vision_``. Run it with torch 2.13.0 and transformers 5.23.0 (without network); the tests need
neither them nor this script:

    python make_whole.py CASE ...
"""

import inspect
import sys
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from make_golden import save
from whole_forms import FORMS

FOLDER = Path(__file__).parent / "golden"
LENGTHS = (9, 5, 7)
# on either side of the 16 positions after which frequencies change; transformers chooses them by
# the longest sequence of a batch
OTHER_LENGTHS = {"phi3-longrope-short": (16, 9), "phi3-longrope-long": (18, 17)}
DECODER_LENGTH = 6
NUM_IMAGES = 2
RECORDED = (
    "hidden_states",
    "attentions",
    "last_hidden_state",
    "encoder_hidden_states",
    "encoder_attentions",
    "encoder_last_hidden_state",
    "decoder_hidden_states",
    "decoder_attentions",
    "cross_attentions",
)


def inputs(model, lengths=LENGTHS):
    """Make the model's inputs; ``lengths``: number of tokens of each sequence."""
    config = model.config
    names = inspect.signature(model.forward).parameters
    vocab_size = getattr(config.get_text_config(), "vocab_size", 0)
    found = {}
    if "pixel_values" in names:
        vision = getattr(config, "vision_config", config)
        size = vision.image_size
        height, width = (size, size) if isinstance(size, int) else size
        found["pixel_values"] = torch.randn(NUM_IMAGES, vision.num_channels, height, width)
    if "input_features" in names:
        length = 2 * config.max_source_positions
        found["input_features"] = torch.randn(NUM_IMAGES, config.num_mel_bins, length)
    elif "input_ids" in names:
        ends = torch.tensor(lengths).unsqueeze(1)
        found["attention_mask"] = (torch.arange(max(lengths)) < ends).long()
        ids = torch.randint(3, vocab_size - 1, found["attention_mask"].shape)
        padding = getattr(config, "pad_token_id", None) or 0
        found["input_ids"] = ids.where(found["attention_mask"].bool(), padding)
    if "decoder_input_ids" in names:
        batch_size = len(next(iter(found.values())))
        shape = (batch_size, DECODER_LENGTH)
        found["decoder_input_ids"] = torch.randint(3, vocab_size - 1, shape)
    return found


def outputs(model, call):
    """Run the model, and return what is recorded."""
    options = {"output_attentions": True, "output_hidden_states": True}
    if "use_cache" in inspect.signature(model.forward).parameters:
        options["use_cache"] = False
    result = model(**call, **options)
    towers = {
        f"{name}_": result[f"{name}_model_output"]
        for name in ("text", "vision")
        if f"{name}_model_output" in result
    }
    for prefix, tower in (towers or {"": result}).items():
        for name in RECORDED:
            value = tower.get(name)
            if isinstance(value, tuple):
                for layer, array in enumerate(value):
                    yield f"{prefix}{name}.{layer}", array
            elif value is not None:
                yield f"{prefix}{name}", value


@torch.no_grad()
def record(folder):
    """Record the whole model of a checkpoint."""
    if folder.name in FORMS:
        save(FORMS[folder.name], folder)
    model = hf.AutoModel.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()
    torch.manual_seed(1)
    call = inputs(model, OTHER_LENGTHS.get(folder.name, LENGTHS))
    arrays = {**call, **dict(outputs(model, call))}
    if model.config.model_type.startswith("dinov2"):  # which takes images of any size
        pixels = torch.randn(1, model.config.num_channels, 21, 44)
        arrays["other_pixel_values"] = pixels
        arrays["other_last_hidden_state"] = model(pixels).last_hidden_state
    file = folder / "whole.npz"
    np.savez_compressed(file, **{name: array.numpy() for name, array in arrays.items()})
    print(f"{folder.name}: {file.stat().st_size / 1024:.0f} KiB, {len(arrays)} arrays")


if __name__ == "__main__":
    for case in sys.argv[1:]:
        record(FOLDER / case)
