"""AttendRows over real gRPC: blocks, limits, and clients that leave or read slowly."""

from __future__ import annotations

import logging
import threading

import grpc
import numpy as np
import pytest
from call_log import call_log
from raw_calls import (
    SERVICE,
    WIDTH,
    assert_serves,
    call,
    channel_that_outlives,
    embeddings,
    open_channel,
    read_refusal,
    refused,
    refused_stream,
    request,
    rows_request,
    stream,
)
from run_gate import server_in_threads

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_array, to_tensor
from polyhead_server.engine.runs.cancellable import RowBlockRun
from polyhead_server.running import running_server
from polyhead_server.scheduling.queue import JobQueue

PATIENCE_S = 20


@pytest.fixture
def channel(server):
    with channel_that_outlives(server) as channel:
        yield channel


def blocks_of(channel, message, **options):
    answers = stream(channel, message.SerializeToString(), **options)
    return [pb.AttendRowsResponse.FromString(answer) for answer in answers]


# ---------------------------------------------------------------- the whole, in blocks


def sdpa_heads():
    shapes = {"query": (2, 4, 9, 4), "key": (2, 2, 5, 4), "value": (2, 2, 5, 6)}
    return {"model": "sdpa"} | {name: to_tensor(embeddings(*s)) for name, s in shapes.items()}


CALLS = {
    "plain": lambda: {"query": to_tensor(embeddings(2, 9, WIDTH))},
    "causal": lambda: {"model": "causal", "query": to_tensor(embeddings(2, 9, 32))},
    "narrow": lambda: {"model": "causal-narrow", "query": to_tensor(embeddings(2, 9, 12))},
    "positions": lambda: {
        "model": "rotary",
        "query": to_tensor(embeddings(2, 9, WIDTH)),
        "positions": to_tensor(np.arange(9)[::-1] * 3),
    },
    "mask": lambda: {
        "query": to_tensor(embeddings(2, 9, WIDTH)),
        "attn_mask": to_tensor(np.random.default_rng(0).random((9, 9)) < 0.5),
    },
    "padding": lambda: {
        "model": "causal",
        "query": to_tensor(embeddings(2, 9, 32)),
        "kv_lengths": [4, 0],
    },
    "heads": sdpa_heads,
}
SELECTIONS = {
    "no weights": None,
    "all": pb.AttnWeightsSelection(),
    "some rows": pb.AttnWeightsSelection(queries=[8, 0, 3, 4], heads=[1, 0]),
    "top": pb.AttnWeightsSelection(top_k=2, stage=pb.ATTN_WEIGHTS_STAGE_MASKED),
}


@pytest.mark.parametrize("rows_per_block", [0, 1, 4, 1000])
@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS.keys())
@pytest.mark.parametrize("make", CALLS.values(), ids=CALLS.keys())
def test_blocks_together_are_the_whole_response(channel, make, selection, rows_per_block):
    fields = make()
    whole = pb.AttendResponse.FromString(
        call(channel, request(**fields, attn_weights=selection).SerializeToString())
    )
    message = rows_request(rows_per_block, **fields, attn_weights=selection, request_id="id")
    blocks = blocks_of(channel, message)
    rows = list(selection.queries if selection else ()) or list(range(9))
    assert [b.first_row for b in blocks] == [*range(0, len(rows), rows_per_block or len(rows))]
    parts = [block.block for block in blocks]
    output = np.concatenate([to_array(part.output) for part in parts], axis=-2)
    expected = np.take(to_array(whole.output), rows, axis=-2)
    np.testing.assert_allclose(output, expected, rtol=0, atol=2e-6)
    for part in parts:
        assert part.request_id == "id"
        assert part.execution.batch_size == 2
        assert part.HasField("attn_weights") == (selection is not None)
    if selection is not None:
        weights = np.concatenate([to_array(part.attn_weights) for part in parts], axis=2)
        np.testing.assert_allclose(weights, to_array(whole.attn_weights), rtol=2e-6, atol=2e-6)
    if selection is not None and selection.top_k:
        keys = np.concatenate([to_array(part.top_keys) for part in parts], axis=2)
        np.testing.assert_array_equal(keys, to_array(whole.top_keys))


def test_weights_alone(channel):
    message = rows_request(2, attn_weights=pb.AttnWeightsSelection(), omit_output=True)
    blocks = blocks_of(channel, message)
    assert [to_array(b.block.attn_weights).shape for b in blocks] == [(2, 4, 2, 3), (2, 4, 1, 3)]
    assert not any(block.block.HasField("output") for block in blocks)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("message", "code", "reason", "field"),
    [
        (b"\xff" * 50, "INVALID_ARGUMENT", "MALFORMED", "request"),
        (b"", "INVALID_ARGUMENT", "REQUIRED", "call.query"),
        (rows_request(-1), "INVALID_ARGUMENT", "OUT_OF_RANGE", "rows_per_block"),
        (rows_request(model=""), "INVALID_ARGUMENT", "REQUIRED", "call.model"),
        (rows_request(model="../x"), "INVALID_ARGUMENT", "INVALID_NAME", "call.model"),
        (rows_request(model="missing"), "NOT_FOUND", "MODEL_NOT_FOUND", ""),
        (rows_request(model_version=9), "NOT_FOUND", "MODEL_VERSION_NOT_FOUND", ""),
        (
            rows_request(query=to_tensor(embeddings(2, 3, 7))),
            "INVALID_ARGUMENT",
            "SHAPE_MISMATCH",
            "call.query.shape",
        ),
        (
            rows_request(query=to_tensor(np.full((1, 2, WIDTH), np.nan))),
            "INVALID_ARGUMENT",
            "NON_FINITE",
            "call.query.data",
        ),
        (
            rows_request(attn_weights=pb.AttnWeightsSelection(queries=[3])),
            "INVALID_ARGUMENT",
            "OUT_OF_RANGE",
            "call.attn_weights.queries[0]",
        ),
        (rows_request(omit_output=True), "INVALID_ARGUMENT", "REQUIRED", "call.omit_output"),
        (
            rows_request(request_id="x" * 257),
            "INVALID_ARGUMENT",
            "INVALID_VALUE",
            "call.request_id",
        ),
    ],
)
def test_bad_requests(channel, message, code, reason, field):
    data = message if isinstance(message, bytes) else message.SerializeToString()
    refusal = refused_stream(channel, data)
    assert (refusal.code, refusal.reason, refusal.field) == (code, reason, field)


@pytest.fixture(scope="module")
def small_server(repository):
    """A server with low limits."""
    limits = {"max_request_bytes": 1 << 20, "max_response_bytes": 1 << 16}
    with running_server(repository, threads=1, max_scores_bytes=1 << 14, **limits) as server:
        yield server


@pytest.fixture
def small_channel(small_server):
    with channel_that_outlives(small_server) as channel:
        yield channel


def long_rows(rows_per_block=0, **selection):
    """4 heads x 256 keys x 4 bytes = 4 KiB of weights a row, and 64 bytes of output."""
    return rows_request(
        rows_per_block,
        query=to_tensor(embeddings(1, 256, WIDTH)),
        attn_weights=pb.AttnWeightsSelection(**selection),
    )


def test_blocks_never_pass_the_limit_of_a_response(small_channel):
    whole = long_rows().call.SerializeToString()
    assert "AttendRows" in refused(small_channel, whole).message
    sizes = [len(answer) for answer in stream(small_channel, long_rows().SerializeToString())]
    assert len(sizes) == 18  # 15 rows in each: (64 KiB - 1 KiB) / (4 KiB + 64)
    assert max(sizes) <= 1 << 16
    assert len(blocks_of(small_channel, long_rows(15))) == 18


def test_blocks_that_do_not_fit_are_refused_with_the_rows_that_do(small_channel):
    refusal = refused_stream(small_channel, long_rows(16).SerializeToString())
    assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "OUTPUT_TOO_LARGE")
    assert refusal.limit == "max_response_bytes"
    assert "rows_per_block to at most 15" in refusal.message


def test_a_row_that_does_not_fit_is_refused_with_a_suggestion(small_channel):
    message = rows_request(
        query=to_tensor(embeddings(1, 2, WIDTH)),
        key=to_tensor(embeddings(1, 10_000, WIDTH).astype(np.float16)),
        kv_lengths=[4000],  # whose scores fit
        attn_weights=pb.AttnWeightsSelection(heads=[0], dtype=pb.DATA_TYPE_DOUBLE),
        omit_output=True,
    )
    refusal = refused_stream(small_channel, message.SerializeToString())
    assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "OUTPUT_TOO_LARGE")
    assert "a single row" in refusal.message
    assert "ask for top_k of at most 5376" in refusal.message  # (64 KiB - 1 KiB) / (8 + 4)


def test_a_request_over_the_limit(small_channel):
    message = rows_request(query=to_tensor(embeddings(1, 20_000, WIDTH)))
    refusal = refused_stream(small_channel, message.SerializeToString())
    assert (refusal.reason, refusal.limit) == ("REQUEST_TOO_LARGE", "max_request_bytes")


def test_the_arrays_of_streams_count_as_held(repository, gate):
    data = long_rows(64).SerializeToString()  # of 256 KiB, thrice held, and a 16 KiB request
    with (
        server_in_threads(repository, max_queue_bytes=1 << 20) as server,
        channel_that_outlives(server) as channel,
    ):
        first = stream(channel, data)
        gate.wait_for_a_block()
        refusal = refused_stream(channel, data)
        assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        assert "--max-queue-bytes" in refusal.message
        gate.open()
        assert len(list(first)) == 4
        assert len(list(stream(channel, data))) == 4


PLACES_OF_BUGS = [
    "polyhead_server.services.attention.prepare.read_call",
    "polyhead_server.codec.request.write_response",
    "polyhead_server.services.attention.prepare.plan_rows",
    "polyhead_server.engine.runs.cancellable.RowBlockRun.next_block",
]


@pytest.mark.parametrize("where", PLACES_OF_BUGS)
def test_a_bug_anywhere_gives_nothing_away(channel, monkeypatch, where):
    def fail(*_):
        raise RuntimeError("/secret/path")

    # of a template that the server does not know, and so prepares
    query = to_tensor(embeddings(1, 100 + PLACES_OF_BUGS.index(where), WIDTH))
    with monkeypatch.context() as patched:
        patched.setattr(where, fail)
        refusal = refused_stream(channel, rows_request(query=query).SerializeToString())
    assert refusal.code == "INTERNAL"
    assert refusal.message.startswith("internal error, incident ")


# ---------------------------------------------------------------- clients that leave, or are slow


class Gate:
    """Holds blocks back one by one, and counts those that began."""

    def __init__(self):
        self.num_begun = 0
        self._arrived = threading.Semaphore(0)
        self._began = threading.Semaphore(0)
        self._passes = threading.Semaphore(0)
        self._is_open = False

    def pass_by(self):
        self.num_begun += 1
        self._began.release()
        if not self._is_open:
            assert self._passes.acquire(timeout=PATIENCE_S)

    def arrive(self):
        self._arrived.release()

    def wait_for_arrivals(self, count):
        """Wait until so many more requests have come to the queue."""
        for _ in range(count):
            assert self._arrived.acquire(timeout=PATIENCE_S)

    def wait_for_a_block(self):
        assert self._began.acquire(timeout=PATIENCE_S)

    def let_pass(self, count):
        for _ in range(count):
            self._passes.release()

    def open(self):
        self._is_open = True
        self.let_pass(10_000)


@pytest.fixture
def gate(monkeypatch):
    """A gate before every block of a server_in_threads."""
    gate, next_block, append = Gate(), RowBlockRun.next_block, JobQueue.append

    def arrival(queue, entry):
        append(queue, entry)
        gate.arrive()

    def gated(run):
        gate.pass_by()
        return next_block(run)

    monkeypatch.setattr(JobQueue, "append", arrival)
    monkeypatch.setattr(RowBlockRun, "next_block", gated)
    yield gate
    gate.open()


@pytest.fixture
def calls():
    with call_log() as log:
        yield log


def ten_rows(**fields):
    query = to_tensor(embeddings(1, 10, WIDTH))
    return rows_request(1, query=query, request_id="rows", **fields).SerializeToString()


def test_a_stream_has_one_line_in_the_log(server, channel, calls):
    assert len(list(stream(channel, ten_rows()))) == 10
    line = calls.line_of("rows")
    assert (line.code, line.blocks, line.model) == ("OK", 10, "plain")
    assert line.method == "polyhead.v1.AttentionService/AttendRows"
    assert len([r for r in calls.lines if r.method.endswith("/AttendRows")]) == 1


@pytest.mark.parametrize("how", ["cancel", "close the connection", "deadline"])
def test_the_slot_is_freed_when_the_client_leaves_in_mid_stream(repository, gate, calls, how):
    with (
        server_in_threads(repository, max_queue_size=0) as server,
        channel_that_outlives(server) as channel,
        open_channel(server) as leaving,
    ):
        grpc.channel_ready_future(leaving).result(timeout=PATIENCE_S)
        # time for two blocks, on any machine; the third never comes
        answers = stream(leaving, ten_rows(), timeout=3 if how == "deadline" else PATIENCE_S)
        gate.let_pass(2)
        assert pb.AttendRowsResponse.FromString(next(answers)).first_row == 0
        assert pb.AttendRowsResponse.FromString(next(answers)).first_row == 1
        for _ in range(3):
            gate.wait_for_a_block()
        if how == "cancel":
            answers.cancel()
        elif how == "close the connection":
            leaving.close()
        line = calls.line_of("rows")
        assert line.code in {"CANCELLED", "DEADLINE_EXCEEDED"}
        assert line.blocks == 2
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        expected = "DEADLINE_EXCEEDED" if how == "deadline" else "CANCELLED"
        assert caught.value.code().name == expected
        # the thread is still at the third block; the slot is free very soon
        data = request().SerializeToString()
        attend = channel.unary_unary(SERVICE + "Attend")
        while (error := attend.future(data, timeout=PATIENCE_S).exception()) is not None:
            assert read_refusal(error).reason == "OVERLOADED"
        gate.open()
        assert gate.num_begun == 3


def test_a_slow_reader_does_not_grow_the_server(repository, gate):
    """Blocks of 1 MiB are computed as they are taken, and not ahead of that."""
    gate.open()
    message = rows_request(
        64, query=to_tensor(embeddings(1, 1024, WIDTH)), attn_weights=pb.AttnWeightsSelection()
    )
    with (
        server_in_threads(repository) as server,
        channel_that_outlives(server) as channel,
        # whose transport takes 64 KiB ahead of the reader, and does not adapt
        open_channel(server, **{"grpc.http2.bdp_probe": 0}) as slow,
    ):
        answers = stream(slow, message.SerializeToString(), timeout=60)
        next(answers)
        for _ in range(100):  # whose turns come between the stream's: it could have gone on
            assert_serves(channel)
        # one was read and one is being written: 2, or a few more where gRPC's reader fetches ahead;
        # all 16 if the server ran ahead
        assert gate.num_begun <= 8
        assert len(list(answers)) == 15
        assert gate.num_begun == 16


def test_others_are_served_between_the_blocks_of_a_stream(repository, gate):
    with (
        server_in_threads(repository) as server,
        channel_that_outlives(server) as channel,
    ):
        answers = stream(channel, ten_rows())
        gate.wait_for_a_block()
        others = [stream(channel, ten_rows()) for _ in range(3)]
        gate.wait_for_arrivals(4)
        gate.let_pass(1)
        next(answers)
        for _ in range(3):
            gate.wait_for_a_block()
            gate.let_pass(1)
        for other in others:  # each has its first block before the first stream has all of its own
            assert pb.AttendRowsResponse.FromString(next(other)).first_row == 0
        assert gate.num_begun <= 5
        gate.open()
        assert [len(list(a)) for a in (answers, *others)] == [9, 9, 9, 9]


# ---------------------------------------------------------------- stopping


def stop_in_thread(context):
    stopping = threading.Thread(target=context.__exit__, args=(None, None, None))
    stopping.start()
    return stopping


def test_draining_lets_a_stream_end(repository, gate, calls):
    context = server_in_threads(repository, grace_s=PATIENCE_S)
    with open_channel(context.__enter__()) as channel:
        answers = stream(channel, ten_rows())
        gate.let_pass(1)
        assert next(answers)
        stopping = stop_in_thread(context)
        gate.open()
        assert len(list(answers)) == 9
        stopping.join()
    assert calls.code_of("rows") == "OK"


def test_a_stream_that_outlasts_the_grace_is_ended(repository, gate, calls, caplog):
    context = server_in_threads(repository, grace_s=0.1)
    with open_channel(context.__enter__()) as channel:
        answers = stream(channel, ten_rows())
        gate.let_pass(1)
        assert next(answers)
        gate.wait_for_a_block()
        gate.wait_for_a_block()
        stopping = stop_in_thread(context)
        with pytest.raises(grpc.RpcError) as caught:
            list(answers)
        assert caught.value.code().name in {"CANCELLED", "UNAVAILABLE"}
        gate.open()
        stopping.join()
    assert gate.num_begun == 2
    assert calls.code_of("rows") == "CANCELLED"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
