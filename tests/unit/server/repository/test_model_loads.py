"""What is served when models are loaded, given up, reloaded and unloaded in any order."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from dataclasses import dataclass

import pytest
from loads import load_repository, loads_of

from polyhead_models.store import write_model
from polyhead_server.errors import (
    ModelNotFoundError,
    ModelUnavailableError,
    OverloadedError,
    StartupError,
)
from polyhead_server.repository.repository import Repository, UnavailableModel

PATIENCE_S = 30


@dataclass
class HeldEngine:
    """An engine whose loads of one model wait until they are let go."""

    engine: object
    held: str = "other"

    def __post_init__(self):
        self.begun, self.go = threading.Semaphore(0), threading.Event()

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def load(self, name, *arguments, **options):
        if name == self.held:
            self.begun.release()
            assert self.go.wait(PATIENCE_S)
        return self.engine.load(name, *arguments, **options)


@pytest.fixture
def held(engine):
    held = HeldEngine(engine)
    yield held
    held.go.set()


@pytest.fixture
def repository(folder, engine):
    return load_repository(folder, engine)


def write_bad(folder, name, version=1):
    (folder / name / str(version)).mkdir(parents=True, exist_ok=True)
    (folder / name / str(version) / "model.onnx").write_bytes(b"no model")


def changes_of(reloaded):
    return [(change.name, change.version, change.outcome) for change in reloaded]


async def begun(held):
    assert await asyncio.to_thread(held.begun.acquire, timeout=PATIENCE_S)


async def until(is_true):
    while not is_true():  # noqa: ASYNC110 - a watch has no event
        await asyncio.sleep(0.01)


async def end_threads():
    """Wait until all loads have ended and the event loop has seen it."""
    for thread in threading.enumerate():
        if thread.name == "polyhead-load":
            await asyncio.to_thread(thread.join, PATIENCE_S)
    await asyncio.sleep(0)


# ---------------------------------------------------------------- loads that are given up


@pytest.mark.parametrize("then", ["unload", "load"])
def test_a_load_that_was_given_up_undoes_nothing(run_async, folder, repository, held, then):
    """However late it ends: what was answered after it holds."""

    async def scenario():
        loads = loads_of(repository, folder, held)
        given_up = asyncio.create_task(loads.load("other"))
        await begun(held)
        given_up.cancel()
        await asyncio.wait({given_up})
        if then == "unload":
            await loads.unload("other")
            held.go.set()
        else:
            loading = asyncio.create_task(loads.load("other"))
            held.go.set()
            await loading
        served = repository.find("other", 0, "name")
        await end_threads()
        assert repository.find("other", 0, "name") is served

    run_async(scenario())


def test_a_load_begins_when_the_one_that_was_given_up_has_ended(
    run_async, folder, repository, held
):
    """So callers who leave at once do not have several models loaded at the same time."""

    async def scenario():
        loads = loads_of(repository, folder, held)
        given_up = asyncio.create_task(loads.load("other"))
        await begun(held)
        given_up.cancel()
        await asyncio.wait({given_up})
        waiting = asyncio.create_task(loads.load("plain"))
        await asyncio.sleep(0.05)
        assert sum(thread.name == "polyhead-load" for thread in threading.enumerate()) == 1
        held.go.set()
        await waiting

    run_async(scenario())


def test_a_load_waits_for_one_that_was_given_up_no_longer_than_its_time(
    run_async, folder, repository, held
):
    async def scenario():
        loads = loads_of(repository, folder, held, timeout_s=0.3)
        given_up = asyncio.create_task(loads.load("other"))
        await begun(held)
        given_up.cancel()
        await loads.load("plain")
        assert not held.go.is_set()

    run_async(scenario())


def test_a_load_that_takes_too_long_is_given_up_and_others_serve(run_async, folder, held):
    async def scenario():
        repository = Repository()
        loads = loads_of(repository, folder, held, timeout_s=0.3)
        await loads.load_all()
        assert [model.name for model in repository.loaded()] == ["plain", "rotary"]
        with pytest.raises(ModelUnavailableError, match=r"took more than 0.3 s, .*--load-timeout"):
            repository.runnable("other", 0)
        with pytest.raises(ModelUnavailableError, match="took more than"):
            await loads.load("other")
        held.held = ""
        await loads.load("plain")
        await loads.load("other")
        assert len(repository.loaded()) == 3

    run_async(scenario())


def test_loads_that_never_end_are_bounded_in_number(run_async, folder, repository, held):
    async def scenario():
        loads = loads_of(repository, folder, held, timeout_s=0.4, max_abandoned=3)
        for _ in range(3):
            with pytest.raises(ModelUnavailableError, match="took more than"):
                await loads.load("other")
        with pytest.raises(ModelUnavailableError, match="3 loads were given up"):
            await loads.load("plain")
        held.go.set()
        await end_threads()
        await loads.load("plain")

    run_async(scenario())


def test_waiting_changes_are_bounded(run_async, folder, repository, held):
    async def scenario():
        loads = loads_of(repository, folder, held, max_waiting=3)
        changes = [asyncio.create_task(loads.load("other")) for _ in range(4)]
        await begun(held)
        for change in (loads.load("plain"), loads.unload("plain"), loads.reload()):
            with pytest.raises(OverloadedError, match="4 changes of models wait"):
                await change
        held.go.set()
        await asyncio.gather(*changes)
        await loads.unload("plain")

    run_async(scenario())


def test_changes_are_made_in_the_order_of_their_calls(run_async, folder, repository, held):
    async def scenario():
        loads = loads_of(repository, folder, held)
        loading = asyncio.create_task(loads.load("other"))
        await begun(held)
        unloading = asyncio.create_task(loads.unload("other"))
        await asyncio.sleep(0)
        held.go.set()
        await asyncio.gather(loading, unloading)
        assert repository.is_unloaded("other")

    run_async(scenario())


# ---------------------------------------------------------------- reloads


@pytest.fixture
def loads(run_async, folder, engine):
    """Loads of a repository that has been loaded by them."""
    loads = loads_of(Repository(), folder, engine)
    run_async(loads.load_all())
    return loads


@pytest.fixture
def served(loads):
    return loads._repository


def test_a_reload_loads_new_versions_and_removes_deleted_ones(
    run_async, loads, served, folder, onnx_bytes
):
    before = served.get("plain", 0)
    assert run_async(loads.reload()) == []
    write_model(folder, "new", onnx_bytes["plain"])
    shutil.rmtree(folder / "other")
    assert changes_of(run_async(loads.reload())) == [("other", 1, "removed"), ("new", 1, "loaded")]
    assert served.get("plain", 0) is before
    with pytest.raises(ModelNotFoundError):
        served.get("other", 0)


def test_a_newer_version_takes_over_and_an_older_one_takes_over_again(
    run_async, loads, served, folder, onnx_bytes
):
    assert write_model(folder, "plain", onnx_bytes["causal"]).parent.name == "2"
    assert changes_of(run_async(loads.reload())) == [
        ("plain", 2, "loaded"),
        ("plain", 1, "removed"),
    ]
    shutil.rmtree(folder / "plain" / "2")
    assert changes_of(run_async(loads.reload())) == [
        ("plain", 1, "loaded"),
        ("plain", 2, "removed"),
    ]
    assert served.get("plain", 0).version == 1


@pytest.mark.parametrize("version", [1, 2])
def test_a_bad_version_leaves_the_previous_one_and_is_reported(
    run_async, loads, served, folder, onnx_bytes, version
):
    before = served.get("plain", 0)
    assert not served.has_problems
    write_bad(folder, "plain", version)
    for _ in range(2):  # what failed is tried again when somebody asks for it
        (change,) = run_async(loads.reload())
        assert change[:3] == ("plain", version, "failed")
    assert "cannot read" in change.reason
    assert run_async(loads.reload(retry_failed=False)) == []
    assert served.get("plain", 0) is before
    assert served.has_problems
    assert "cannot read" in served.problem("plain", version)
    (folder / "plain" / str(version) / "model.onnx").write_bytes(onnx_bytes["plain"])
    run_async(loads.reload(retry_failed=False))
    assert not served.has_problems
    assert served.get("plain", 0).version == version


def test_a_bad_version_leaves_the_version_that_it_replaced_on_disk(
    run_async, loads, served, folder
):
    before = served.get("plain", 0)
    shutil.rmtree(folder / "plain" / "1")
    write_bad(folder, "plain", 2)
    run_async(loads.reload())
    assert served.get("plain", 0) is before


@pytest.mark.parametrize("how", ["gone", "empty"])
def test_a_repository_that_is_lost_is_served_on(run_async, loads, served, folder, caplog, how):
    before = served.loaded()
    shutil.rmtree(folder)
    if how == "empty":
        folder.mkdir()
    with pytest.raises(ModelUnavailableError, match="is served on") as caught:
        run_async(loads.reload())
    assert str(folder) not in str(caught.value)
    assert "repository not reloaded" in caplog.text
    assert served.loaded() == before


def test_an_unloaded_model_stays_so_until_it_is_loaded(run_async, loads, served, folder):
    run_async(loads.unload("plain"))
    os.utime(folder / "plain" / "1" / "model.onnx", ns=(1, 1))
    assert run_async(loads.reload()) == []
    assert served.is_unloaded("plain")
    assert not served.has_problems
    run_async(loads.load("plain"))
    assert not served.is_unloaded("plain")


def test_a_watch_loads_changed_files_when_they_are_complete(run_async, folder, engine, onnx_bytes):
    async def scenario():
        repository = Repository()
        loads = loads_of(repository, folder, engine, watch_interval_s=0.01)
        await loads.load_all()
        watching = asyncio.create_task(loads.watch())
        await asyncio.sleep(0.05)
        write_model(folder, "plain", onnx_bytes["causal"])
        await until(lambda: repository.get("plain", 0).version == 2)
        write_bad(folder, "plain", 3)
        await until(lambda: repository.has_problems)
        assert repository.get("plain", 0).version == 2
        watching.cancel()

    run_async(scenario())


# ---------------------------------------------------------------- whatever lies in a folder


@pytest.mark.parametrize("text", ["a {" * 5000, "[" * 5000, "}" * 5000, "a: <" * 5000])
def test_a_configuration_nested_without_end_stops_no_other_model(folder, engine, text):
    (folder / "other" / "config.pbtxt").write_text(text)
    repository = load_repository(folder, engine)
    assert [model.name for model in repository.loaded()] == ["plain", "rotary"]
    assert "brackets do not match" in repository.problem("other", 1)


@pytest.mark.parametrize("name", ["config.pbtxt", "1/model.onnx"])
def test_what_lies_outside_the_repository_is_not_read(tmp_path, folder, engine, name):
    secret = tmp_path.parent / f"{tmp_path.name}-secret"
    secret.write_text("root:x:0:0:secret")
    (folder / "other" / name).unlink(missing_ok=True)
    (folder / "other" / name).symlink_to(secret)
    problem = load_repository(folder, engine).problem("other", 1)
    assert "a link that leads out of the repository" in problem
    assert "secret" not in problem


@pytest.mark.parametrize("text", ["root:x:0:0:secret", "name: 'm'\nsecret"])
def test_a_refusal_quotes_nothing_of_a_configuration(folder, engine, text):
    (folder / "other" / "config.pbtxt").write_text(text)
    problem = load_repository(folder, engine).problem("other", 1)
    assert "config.pbtxt is not a model configuration" in problem
    assert "secret" not in problem


class LibraryPanic(BaseException):
    """As libraries in Rust have it."""


@pytest.mark.parametrize("failure", [RecursionError, LibraryPanic])
def test_an_unexpected_failure_stops_no_other_model(folder, engine, caplog, failure):
    class Failing(HeldEngine):
        def load(self, name, *arguments, **options):
            if name == self.held:
                raise failure("a secret")
            return self.engine.load(name, *arguments, **options)

    repository = load_repository(folder, Failing(engine))
    assert [model.name for model in repository.loaded()] == ["plain", "rotary"]
    assert isinstance(found := repository.find("other", 0, "name"), UnavailableModel)
    assert found.reason == "it cannot be loaded; the server's log says why"
    assert "a secret" in caplog.text


def test_a_start_without_any_model_that_loads_in_time_fails(tmp_path, engine, onnx_bytes):
    write_model(tmp_path, "other", onnx_bytes["plain"])
    held = HeldEngine(engine)
    with pytest.raises(StartupError, match=r"took more than 0\.1 s"):
        asyncio.run(loads_of(Repository(), tmp_path, held, timeout_s=0.1).load_all())
    held.go.set()
