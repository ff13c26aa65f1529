"""`polyhead serve --workers` and every command that calls a server, with TLS and a token."""

from __future__ import annotations

import numpy as np
from certificates import pem
from secret_files import ServerFiles
from serving import serving

from polyhead import cli
from polyhead_server.auth.tokens import make_token


def test_workers_and_every_command_speak_tls_and_send_the_token(
    tmp_path, authority, monkeypatch, capsys
):
    files, client = ServerFiles(tmp_path), authority.issue_cert("client")
    files.put_pair(authority.issue_cert("localhost"))
    token, line = make_token("ci", ["infer"])
    contents = {
        "ca": authority.cert_pem.bytes(),
        "cert": pem(client),
        "key": client.private_key_pem.bytes(),
        "token": token.encode(),
        "tokens": str(line).encode(),
    }
    paths = {name: tmp_path / name for name in contents}
    for name, path in paths.items():
        path.write_bytes(contents[name])
    np.save(tmp_path / "query.npy", np.ones((1, 3, 6), np.float32))
    commands = [
        ["models"],
        ["info"],
        ["attend", str(tmp_path / "query.npy"), "--model", "river-bank"],
        ["bench", "--requests", "8", "--warmup", "0.1", "--tokens", "3"],
        ["demo"],
    ]
    with serving(
        *("--workers", 2, "--tokens-file", paths["tokens"], "--tls-client-ca", paths["ca"]),
        *("--tls-cert", files.certificate, "--tls-key", files.key),
    ) as server:
        monkeypatch.setenv("POLYHEAD_SERVER", server.address.replace("127.0.0.1", "localhost"))
        assert cli.main(["health"]) == 1
        monkeypatch.setenv("POLYHEAD_CLIENT_TLS_CA", str(paths["ca"]))
        assert cli.main(["health"]) == 1
        monkeypatch.setenv("POLYHEAD_CLIENT_TLS_CERT", str(paths["cert"]))
        monkeypatch.setenv("POLYHEAD_CLIENT_TLS_KEY", str(paths["key"]))
        assert cli.main(["health"]) == 0
        for command in commands[:3]:
            assert cli.main(command) == 1
            assert "needs a token" in capsys.readouterr().err
        monkeypatch.setenv("POLYHEAD_CLIENT_TOKEN_FILE", str(paths["token"]))
        for command in commands:
            assert cli.main(command) == 0, capsys.readouterr().err
