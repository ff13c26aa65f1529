"""Which models are served, and who may change that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - get_type_hints needs it
from typing import Annotated

from polyhead_server.limits import LoadLimits
from polyhead_server.settings.option import Option

__all__ = ["ModelSettings"]


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which models are served, and who may change that."""

    models: Annotated[
        Path | None,
        Option("model repository, NAME/VERSION/model.onnx; default: the built-in river-bank"),
    ] = None
    versions: Annotated[
        str, Option("which versions of each model to load", choices=("latest", "all"))
    ] = "latest"
    watch: Annotated[
        bool,
        Option(
            "look at the repository's files every two seconds, and load what has changed; SIGHUP "
            "does so once"
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
