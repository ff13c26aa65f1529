"""Compares exported whole models with what transformers computes, in other sizes than recorded.

Each case is a model type and keys of config.json. transformers makes a causal model with random
weights from it, saves it, and runs it on sequences with padding at their ends. The same folder is
then exported, and run segment by segment. Run it with torch 2.13.0 and transformers 5.23.0 (without
network), and the project's packages; the exit status is 1 if a case differs:

    PYTHONPATH=../support python compare_whole.py [MODEL_TYPE | KEY ...]
"""

import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from make_golden import randomise
from make_whole import inputs
from whole import SegmentedModel
from whole_cases import CASES, SIZES

from polyhead_models.checkpoint.checkpoint import CheckpointError

MAX_ERROR = 3e-5
"""Largest error as a fraction of the largest magnitude."""


def save(settings, folder, dtype, prefixed):
    """Save a model of these settings, and return transformers' model of the saved file."""
    file = folder / "config.json"
    file.write_text(json.dumps(settings))
    torch.manual_seed(0)
    kind = hf.AutoModelForCausalLM if prefixed else hf.AutoModel
    model = kind.from_config(hf.AutoConfig.from_pretrained(folder)).eval()
    randomise(model, 1.0)
    model.to(dtype).save_pretrained(folder, max_shard_size="100KB")
    file.write_text(json.dumps(settings))
    return hf.AutoModel.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()


def errors(model, folder):
    """Yield the largest error of each hidden state, and of the output."""
    torch.manual_seed(1)
    call = inputs(model)
    found = model(**call, output_hidden_states=True, use_cache=False)
    exported = SegmentedModel.export(folder, folder / "models")
    stack = exported.config.stacks[0]
    for index, length in enumerate(call["attention_mask"].sum(-1)):
        ids = call["input_ids"][index : index + 1, :length].numpy()
        *states, _, output = exported.forward(stack, ids)
        expected = [*found.hidden_states[:-1], found.last_hidden_state]
        assert len(states) + 1 == len(expected)
        for actual, wanted in zip([*states, output], expected, strict=True):
            valid = wanted[index : index + 1, :length].numpy()
            yield float(np.abs(actual - valid).max() / np.abs(valid).max())


def compare(settings, dtype, prefixed):
    """Return the largest error of a case, or what failed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            model = save(settings, folder, dtype, prefixed)
        except Exception as error:  # noqa: BLE001 - transformers raises many types
            return f"transformers fails: {type(error).__name__}: {error}".split("\n")[0]
        try:
            return max(errors(model, folder))
        except CheckpointError as error:
            return f"refused: {error}".replace(str(folder), "")


@torch.no_grad()
def main():
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    hf.utils.logging.set_verbosity(50)
    hf.utils.logging.disable_progress_bar()
    is_equal = True
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    for number, (model_type, changes) in enumerate(CASES):
        if sys.argv[1:] and not {model_type, *changes} & {*sys.argv[1:]}:
            continue
        settings = SIZES | {"model_type": model_type} | changes
        dtype = dtypes[number % 3]
        error = compare(settings, dtype, prefixed=number % 5 != 0)
        is_fine = isinstance(error, float) and error < MAX_ERROR
        is_equal &= is_fine
        shown = f"{error:.1e}" if isinstance(error, float) else error
        print(
            f"{model_type} {changes} {dtype}: {shown}{'' if is_fine else '   <-- differs'}",
            flush=True,
        )
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
