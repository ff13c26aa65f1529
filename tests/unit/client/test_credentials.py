"""What a client sends to be trusted: certificates, and a token that it does not give away."""

from __future__ import annotations

import pytest
import trustme
from certificates import pem

from polyhead import InvalidArgumentError, TLSConfig, cli
from polyhead._client.channel import make_channel_config

TOKEN = "polyhead.ci.c2VjcmV0"
ENCRYPTED = TLSConfig()


@pytest.fixture(autouse=True)
def no_token_in_the_environment(monkeypatch):
    monkeypatch.delenv("POLYHEAD_TOKEN", raising=False)


def configure(target="localhost:1", *, metadata=None, **options):
    return make_channel_config(
        target, **{"tls": None, "timeout": None, "metadata": metadata, **options}
    )


def sent(*arguments, **options):
    """The metadata of calls, by key."""
    return dict(configure(*arguments, **options).metadata)


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("host:1", {"tls": ENCRYPTED}),
        ("host:1", {"allow_plaintext_token": True}),
        ("localhost:1", {}),
        ("127.0.0.1:1", {}),
        ("[::1]:1", {}),
        ("unix:/run/polyhead.sock", {}),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", {}),
    ],
)
def test_a_token_is_sent_by_tls_and_on_this_machine(target, options, monkeypatch):
    expected = {"authorization": f"Bearer {TOKEN}"}
    assert sent(target, token=TOKEN, **options) == expected
    monkeypatch.setenv("POLYHEAD_TOKEN", TOKEN)
    assert sent(target, **options) == expected
    assert sent(target, metadata={"x": "y"}, **options) == {"x": "y", **expected}


@pytest.mark.parametrize(
    "target",
    ["host:1", "10.0.0.1:1", "ipv4:127.0.0.1:1,10.0.0.1:1", "dns:///localhost.example.com:1"],
)
def test_a_token_is_not_sent_in_plaintext_to_other_machines(target, monkeypatch):
    with pytest.raises(InvalidArgumentError, match=r"^token: is not sent in plaintext") as caught:
        configure(target, token=TOKEN)
    assert TOKEN not in str(caught.value)
    monkeypatch.setenv("POLYHEAD_TOKEN", TOKEN)
    with pytest.raises(InvalidArgumentError, match=r"^POLYHEAD_TOKEN: is not sent in plaintext"):
        configure(target)
    assert sent(target, token="") == {}


def test_an_authorization_of_the_metadata_is_sent_alone(monkeypatch):
    metadata = {"Authorization": "Basic x"}
    monkeypatch.setenv("POLYHEAD_TOKEN", TOKEN)
    assert sent(metadata=metadata) == {"authorization": "Basic x"}
    with pytest.raises(InvalidArgumentError, match="give one of the two"):
        configure(metadata=metadata, token=TOKEN)


@pytest.mark.parametrize("token", ["a b", " a", "a\n", "ä", "Bearer a"])
def test_a_malformed_token_is_refused_and_not_quoted(token):
    with pytest.raises(InvalidArgumentError, match="expected a token") as caught:
        configure(token=token)
    assert repr(token) not in str(caught.value)


def test_descriptions_of_the_configuration_hold_no_secret():
    key = b"-----BEGIN PRIVATE KEY-----"
    assert TOKEN not in repr(configure(token=TOKEN))
    assert "PRIVATE KEY" not in repr(TLSConfig(private_key=key, certificate_chain=b"c"))


def test_the_server_may_have_another_name():
    options = dict(configure(tls=TLSConfig(server_name="polyhead.example")).options)
    assert options["grpc.ssl_target_name_override"] == "polyhead.example"


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_what_is_no_certificate_is_refused(content):
    with pytest.raises(InvalidArgumentError, match="root_certificates: holds no certificate"):
        configure(tls=TLSConfig(root_certificates=content))


def test_files_are_read(tmp_path):
    (tmp_path / "ca").write_bytes(b"ca")
    config = TLSConfig.from_files(root_certificates=str(tmp_path / "ca"), server_name="name")
    assert config == TLSConfig(root_certificates=b"ca", server_name="name")
    with pytest.raises(InvalidArgumentError, match=r"^private_key: .*: No such file"):
        TLSConfig.from_files(private_key=tmp_path / "none")


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--tls-ca", "none"], "--tls-ca: none cannot be read: No such file"),
        (["--tls-key", "none"], "--tls-key: none cannot be read: No such file"),
        (["--token-file", "none"], "--token-file: none cannot be read: No such file"),
    ],
)
def test_commands_name_the_flag_of_a_file_that_cannot_be_read(flags, error, capsys):
    assert cli.main(["info", *flags]) == 2
    assert error in capsys.readouterr().err


def test_true_is_tls_and_so_is_https():
    for options in ({"tls": True}, {"target": "https://localhost:1"}):
        assert configure(**options).credentials is not None
    assert configure("https://localhost:1").target == configure("localhost:1").target
    assert configure("https://localhost:1/").target == configure("localhost:1").target
    assert configure(tls=False).credentials is None


def test_a_token_may_be_sent_to_an_https_target():
    assert sent("https://host:1", token=TOKEN) == {"authorization": f"Bearer {TOKEN}"}


def test_tls_that_contradicts_the_target_is_refused():
    with pytest.raises(InvalidArgumentError, match="tls: is False, but the target begins with"):
        configure("https://host:1", tls=False)


@pytest.mark.parametrize("tls", ["ca.pem", b"x", 1, {}])
def test_invalid_tls_is_refused_with_an_example(tls):
    with pytest.raises(InvalidArgumentError, match=r"TLSConfig\(root_certificates='ca.pem'\)"):
        configure(tls=tls)


def test_certificates_may_be_paths_or_text(tmp_path):
    authority = trustme.CA()
    file, client = tmp_path / "ca.pem", authority.issue_cert("client")
    authority.cert_pem.write_to_path(file)
    for given in (file, str(file), file.read_bytes(), file.read_text()):
        assert configure(tls=TLSConfig(root_certificates=given)).credentials is not None
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(pem(client))
    client.private_key_pem.write_to_path(key)
    tls = TLSConfig(certificate_chain=chain, private_key=key)
    assert configure(tls=tls).credentials is not None


def test_files_that_hold_nothing_fitting_are_refused(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"^root_certificates: nowhere cannot be read"):
        configure(tls=TLSConfig(root_certificates="nowhere"))
    with pytest.raises(InvalidArgumentError, match=r"^root_certificates: holds no certificate"):
        configure(tls=TLSConfig(root_certificates=__file__))
    with pytest.raises(InvalidArgumentError, match=r"^root_certificates: expected PEM"):
        configure(tls=TLSConfig(root_certificates=5))
