"""The model repository: the models of a folder, loaded by name and version."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyhead_models.names import ModelNameError, check_model_name, is_utf8
from polyhead_server.engine.onnx_model import OnnxModel
from polyhead_server.engine.whole_model import WholeModel
from polyhead_server.errors import (
    InvalidRequestError,
    ModelFileError,
    ModelNotFoundError,
    ModelUnavailableError,
    NotReadyError,
    StartupError,
)
from polyhead_server.repository.layout import versions_of
from polyhead_server.repository.loading import AnyModel, load_version

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from polyhead_server.engine.runtime import Engine, Model
    from polyhead_server.forward_call import LayerName

__all__ = ["AnyModel", "Repository", "UnavailableModel"]

_LOG = logging.getLogger("polyhead.repository")
_MAX_LISTED = 10
_UNLOADED = "unloaded"


@dataclass(frozen=True, slots=True)
class UnavailableModel:
    """A model of the repository that could not be loaded, or was unloaded."""

    name: str
    version: int
    reason: str


class Repository:
    """The loaded models by name and version. Requests look models up here, never on disk."""

    def __init__(self) -> None:
        self._models: dict[str, dict[int, AnyModel | UnavailableModel]] | None = None
        self._is_abandoned = False
        self.version = 0
        """Incremented whenever the set of served models changes."""

    def load(self, root: Path, engine: Engine, *, all_versions: bool) -> None:
        """Load every model below a folder: all versions, or the newest one that can be loaded.

        A model that cannot be loaded is kept as unavailable, and the others serve. Raises
        StartupError if the folder has no model, or if no model can be loaded.
        """
        folders = dict(_scan(root))
        num_models = sum(map(len, folders.values())) if all_versions else len(folders)
        found: dict[str, dict[int, AnyModel | UnavailableModel]] = {}
        for name, versions in folders.items():
            found[name] = {}
            for version in reversed(versions):
                if self._is_abandoned:
                    return
                found[name][version] = model = _load(root, name, version, engine, num_models)
                if not all_versions and not isinstance(model, UnavailableModel):
                    break  # an older version serves only if no newer one can be loaded
        if not found:
            raise StartupError(
                f"--models {root}: no model there; expected <name>/<version>/model.onnx, such as "
                f"'polyhead export' writes with --out {root}"
            )
        models = [model for versions in found.values() for model in versions.values()]
        if all(isinstance(model, UnavailableModel) for model in models):
            reasons = "; ".join(
                f"{m.name}: {m.reason}" for m in models if isinstance(m, UnavailableModel)
            )
            raise StartupError(f"--models {root}: no model there can be loaded ({reasons})")
        threads = engine.threads_per_model(num_models)
        if threads < engine.threads:
            _LOG.info(
                "runs have %d threads instead of %d, because %d models each keep a pool of their "
                "own; --spinning on gives all models one pool",
                threads,
                engine.threads,
                num_models,
            )
        self._models = found
        self.version += 1

    def load_model(self, root: Path, name: str, engine: Engine, *, all_versions: bool) -> None:
        """Load or reload one model of a folder.

        The versions served before are served until the new ones are loaded, and go on being served
        if that fails. Raises ModelNotFoundError, ModelUnavailableError, and what find raises.
        """
        _check_name(name, "model_name")
        models = self._loaded()
        try:
            versions = versions_of(root / name)
        except OSError as error:
            raise ModelUnavailableError(
                f"model {name!r} cannot be read: {error.strerror}", "MODEL_INVALID"
            ) from error
        if not versions:
            raise ModelNotFoundError(
                f"no model {name!r} in the repository: expected {name}/<version>/model.onnx there",
                "MODEL_NOT_FOUND",
            )
        wanted = versions if all_versions else versions[-1:]
        others = sum(model.name != name for model in self.loaded())
        num_models = others + len(wanted)
        found = {
            version: _load(root, name, version, engine, num_models) for version in reversed(wanted)
        }
        if all(isinstance(model, UnavailableModel) for model in found.values()):
            raise _unavailable(found[wanted[-1]])
        self._models = models | {name: found}
        self.version += 1

    def unload_model(self, name: str) -> None:
        """Stop serving a model; requests that run finish. Raises what find raises."""
        self.find(name, 0, "model_name")
        models = self._loaded()
        unloaded: dict[int, AnyModel | UnavailableModel] = {
            version: UnavailableModel(name, version, _UNLOADED) for version in models[name]
        }
        self._models = models | {name: unloaded}
        self.version += 1

    def abandon(self) -> None:
        """Make load, which runs in another thread, stop after the current model."""
        self._is_abandoned = True

    def _loaded(self) -> dict[str, dict[int, AnyModel | UnavailableModel]]:
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

    def find(self, name: str, version: int, field: str) -> AnyModel | UnavailableModel:
        """Look a model up; version 0 is the newest. `field` is the request's field for errors.

        Raises InvalidRequestError for a name that no model can have, ModelNotFoundError, and
        NotReadyError while models are being loaded.
        """
        _check_name(name, field)
        versions = self._loaded().get(name)
        if versions is None:
            raise ModelNotFoundError(
                f"no model {name!r}; this server has {_listed(sorted(self._loaded()))}",
                "MODEL_NOT_FOUND",
            )
        if version and version not in versions:
            raise ModelNotFoundError(
                f"no version {version} of model {name!r}; this server has "
                f"{_listed(sorted(versions, reverse=True))}",
                "MODEL_VERSION_NOT_FOUND",
            )
        if version:
            return versions[version]
        is_ready = {n: not isinstance(m, UnavailableModel) for n, m in versions.items()}
        return versions[max(filter(is_ready.get, versions), default=max(versions))]

    def runnable(self, name: str, version: int, field: str = "model") -> AnyModel:
        """Look up a model to run. Raises what find raises, and ModelUnavailableError."""
        model = self.find(name, version, field)
        if isinstance(model, UnavailableModel):
            raise _unavailable(model)
        return model

    def get(self, name: str, version: int, layer: LayerName | None = None) -> Model:
        """Look up an attention block to run; ``layer`` names one of a whole model.

        Raises what runnable raises, and InvalidRequestError for a layer that there is not.
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
                "layer", f"is set, and model {name!r} is one block; leave it out", "NOT_APPLICABLE"
            )
        return model

    def whole(self, name: str, version: int) -> WholeModel:
        """Look up a whole model to run. Raises what runnable raises."""
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


def _check_name(name: str, field: str) -> None:
    if not name:
        raise InvalidRequestError(field, "is required, and not set", "REQUIRED")
    try:
        check_model_name(name)
    except ModelNameError as error:
        raise InvalidRequestError(field, str(error), "INVALID_NAME") from error


def _unavailable(model: AnyModel | UnavailableModel) -> ModelUnavailableError:
    assert isinstance(model, UnavailableModel)
    if model.reason == _UNLOADED:
        message = f"model {model.name!r} version {model.version} was unloaded"
        return ModelUnavailableError(message, "MODEL_UNLOADED")
    return ModelUnavailableError(
        f"model {model.name!r} version {model.version} could not be loaded: {model.reason}",
        "MODEL_INVALID",
    )


def _listed(items: Iterable[object]) -> str:
    """List the first items, because a long error message would not reach the caller."""
    texts = [str(item) for item in items]
    more = f" and {len(texts) - _MAX_LISTED} more" if len(texts) > _MAX_LISTED else ""
    return ", ".join(texts[:_MAX_LISTED]) + more


def _scan(root: Path) -> Iterator[tuple[str, list[int]]]:
    """Yield each model below a folder: its name, and its versions in ascending order."""
    try:
        _check_root(root)
        folders = sorted(root.iterdir())
    except OSError as error:
        raise StartupError(f"--models {root}: cannot be read: {error.strerror}") from error
    for folder in folders:
        try:
            versions = versions_of(folder)
            if versions:
                check_model_name(folder.name)
        except OSError as error:  # such as a volume's lost+found
            _LOG.warning("folder skipped: %r: %s", folder.name, error.strerror)
        except ModelNameError as error:
            _LOG.warning("folder skipped: %s", error)
        else:
            if versions:
                yield folder.name, versions


def _check_root(root: Path) -> None:
    if not is_utf8(root):
        raise StartupError(
            f"--models {root}: the path is not UTF-8, and ONNX Runtime opens no such path; rename "
            "the folder, or name it by a link or a relative path that is UTF-8"
        )
    if root.is_file():
        raise StartupError(
            f"--models {root}: is a file; expected a folder of <name>/<version>/model.onnx, "
            "such as 'polyhead export' writes with --out"
        )
    if not root.is_dir():
        raise StartupError(f"--models {root}: there is no such folder")


def _load(
    root: Path, name: str, version: int, engine: Engine, num_models: int
) -> AnyModel | UnavailableModel:
    try:
        model = load_version(root / name, version, engine, num_models)
    except ModelFileError as error:
        _LOG.warning(
            "model unavailable: %s",
            error,
            extra={"model": name, "version": version},
            exc_info=True,
        )
        return UnavailableModel(name, version, str(error))
    _LOG.info(
        "model loaded",
        extra={"model": name, "version": version, "provider": model.providers[0]},
    )
    return model
