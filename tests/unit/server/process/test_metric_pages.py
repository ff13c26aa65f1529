"""Pages of the metrics port: made with pauses, for all that wait together."""

from __future__ import annotations

import asyncio

import pytest

from polyhead_server.process.metrics import pages
from polyhead_server.process.metrics.pages import Pages

TEXT, OPEN_METRICS = "", "application/openmetrics-text; version=1.0.0"


class Taken:
    """Counts how often the numbers were asked for."""

    def __init__(self):
        self.number = 0

    async def __call__(self):
        self.number += 1
        return {}


@pytest.fixture
def slow_pages(monkeypatch):
    """Each page takes a second of CPU time, which the test does not wait for."""
    monkeypatch.setattr(pages, "_format", lambda _, __: (b"page", 1.0))


def test_requests_that_wait_get_one_page_together(run_async):
    async def scenario():
        taken = Taken()
        made = Pages(taken, max_share=1.0)
        bodies = await asyncio.gather(*(made.page(TEXT) for _ in range(20)))
        assert len(set(bodies)) == 1
        assert taken.number == 1
        await made.page(TEXT)
        assert taken.number == 2

    run_async(scenario())


def test_each_format_has_its_page(run_async):
    async def scenario():
        made = Pages(Taken(), max_share=1.0)
        (plain, _), (open_metrics, body) = await asyncio.gather(
            made.page(TEXT), made.page(OPEN_METRICS)
        )
        assert plain.startswith("text/plain")
        assert open_metrics.startswith("application/openmetrics-text")
        assert body.endswith(b"# EOF\n")

    run_async(scenario())


@pytest.mark.usefixtures("slow_pages")
def test_the_next_page_waits_for_its_share_of_the_time(run_async):
    async def scenario():
        taken = Taken()
        made = Pages(taken, max_share=0.1)
        assert (await made.page(TEXT))[1] == b"page"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(made.page(TEXT), 0.05)
        assert taken.number == 1

    run_async(scenario())


def test_a_page_whose_client_goes_is_made_for_the_others(run_async):
    async def scenario():
        made = Pages(Taken(), max_share=1.0)
        gone, stays = (asyncio.create_task(made.page(TEXT)) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        assert (await stays)[0].startswith("text/plain")

    run_async(scenario())
