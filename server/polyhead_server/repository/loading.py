"""Loads a version of a model: compares its files, opens and runs its graph, copies its weights."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeAlias

from polyhead_models.store import MODEL_FILE
from polyhead_server.engine.mapped_files import copy_mapped_files, forget_mapped_pages
from polyhead_server.engine.model import Model
from polyhead_server.engine.onnx_model import OnnxModel
from polyhead_server.engine.whole_model import WholeModel
from polyhead_server.errors import ModelFileError, StartupError
from polyhead_server.limits import LoadLimits
from polyhead_server.repository.files import check_inside, has_checksums
from polyhead_server.repository.graph_operators import check_operators
from polyhead_server.repository.layout import graph_file
from polyhead_server.repository.model_check import check_model
from polyhead_server.repository.triton_config import CONFIG_FILE, read_config
from polyhead_server.repository.whole_check import check_whole_model

if TYPE_CHECKING:
    from pathlib import Path

    from polyhead_server.engine.runtime import Engine

__all__ = ["AnyModel", "load_version"]

_LOG = logging.getLogger("polyhead.repository")

AnyModel: TypeAlias = Model | OnnxModel | WholeModel


def load_version(
    folder: Path,
    version: int,
    engine: Engine,
    num_models: int,
    limits: LoadLimits = LoadLimits(),  # noqa: B008 - it is frozen
) -> AnyModel:
    """Load a version of the model in a folder, whose name is the model's.

    ``num_models``: see Engine.load. Raises ModelFileError for whatever is wrong with the version,
    and StartupError as Engine.load does.
    """
    try:
        return _load(folder, version, engine, num_models, limits)
    except (ModelFileError, StartupError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a full disk, a library's panic; the other models serve on
        raise ModelFileError("it cannot be loaded; the server's log says why") from error


def _load(
    folder: Path, version: int, engine: Engine, num_models: int, limits: LoadLimits
) -> AnyModel:
    check_inside(folder.parent, folder / CONFIG_FILE, CONFIG_FILE)
    config = read_config(folder, limits.max_config_bytes)
    path = graph_file(folder, version, config.model_file, limits.max_graph_bytes)
    check_inside(folder.parent, path, MODEL_FILE)
    is_checked = has_checksums(path.parent)
    check_operators(path, limits)
    model = engine.load(folder.name, version, path, config.max_batch_size, num_models=num_models)
    model.file_bytes = sum(file.stat().st_size for file in path.parent.iterdir() if file.is_file())
    if isinstance(model, OnnxModel):
        copy_mapped_files(path.parent, only_resident=False)
        return model
    if not is_checked:
        _LOG.info(
            "files not compared, because the version has no SHA256SUMS",
            extra={"model": folder.name, "version": version},
        )
    forget_mapped_pages(path.parent)
    if isinstance(model, Model):
        check_model(model, model.file_bytes, limits.max_check_s)
    else:
        check_whole_model(model, model.file_bytes, limits.max_check_s)
    copy_mapped_files(path.parent, only_resident=True)
    return model
