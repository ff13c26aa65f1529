"""ONNX Runtime: loads a model, warms it up and runs it. The only module that imports it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from polyhead_models.config import (
    CONFIG_KEY,
    PROVENANCE_KEY,
    AttentionConfig,
    ConfigError,
    Provenance,
)
from polyhead_server.call import AttentionInputs, AttentionOutputs, WeightsSelection
from polyhead_server.errors import LimitExceededError, StartupError
from polyhead_server.lengths import run_by_length

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Engine", "Model", "ModelFileError", "Run", "RunCancelledError", "onnxruntime_version"]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_NO_MASK = np.zeros((0, 0, 0, 0), dtype=np.float32)
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
            model = Model(name, version, session)
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

    def __init__(self, name: str, version: int, session: ort.InferenceSession) -> None:
        self.name = name
        self.version = version
        self.providers: list[str] = session.get_providers()
        """ONNX Runtime's names for what this model runs on, the one preferred first."""
        self._session = session
        try:
            metadata = session.get_modelmeta().custom_metadata_map
            self.config = AttentionConfig.from_json(metadata[CONFIG_KEY])
            self.provenance = Provenance.from_json(metadata[PROVENANCE_KEY])
            "".join(vars(self.provenance).values()).encode()  # JSON can hold what no message can
        except KeyError:
            raise ModelFileError("the file was not made by polyhead export") from None
        except (ConfigError, UnicodeError) as error:
            raise ModelFileError("its metadata does not describe an attention block") from error
        self._check_signature()

    def _check_signature(self) -> None:
        """Make sure that the graph is the one its metadata speaks of."""
        inputs = {i.name: i.shape for i in self._session.get_inputs()}
        outputs = {o.name: o.shape for o in self._session.get_outputs()}
        widths = {
            "query": self.config.embed_dim,
            "key": self.config.kdim,
            "value": self.config.vdim,
            "output": self.config.output_dim,
        }
        expected_names = {"query", "key", "value", "attn_mask", "need_weights"}
        shapes = inputs | outputs
        if (
            inputs.keys() != expected_names
            or outputs.keys() != {"output", "attn_weights"}
            or any(shapes[name][-1:] != [width] for name, width in widths.items())
        ):
            raise ModelFileError("its graph does not match its metadata")

    def warm_up(self) -> None:
        """Run every branch once: the first run of each sets memory and kernels up.

        Raises ModelFileError if what comes out is not what the metadata speaks of.
        """
        config = self.config
        query, key, value = (
            np.zeros((2, 2, width), np.float32)
            for width in (config.embed_dim, config.kdim, config.vdim)
        )
        # All keys are alike, so the weights are known beforehand.
        expected = np.full((2, config.num_heads, 2, 2), 0.5)
        if config.is_causal:
            expected[:, :, 0] = [1, 0]
        no_mask = np.zeros((1, 1, 1, 1), np.float32)
        everything = WeightsSelection((), ())
        for mask, weights in ((None, None), (None, everything), (no_mask, everything)):
            inputs = AttentionInputs(query, key, value, mask, kv_lengths=None, weights=weights)
            outputs = Run(self, inputs)()
            given = expected if outputs.attn_weights is None else outputs.attn_weights
            if (
                outputs.output.shape != (2, 2, config.output_dim)
                or given.shape != expected.shape
                or not np.allclose(given, expected)
            ):
                raise ModelFileError("its graph does not compute what its metadata says")

    def run_once(
        self, inputs: AttentionInputs, options: ort.RunOptions
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Run the graph: the output, and all attention weights if any are wanted."""
        need_weights = inputs.weights is not None
        names = ["output", "attn_weights"] if need_weights else ["output"]
        feeds = {
            "query": inputs.query,
            "key": inputs.key,
            "value": inputs.value,
            "attn_mask": _NO_MASK if inputs.attn_mask is None else inputs.attn_mask,
            "need_weights": np.array(need_weights),
        }
        output, *weights = self._session.run(names, feeds, options)
        return output, weights[0] if weights else None


class Run:
    """One request's run, which another thread can cancel."""

    def __init__(self, model: Model, inputs: AttentionInputs) -> None:
        self._model = model
        self._inputs = inputs
        self._options = ort.RunOptions()
        query, key = inputs.query, inputs.key
        scores = len(query) * model.config.num_heads * query.shape[1] * key.shape[1]
        if scores * query.itemsize > _SHRINK_ABOVE_BYTES:
            self._options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def cancel(self) -> None:
        """End the run at the next node of its graph."""
        self._options.terminate = True

    def __call__(self) -> AttentionOutputs:
        """Run to the end.

        Raises RunCancelledError if cancelled, LimitExceededError if memory ran out.
        """
        try:
            return run_by_length(
                self._inputs,
                self._model.config,
                lambda inputs: self._model.run_once(inputs, self._options),
            )
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
