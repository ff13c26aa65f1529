"""Changed files are used and logged once; a reading that fails is repeated."""

from __future__ import annotations

import asyncio
import logging
import resource
from contextlib import contextmanager

import pytest
from secret_files import replace_file

from polyhead_server.auth.tokens import make_token
from polyhead_server.limits import RenewalLimits
from polyhead_server.process.security import Security
from polyhead_server.settings import ServerSettings

PATIENCE_S = 20


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"{make_token('ci', ['infer'])[1]}\n")
    return path


@pytest.fixture
def follow(file, caplog):
    """Follow the tokens file while a scenario runs, which waits for events of the log."""
    caplog.set_level(logging.INFO, "polyhead.security")

    async def wait_for(event, count=1):
        while len(found := [r for r in caplog.records if r.message == event]) < count:  # noqa: ASYNC110 - the log sets no event
            await asyncio.sleep(0.001)
        return found[-1]

    async def run(scenario):
        settings = ServerSettings(tokens_file=file, renewal_limits=RenewalLimits(poll_s=0.001))
        following = asyncio.create_task(Security(settings).follow_files())
        await asyncio.wait_for(scenario(wait_for), PATIENCE_S)
        assert not following.done()
        following.cancel()

    return lambda scenario: asyncio.run(run(scenario))


@contextmanager
def no_file_can_be_opened():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_reading_that_failed_for_another_reason_is_repeated(follow, file):
    async def scenario(wait_for):
        await asyncio.to_thread(int)  # imports what threads need
        with no_file_can_be_opened():
            file.chmod(0o600)  # a change that opens no file
            failed = await wait_for("tokens not renewed")
            assert "Too many open files" in failed.reason
            assert failed.valid_tokens == 0
        assert (await wait_for("tokens renewed")).valid_tokens == 1

    follow(scenario)


def test_the_files_are_followed_although_no_thread_could_start(follow, file, monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    async def scenario(wait_for):
        with monkeypatch.context() as patched:
            patched.setattr(asyncio, "to_thread", refuse)
            await wait_for("files not looked at")
        replace_file(file, f"# changed\n{file.read_text()}")
        await wait_for("tokens renewed")

    follow(scenario)


def test_each_change_is_logged_once(follow, file, caplog):
    good = file.read_text()

    async def scenario(wait_for):
        for number in (1, 2):
            replace_file(file, "nonsense\n" * number)
            await wait_for("tokens not renewed", number)
        for _ in range(20):
            await asyncio.sleep(0.001)
        replace_file(file, good)
        await wait_for("tokens renewed")

    follow(scenario)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR", "INFO"]


@pytest.mark.parametrize(
    ("host", "is_warned"),
    [("127.0.0.1", False), ("localhost", False), ("[::1]", False), ("0.0.0.0", True), ("h", True)],
)
def test_tokens_in_plaintext_for_other_machines_are_warned_of(file, caplog, host, is_warned):
    Security(ServerSettings(tokens_file=file, host=host))
    assert ("plaintext" in caplog.text) == is_warned
