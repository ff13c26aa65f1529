"""ONNX Runtime: loads a model's graph and runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import onnxruntime as ort

from polyhead_models.blocks import PROVENANCE_KEY, Provenance
from polyhead_models.config import CONFIG_KEY, AttentionConfig, ConfigError
from polyhead_server.call import ExecutionInfo
from polyhead_server.engine.cost import Batching
from polyhead_server.engine.onnx_model import OnnxModel
from polyhead_server.engine.statistics import ModelStatistics
from polyhead_server.errors import ModelFileError, StartupError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Engine", "Model", "RunOptions", "onnxruntime_version"]

RunOptions: TypeAlias = ort.RunOptions
Shape = list[Any]
"""Lengths of axes, and names of those that are not fixed."""
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_GIVE_BACK_ABOVE_BYTES = 64 << 20
"""Runs that take more than this give it back when they end. Giving it back costs page faults, which
smaller runs would notice: a tenth of the time of one row of 4096 keys."""


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
    """Number of threads of a run: the one that calls it, and those of a pool."""
    spinning: bool
    """Whether a pool's threads spin for some 50 ms after a run, or sleep."""
    max_scores_bytes: int
    """Largest score matrix that a run may hold; larger ones are computed in blocks."""
    max_batch_tokens: int = 0
    """As in Batching; 0: what suits the provider."""
    solo_above_tokens: int = 0
    """As in Batching; 0: what suits the provider."""
    owns_process: bool = False
    """Whether no other code in this process uses ONNX Runtime: the models may share one pool."""

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
        if self._has_shared_pool:
            ort.set_global_thread_pool_sizes(self.threads, 1)

    @property
    def _has_shared_pool(self) -> bool:
        """Whether all models use ONNX Runtime's global pool, and not one each.

        The threads of that pool always spin, and cannot be made to sleep from Python. It can be
        made once in a process, and after that no session may have a pool of its own.
        """
        return self.owns_process and self.spinning

    @property
    def _tries_cuda(self) -> bool:
        return self.provider != "cpu" and _CUDA in ort.get_available_providers()

    def load(
        self, name: str, version: int, path: Path, max_batch_size: int = 0
    ) -> Model | OnnxModel:
        """Load a model; what the graph of an attention block computes is for model_check to see.

        ``max_batch_size``: of a graph that polyhead did not export, as OnnxModel takes it.

        Raises ModelFileError for a file that is no model, and StartupError if the provider that was
        asked for is not what the model would run on.
        """
        session = self._session(path)
        try:
            metadata = session.get_modelmeta().custom_metadata_map
        except UnicodeError as error:
            raise ModelFileError("its metadata is no text") from error
        if CONFIG_KEY not in metadata:
            return OnnxModel(name, version, session, max_batch_size)
        default = Batching.on(session.get_providers()[0])
        batching = Batching(
            self.max_batch_tokens or default.max_tokens,
            self.solo_above_tokens or default.solo_above_tokens,
        )
        return Model(name, version, session, self.max_scores_bytes, batching)

    def _session(self, path: Path) -> ort.InferenceSession:
        options = ort.SessionOptions()
        if self._has_shared_pool:
            options.use_per_session_threads = False
        else:
            options.intra_op_num_threads = self.threads
            options.inter_op_num_threads = 1
            spinning = "1" if self.spinning else "0"
            options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
        options.enable_mem_pattern = False  # patterns are for fixed shapes; ours vary
        options.log_severity_level = 4  # failures reach us as exceptions
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
        self,
        name: str,
        version: int,
        session: ort.InferenceSession,
        max_scores_bytes: int,
        batching: Batching,
    ) -> None:
        self.name = name
        self.version = version
        self.providers: list[str] = session.get_providers()
        """ONNX Runtime's names for what this model runs on, the one preferred first."""
        self.execution_info = ExecutionInfo(name, version, self.providers[0])
        self.max_scores_bytes = max_scores_bytes
        """Largest score matrix that a run may hold."""
        self.batching = batching
        self.statistics = ModelStatistics()
        self._session = session
        try:
            metadata = session.get_modelmeta().custom_metadata_map
            self.config = AttentionConfig.from_json(metadata[CONFIG_KEY])
            self.provenance = Provenance.from_json(metadata[PROVENANCE_KEY])
            texts = [text for text in vars(self.provenance).values() if isinstance(text, str)]
            "".join(texts).encode()  # JSON can hold what no message can
        except KeyError:
            raise ModelFileError("its metadata does not say where it comes from") from None
        except (ConfigError, UnicodeError) as error:
            raise ModelFileError("its metadata does not describe an attention block") from error

    @property
    def inputs(self) -> dict[str, Shape]:
        """Shapes of the graph's inputs that must be given, by name."""
        return {i.name: i.shape for i in self._session.get_inputs()}

    @property
    def optional_inputs(self) -> set[str]:
        """Names of the graph's inputs that may be left out."""
        return {i.name for i in self._session.get_overridable_initializers()}

    @property
    def outputs(self) -> dict[str, Shape]:
        """Shapes of the graph's outputs, by name."""
        return {o.name: o.shape for o in self._session.get_outputs()}

    def run_options(self, peak_bytes: int) -> ort.RunOptions:
        """Options of a run; setting `terminate` on them ends it at its next node.

        ``peak_bytes``: the memory that it will take, as far as that is foreseen.
        """
        options = ort.RunOptions()
        if peak_bytes > _GIVE_BACK_ABOVE_BYTES:  # the arena keeps all it ever took, otherwise
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return options

    def run_graph(
        self, names: list[str], feeds: dict[str, NDArray[Any]], options: RunOptions | None
    ) -> list[NDArray[Any]]:
        """Run the graph once: the outputs named. Without options nothing can end it."""
        outputs: list[NDArray[Any]] = self._session.run(names, feeds, options)
        return outputs
