"""Finds an attention block's weights in a checkpoint, and splits them out of its tensors.

Some models keep each projection in its own tensor, others several in one tensor, in various orders.
A block's weights are always separate, and (out_features, in_features).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from polyhead_models.checkpoint.families.family import ALL_FOUR, FUSED
from polyhead_models.checkpoint.files import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from numpy.typing import NDArray

    from polyhead_models.checkpoint.families.family import TensorNames
    from polyhead_models.checkpoint.files import Tensors
    from polyhead_models.config import AttentionConfig

__all__ = ["PLAIN", "Module", "TensorPart", "not_plain"]

PLAIN = {"weight", "bias"}
"""Names of the tensors of a linear map that is not quantised."""
CACHE_SCALES = {"k_scale", "v_scale"}
"""Scales of a quantised cache of keys and values, which the linear map does not use."""


@dataclass(frozen=True, kw_only=True)
class TensorPart:
    """A tensor of a checkpoint, and the layout of the weights in it."""

    tensor: str
    """Full name of the tensor."""
    rows: Mapping[str, int]
    """Number of rows of each weight in the tensor, in order."""
    columns: tuple[int, ...]
    """Shape of a row; () for vectors."""
    is_transposed: bool = False
    """Whether the tensor is stored transposed."""
    num_groups: int = 1
    """Number of groups of rows; each group has an equal share of every weight's rows."""
    offset: float = 0.0
    """Number to add to the stored numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape, as stored."""
        shape = (sum(self.rows.values()), *self.columns)
        return shape[::-1] if self.is_transposed else shape

    def split(self, array: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Split the tensor into its weights."""
        if self.is_transposed:
            array = np.ascontiguousarray(array.T)
        if self.offset:
            array = array + np.float32(self.offset)
        ends = np.cumsum([rows // self.num_groups for rows in self.rows.values()])[:-1]
        grouped = array.reshape(self.num_groups, -1, *self.columns)
        return {
            name: piece.reshape(-1, *self.columns)
            for name, piece in zip(self.rows, np.split(grouped, ends, axis=1), strict=True)
        }


@dataclass(frozen=True, kw_only=True)
class Module:
    """One layer's attention module in a checkpoint's files."""

    tensors: Tensors
    names: TensorNames
    """Names of the module's tensors in the files."""
    prefix: str
    """Prefix of these names in the files, such as ``bert.``, or empty."""
    layer: str
    """The text for ``{layer}`` in the names."""

    @classmethod
    def find(cls, tensors: Tensors, choices: tuple[TensorNames, ...], layer: str) -> Module:
        """Find the names that the files use, and their prefix.

        Raises CheckpointError if the files use none of these names, or hold several models.
        """
        query_tensors = [names.query_tensor.format(layer=layer) for names in choices]
        for names, name in zip(choices, query_tensors, strict=True):
            prefixes = tensors.prefixes(name)
            if len(prefixes) > 1:
                raise CheckpointError(
                    f"{tensors.origin} holds several models, with the name prefixes "
                    f"{', '.join(map(repr, prefixes))}; save the one you mean as its own checkpoint"
                )
            if prefixes:
                return cls(tensors=tensors, names=names, prefix=prefixes[0], layer=layer)
        for name in tensors.files:
            for linear in (weight.removesuffix("weight") for weight in query_tensors):
                _, separator, inner = f".{name}".partition(f".{linear}")
                if separator and inner not in PLAIN:
                    raise not_plain(tensors, name, linear.removesuffix("."))
        raise CheckpointError(
            f"{tensors.origin} holds no tensor {' or '.join(query_tensors)}, with or without a "
            f"prefix; {_describe_tensors(tensors)}. Is it the checkpoint that its config.json "
            "describes?"
        )

    @property
    def name(self) -> str:
        """Name of the module, without the prefix."""
        return self.names.module.format(layer=self.layer)

    def parts(self, config: AttentionConfig, biased: Collection[str]) -> Iterator[TensorPart]:
        """List the tensors of a block; ``biased``: the projections with a bias.

        Raises CheckpointError if there is a bias that the model does not add, because config.json
        then describes another model.
        """
        shapes = config.weight_shapes()
        for stem in (*ALL_FOUR, *FUSED):
            tensor = getattr(self.names, stem)
            projections = [name for name in FUSED.get(stem, (stem,)) if f"{name}.weight" in shapes]
            if tensor and projections:
                yield from self._linear(
                    f"{self.prefix}{self.name}.{tensor}", projections, config, biased
                )
        for weight, tensor in self._other_tensors().items():
            if weight in shapes:
                count, *columns = shapes[weight]
                yield TensorPart(
                    tensor=tensor,
                    rows={weight: count},
                    columns=tuple(columns),
                    offset=1.0 if "norm" in weight and self.names.is_norm_less_one else 0.0,
                )

    def _linear(
        self, linear: str, projections: list[str], config: AttentionConfig, biased: Collection[str]
    ) -> Iterator[TensorPart]:
        """List the weight and the bias of one linear map, of one projection or several.

        Raises CheckpointError if the map has other tensors, such as scales, because its weight is
        then not the matrix that the model multiplies by.
        """
        for name in self.tensors.within(linear):
            if name.removeprefix(f"{linear}.") not in PLAIN | CACHE_SCALES:
                raise not_plain(self.tensors, name, linear)
        shapes = config.weight_shapes()
        rows = {name: shapes[f"{name}.weight"][0] for name in projections}
        num_groups = config.num_kv_heads if self.names.is_by_group and len(projections) > 1 else 1
        yield TensorPart(
            tensor=f"{linear}.weight",
            rows={f"{name}.weight": count for name, count in rows.items()},
            columns=shapes[f"{projections[0]}.weight"][1:],
            is_transposed=self.names.is_transposed,
            num_groups=num_groups,
        )
        if {*projections} <= {*biased}:
            rows = {f"{name}.bias": count for name, count in rows.items()}
            yield TensorPart(tensor=f"{linear}.bias", rows=rows, columns=(), num_groups=num_groups)
        elif f"{linear}.bias" in self.tensors.files:
            raise CheckpointError(
                f"{self.tensors.origin} holds tensor {linear}.bias; a model as its config.json "
                "describes it has no such bias"
            )

    def _other_tensors(self) -> dict[str, str]:
        """Map weights that are not projections to the names of their tensors."""
        module, names = f"{self.prefix}{self.name}", self.names
        return {
            "q_norm.weight": f"{module}.{names.q_norm}.weight",
            "k_norm.weight": f"{module}.{names.k_norm}.weight",
            "sinks": f"{module}.{names.sinks}",
            "relative_bias.weight": f"{self.prefix}{names.relative_bias}.weight",
        }


def not_plain(tensors: Tensors, name: str, linear: str) -> CheckpointError:
    """Make the exception for a linear map with another tensor than a weight and a bias."""
    return CheckpointError(
        f"{tensors.origin} holds tensor {name}, so {linear} is not a plain weight with a bias: it "
        "is quantised, compressed, or changed by an adapter; export the checkpoint as it was "
        "before quantisation, or with the adapter merged into its weights"
    )


def _describe_tensors(tensors: Tensors) -> str:
    examples = [name for name in tensors.files if "att" in name.lower()] or [*tensors.files]
    if not examples:
        return "it holds no tensors at all"
    return f"it holds, for example, {', '.join(examples[:2])}"
