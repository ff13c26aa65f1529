"""The inputs that a run of one segment feeds for all other segments of a whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnxruntime as ort
    from numpy.typing import NDArray

__all__ = ["empty_inputs", "segment_feed", "takes_input"]

_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


def segment_feed(segment: int) -> dict[str, NDArray[Any]]:
    """Return the input that selects a segment."""
    return {"segment": np.array(segment)}


def empty_inputs(session: ort.InferenceSession) -> dict[str, NDArray[Any]]:
    """Return an empty array for each input of a whole model's graph that has no default.

    In float32 all inputs have a default. In float16 no input has one (ARCHITECTURE.md, Decisions),
    and ONNX Runtime requires all of them in every run.
    """
    return {
        each.name: np.zeros([d if isinstance(d, int) else 0 for d in each.shape], dtype)
        for each in session.get_inputs()
        if each.name != "segment" and (dtype := _DTYPES.get(each.type))
    }


def takes_input(session: ort.InferenceSession, name: str) -> bool:
    """Whether a graph has an input; one with a default is an initializer that may be overridden."""
    inputs = *session.get_inputs(), *session.get_overridable_initializers()
    return any(each.name == name for each in inputs)
