"""Finds and checks a stack's tensors besides attention, before any of them is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead_models.checkpoint.files import CheckpointError
from polyhead_models.checkpoint.layout import PLAIN, not_plain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from polyhead_models.checkpoint.files import Tensors

__all__ = ["Axis", "StackTensors"]

Axis = tuple[str, int]
"""Name and length of a tensor's axis; a length of 0 stands for any."""

_FORMER_NORM = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))


class StackTensors:
    """The tensors of one stack, by their names without the stack's prefix.

    ``require`` finds and checks a tensor. Only checked tensors can be read.
    """

    def __init__(
        self, tensors: Tensors, prefix: str, older: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """``older``: parts of names, with their spelling in other versions of transformers."""
        self._tensors = tensors
        self._prefix = prefix
        self._older = (*older, *_FORMER_NORM)
        self._checked: dict[str, tuple[str, tuple[int, ...]]] = {}

    def has(self, name: str) -> bool:
        """Whether a tensor of this name was required."""
        return name in self._checked

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return self._checked[name][1]

    def are_one(self, name: str, other: str) -> bool:
        """Whether two names stand for one tensor of the file."""
        return self.find(name) == self.find(other)

    def read(self, name: str) -> NDArray[np.float32]:
        """Read a tensor. Raises CheckpointError if a number is not finite in float32."""
        full, shape = self._checked[name]
        return self._tensors.read(full, self._tensors.shape(full)).reshape(shape)

    def find(self, *names: str) -> str:
        """Return the full name of the first tensor that the files have. Raises CheckpointError."""
        if full := self._first(names):
            return full
        raise CheckpointError(
            f"{self._tensors.origin} holds no tensor {self._prefix}{names[0]}; a whole model needs "
            "it, and a single layer's attention (--layer) does not"
        )

    def require(self, *names: str, axes: tuple[Axis, ...], may_have_ones: bool = False) -> None:
        """Find the first tensor that is in the files, and check it.

        The tensor is registered under the first name. ``may_have_ones``: whether axes of length 1
        may come before ``axes``. Raises CheckpointError if no tensor exists, if it has another
        shape, or if its numbers are not floating-point.
        """
        full = self.find(*names)
        stored = self._tensors.shape(full)
        self._tensors.dtype(full, stored)
        num_more = max(0, len(stored) - len(axes)) if may_have_ones else 0
        ones, shape = stored[:num_more], stored[num_more:]
        if (
            {*ones} - {1}
            or len(shape) != len(axes)
            or any(length not in {0, got} for (_, length), got in zip(axes, shape, strict=True))
        ):
            expected = ", ".join(f"{name}={length}" if length else name for name, length in axes)
            raise CheckpointError(
                f"tensor {full} in {self._tensors.files[full].name} has shape {stored}; expected "
                f"({expected}) by config.json: the two files belong to different models, or one of "
                "them was changed; download both again"
            )
        self._checked[names[0]] = full, shape

    def require_linear(
        self, name: str, rows: Axis, columns: Axis, *, has_bias: bool, is_transposed: bool = False
    ) -> None:
        """Check a linear map's weight and its bias.

        Raises CheckpointError as ``require`` does, and if there is a bias without ``has_bias``, or
        any other tensor, such as scales, because the weight is then not the matrix that the model
        multiplies by.
        """
        weight = f"{name}.weight"
        axes = (rows, columns)
        self.require(weight, axes=axes[::-1] if is_transposed else axes)
        full = self.find(weight).removesuffix(".weight")
        for other in self._tensors.within(full):
            if other.removeprefix(f"{full}.") not in PLAIN:
                raise not_plain(self._tensors, other, full)
        self.require_bias(name, rows, has_bias=has_bias)

    def require_bias(self, name: str, axis: Axis, *, has_bias: bool) -> None:
        """Check that a module has a bias if and only if ``has_bias``. Raises CheckpointError."""
        if has_bias:
            self.require(f"{name}.bias", axes=(axis,))
        else:
            self.forbid(f"{name}.bias")

    def forbid(self, name: str) -> None:
        """Raise CheckpointError if there is such a tensor."""
        if full := self._first((name,)):
            raise CheckpointError(
                f"{self._tensors.files[full].name} holds tensor {full}, and a model as its "
                "config.json describes it has none and would ignore it: the two files belong to "
                "different models; correct config.json, or remove the tensor"
            )

    def _first(self, names: tuple[str, ...]) -> str:
        """Return the full name of the first tensor that the files have; empty if they have none."""
        for name in names:
            other = name
            for part, older in self._older:
                other = other.replace(part, older)
            for spelling in (name, other):
                for full in (f"{self._prefix}{spelling}", spelling):
                    if full in self._tensors.files:
                        return full
        return ""
