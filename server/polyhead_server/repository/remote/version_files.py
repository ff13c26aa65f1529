"""The files that a version must have, with their checksums, before they are fetched."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from polyhead_models.checksums import (
    CHECKSUMS_FILE,
    MAX_LIST_BYTES,
    ChecksumError,
    parse_checksums,
)
from polyhead_server.errors import ModelFileError, quoted
from polyhead_server.limits import LoadLimits
from polyhead_server.repository.triton_config import CONFIG_FILE

if TYPE_CHECKING:
    from polyhead_server.repository.remote.listing import StoredFile, StoredModel
    from polyhead_server.repository.remote.transfer import Transfer

__all__ = ["VersionFiles", "read_version_files"]

_KEY_CHARS = 32


@dataclass
class VersionFiles:
    """The expected files of a version."""

    contents: dict[str, bytes] = field(default_factory=dict)
    """Small files that were read already, by their path in the model's folder."""
    files: dict[str, tuple[StoredFile, str]] = field(default_factory=dict)
    """The other files and their checksums; "" for a file that no list has."""

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        sizes = [len(content) for content in self.contents.values()]
        return sum(sizes) + sum(file.size for file, _ in self.files.values())

    def key(self, name: str) -> str:
        """Return a text that differs between versions whose expected files differ."""
        contents = {path: hashlib.sha256(each).hexdigest() for path, each in self.contents.items()}
        files = {
            path: checksum or [file.path, file.size, file.state]
            for path, (file, checksum) in self.files.items()
        }
        text = json.dumps([name, contents, files], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_KEY_CHARS]


def read_version_files(transfer: Transfer, version: int, model: StoredModel) -> VersionFiles:
    """Read the expected files of a version from the lists of their checksums.

    Files that no list has are left out, unless the server allows versions without lists.
    """
    expected, max_files = VersionFiles(), transfer.limits.max_files
    if len(model.versions[version].files) > max_files:
        raise ModelFileError(f"it has more than {max_files:,} files")
    if model.config:
        content = transfer.read_small(model.config, LoadLimits.max_config_bytes)
        expected.contents[CONFIG_FILE] = content
    folders = model.versions[version].folders()
    for folder, files in folders.items():
        prefix = f"{version}/{folder}/" if folder else f"{version}/"
        if CHECKSUMS_FILE in files:
            content = transfer.read_small(files[CHECKSUMS_FILE], MAX_LIST_BYTES)
            expected.contents[prefix + CHECKSUMS_FILE] = content
            for file_name, checksum in _parse(content).items():
                if file_name not in files:
                    raise ModelFileError(f"its {quoted(file_name)} is missing")
                expected.files[prefix + file_name] = files[file_name], checksum
        elif transfer.limits.allows_unverified:
            expected.files |= {prefix + file_name: (file, "") for file_name, file in files.items()}
    if not expected.files:
        raise ModelFileError(
            f"it has no {CHECKSUMS_FILE}, so its files cannot be verified: upload the one that "
            "'polyhead export' writes, after the other files, or start the server with "
            "--allow-unverified-models"
        )
    return expected


def _parse(content: bytes) -> dict[str, str]:
    try:
        return parse_checksums(content)
    except ChecksumError as error:
        raise ModelFileError(str(error)) from error
