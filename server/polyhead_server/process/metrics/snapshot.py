"""The counts and gauges of a process at one moment, as plain values for another process."""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from polyhead_server.repository.repository import UnavailableModel

if TYPE_CHECKING:
    from polyhead_server.engine.statistics import ModelTotals
    from polyhead_server.repository.repository import Repository
    from polyhead_server.rpc.call_counts import CallCounts
    from polyhead_server.scheduling.scheduler import Load, Scheduler

__all__ = ["ServedModel", "Snapshot", "take_snapshot"]


class ServedModel(NamedTuple):
    """A version of a model that is served, and its statistics."""

    name: str
    version: int
    provider: str
    file_bytes: int
    """Size of the model's files, which is about the memory of its weights."""
    totals: ModelTotals


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The numbers of one process."""

    pid: int
    calls: CallCounts
    load: Load
    models: list[ServedModel]
    num_unavailable: int
    """Models of the repository that are not served."""


def take_snapshot(calls: CallCounts, scheduler: Scheduler, repository: Repository) -> Snapshot:
    """Copy the present numbers. Must be called on the event loop, which changes them."""
    models = repository.all() if repository.is_loaded else []
    served = [
        ServedModel(
            model.name,
            model.version,
            model.providers[0],
            model.file_bytes,
            model.statistics.totals(),
        )
        for model in models
        if not isinstance(model, UnavailableModel)
    ]
    num_unavailable = len(models) - len(served)
    return Snapshot(os.getpid(), deepcopy(calls), scheduler.load(), served, num_unavailable)
