"""Find a checkpoint's model family by its config.json, and refuse unsupported variants."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from polyhead_models.checkpoint.families import FAMILIES
from polyhead_models.checkpoint.families.settings import CONFIG_FILE, Settings
from polyhead_models.checkpoint.files import CheckpointError
from polyhead_models.checkpoint.other_formats import nearest_families

if TYPE_CHECKING:
    from polyhead_models.checkpoint.families.family import Family

__all__ = ["custom_code", "find_family"]


def find_family(settings: Settings, model_type: str) -> Family:
    """Return the family of a ``model_type``. Raises CheckpointError if it is not supported."""
    if model_type not in FAMILIES:
        code = custom_code(settings)
        raise CheckpointError(
            f"{CONFIG_FILE}: model_type is {model_type!r}, which is not supported; "
            f"{nearest_families(model_type, FAMILIES)}{code and f'; {code}'}"
        )
    family = FAMILIES[model_type]
    for key, supported in family.supported.items():
        *objects, last = key.split(".")
        inner = reduce(Settings.inner, objects, settings)
        if inner.values.get(last, supported[0]) not in supported:
            raise inner.error(last, f"only {supported[0]!r} is supported")
    _check_quantisation(settings)
    return family


def custom_code(settings: Settings) -> str:
    """Describe the custom code that a checkpoint has for its model; empty if it has none.

    ``auto_map`` has a class for each of transformers' Auto classes: ``module.Class`` in the same
    folder, or ``repository--module.Class``. Classes of tokenizers and configurations do not matter.
    """
    auto_map = settings.get("auto_map", dict, {}, {})
    classes = [
        str(auto_map[key])
        for key in sorted(auto_map)
        if key.startswith(("AutoModel", "AutoBackbone")) and auto_map[key]
    ]
    if not classes:
        return ""
    repository, _, name = classes[0].rpartition("--")
    place = f" of the repository {repository!r}" if repository else ""
    return (
        f"auto_map in {CONFIG_FILE} names custom code, {name!r}{place}, which polyhead does not run"
    )


def _check_quantisation(settings: Settings) -> None:
    """Refuse models that quantise plain weights when they run, as BitNet models do.

    Quantised stored weights are recognised by their tensors (layout.py), because each library has
    another form for the list of modules that it does not quantise.
    """
    quantisation = settings.inner("quantization_config")
    if quantisation.values.get("quantization_mode") == "online":
        raise quantisation.error(
            "quantization_mode",
            "the model rounds its weights when it runs, which polyhead does not",
        )
