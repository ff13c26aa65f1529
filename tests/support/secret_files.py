"""Files of certificates, keys and tokens that are replaced while a server runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from certificates import pem

if TYPE_CHECKING:
    from pathlib import Path

    import trustme


def replace_file(path: Path, content: bytes | str) -> None:
    """Write a file in one step, so that nobody sees it empty."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content.encode() if isinstance(content, str) else content)
    new.replace(path)


class ServerFiles:
    """A folder with tls.crt and tls.key, replaced as Kubernetes does: by one renamed link."""

    def __init__(self, folder):
        self._folder, self._number = folder, 0
        self.certificate, self.key = folder / "tls.crt", folder / "tls.key"
        for path in (self.certificate, self.key):
            path.symlink_to(f"..data/{path.name}")

    def put(self, certificate: bytes, key: bytes):
        self._number += 1
        version = self._folder / f"..{self._number}"
        version.mkdir()
        (version / "tls.crt").write_bytes(certificate)
        (version / "tls.key").write_bytes(key)
        link = self._folder / "..new"
        link.symlink_to(version.name)
        link.replace(self._folder / "..data")

    def put_pair(self, certificate: trustme.LeafCert):
        self.put(pem(certificate), certificate.private_key_pem.bytes())
