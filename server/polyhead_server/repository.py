"""The folder of models: <repository>/<name>/<version>/model.onnx, the layout Triton uses too."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyhead_models.names import ModelNameError, check_model_name
from polyhead_server.engine import Engine, Model, ModelFileError
from polyhead_server.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    ModelUnavailableError,
    NotReadyError,
    StartupError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Repository", "UnavailableModel"]

_LOG = logging.getLogger("polyhead.repository")
_SHOWN_NAMES = 10


@dataclass(frozen=True, slots=True)
class UnavailableModel:
    """A model that is in the repository and could not be loaded."""

    name: str
    version: int
    reason: str


class Repository:
    """The loaded models, by name and version. Requests look names up here, and never on disk."""

    def __init__(self) -> None:
        self._models: dict[str, dict[int, Model | UnavailableModel]] | None = None

    def load(self, root: Path, engine: Engine, *, all_versions: bool) -> None:
        """Load the newest version of every model below a folder that can be loaded, or all.

        A model that cannot be loaded is kept as unavailable, so that the others serve. Raises
        StartupError if the folder has no model at all, or none that can be loaded.
        """
        found: dict[str, dict[int, Model | UnavailableModel]] = {}
        for name, versions in _scan(root):
            found[name] = {}
            for version in reversed(versions):
                found[name][version] = model = _load(root, name, version, engine)
                if not all_versions and isinstance(model, Model):
                    break  # and where a newer version cannot be loaded, an older one serves
        if not found:
            raise StartupError(
                f"--models {root}: no model there; expected <name>/<version>/model.onnx, such as "
                f"'polyhead export' writes with --out {root}"
            )
        models = [model for versions in found.values() for model in versions.values()]
        if all(isinstance(model, UnavailableModel) for model in models):
            reasons = "; ".join(f"{m.name}: {m.reason}" for m in models if not isinstance(m, Model))
            raise StartupError(f"--models {root}: no model there can be loaded ({reasons})")
        self._models = found

    def _loaded(self) -> dict[str, dict[int, Model | UnavailableModel]]:
        if self._models is None:
            raise NotReadyError
        return self._models

    def all(self) -> list[Model | UnavailableModel]:
        """Every model, by name and then version. Raises NotReadyError."""
        return [
            versions[version]
            for _, versions in sorted(self._loaded().items())
            for version in sorted(versions)
        ]

    def loaded(self) -> list[Model]:
        """The models that can run, by name and then version."""
        return [model for model in self.all() if isinstance(model, Model)]

    def find(self, name: str, version: int, field: str) -> Model | UnavailableModel:
        """Look a model up; version 0 is the newest. `field` is the request's field for errors.

        Raises InvalidRequestError for a name that no model can have, ModelNotFoundError, and
        NotReadyError while models are being loaded.
        """
        try:
            check_model_name(name)
        except ModelNameError as error:
            raise InvalidRequestError(field, str(error), "INVALID_NAME") from error
        versions = self._loaded().get(name)
        if versions is None:
            known = sorted(self._loaded())
            more = f" and {len(known) - _SHOWN_NAMES} more" if len(known) > _SHOWN_NAMES else ""
            raise ModelNotFoundError(
                f"no model {name!r}; this server has {', '.join(known[:_SHOWN_NAMES])}{more}",
                "MODEL_NOT_FOUND",
            )
        if version and version not in versions:
            raise ModelNotFoundError(
                f"no version {version} of model {name!r}; this server has "
                f"{', '.join(map(str, sorted(versions)))}",
                "MODEL_VERSION_NOT_FOUND",
            )
        if version:
            return versions[version]
        ready = [number for number, model in versions.items() if isinstance(model, Model)]
        return versions[max(ready or versions)]

    def get(self, name: str, version: int) -> Model:
        """Look up a model to run it. Raises as find does, and ModelUnavailableError."""
        model = self.find(name, version, "model")
        if isinstance(model, UnavailableModel):
            raise ModelUnavailableError(
                f"model {name!r} version {model.version} could not be loaded: {model.reason}",
                "MODEL_INVALID",
            )
        return model


def _scan(root: Path) -> Iterator[tuple[str, list[int]]]:
    """Find models below a folder: their names, and their versions in ascending order."""
    if not root.is_dir():
        raise StartupError(f"--models {root}: no such folder")
    for folder in sorted(root.iterdir()):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        versions = sorted(
            int(child.name)
            for child in folder.iterdir()
            if _is_version(child.name) and (child / "model.onnx").is_file()
        )
        if not versions:
            continue
        try:
            check_model_name(folder.name)
        except ModelNameError as error:
            _LOG.warning("folder skipped: %s", error)
            continue
        yield folder.name, versions


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit() and not name.startswith("0")


def _load(root: Path, name: str, version: int, engine: Engine) -> Model | UnavailableModel:
    try:
        model = engine.load(name, version, root / name / str(version) / "model.onnx")
    except ModelFileError as error:
        _LOG.warning(
            "model unavailable: %s", error, extra={"model": name, "version": version}, exc_info=True
        )
        return UnavailableModel(name, version, str(error))
    _LOG.info(
        "model loaded",
        extra={"model": name, "version": version, "provider": model.providers[0]},
    )
    return model
