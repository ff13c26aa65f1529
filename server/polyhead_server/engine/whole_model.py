"""A whole model: one session whose segments run one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from polyhead_models.blocks import PROVENANCE_KEY, Provenance
from polyhead_models.config import ConfigError
from polyhead_models.whole_config import WHOLE_KEY, WholeConfig
from polyhead_server.call import ExecutionInfo
from polyhead_server.engine.device import run_on_device
from polyhead_server.engine.segment_inputs import empty_inputs, segment_feed, takes_input
from polyhead_server.engine.statistics import ModelStatistics
from polyhead_server.errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import onnxruntime as ort
    from numpy.typing import NDArray

    from polyhead_models.config import AttentionConfig
    from polyhead_models.whole_config import Stack
    from polyhead_server.engine.device import Device
    from polyhead_server.engine.model import Model, RunOptions
    from polyhead_server.engine.tokenizer import Tokenizer

    class MakeBlock(Protocol):
        """Makes the model of a block of its segment's number."""

        def __call__(
            self, *, config: AttentionConfig, provenance: Provenance, segment: int
        ) -> Model: ...


__all__ = ["WholeModel"]


class WholeModel:
    """A loaded whole model. Safe to run from several threads at once."""

    def __init__(
        self,
        name: str,
        version: int,
        session: ort.InferenceSession,
        make_block: MakeBlock,
        read_tokenizer: Callable[[int, str], Tokenizer | None],
        *,
        device: Device | None = None,
    ) -> None:
        """``read_tokenizer``: gets the number of tokens that texts are cut to, and the end.

        ``device``: keeps the outputs of segments; None means that they are NumPy arrays. Raises
        ModelFileError.
        """
        self.name = name
        self.version = version
        self.providers: list[str] = session.get_providers()
        self.execution_info = ExecutionInfo(name, version, self.providers[0])
        self.statistics = ModelStatistics()
        self.file_bytes = 0
        """Size of its files; set when it is loaded from a repository."""
        self._session = session
        self._device = device
        self._empty = empty_inputs(session)
        self._takes_types = takes_input(session, "token_type_ids")
        metadata = session.get_modelmeta().custom_metadata_map
        try:
            self.config = WholeConfig.from_json(metadata[WHOLE_KEY])
            self.provenance = Provenance.from_json(metadata[PROVENANCE_KEY])
            self._blocks = {
                (stack.name, layer, sublayer.kind): make_block(
                    config=block, provenance=self.provenance, segment=sublayer.attention
                )
                for stack, layer, sublayer in self.config.sublayers()
                if (block := sublayer.block) is not None
            }
        except (ConfigError, KeyError) as error:
            raise ModelFileError("its metadata does not describe a whole model") from error
        for model in self._blocks.values():
            model.statistics = self.statistics  # calls of a block count as calls of the model
        token_stacks = [stack for stack in self.config.stacks if stack.input == "token_ids"]
        self.tokenizer: Tokenizer | None = None
        """The tokenizer; None if the model takes no texts."""
        if token_stacks:
            length, side = token_stacks[0].trained_length, self.config.truncation_side
            self.tokenizer = read_tokenizer(length, side)

    def block(self, stack: str, layer: int, kind: str) -> Model:
        """Return the model of one attention block. Raises KeyError."""
        return self._blocks[stack, layer, kind]

    def num_token_types(self, stack: Stack) -> int:
        """Return how many types the tokens of a stack may have; 0: the stack has no types.

        Graphs of earlier exports give every token the first one.
        """
        return stack.num_types if self._takes_types else min(1, stack.num_types)

    def blocks(self) -> Iterator[Model]:
        """Yield the models of all attention blocks."""
        yield from self._blocks.values()

    def run_options(self) -> RunOptions:
        """Make options of runs; setting `terminate` on them ends a run at its next node."""
        return next(iter(self._blocks.values())).run_options(0)

    def run(
        self, segment: int, feeds: dict[str, NDArray[Any]], options: RunOptions | None
    ) -> NDArray[Any]:
        """Run one segment, and return its output, which stays on the device if there is one."""
        feeds = self._empty | feeds | segment_feed(segment)
        if self._device:
            names = ["output"]
            tensor: NDArray[Any]  # a DeviceTensor, which NumPy takes for an array
            [tensor] = run_on_device(
                self._session, names, feeds, options=options, device=self._device, on_device=names
            )
            return tensor
        output: NDArray[Any] = self._session.run(["output"], feeds, options)[0]
        return output
