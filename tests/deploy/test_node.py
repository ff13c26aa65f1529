"""The documented client in JavaScript calls a server, where Node.js and grpc-js are installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import trustme
from minilm import MINILM, needs_minilm
from secret_files import ServerFiles
from serving import serving

from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.whole import export_whole_model
from polyhead_server.auth.tokens import make_token

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60
NODE = shutil.which("node")


def run(*arguments, **variables):
    return subprocess.run(
        [NODE, *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def has_grpc_js():
    """Whether Node.js finds the packages, as NODE_PATH may say."""
    packages = "require('@grpc/grpc-js'); require('@grpc/proto-loader')"
    return NODE is not None and run("-e", packages).returncode == 0


pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(not has_grpc_js(), reason="needs Node.js, grpc-js and proto-loader"),
    needs_minilm,
]


@pytest.fixture
def documented():
    """The fenced blocks of the page, by language: the program, and what it prints."""
    text = (ROOT / "docs/other-languages.md").read_text()
    return dict(re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE))


@pytest.fixture
def program(documented, tmp_path):
    path = tmp_path / "forward.cjs"
    path.write_text(documented["js"])
    return path


@pytest.fixture
def models(tmp_path):
    export_whole_model(Checkpoint.open(MINILM), "minilm", tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def server(models):
    with serving("--models", models) as served:
        yield served


def test_the_program_prints_what_its_page_shows(program, documented, server):
    done = run(program, server.address, PROTOS=str(ROOT / "protos"))
    assert (done.stdout, done.stderr) == (documented[""], "")


def test_an_error_is_printed_with_its_code_and_what_to_do(program, server):
    program.write_text(program.read_text().replace('"minilm"', '"minilmm"'))
    done = run(program, server.address, PROTOS=str(ROOT / "protos"))
    assert done.returncode == 1
    assert done.stderr == "NOT_FOUND: no model 'minilmm'; this server has minilm\n"


def test_it_speaks_tls_and_sends_its_token(program, documented, models, tmp_path):
    authority = trustme.CA()
    files = ServerFiles(tmp_path)
    files.put_pair(authority.issue_cert("localhost"))
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    token, line = make_token("node", ["infer"])
    (tmp_path / "tokens").write_text(str(line))
    flags = ("--tls-cert", files.certificate, "--tls-key", files.key)
    with serving("--models", models, *flags, "--tokens-file", tmp_path / "tokens") as server:
        variables = {
            "PROTOS": str(ROOT / "protos"),
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(tmp_path / "ca.pem"),
        }
        address = f"localhost:{server.address.rpartition(':')[2]}"  # as in the certificate
        done = run(program, address, POLYHEAD_TOKEN=token, **variables)
        assert (done.stdout, done.stderr) == (documented[""], "")
        refused = run(program, address, POLYHEAD_TOKEN="another", **variables)
        assert refused.stderr.startswith("UNAUTHENTICATED: ")
