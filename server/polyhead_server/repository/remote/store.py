"""A store of files at a URL: fsspec lists it, and reads parts of its files.

Every call waits for another machine, so only threads make them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polyhead_server.errors import StartupError
from polyhead_server.repository.remote.questions import Questions, StoreError, redacted

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Store"]


class Store:
    """The files below one URL. Credentials come from where the URL's library looks for them."""

    def __init__(self, url: str, answer_s: float) -> None:
        """``answer_s``: seconds that a list, or a part of a file, may take."""
        self._url = url
        self._questions = Questions(answer_s)
        self.display_name = redacted(url)
        """The URL without credentials."""
        self._opened: tuple[Any, str] | None = None
        self._read_options: dict[str, str] = {}

    def find(self, below: str = "") -> dict[str, Mapping[str, Any]]:
        """List the files below the URL, or below a folder there.

        Returns fsspec's description of each file, by its path below the URL. Raises StartupError if
        no package can read such a URL, and StoreError.
        """
        files, root = self._open()

        def find() -> Any:  # noqa: ANN401 - fsspec has no types
            files.invalidate_cache()
            try:
                return files.find(f"{root}/{below}" if below else root, detail=True)
            except FileNotFoundError:
                if below:  # some stores have empty folders, others do not have them
                    return {}
                raise

        found = self._questions.ask(find)
        start = f"{root.strip('/')}/" if root.strip("/") else ""
        return {
            path.strip("/").removeprefix(start): info
            for path, info in found.items()
            if path.strip("/").startswith(start)
        }

    def read(self, path: str, start: int, end: int) -> bytes:
        """Read bytes of a file, by its path below the URL. Fewer are returned at its end.

        Raises StoreError.
        """
        files, root = self._open()
        full_path = f"{root}/{path}" if root else path
        content: bytes = self._questions.ask(
            lambda: files.cat_file(full_path, start=start, end=end, **self._read_options)
        )
        return content

    def _open(self) -> tuple[Any, str]:
        """Return fsspec's file system, and the path in it that the URL names."""
        if self._opened is None:
            try:
                files, root = self._questions.ask(lambda: _opened(self._url))
                self._read_options = _read_options(files)
            except ImportError:
                protocol = self._url.partition("://")[0].rpartition("::")[2]
                raise StartupError(
                    f"--models {self.display_name}: no package that reads {protocol}:// is "
                    "installed; pip install 'polyhead[remote]' reads s3://, gs:// and hf://, and "
                    "fsspec's documentation names the packages for others"
                ) from None
            except StoreError as error:
                raise StartupError(
                    f"--models {self.display_name}: cannot be opened: {error}"
                ) from None
            self._opened = files, root.rstrip("/")
        return self._opened


def _opened(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    files, root = url_to_fs(url, skip_instance_cache=True)
    if hasattr(files, "resolve_path"):  # hf:// lists paths that name the revision, too
        root = files.resolve_path(root).unresolve()
    return files, root


def _read_options(files: Any) -> dict[str, str]:  # noqa: ANN401 - fsspec has no types
    """Return the options with which reading a part of a file does not read ahead."""
    from fsspec import AbstractFileSystem

    # looked up in the object, because asynchronous file systems have it there alone
    reads_by_open = getattr(files.cat_file, "__func__", None) is AbstractFileSystem.cat_file
    return {"cache_type": "none"} if reads_by_open else {}
