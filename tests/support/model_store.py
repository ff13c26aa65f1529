"""A store of models in memory, which fsspec reads at faulty://, and which may be made to fail."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass, field

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from polyhead_models.checksums import CHECKSUMS_FILE

URL = "faulty://store"


class FaultyFileSystem(MemoryFileSystem):
    protocol = "faulty"
    store: dict = {}  # noqa: RUF012 - as in the class above, of the process
    pseudo_dirs: list = [""]  # noqa: RUF012
    faults = None
    """The ModelStore of the test."""

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("faulty://", "memory://"))

    def find(self, path, *arguments, **options):
        if self.faults.list_error:
            raise self.faults.list_error
        return self.faults.change_listing(super().find(path, *arguments, **options))

    def cat_file(self, path, start=None, end=None, **options):
        content = super().cat_file(path, start, end, **options)
        below = path.removeprefix("/store/")
        self.faults.reads.append((below, start, end))
        return self.faults.change(below, start, content)


@dataclass
class ModelStore:
    """What is in the store, what was read of it, and what goes wrong."""

    url: str = URL
    reads: list = field(default_factory=list)
    list_error: Exception | None = None
    change: object = staticmethod(lambda path, start, content: content)
    """Returns what a read gives, or raises an error; called with path, start and bytes."""
    change_listing: object = staticmethod(lambda found: found)

    def write(self, path, content):
        """Write a file, by its path in the store."""
        FaultyFileSystem(skip_instance_cache=True).pipe(f"/store/{path}", content)

    def remove(self, path):
        FaultyFileSystem(skip_instance_cache=True).rm(f"/store/{path}", recursive=True)

    def write_version(self, name, version, files, *, with_checksums=True):
        """Write a version, with its checksums last."""
        for file, content in files.items():
            self.write(f"{name}/{version}/{file}", content)
        if with_checksums:
            lines = [f"{hashlib.sha256(c).hexdigest()}  {f}\n" for f, c in files.items()]
            self.write(f"{name}/{version}/{CHECKSUMS_FILE}", "".join(lines).encode())

    def upload(self, repository):
        """Copy a repository's folder."""
        for path in sorted(repository.rglob("*")):
            if path.is_file():
                self.write(str(path.relative_to(repository)), path.read_bytes())

    def num_reads(self, ending):
        return sum(path.endswith(ending) for path, _, _ in self.reads)


@contextmanager
def model_store():
    """Make an empty store."""
    fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
    FaultyFileSystem.store.clear()
    FaultyFileSystem.pseudo_dirs[:] = [""]
    FaultyFileSystem.faults = ModelStore()
    yield FaultyFileSystem.faults
    FaultyFileSystem.store.clear()
