"""Containers of the project's image, with Docker where this machine has it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGE = "polyhead:test"
ENVOY = "envoyproxy/envoy:v1.40.0"
LOAD = (ROOT / "tests/support/container_load.py").read_text()


def docker(*arguments, check=True, **environment):
    """Run the docker command in the project's folder; return its standard output."""
    result = subprocess.run(
        ["docker", *map(str, arguments)],
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0 or not check, result.stdout + result.stderr
    return result.stdout.strip()


def build_image():
    """Build the image; skip the tests if there is no Docker, or no image of Envoy."""
    if not shutil.which("docker") or not docker(
        "info", "--format", "{{.ServerVersion}}", check=False
    ):
        pytest.skip("needs Docker")
    is_here = docker("image", "ls", "--quiet", ENVOY)
    if not is_here and not docker("pull", "--quiet", ENVOY, check=False):
        pytest.skip(f"needs the image {ENVOY}, which is not here and cannot be pulled")
    docker("build", "--tag", IMAGE, ".")


def make_secrets(folder):
    """Run deploy/make-secrets.sh; return the folder that it makes."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    secrets = folder / "secrets"
    environment = {**os.environ, "POLYHEAD": f"docker run --rm {IMAGE}"}
    subprocess.run([ROOT / "deploy/make-secrets.sh", secrets], env=environment, check=True)
    return secrets


class Load:
    """Callers in a container, and how their calls have ended so far."""

    def __init__(self, process):
        self.codes = {}
        self._process = process
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self._process.stdout:
            self.codes = json.loads(line)

    def until_answered(self, more=100, within_s=60):
        """Wait until each caller has so many further answers."""

        def fewest():
            return min((codes.get("OK", 0) for codes in self.codes.values()), default=0)

        wanted, give_up_at = fewest() + more, time.monotonic() + within_s
        while fewest() < wanted:
            assert time.monotonic() < give_up_at, self.codes
            assert self._process.poll() is None, self.codes
            time.sleep(0.05)

    def end(self):
        self._process.stdin.close()
        self._reader.join(timeout=60)
        assert self._process.wait(timeout=60) == 0
        print(self.codes)

    def failed(self):
        """Return how calls ended that were not answered, by caller."""
        failed = {name: {**codes} for name, codes in self.codes.items()}
        for codes in failed.values():
            codes.pop("OK", None)
        return {name: codes for name, codes in failed.items() if codes}


@contextmanager
def load(network, *callers):
    """Let callers, such as ``stock=envoy:50051``, call in a network of containers."""
    command = ["docker", "run", "--rm", "--interactive", "--network", network]
    command += ["--entrypoint", "python", IMAGE, "-u", "-c", LOAD, *callers]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        running = Load(process)
        try:
            running.until_answered()
            yield running
        finally:
            running.end()
