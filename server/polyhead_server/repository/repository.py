"""The model repository: which models are served, by name and version."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from polyhead_models.names import ModelNameError, check_model_name
from polyhead_server.engine.onnx_model import OnnxModel
from polyhead_server.engine.whole_model import WholeModel
from polyhead_server.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    ModelUnavailableError,
    NotReadyError,
    listed,
)
from polyhead_server.repository.loading import AnyModel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from polyhead_server.call import LayerName
    from polyhead_server.engine.model import Model

__all__ = ["AnyModel", "Repository", "UnavailableModel", "Versions", "check_name", "unavailable"]

_LOG = logging.getLogger("polyhead.repository")
_UNLOADED = "unloaded"


@dataclass(frozen=True, slots=True)
class UnavailableModel:
    """A model of the repository that could not be loaded, or was unloaded."""

    name: str
    version: int
    reason: str


Versions: TypeAlias = dict[int, AnyModel | UnavailableModel]
"""Versions of one model, by their number."""


class Repository:
    """The loaded models by name and version. Requests look models up here, never on disk."""

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        """``on_change`` is called whenever other models are served."""
        self._on_change = on_change
        self._models: dict[str, Versions] | None = None
        self._problems: dict[tuple[str, int], str] = {}
        self.version = 0
        """Incremented whenever the set of served models changes."""

    def publish(
        self, models: dict[str, Versions], problems: Mapping[str, Mapping[int, str]]
    ) -> None:
        """Serve these versions of these models, and go on serving the other models.

        A model without versions is forgotten; requests that run finish. ``problems``: why versions
        are served as they were loaded before, by model and version.
        """
        served = (self._models or {}) | models
        self._models = {name: versions for name, versions in served.items() if versions}
        other_problems = {key: text for key, text in self._problems.items() if key[0] not in models}
        self._problems = other_problems | {
            (name, version): text
            for name, versions in problems.items()
            for version, text in versions.items()
        }
        self.version += 1
        self._on_change()

    def unload(self, name: str) -> None:
        """Stop serving a model; requests that run finish. Raises the errors of find."""
        self.find(name, 0, "model_name")
        unloaded: Versions = {
            version: UnavailableModel(name, version, _UNLOADED) for version in self.versions(name)
        }
        self.publish({name: unloaded}, {})

    def _loaded(self) -> dict[str, Versions]:
        if self._models is None:
            raise NotReadyError
        return self._models

    @property
    def is_loaded(self) -> bool:
        """Whether the models have been loaded."""
        return self._models is not None

    def all(self) -> list[AnyModel | UnavailableModel]:
        """Every model, by name and then version. Raises NotReadyError."""
        return [
            versions[version]
            for _, versions in sorted(self._loaded().items())
            for version in sorted(versions)
        ]

    def loaded(self) -> list[AnyModel]:
        """The models that can run, by name and then version."""
        return [model for model in self.all() if not isinstance(model, UnavailableModel)]

    def names(self) -> set[str]:
        """The names of all models."""
        return set(self._models or {})

    def versions(self, name: str) -> Versions:
        """Return the versions of a model; none if there is no such model."""
        return (self._models or {}).get(name, {})

    def is_unloaded(self, name: str) -> bool:
        """Whether a caller has unloaded a model."""
        versions = self.versions(name).values()
        return bool(versions) and all(getattr(m, "reason", "") == _UNLOADED for m in versions)

    def problem(self, name: str, version: int) -> str:
        """Return why the current files of a version are not served; "" if they are."""
        model = self.versions(name).get(version)
        if isinstance(model, UnavailableModel) and model.reason != _UNLOADED:
            return model.reason
        return self._problems.get((name, version), "")

    @property
    def has_problems(self) -> bool:
        """Whether the current files of any version are not served."""
        return any(self.problem(model.name, model.version) for model in self.all())

    def find(self, name: str, version: int, field: str) -> AnyModel | UnavailableModel:
        """Look a model up; version 0 is the newest. ``field``: the request's field, for errors.

        Raises InvalidRequestError for an invalid name, ModelNotFoundError, and NotReadyError while
        models are being loaded.
        """
        check_name(name, field)
        versions = self._loaded().get(name)
        if versions is None:
            raise ModelNotFoundError(
                f"no model {name!r}; this server has {listed(sorted(self._loaded()))}",
                "MODEL_NOT_FOUND",
            )
        if version and version not in versions:
            raise ModelNotFoundError(
                f"no version {version} of model {name!r}; this server has "
                f"{listed(sorted(versions, reverse=True))}",
                "MODEL_VERSION_NOT_FOUND",
            )
        if version:
            return versions[version]
        is_ready = {n: not isinstance(m, UnavailableModel) for n, m in versions.items()}
        return versions[max(filter(is_ready.get, versions), default=max(versions))]

    def runnable(self, name: str, version: int, field: str = "model") -> AnyModel:
        """Look up a model to run. Raises the errors of find, and ModelUnavailableError."""
        model = self.find(name, version, field)
        if isinstance(model, UnavailableModel):
            raise unavailable(model)
        return model

    def get(self, name: str, version: int, layer: LayerName | None = None) -> Model:
        """Look up an attention block to run. ``layer``: a layer of a whole model.

        Raises the errors of runnable, and InvalidRequestError for a layer that does not exist.
        """
        model = self.runnable(name, version)
        if isinstance(model, OnnxModel):
            raise ModelUnavailableError(
                f"model {name!r} was not made by polyhead export, so it is not known to be an "
                "attention block: ask for it by the Open Inference Protocol, ModelInfer",
                "NOT_AN_ATTENTION_BLOCK",
            )
        if isinstance(model, WholeModel):
            return _block(model, layer)
        if layer is not None:
            raise InvalidRequestError(
                "layer", f"is set, but model {name!r} is one block; leave it out", "NOT_APPLICABLE"
            )
        return model

    def whole(self, name: str, version: int) -> WholeModel:
        """Look up a whole model to run. Raises the errors of runnable."""
        model = self.runnable(name, version)
        if not isinstance(model, WholeModel):
            raise ModelUnavailableError(
                f"model {name!r} is not a whole model: call Attend, or export the checkpoint "
                "without --layer",
                "NOT_A_WHOLE_MODEL",
            )
        return model


def _block(model: WholeModel, layer: LayerName | None) -> Model:
    if layer is None:
        raise InvalidRequestError(
            "layer",
            f"is required, because model {model.name!r} is a whole model; name one of its layers, "
            "or call Forward",
            "REQUIRED",
        )
    stacks = model.config.stacks
    default = stacks[-1] if layer.kind == "cross" else stacks[0]
    name = layer.stack or default.name
    try:
        return model.block(name, layer.layer, layer.kind)
    except KeyError:
        pass
    has = ", ".join(f"{stack.name} 0 to {len(stack.layers) - 1}" for stack in stacks)
    raise InvalidRequestError(
        "layer",
        f"expected a layer of {has}; got {name} {layer.layer} ({layer.kind}-attention)",
        "OUT_OF_RANGE",
    )


def check_name(name: str, field: str) -> None:
    """Raise InvalidRequestError for a name that no model can have."""
    if not name:
        raise InvalidRequestError(field, "is required, and not set", "REQUIRED")
    try:
        check_model_name(name)
    except ModelNameError as error:
        raise InvalidRequestError(field, str(error), "INVALID_NAME") from error


def unavailable(model: AnyModel | UnavailableModel) -> ModelUnavailableError:
    """Make the error for a model that cannot run."""
    assert isinstance(model, UnavailableModel)
    if model.reason == _UNLOADED:
        message = f"model {model.name!r} version {model.version} was unloaded"
        return ModelUnavailableError(message, "MODEL_UNLOADED")
    return ModelUnavailableError(
        f"model {model.name!r} version {model.version} could not be loaded: {model.reason}",
        "MODEL_INVALID",
    )
