"""ONNX Runtime: loads a model, warms it up and runs it. The only module that imports it."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from polyhead_models.blocks import PROVENANCE_KEY, Provenance
from polyhead_models.config import CONFIG_KEY, AttentionConfig, ConfigError
from polyhead_server.call import AttentionInputs, AttentionOutputs, WeightsSelection
from polyhead_server.errors import LimitExceededError, StartupError
from polyhead_server.execution import Execution

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "Engine",
    "Model",
    "ModelFileError",
    "RowsRun",
    "Run",
    "RunCancelledError",
    "onnxruntime_version",
]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_OPTIONAL_INPUTS = {"average_heads", "heads", "need_weights", "stage", "top_k"}
_NUMBERS_WITH_DEFAULTS = {"attn_mask", "past_key", "past_value"}
"""Optional too, except where the numbers are float16."""
_OUT_OF_MEMORY = re.compile("bad_alloc|failed to allocate memory", re.IGNORECASE)
_SHRINK_ABOVE_BYTES = 64 << 20
"""Runs with a score matrix larger than this give their memory back when they end. ONNX Runtime's
arena would keep it for ever; giving it back costs page faults, which smaller runs would notice."""


class ModelFileError(Exception):
    """A file that is no model of ours; the message tells callers why, without paths."""


class RunCancelledError(Exception):
    """A run that was cancelled before it ended."""


def onnxruntime_version() -> str:
    """The version of ONNX Runtime in use."""
    return str(ort.__version__)


@dataclass(frozen=True)
class Engine:
    """What models run on, and with how many threads."""

    provider: str
    """cpu, cuda or auto."""
    provider_options: dict[str, str]
    """ONNX Runtime's own options for CUDA; without effect where `auto` finds none."""
    threads: int
    spinning: bool
    max_scores_bytes: int
    """Largest score matrix that a run may hold; larger ones are computed in blocks."""

    def __post_init__(self) -> None:
        if self.provider == "cuda" and not self._tries_cuda:
            raise StartupError(
                "--provider cuda: this onnxruntime was built without CUDA; "
                "install the extra that brings it, pip install 'polyhead[gpu]', "
                "into an environment without the plain onnxruntime, or choose --provider cpu"
            )
        if self.provider == "cpu" and self.provider_options:
            raise StartupError("--provider-options: there are none for cpu; choose --provider cuda")
        if self._tries_cuda:
            ort.preload_dlls()

    @property
    def _tries_cuda(self) -> bool:
        return self.provider != "cpu" and _CUDA in ort.get_available_providers()

    def load(self, name: str, version: int, path: Path) -> Model:
        """Load a model and run it once through each branch.

        Raises ModelFileError for a file that is no model of ours, and StartupError if the
        provider that was asked for is not what the model would run on.
        """
        session = self._session(path)
        try:
            model = Model(name, version, session, self.max_scores_bytes)
            model.warm_up()
        except ModelFileError:
            raise
        except Exception as error:  # whatever a foreign graph makes ONNX Runtime do
            raise ModelFileError("its graph does not run as those of polyhead export do") from error
        return model

    def _session(self, path: Path) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # patterns are for fixed shapes; ours vary
        options.log_severity_level = 4  # failures reach us as exceptions
        spinning = "1" if self.spinning else "0"
        options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
        providers: list[Any] = [_CPU]
        if self._tries_cuda:
            # TF32 would make results differ from the CPU's in the fourth digit
            providers.insert(0, (_CUDA, {"use_tf32": "0", **self.provider_options}))
        try:
            session = ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # its exceptions share no narrower class
            raise ModelFileError("ONNX Runtime cannot read the file as a model") from error
        # ONNX Runtime falls back to the CPU without a word; never behind the user's back
        if self.provider == "cuda" and session.get_providers()[0] != _CUDA:
            raise StartupError(
                "--provider cuda: ONNX Runtime cannot use a GPU here; check the driver "
                "(nvidia-smi) and --provider-options, or choose --provider cpu, or auto to fall "
                "back"
            )
        return session


class Model:
    """A loaded attention block. Safe to run from several threads at once."""

    def __init__(
        self, name: str, version: int, session: ort.InferenceSession, max_scores_bytes: int
    ) -> None:
        self.name = name
        self.version = version
        self.providers: list[str] = session.get_providers()
        """ONNX Runtime's names for what this model runs on, the one preferred first."""
        self.max_scores_bytes = max_scores_bytes
        """Largest score matrix that a run may hold."""
        self._session = session
        try:
            metadata = session.get_modelmeta().custom_metadata_map
            self.config = AttentionConfig.from_json(metadata[CONFIG_KEY])
            self.provenance = Provenance.from_json(metadata[PROVENANCE_KEY])
            texts = [text for text in vars(self.provenance).values() if isinstance(text, str)]
            "".join(texts).encode()  # JSON can hold what no message can
        except KeyError:
            raise ModelFileError("the file was not made by polyhead export") from None
        except (ConfigError, UnicodeError) as error:
            raise ModelFileError("its metadata does not describe an attention block") from error
        self._check_signature()

    def _check_signature(self) -> None:
        """Make sure that the graph is the one its metadata speaks of."""
        config = self.config
        inputs = {i.name: i.shape for i in self._session.get_inputs()}
        optional = {i.name for i in self._session.get_overridable_initializers()}
        outputs = {o.name: o.shape for o in self._session.get_outputs()}
        widths = {
            "query": config.embed_dim,
            "key": config.kdim,
            "value": config.vdim,
            "output": config.output_dim,
        }
        expected_inputs = {"query", "key", "value"}
        if config.rotary:
            expected_inputs |= {"positions", "key_positions"}
            expected_inputs |= {"max_position"} if config.rotary.scaling == "longrope" else set()
        expected_optional = _OPTIONAL_INPUTS
        if config.dtype == "float16":
            expected_inputs |= _NUMBERS_WITH_DEFAULTS
        else:
            expected_optional = expected_optional | _NUMBERS_WITH_DEFAULTS
        expected_outputs = {"output", "attn_weights", "top_keys"}
        if config.has_in_proj:
            expected_outputs |= {"projected_key", "projected_value"}
        shapes = inputs | outputs
        if (
            inputs.keys() != expected_inputs
            or outputs.keys() != expected_outputs
            or not optional >= expected_optional
            or any(shapes[name][-1:] != [width] for name, width in widths.items())
        ):
            raise ModelFileError("its graph does not match its metadata")

    def warm_up(self) -> None:
        """Run every branch once: the first run of each sets memory and kernels up.

        Raises ModelFileError if what comes out is not what the metadata speaks of.
        """
        config = self.config
        query, key, value = (
            np.zeros((2, 2, width), config.dtype)
            for width in (config.embed_dim, config.kdim, config.vdim)
        )
        positions = np.zeros((2, 2), np.int64) if config.rotary else None
        no_mask = np.zeros((1, 1, 1, 1), config.dtype)
        whole, chosen = WeightsSelection(), WeightsSelection(heads=(0,), top_k=1)
        for mask, weights in ((None, None), (None, whole), (no_mask, whole), (None, chosen)):
            inputs = AttentionInputs(
                query,
                key,
                value,
                mask,
                kv_lengths=None,
                weights=weights,
                positions=positions,
                key_positions=positions,
            )
            self._check_outputs(Run(self, inputs)(), weights)

    def _check_outputs(self, outputs: AttentionOutputs, weights: WeightsSelection | None) -> None:
        """Compare a run on zeros, two sequences of two, with what can be known beforehand."""
        config = self.config
        # All keys are alike, so that their weights are too, where nothing but masks tells them
        # apart; and where nothing takes a share of the softmax.
        expected = np.full((2, config.num_heads, 2, 2), 0.5)
        if config.sliding_window == 1:
            expected[:, :] = np.eye(2)
        elif config.is_causal:
            expected[:, :, 0] = [1, 0]
        is_known = not (config.has_alibi or config.relative_buckets or config.has_sinks)
        fits = outputs.output is not None and outputs.output.shape == (2, 2, config.output_dim)
        if weights is not None:
            if weights.top_k:
                expected = expected[:, :1].max(axis=-1, keepdims=True)
            given = outputs.attn_weights
            fits = fits and given is not None and given.shape == expected.shape
            if fits and given is not None and is_known:
                fits = np.allclose(given, expected, atol=1e-3)
        if not fits:
            raise ModelFileError("its graph does not compute what its metadata says")

    def run_graph(
        self, names: list[str], feeds: dict[str, NDArray[Any]], options: ort.RunOptions
    ) -> list[NDArray[Any]]:
        """Run the graph once: the outputs named."""
        outputs: list[NDArray[Any]] = self._session.run(names, feeds, options)
        return outputs


class Run:
    """One request's runs of its model's graph, which another thread can cancel."""

    def __init__(self, model: Model, inputs: AttentionInputs) -> None:
        self._options = ort.RunOptions()
        query, key = inputs.query, inputs.key
        scores = len(query) * model.config.num_heads * query.shape[1] * key.shape[1]
        if scores * query.itemsize > _SHRINK_ABOVE_BYTES:
            self._options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._execution = Execution(
            inputs,
            model.config,
            lambda names, feeds: model.run_graph(names, feeds, self._options),
            model.max_scores_bytes,
        )

    def cancel(self) -> None:
        """End the run at the next node of its graph."""
        self._options.terminate = True

    def __call__(self) -> AttentionOutputs:
        """Run to the end.

        Raises RunCancelledError if cancelled, LimitExceededError if memory ran out.
        """
        with self._translated_errors():
            return self._execution.everything()

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self._options.terminate:
                raise RunCancelledError from error
            if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
                raise LimitExceededError(
                    "memory",
                    "the server has too little memory for a request of this size; "
                    "send a smaller batch or shorter sequences",
                    "OUT_OF_MEMORY",
                ) from error
            raise


class RowsRun(Run):
    """One request's runs in blocks of query rows; each block is computed when it is asked for."""

    def __init__(self, model: Model, inputs: AttentionInputs, rows_per_block: int) -> None:
        super().__init__(model, inputs)
        self._blocks = self._execution.blocks(rows_per_block)

    def next_block(self) -> tuple[int, AttentionOutputs] | None:
        """Compute the next block: the place of its first row, and its rows; None: no more.

        Not to be called from two threads at once. Raises as a Run does.
        """
        with self._translated_errors():
            return next(self._blocks, None)
