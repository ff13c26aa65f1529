"""Compares blocks imported from changed config.json files with what transformers computes.

Each case is the config.json of a family's recording in golden/, with one key or a few changed.
transformers makes a model with random weights from it, saves them, and runs it on random inputs.
`Checkpoint.load` then imports every attention module of the same folder, and the reference computes
it again. Printed are the cases that differ, and those that polyhead refuses while transformers runs
them. What is explained in `configurations.EXPLAINED` is only counted.

Run it with torch 2.13.0 and transformers 5.23.0 (without network), and the project's packages; it
takes some ten minutes. The exit status is 1 if a case is left that is not explained:

    python compare_configurations.py [--verbose] [FAMILY | KEY ...]
"""

import inspect
import json
import logging
import re
import sys
import tempfile
import warnings
from collections import Counter
from functools import reduce
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from configurations import ABSENT, EXPLAINED, FAMILIES, changes_of
from golden_case import Case
from make_golden import FOLDER, arguments, attention_modules, inputs_and_outputs, randomise

from polyhead_models.checkpoint.checkpoint import Checkpoint, CheckpointError
from polyhead_models.reference.attention import attend

CROSS = re.compile(r"encoder_attn|EncDecAttention|crossattention")
LABEL = re.compile(r"\.(\d+(?:\.albert_layers\.\d+)?)\.")
STACK = re.compile(r"(text|vision)_model\.|(encoder|decoder)\.")
MAX_WEIGHTS_ERROR = 2e-5
MAX_OUTPUT_ERROR = 1e-4
"""Largest error of an output, as a fraction of its largest magnitude."""


def changed(settings, changes):
    """Return a copy of config.json with the values of some keys changed; ABSENT removes a key."""
    settings = json.loads(json.dumps(settings))
    for path, value in changes.items():
        *objects, key = path.split(".")
        inner = reduce(lambda found, name: found.setdefault(name, {}), objects, settings)
        inner.pop(key, None)
        if value is not ABSENT:
            inner[key] = value
    return settings


def shown(changes):
    """Return changes as text."""
    return " ".join(
        f"{key}={'absent' if value is ABSENT else json.dumps(value)}"
        for key, value in changes.items()
    )


def record(settings, folder):
    """Save a model of these settings, run it, and return its attention modules' records."""
    file = folder / "config.json"
    file.write_text(json.dumps(settings))
    torch.manual_seed(0)
    model = hf.AutoModel.from_config(
        hf.AutoConfig.from_pretrained(folder), attn_implementation="eager"
    ).eval()
    randomise(model, 1.5)
    model.save_pretrained(folder)
    file.write_text(json.dumps(settings))
    records = {}
    for name, module in attention_modules(model).items():
        module.register_forward_hook(
            lambda *call, name=name: records.__setitem__(name, inputs_and_outputs(*call)),
            with_kwargs=True,
        )
    model(**call_of(model), output_attentions=True)
    return records


def call_of(model):
    """Make the arguments of the model's call: two sequences without padding."""
    if model.main_input_name == "pixel_values" and hasattr(model.config, "image_size"):
        return {"pixel_values": torch.randn(2, 3, *[model.config.image_size] * 2)}
    names = inspect.signature(model.forward).parameters
    encoder_seq_len = 10 if "input_features" in names else 9 * ("decoder_input_ids" in names)
    case = Case(model=None, config=None, q_seq_len=11, encoder_seq_len=encoder_seq_len)
    call = arguments(case, model)
    if any(name.endswith("crossattention") for name, _ in model.named_modules()):
        call["encoder_hidden_states"] = torch.randn(2, 9, model.config.hidden_size)
    return call | ({"use_cache": False} if "use_cache" in names else {})


def compare(folder, name, found):
    """Import one module, and return the errors of its weights and of its output."""
    stack, kind = STACK.search(name), "cross" if CROSS.search(name) else "self"
    stack = (stack[1] or stack[2]) if stack and block_has_stacks(folder) else ""
    checkpoint = Checkpoint.open(folder)
    location = checkpoint.locations(stack=stack, kind=kind)[0]
    labels = [checkpoint.label(location, n) for n in range(checkpoint.num_layers(location))]
    layer = labels.index(LABEL.search(f".{name}")[1])
    block = checkpoint.load(location, layer, out_proj=not name.endswith(".self"))
    query, key = found["hidden_states"], found["key_value_states"]
    output, weights = attend(block, query.numpy(), key.numpy() if key is not None else None)
    expected = found["attn_output"].numpy()
    if weights.shape != tuple(found["attn_weights"].shape):
        return float("inf"), float("inf")
    return (
        float(np.abs(weights - found["attn_weights"].numpy()).max()),
        float(np.abs(output - expected).max() / np.abs(expected).max()),
    )


def block_has_stacks(folder):
    """Whether modules' names tell a stack that polyhead names, too."""
    model_type = json.loads((folder / "config.json").read_text())["model_type"]
    return model_type in {"clip", "siglip", "t5", "mt5", "bart", "mbart", "whisper"}


def outcome(settings):
    """Return what became of one case, and a sentence about it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            records = record(settings, folder)
        except Exception as error:  # noqa: BLE001 - transformers raises many types
            return "transformers fails", f"{type(error).__name__}: {error}".split("\n")[0]
        if not records:
            return "nothing recorded", ""
        try:
            errors = [compare(folder, module, found) for module, found in records.items()]
        except CheckpointError as error:
            return "refused", str(error).replace(str(folder), "")
    weights, output = map(max, zip(*errors, strict=True))
    if not (weights <= MAX_WEIGHTS_ERROR and output <= MAX_OUTPUT_ERROR):
        return "differs", f"weights {weights:.1e}, output {output:.1e}"
    return "equal", ""


def be_quiet():
    """Leave out what transformers says of changed files."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    hf.utils.logging.set_verbosity(50)
    hf.utils.logging.disable_progress_bar()


@torch.no_grad()
def main():
    be_quiet()
    names = {argument for argument in sys.argv[1:] if not argument.startswith("--")}
    counts = Counter()
    for family, recording in FAMILIES.items():
        base = json.loads((FOLDER / recording / "config.json").read_text())
        base["model_type"] = family
        for changes in changes_of(base):
            if names and not {family, *changes} & names:
                continue
            kind, reason = outcome(changed(base, changes))
            line = f"{family}: {shown(changes)}: {kind}: {reason}"
            if any(re.search(pattern, line) for pattern in EXPLAINED):
                kind = f"{kind}, as explained"
            counts[kind] += 1
            if kind in {"differs", "refused"} or "--verbose" in sys.argv:
                print(line, flush=True)
    print(dict(counts))
    return 1 if counts["differs"] or counts["refused"] else 0


if __name__ == "__main__":
    sys.exit(main())
