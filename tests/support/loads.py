"""Loads repositories in tests, as the server does at its start and on demand."""

from __future__ import annotations

import asyncio

from polyhead_server.limits import LoadLimits
from polyhead_server.repository.model_loads import ModelLoads
from polyhead_server.repository.repository import Repository
from polyhead_server.repository.source import FolderSource


def loads_of(repository, folder, engine, *, all_versions=False, **limits):
    limits = LoadLimits(**limits)
    source = FolderSource(folder, limits.watch_interval_s)
    return ModelLoads(repository, source, engine, limits, all_versions=all_versions)


def load_repository(folder, engine, *, all_versions=False, repository=None):
    """Load every model of a folder."""
    repository = repository or Repository()
    loads = loads_of(repository, folder, engine, all_versions=all_versions)
    asyncio.run(loads.load_all())
    return repository


def load_model(repository, folder, name, engine, *, all_versions=False):
    """Load one more model, or one again."""
    asyncio.run(loads_of(repository, folder, engine, all_versions=all_versions).load(name))


def reload(repository, folder, engine, *, all_versions=False):
    """Reload a repository by loads that know nothing of how it was loaded."""
    loads = loads_of(repository, folder, engine, all_versions=all_versions)
    return asyncio.run(loads.reload())
