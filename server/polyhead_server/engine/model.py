"""A loaded attention block, and runs of its graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnxruntime as ort

from polyhead_models.blocks import PROVENANCE_KEY, Provenance
from polyhead_models.config import CONFIG_KEY, AttentionConfig, ConfigError
from polyhead_server.call import ExecutionInfo
from polyhead_server.engine.device import DeviceTensor, run_on_device
from polyhead_server.engine.segment_inputs import empty_inputs, segment_feed
from polyhead_server.engine.statistics import ModelStatistics
from polyhead_server.errors import ModelFileError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_server.engine.cost import Batching
    from polyhead_server.engine.device import Device

__all__ = ["Model", "RunOptions", "read_block"]

RunOptions: TypeAlias = ort.RunOptions
Shape = list[Any]
"""Length of each axis, or its name if the length is not fixed."""
_SHRINK_ARENA_ABOVE_BYTES = 64 << 20
"""Runs that take more memory than this return it when they end. Smaller runs keep it, because
faulting the pages in again would take a tenth of their time (one row of 4096 keys)."""


class Model:
    """A loaded attention block. Safe to run from several threads at once."""

    def __init__(
        self,
        name: str,
        version: int,
        session: ort.InferenceSession,
        *,
        max_scores_bytes: int,
        batching: Batching,
        config: AttentionConfig,
        provenance: Provenance,
        segment: int | None = None,
        device: Device | None = None,
    ) -> None:
        self.config = config
        self.provenance = provenance
        self.name = name
        self.version = version
        self.providers: list[str] = session.get_providers()
        """ONNX Runtime's names of the model's providers, the preferred one first."""
        self.execution_info = ExecutionInfo(name, version, self.providers[0])
        self.max_scores_bytes = max_scores_bytes
        """Largest score matrix in a run."""
        self.batching = batching
        self.statistics = ModelStatistics()
        self.file_bytes = 0
        """Size of its files; set when it is loaded from a repository."""
        self._session = session
        self.output_names = frozenset(output.name for output in session.get_outputs())
        """Names of the graph's outputs. Graphs of older exporters have fewer."""
        self.segment = segment
        """Number of the block's segment in the graph of a whole model."""
        self._device = device
        self._of_whole: dict[str, NDArray[Any]] = {}
        """Further inputs of a run, if the block is a segment of a whole model."""
        if segment is not None:
            self._of_whole = empty_inputs(session) | segment_feed(segment)

    @property
    def inputs(self) -> dict[str, Shape]:
        """Shapes of the graph's required inputs, by name."""
        return {i.name: i.shape for i in self._session.get_inputs()}

    @property
    def optional_inputs(self) -> set[str]:
        """Names of the graph's optional inputs."""
        return {i.name for i in self._session.get_overridable_initializers()}

    @property
    def outputs(self) -> dict[str, Shape]:
        """Shapes of the graph's outputs, by name."""
        return {o.name: o.shape for o in self._session.get_outputs()}

    def run_options(self, peak_bytes: int) -> ort.RunOptions:
        """Make options of a run; setting `terminate` on them ends it at its next node.

        ``peak_bytes``: estimate of the memory that the run takes.
        """
        options = ort.RunOptions()
        if peak_bytes > _SHRINK_ARENA_ABOVE_BYTES:  # otherwise the arena keeps it for ever
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return options

    def run_graph(
        self, names: list[str], feeds: dict[str, Any], options: RunOptions | None
    ) -> list[NDArray[Any]]:
        """Run the graph once, and return the named outputs. Cancellable only with options.

        The output of a query that lies on a device stays there (DeviceTensor).
        """
        if self._device and any(isinstance(feed, DeviceTensor) for feed in feeds.values()):
            return run_on_device(
                self._session,
                names,
                self._of_whole | feeds,
                options=options,
                device=self._device,
                on_device={"output"} if isinstance(feeds["query"], DeviceTensor) else (),
            )
        outputs: list[NDArray[Any]] = self._session.run(names, self._of_whole | feeds, options)
        return outputs

    def bind(self, names: list[str], feeds: dict[str, NDArray[Any]]) -> BoundRun:
        """Make a BoundRun, which runs the graph on the same arrays each time."""
        return BoundRun(self._session, names, self._of_whole | feeds)


class BoundRun:
    """Runs a graph on arrays that stay in place, one run at a time.

    It takes three quarters of the time of a run that allocates its outputs.
    """

    def __init__(
        self, session: ort.InferenceSession, names: list[str], feeds: dict[str, NDArray[Any]]
    ) -> None:
        """``feeds``: arrays that the caller writes before a run."""
        self.outputs = [np.empty_like(output) for output in session.run(names, feeds)]
        """The outputs of the last run, in the order of the names."""
        self._session = session
        self._feeds = feeds  # the binding does not keep them
        self._binding = session.io_binding()
        for name, array in feeds.items():
            self._binding.bind_input(
                name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data
            )
        for name, output in zip(names, self.outputs, strict=True):
            self._binding.bind_output(
                name, "cpu", 0, output.dtype.type, output.shape, output.ctypes.data
            )

    def __call__(self) -> None:
        """Run the graph. The run cannot be cancelled."""
        self._session.run_with_iobinding(self._binding)


def read_block(metadata: dict[str, str]) -> tuple[AttentionConfig, Provenance]:
    """Read what a block computes, and where it comes from. Raises ModelFileError."""
    try:
        config = AttentionConfig.from_json(metadata[CONFIG_KEY])
        provenance = Provenance.from_json(metadata[PROVENANCE_KEY])
        texts = [text for text in vars(provenance).values() if isinstance(text, str)]
        "".join(texts).encode()  # JSON can hold lone surrogates, which protobuf cannot
    except KeyError:
        raise ModelFileError("its metadata does not say where it comes from") from None
    except (ConfigError, UnicodeError) as error:
        raise ModelFileError("its metadata does not describe an attention block") from error
    return config, provenance
