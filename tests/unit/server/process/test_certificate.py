"""Certificates, keys and authorities that fit together, and those that are refused."""

from __future__ import annotations

import pytest
import trustme
from certificates import pem

from polyhead_server.errors import StartupError
from polyhead_server.process.certificate import ServerCertificate
from polyhead_server.settings import ServerSettings


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def files(authority, tmp_path):
    issued = authority.issue_cert("localhost")
    paths = [tmp_path / name for name in ("cert", "key", "ca")]
    contents = pem(issued), issued.private_key_pem.bytes(), authority.cert_pem.bytes()
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def test_files_that_fit_are_accepted(files):
    cert, key, ca = files
    both = cert.with_name("both")
    both.write_bytes(cert.read_bytes() + key.read_bytes())
    ca.write_bytes(ca.read_bytes() + b"\n" + trustme.CA().cert_pem.bytes())
    for paths in ((cert, key, None), (cert, key, ca), (both, both, None)):
        fields = ServerCertificate(*paths).log_fields()
        assert len(fields["certificate_sha256"]) == 64


ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n"


def damage(content):
    """Cut a certificate short, and leave its last line."""
    lines = content.splitlines()
    return b"\n".join([*lines[:3], lines[-1]])


@pytest.mark.parametrize(
    ("which", "spoil", "problem"),
    [
        (0, lambda _: b"", "do not fit together"),
        (0, lambda _: b"garbage", "do not fit together"),
        (0, damage, "do not fit together"),
        (0, lambda _: pem(trustme.CA().issue_cert("localhost")), r"\(key values mismatch\)"),
        (1, lambda _: b"", "do not fit together"),
        (1, damage, "do not fit together"),
        (1, lambda _: ENCRYPTED, "is encrypted"),
        (2, lambda _: b"", "expected a PEM file of the authorities"),
        (2, lambda _: b"garbage", "expected a PEM file of the authorities"),
        (2, damage, "expected a PEM file of the authorities"),
        (2, lambda good: good + damage(good), "expected a PEM file of the authorities"),
    ],
)
def test_others_are_refused_by_flag_and_reason(files, which, spoil, problem):
    flag = ("--tls-cert", "--tls-key", "--tls-client-ca")[which]
    in_use = ServerCertificate(*files)
    before = in_use.log_fields()
    files[which].write_bytes(spoil(files[which].read_bytes()))
    with pytest.raises(StartupError, match=problem) as caught:
        ServerCertificate(*files)
    assert f"{flag} {files[which]}" in str(caught.value)
    with pytest.raises(StartupError, match=problem):
        in_use.read()
    assert in_use.log_fields() == before


@pytest.mark.parametrize("which", range(3))
def test_a_missing_file_is_named(files, which):
    files[which].unlink()
    with pytest.raises(StartupError, match=f"{files[which]} cannot be read: No such file"):
        ServerCertificate(*files)


@pytest.mark.parametrize(
    "given",
    [{"tls_cert": "c"}, {"tls_key": "k"}, {"tls_client_ca": "a"}],
)
def test_flags_that_mean_nothing_alone_are_refused(given):
    with pytest.raises(StartupError, match=r"--tls-cert and --tls-key"):
        ServerSettings(**given)
