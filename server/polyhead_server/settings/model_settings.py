"""Settings of the served models, and of who may change them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from polyhead_server.errors import StartupError
from polyhead_server.limits import FetchLimits, LoadLimits
from polyhead_server.settings.option import Option

__all__ = ["ModelSettings"]


def _read_models(text: str) -> Path | str:
    return text if "://" in text else Path(text)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which models are served, and who may change that."""

    models: Annotated[
        Path | str | None,
        Option(
            "model repository, NAME/VERSION/model.onnx: a folder, or with polyhead[remote] a URL "
            "such as s3://BUCKET/PATH; default: the built-in river-bank",
            reader=_read_models,
        ),
    ] = None
    models_cache: Annotated[
        Path | None,
        Option(
            "folder that keeps versions fetched from a URL; default: polyhead/models in "
            "XDG_CACHE_HOME or ~/.cache"
        ),
    ] = None
    models_cache_bytes: Annotated[
        int,
        Option(
            "bytes of fetched versions that are kept; those that were not used for longest go "
            "first; 0: no limit but the disk's",
            at_least=0,
        ),
    ] = 0
    fetch_timeout_s: Annotated[
        float,
        Option(
            "seconds that fetching one version from a URL may take; another attempt goes on where "
            "it ended",
            at_least=0.1,
            at_most=86_400,
        ),
    ] = 1800.0
    allow_unverified_models: Annotated[
        bool, Option("fetch versions that have no SHA256SUMS from a URL, too")
    ] = False
    versions: Annotated[
        str, Option("which versions of each model to load", choices=("latest", "all"))
    ] = "latest"
    watch: Annotated[
        bool,
        Option(
            "look at the repository's files every two seconds, or at a URL every 30, and load what "
            "has changed; SIGHUP does so once"
        ),
    ] = False
    load_timeout_s: Annotated[
        float,
        Option(
            "seconds that loading one version of a model may take; a slower one is given up, and "
            "others are served",
            at_least=0.1,
            at_most=86_400,
        ),
    ] = 120.0
    model_control: Annotated[
        str,
        Option(
            "whether callers may change which models are served; reload: as `polyhead models "
            "reload` does; explicit: also by RepositoryModelLoad and RepositoryModelUnload, with "
            "one worker only",
            choices=("none", "reload", "explicit"),
        ),
    ] = "none"

    @property
    def load_limits(self) -> LoadLimits:
        """Limits of loading models."""
        return LoadLimits(timeout_s=self.load_timeout_s, max_check_s=self.load_timeout_s)

    @property
    def fetch_limits(self) -> FetchLimits:
        """Limits of fetching models from a URL."""
        return FetchLimits(
            timeout_s=self.fetch_timeout_s,
            max_cache_bytes=self.models_cache_bytes,
            allows_unverified=self.allow_unverified_models,
        )

    @property
    def cache_folder(self) -> Path:
        """The folder that keeps fetched versions. Raises StartupError."""
        if self.models_cache is not None:
            return self.models_cache
        try:
            cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        except RuntimeError:
            raise StartupError(
                "this user has no home folder that would keep fetched models; choose one with "
                "--models-cache"
            ) from None
        return Path(cache) / "polyhead" / "models"
