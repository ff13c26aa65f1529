"""What an exported model takes from a checkpoint's tokenizer files, and which it refuses."""

import json

import pytest
from changed_checkpoint import changed

from polyhead_models.checkpoint.checkpoint import Checkpoint, CheckpointError
from polyhead_models.export.whole import export_whole_model

TOKENIZER = {"model": {"type": "WordPiece", "vocab": {"a": 0, "b": 1}}}
LOWER = {"type": "BertNormalizer", "lowercase": True, "strip_accents": None}
SPACED = {"type": "ByteLevel", "add_prefix_space": False}


@pytest.fixture
def export(tmp_path):
    """Return a function that exports a recorded model with these tokenizer files."""

    def run(tokenizer=TOKENIZER, config=None, family="bert"):
        folder = changed(tmp_path, family)
        (folder / "tokenizer.json").write_text(
            tokenizer if isinstance(tokenizer, str) else json.dumps(tokenizer)
        )
        if config is not None:
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return export_whole_model(Checkpoint.open(folder), "m", tmp_path / "models")

    return run


@pytest.mark.parametrize("added", [None, [{"id": 40, "content": "<image>", "special": True}]])
def test_a_tokenizer_with_fewer_words_or_special_tokens_beside_them_is_copied(export, added):
    exported = export({"model": {"vocab": {"a": 39}}, "added_tokens": added})
    assert exported.has_tokenizer
    assert (exported.folder / "tokenizer.json").exists()


@pytest.mark.parametrize(
    "tokenizer",
    [
        {"model": {"vocab": {"a": 0, "b": 40}}},
        {"model": {"vocab": [["a", 0.0]] * 41}},
        {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 40, "content": "[X]"}]},
    ],
)
def test_a_tokenizer_of_another_vocabulary_is_refused(export, tmp_path, tokenizer):
    with pytest.raises(CheckpointError, match="token id 40, and the model's table of words has 40"):
        export(tokenizer)
    assert not list((tmp_path / "models" / "m").iterdir())


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        ("", "tokenizer.json is not JSON"),
        ('{"model": {"vocab"', "tokenizer.json is not JSON"),
        ("[]", "holds a JSON list"),
        ({}, "is not a tokenizer, because it has no model with a vocab"),
        ({"model": {"vocab": {"a": "0"}}}, "is not a tokenizer"),
        ({"model": []}, "is not a tokenizer"),
    ],
)
def test_a_damaged_tokenizer_is_refused(export, tmp_path, tokenizer, expected):
    with pytest.raises(CheckpointError, match=expected):
        export(tokenizer)
    assert not list((tmp_path / "models" / "m").iterdir())


@pytest.mark.parametrize("config", [None, {"model_max_length": 10**30}, {"model_max_length": 1e30}])
def test_a_length_that_no_file_states_is_that_of_the_positions(export, config):
    (stack,) = export(config=config).config.stacks
    assert (stack.max_length, stack.trained_length) == (64, 64)


def test_the_shorter_length_is_stated(export):
    (stack,) = export(config={"model_max_length": 16}).config.stacks
    assert (stack.max_length, stack.trained_length) == (64, 16)


@pytest.mark.parametrize(("config", "expected"), [(None, 2048), ({"model_max_length": 512}, 512)])
def test_rotary_positions_end_nowhere_and_have_a_trained_length(export, config, expected):
    (stack,) = export(config=config, family="llama").config.stacks
    assert (stack.max_length, stack.trained_length) == (0, expected)


@pytest.mark.parametrize(
    ("stored", "config", "expected"),
    [
        (None, None, "right"),
        ({"direction": "Left", "max_length": 3}, None, "left"),
        ({"direction": "Left", "max_length": 3}, {"truncation_side": "right"}, "right"),
        (None, {"truncation_side": "left"}, "left"),
    ],
)
def test_texts_are_cut_at_the_end_that_the_files_state(export, stored, config, expected):
    assert export(TOKENIZER | {"truncation": stored}, config).config.truncation_side == expected


@pytest.mark.parametrize(
    ("part", "config", "expected"),
    [
        ({"normalizer": LOWER}, {"do_lower_case": False}, "do_lower_case=False.*lowercase=True"),
        ({"normalizer": LOWER}, {"strip_accents": True}, "strip_accents=True.*strip_accents=None"),
        (
            {"normalizer": {"type": "Sequence", "normalizers": [LOWER]}},
            {"do_lower_case": False},
            "the normalizer of tokenizer.json has lowercase=True",
        ),
        ({"pre_tokenizer": SPACED}, {"add_prefix_space": True}, "add_prefix_space=True.*save_pret"),
    ],
)
def test_files_that_contradict_each_other_are_refused(export, part, config, expected):
    with pytest.raises(CheckpointError, match=expected):
        export(TOKENIZER | part, config)


@pytest.mark.parametrize(
    ("part", "config"),
    [
        ({"normalizer": LOWER}, {"do_lower_case": True, "strip_accents": None}),
        ({"normalizer": LOWER}, {}),
        ({"pre_tokenizer": SPACED}, {"add_prefix_space": None}),
        ({"normalizer": {"type": "Lowercase"}}, {"do_lower_case": False}),
        (
            {"normalizer": LOWER},
            {"do_lower_case": False, "tokenizer_class": "PreTrainedTokenizerFast"},
        ),
    ],
)
def test_files_that_agree_are_taken(export, part, config):
    assert export(TOKENIZER | part, config).has_tokenizer


def test_a_vision_models_tokenizer_is_not_read(export):
    assert not export("{", family="vit").has_tokenizer
