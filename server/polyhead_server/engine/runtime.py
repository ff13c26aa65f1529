"""ONNX Runtime: loads models, with the provider and the threads of the settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import onnxruntime as ort

from polyhead_models.config import CONFIG_KEY
from polyhead_models.whole_config import WHOLE_KEY
from polyhead_server.engine.cost import Batching
from polyhead_server.engine.device import Device
from polyhead_server.engine.load_failure import load_failure
from polyhead_server.engine.model import Model, read_block
from polyhead_server.engine.onnx_model import OnnxModel
from polyhead_server.engine.subnormals import FLUSH_OPTION, keeping_subnormals
from polyhead_server.engine.tokenizer import Tokenizer
from polyhead_server.engine.whole_model import WholeModel
from polyhead_server.errors import ModelFileError, StartupError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Engine", "onnxruntime_version"]

_FATAL = 4
"""ONNX Runtime's severity of what it logs before it ends the process."""
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def onnxruntime_version() -> str:
    """The version of ONNX Runtime in use."""
    return str(ort.__version__)


@dataclass(frozen=True)
class Engine:
    """The provider and the threads that models run on."""

    provider: str
    """cpu, cuda or auto."""
    provider_options: dict[str, str]
    """ONNX Runtime's options for CUDA; ignored if `auto` does not find it."""
    threads: int
    """Number of threads of a run: the calling one and those of a pool."""
    spinning: bool
    """Whether a pool's threads spin for some 50 ms after a run before they sleep."""
    max_scores_bytes: int
    """Largest score matrix in a run; larger ones are computed in blocks."""
    max_batch_tokens: int = 0
    """See Batching.max_tokens; 0: the provider's default."""
    solo_above_tokens: int = 0
    """See Batching.solo_above_tokens; 0: the provider's default."""
    owns_process: bool = False
    """Whether no other code in the process uses ONNX Runtime, so that models can share a pool."""
    device: Device | None = None
    """The device that keeps the tensors of whole models between runs; None means the GPU if models
    run on one, else NumPy arrays on the host."""
    max_pool_threads: int = 128
    """Approximate limit of the threads of all pools together, if each model has its own pool."""

    def __post_init__(self) -> None:
        if self.provider == "cuda" and not self._tries_cuda:
            raise StartupError(
                "--provider cuda: this onnxruntime was built without CUDA; "
                "install the extra that brings it, pip install 'polyhead[gpu]', "
                "into an environment without the plain onnxruntime, or choose --provider cpu"
            )
        if self.provider == "cpu" and self.provider_options:
            raise StartupError("--provider-options: cpu has no options; choose --provider cuda")
        if self._tries_cuda:
            ort.preload_dlls()
        if (
            self.owns_process
        ):  # because failed allocations would write lines between those of our log
            ort.set_default_logger_severity(_FATAL)
        if self._has_shared_pool:
            ort.set_global_thread_pool_sizes(self.threads, 1)

    @property
    def _has_shared_pool(self) -> bool:
        """Whether all models share ONNX Runtime's global pool, instead of a pool for each model.

        The global pool's threads always spin, because Python cannot switch this off. The pool can
        be made once in a process, and then no session can have its own pool.
        """
        return self.owns_process and self.spinning

    def threads_per_model(self, num_models: int) -> int:
        """Return the number of threads of a run, if the process serves ``num_models`` models."""
        if self._has_shared_pool:
            return self.threads
        return min(self.threads, 1 + self.max_pool_threads // num_models)

    @property
    def _tries_cuda(self) -> bool:
        return self.provider != "cpu" and _CUDA in ort.get_available_providers()

    def load(
        self, name: str, version: int, path: Path, max_batch_size: int = 0, *, num_models: int = 1
    ) -> Model | OnnxModel | WholeModel:
        """Load a model. Afterwards check_model checks what an attention block computes.

        ``max_batch_size``: see OnnxModel; for graphs that polyhead did not export.
        ``num_models``: how many models the process serves with this one.

        Raises ModelFileError if the file is not a model, and StartupError if the model would not
        run on the requested provider.
        """
        session = self.open_session(path, self.threads_per_model(num_models))
        return self.model_of(name, version, session, path.parent, max_batch_size)

    def model_of(
        self,
        name: str,
        version: int,
        session: ort.InferenceSession,
        folder: Path,
        max_batch_size: int = 0,
    ) -> Model | OnnxModel | WholeModel:
        """Make a model of the kind that the graph's metadata name. Raises ModelFileError.

        ``folder``: where a whole model's tokenizer is.
        """
        try:
            metadata = session.get_modelmeta().custom_metadata_map
        except UnicodeError as error:
            raise ModelFileError("its metadata is not text") from error
        if CONFIG_KEY not in metadata and WHOLE_KEY not in metadata:
            return OnnxModel(name, version, session, max_batch_size)
        default = Batching.on(session.get_providers()[0])
        batching = replace(
            default,
            max_tokens=self.max_batch_tokens or default.max_tokens,
            solo_above_tokens=self.solo_above_tokens or default.solo_above_tokens,
        )
        make_block = partial(
            Model,
            name,
            version,
            session,
            max_scores_bytes=self.max_scores_bytes,
            batching=batching,
            device=self._device_of(session),
        )
        if CONFIG_KEY in metadata:
            config, provenance = read_block(metadata)
            return make_block(config=config, provenance=provenance)
        read_tokenizer = partial(Tokenizer.of_folder, folder)
        device = self._device_of(session)
        return WholeModel(name, version, session, make_block, read_tokenizer, device=device)

    def _device_of(self, session: ort.InferenceSession) -> Device | None:
        if self.device is None and session.get_providers()[0] == _CUDA:
            return Device("cuda", int(self.provider_options.get("device_id", 0)))
        return self.device

    def open_session(self, path: Path, num_threads: int = 1) -> ort.InferenceSession:
        """Load a graph. Raises ModelFileError, and StartupError as load does."""
        options = ort.SessionOptions()
        if self._has_shared_pool:
            options.use_per_session_threads = False
        else:
            options.intra_op_num_threads = num_threads
            options.inter_op_num_threads = 1
            spinning = "1" if self.spinning else "0"
            options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
        options.add_session_config_entry(FLUSH_OPTION, "1")
        options.enable_mem_pattern = False  # it only helps with fixed shapes
        options.log_severity_level = _FATAL  # failures are raised as exceptions
        providers: list[Any] = [_CPU]
        if self._tries_cuda:
            # with TF32, results differ from the CPU's in the fourth digit
            providers.insert(0, (_CUDA, {"use_tf32": "0", **self.provider_options}))
        try:
            with keeping_subnormals():
                session = ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime's exceptions have no narrower base class
            raise ModelFileError(load_failure(error, onnxruntime_version())) from error
        # ONNX Runtime falls back to the CPU without an error, which the user must know
        if self.provider == "cuda" and session.get_providers()[0] != _CUDA:
            raise StartupError(
                "--provider cuda: ONNX Runtime cannot use a GPU here; check the driver "
                "(nvidia-smi) and --provider-options, or choose --provider cpu, or auto to fall "
                "back"
            )
        return session
