"""Compares whole models in the server's engine with what transformers computes.

Each case is a config.json: that of a family's recording in golden/ with one key or a few changed,
or one of whole_cases.CASES. transformers makes a model with random weights from it, of each of its
classes in turn, and saves it in float32, float16 or bfloat16, in shards or with the tensors that
other versions write. It then loads the file, and runs it on sequences of several lengths, of which
the shorter ones are padded. The same folder is exported, and the server's engine runs all of them.
Printed are the cases whose attention weights, hidden states or output differ, and those that
polyhead refuses while transformers runs them. Refusals that `whole_changes.EXPLAINED` or
`configurations.EXPLAINED` explains are only counted.

Run it with torch 2.13.0 and transformers 5.23.0 (without network), and the project's packages; it
takes some ten minutes. The exit status is 1 if a case is left that is not explained:

    python compare_whole.py [--verbose] [MODEL_TYPE | KEY ...]
"""

import inspect
import json
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from compare_configurations import be_quiet, changed, shown
from configurations import EXPLAINED as EXPLAINED_OF_BLOCKS
from make_golden import randomise
from make_whole import inputs, outputs
from saved_forms import DTYPES, classes_of, rewrite
from served_whole import ServedModel
from whole_cases import CASES, SIZES
from whole_changes import EXPLAINED, FAMILIES, LENGTHS, base_of, changes_of

from polyhead_models.checkpoint.checkpoint import CheckpointError
from polyhead_server.errors import InvalidRequestError

MAX_WEIGHTS_ERROR = 1e-5
MAX_ERROR = 3e-5
"""Largest error of hidden states and outputs, as a fraction of the largest magnitude."""
DECODER_LENGTHS = (6, 1, 5, 3)


def save(settings, folder, number):
    """Save a model of these settings in the form of a case's number, and return it as loaded."""
    file = folder / "config.json"
    file.write_text(json.dumps(settings))
    torch.manual_seed(number)
    config = hf.AutoConfig.from_pretrained(folder)
    classes = classes_of(config.model_type)
    model = classes[number % len(classes)](config).eval()
    randomise(model, 1.0)
    model.to(DTYPES[number % len(DTYPES)])
    model.save_pretrained(folder, max_shard_size="20KB" if number % 4 == 0 else "1GB")
    if number // 3 % 2:  # else config.json is as transformers 5 writes it
        file.write_text(json.dumps(settings))
    options = {"attn_implementation": "eager", "dtype": torch.float32}
    loader = hf.AutoModel if type(config) in hf.AutoModel._model_mapping else type(model)
    loaded, report = loader.from_pretrained(folder, output_loading_info=True, **options)
    if len(report["missing_keys"]) == len(loaded.state_dict()):  # it does not know the prefix
        loaded = type(model).from_pretrained(folder, **options).base_model
    rewrite(folder, number)
    return type(model).__name__, loaded.eval()


def run(model, number):
    """Run transformers' model, and return its inputs and what it computes as NumPy arrays."""
    torch.manual_seed(number + 1)
    call = inputs(model, LENGTHS)
    if model.config.model_type.startswith("dinov2"):  # which takes images of any size
        patch, count = model.config.patch_size, number % 4 + 1
        size = (patch * count + number % patch, patch * (number % 3 + 2))
        call["pixel_values"] = torch.randn(2, model.config.num_channels, *size)
    num_types = getattr(model.config, "type_vocab_size", 0)
    has_types = "token_type_ids" in inspect.signature(model.forward).parameters
    if number % 2 and has_types and num_types and not model.config.is_decoder:
        call["token_type_ids"] = torch.randint(num_types, call["input_ids"].shape)
    if getattr(model.config, "add_cross_attention", False):
        width = model.config.hidden_size
        call["encoder_hidden_states"] = torch.randn(len(LENGTHS), 5, width)
    if "decoder_input_ids" in call:
        batch_size, longest = call["decoder_input_ids"].shape
        valid = torch.arange(longest) < torch.tensor(DECODER_LENGTHS[:batch_size]).unsqueeze(1)
        call["decoder_attention_mask"] = valid.long()
    call = {name: x.to(model.dtype) if x.is_floating_point() else x for name, x in call.items()}
    found = {name: array.numpy() for name, array in outputs(model, call)}
    return {name: array.numpy() for name, array in call.items()}, found


def requests(config, call, found):
    """Yield the requests that run all stacks of an exported model: arrays and lengths by field."""
    lengths = {}
    if "attention_mask" in call:
        lengths["lengths"] = tuple(map(int, call["attention_mask"].sum(-1)))
    ids = {"token_ids": call.get("input_ids")}
    ids |= {name: call[name] for name in ("pixel_values", "input_features") if name in call}
    if not config.has_memory:
        for stack in config.stacks:
            is_text = stack.input == "token_ids"
            types = {name: call[name] for name in ("token_type_ids",) if name in call}
            yield {stack.input: ids[stack.input], **types}, lengths if is_text else {}
        return
    decoder = config.stacks[-1].name
    if "encoder_hidden_states" in call:  # of a model that is one stack with cross-attention
        arrays = {"memory": call["encoder_hidden_states"], "decoder_token_ids": ids["token_ids"]}
        yield arrays, {"decoder_lengths": lengths["lengths"]}
        return
    decoder_ids = call["decoder_input_ids"]
    own = {"decoder_lengths": DECODER_LENGTHS[: len(decoder_ids)]}
    first = config.stacks[0]
    if first.name == decoder:
        arrays = {"memory": found["encoder_last_hidden_state"]}
        own |= {"memory_lengths": lengths["lengths"]} if lengths else {}
    else:
        arrays = {first.input: ids[first.input]}
        own |= lengths if first.input == "token_ids" else {}
    yield arrays | {"decoder_token_ids": decoder_ids}, own


def differences(served, call, found):
    """Yield the name and the error of each array that differs from what transformers computes."""
    for arrays, lengths in requests(served.config, call, found):
        for name, stack, array in served.forward(arrays, lengths):
            is_output = name == "last_hidden_state"
            prefix = f"{stack}_" if f"{stack}_hidden_states.0" in found else ""
            if name.startswith("cross_") or (is_output and stack == "decoder"):
                prefix = ""
            if name == f"hidden_states.{len(served.config.stack(stack).layers)}":
                continue  # transformers gives the output in its place
            expected = found[f"{prefix}{name}"]
            assert array.shape == expected.shape, (name, array.shape, expected.shape)
            is_weights = "attentions" in name
            is_decoder = "decoder_token_ids" in arrays and stack == served.config.stacks[-1].name
            valid = lengths.get("decoder_lengths" if is_decoder else "lengths")
            error = largest_error(array, expected, valid, is_weights)
            if not error <= (MAX_WEIGHTS_ERROR if is_weights else MAX_ERROR):
                yield f"{prefix}{name} {error:.1e}"


def largest_error(array, expected, lengths, is_weights):
    """Return the largest error of the valid rows; of states, as a fraction of the magnitude."""
    if lengths:
        rows = np.arange(array.shape[-2]) < np.array(lengths)[:, None]
        array, expected = (each.swapaxes(1, -2)[rows] for each in (array, expected))
    error = float(np.abs(array - expected).max())
    return error if is_weights else error / float(np.abs(expected).max())


def outcome(settings, number):
    """Return what became of one case, and a sentence about it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            saved_as, model = save(settings, folder, number)
            call, found = run(model, number)
        except Exception as error:  # noqa: BLE001 - transformers raises many types
            return "transformers fails", f"{type(error).__name__}: {error}".split("\n")[0]
        if not all(np.isfinite(array).all() for array in found.values()):
            return "transformers fails", "its output is not finite"
        try:
            served = ServedModel(folder)
            wrong = [*differences(served, call, found)]
            if wrong:  # perhaps because transformers rounds, which float64 does less
                wrong = [*differences(served, call, run(model.double(), number)[1])]
        except CheckpointError as error:
            return "refused", f"{saved_as}: {error}".replace(str(folder), "")
        except InvalidRequestError as error:
            return "refused", f"{saved_as}: request: {error}"
    return ("differs", f"{saved_as}: {', '.join(wrong)}") if wrong else ("equal", saved_as)


def cases():
    """Yield every case: what to print of it, its model type, its keys, and its config.json."""
    for model_type in FAMILIES:
        base = base_of(model_type)
        for changes in changes_of(base):
            yield model_type, changes, changed(base, changes)
    for model_type, changes in CASES:
        yield model_type, changes, SIZES | {"model_type": model_type} | changes


@torch.no_grad()
def main():
    be_quiet()
    torch.set_num_threads(1)
    names = {argument for argument in sys.argv[1:] if not argument.startswith("--")}
    counts = Counter()
    every = list(cases())
    for number, (model_type, changes, settings) in enumerate(every):
        if number % 100 == 0:
            print(f"{number} of {len(every)} cases", file=sys.stderr, flush=True)
        if names and not {model_type, *changes} & names:
            continue
        kind, reason = outcome(settings, number)
        line = f"{model_type}: {shown(changes)}: {kind}: {reason}"
        is_explained = any(re.search(each, line) for each in EXPLAINED | EXPLAINED_OF_BLOCKS)
        if kind == "refused" and is_explained:
            kind, line = f"{kind}, as explained", f"(as explained) {line}"
        counts[kind] += 1
        if kind in {"differs", "refused"} or "--verbose" in sys.argv:
            print(line, flush=True)
    print(dict(counts))
    return 1 if counts["differs"] or counts["refused"] else 0


if __name__ == "__main__":
    sys.exit(main())
