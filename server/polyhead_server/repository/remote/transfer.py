"""The reads of one fetch from a store, with its time limit and progress."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from polyhead_server.errors import FetchError, ModelFileError, quoted
from polyhead_server.repository.remote.questions import StoreError

if TYPE_CHECKING:
    from polyhead_server.limits import FetchLimits
    from polyhead_server.repository.remote.listing import StoredFile
    from polyhead_server.repository.remote.store import Store

__all__ = ["Transfer"]

_LOG = logging.getLogger("polyhead.repository")
_PROGRESS = logging.getLogger("polyhead.progress")
_BAR_WIDTH, _BAR_S = 30, 0.1


class Transfer:
    """The bytes that one fetch takes from a store."""

    def __init__(self, store: Store, limits: FetchLimits, model: str, version: int) -> None:
        """``model`` and ``version``: for its events in the log."""
        self._store = store
        self.limits = limits
        self._fields = {"model": model, "version": version}
        self._began_at = self._logged_at = self._drawn_at = time.monotonic()
        self._total = self._num_taken = 0

    def check_time(self) -> None:
        """Raise FetchError if the fetch takes too long."""
        if time.monotonic() - self._began_at > self.limits.timeout_s:
            raise FetchError(
                f"fetching it took more than {self.limits.timeout_s:g} s, the server's "
                "--fetch-timeout-s"
            )

    def read(self, file: StoredFile, start: int, end: int) -> bytes:
        """Read a part of a file. Raises FetchError unless it has all bytes."""
        self.check_time()
        name = quoted(file.path.rpartition("/")[2])
        try:
            content = self._store.read(file.path, start, end)
        except StoreError as error:
            _LOG.warning(
                "file not fetched", extra={**self._fields, "file": file.path, "error": error}
            )
            raise FetchError(f"its {name} cannot be fetched; the server's log says why") from None
        if len(content) != end - start:
            raise FetchError(
                f"its {name} was listed with {file.size:,} bytes, and {len(content):,} came of the "
                f"{end - start:,} from byte {start:,} on; it was changed, or cut off"
            )
        return content

    def read_small(self, file: StoredFile, max_bytes: int) -> bytes:
        """Read a whole file. Raises ModelFileError if it is too long, and FetchError."""
        if file.size > max_bytes:
            name = quoted(file.path.rpartition("/")[2])
            raise ModelFileError(
                f"its {name} has {file.size:,} bytes; at most {max_bytes:,} are read"
            )
        return self.read(file, 0, file.size) if file.size else b""

    def begin(self, num_bytes: int) -> None:
        """Set the number of bytes to take."""
        self._total = num_bytes
        _LOG.info("fetching", extra={**self._fields, "bytes": num_bytes})

    def take(self, num_bytes: int) -> None:
        """Count bytes, and report progress now and then, in the log and as a bar."""
        self._num_taken += num_bytes
        now = time.monotonic()
        if now - self._drawn_at >= _BAR_S:
            self._drawn_at = now
            _PROGRESS.info("%s", self._bar())
        if now - self._logged_at >= self.limits.progress_s:
            self._logged_at = now
            _LOG.info(
                "fetching", extra={**self._fields, "bytes": self._total, "fetched": self._num_taken}
            )

    def _bar(self) -> str:
        share = min(1.0, self._num_taken / max(1, self._total))
        full = "#" * int(share * _BAR_WIDTH)
        name = "{model} {version}".format_map(self._fields)
        return f"fetching {name} [{full:<{_BAR_WIDTH}}] {share:4.0%} of {self._total / 1e6:,.1f} MB"

    def end(self) -> None:
        """Report that the fetch is complete."""
        seconds = round(time.monotonic() - self._began_at, 3)
        _LOG.info("fetched", extra={**self._fields, "bytes": self._total, "seconds": seconds})
