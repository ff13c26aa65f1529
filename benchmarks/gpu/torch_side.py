"""The same checkpoint in torch, loaded by transformers, with eager attention or torch's sdpa."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import transformers

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["TorchModel", "describe", "has_gpu"]

torch.backends.cuda.matmul.allow_tf32 = False  # polyhead leaves it off too
torch.backends.cudnn.allow_tf32 = False
transformers.utils.logging.disable_progress_bar()


def has_gpu() -> bool:
    """Whether torch finds a GPU."""
    return torch.cuda.is_available()


def describe(device: str) -> str:
    """Name the device and torch's version."""
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return f"{name}, torch {torch.__version__}, transformers {transformers.__version__}"


class TorchModel:
    """A model on a device."""

    def __init__(self, checkpoint: Path, device: str, attention: str, precision: str) -> None:
        """``attention``: eager or sdpa."""
        self._model: Any = transformers.AutoModel.from_pretrained(
            checkpoint, attn_implementation=attention, dtype=getattr(torch, precision)
        )
        self._model.to(device).eval()
        self._device = device

    @torch.inference_mode()
    def run(
        self, ids: NDArray[np.int64], *, all_weights: bool = False
    ) -> tuple[NDArray[Any], list[NDArray[Any]]]:
        """Return the output and, if requested, the weights of all layers, in host memory."""
        tensor = torch.from_numpy(ids).to(self._device)
        outputs = self._model(tensor, output_attentions=all_weights)
        weights = outputs.attentions if all_weights else ()
        return outputs.last_hidden_state.cpu().numpy(), [each.cpu().numpy() for each in weights]
