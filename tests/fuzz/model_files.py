"""What is read of a model's folder besides the graph's weights; the first byte says which file.

Anybody may have written them; what is wrong with one must be said by an error of polyhead's.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx
from tests.fuzz.served import repository
from whole_infer import tokenizer_json

from polyhead_models import builtin
from polyhead_models.blocks import Provenance
from polyhead_models.checksums import CHECKSUMS_FILE, ChecksumError, check_files
from polyhead_models.config import AttentionConfig, ConfigError
from polyhead_models.whole_config import WholeConfig
from polyhead_server.engine.tokenizer import Tokenizer
from polyhead_server.errors import ModelFileError
from polyhead_server.repository.triton_config import CONFIG_FILE, read_config

__all__ = ["check", "seeds"]

os.environ["RUST_BACKTRACE"] = "0"  # the backtrace of a panic takes 60 MiB
_FOLDER = tempfile.TemporaryDirectory(prefix="polyhead-fuzz-")
_CONFIGS = (AttentionConfig, WholeConfig, Provenance)


def check(data):
    kind, content = (data[0] if data else 0) % 6, data[1:]
    folder = Path(_FOLDER.name)
    try:
        if kind < 3:
            _check_config(_CONFIGS[kind], content)
        elif kind == 3:
            (folder / CONFIG_FILE).write_bytes(content)
            config = read_config(folder)
            assert config.max_batch_size >= 0
            assert ".." not in config.model_file.split("/")
        elif kind == 4:
            (folder / CHECKSUMS_FILE).write_bytes(content)
            check_files(folder, ("model.onnx",))
        else:
            Tokenizer(content.decode(), 16)
    except (ConfigError, ModelFileError, ChecksumError, UnicodeDecodeError):
        return


def seeds():
    version = builtin.repository() / "river-bank" / "1"
    metadata = {
        entry.key: entry.value for entry in onnx.load(version / "model.onnx").metadata_props
    }
    whole = repository().whole("bert", 0).config
    return [
        b"\0" + metadata["polyhead.config"].encode(),
        b"\1" + whole.to_json().encode(),
        b"\2" + metadata["polyhead.provenance"].encode(),
        b"\3" + _CONFIG.encode(),
        b"\4" + (version / CHECKSUMS_FILE).read_bytes(),
        b"\5" + tokenizer_json().encode(),
    ]


def _check_config(cls, content):
    config = cls.from_json(content.decode())
    assert cls.from_json(config.to_json()) == config


_CONFIG = """name: "m"
backend: "onnxruntime"  # a comment
max_batch_size: 8
default_model_filename: "model.onnx"
input [ { name: "a" data_type: TYPE_FP32 dims: [ 2, -1 ] } ]
instance_group [ { count: 1 } ]
parameters { key: "k" value: { string_value: 'v' } }
"""
