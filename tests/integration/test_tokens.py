"""Tokens: which caller may call which method, and what changes when the tokens file does."""

from __future__ import annotations

import time
from contextlib import suppress

import grpc
import numpy as np
import pytest
from call_log import EVERY_LINE, call_log
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from raw_calls import read_refusal
from secret_files import replace_file
from tritonclient_requests import inputs_of, stock

import polyhead
from polyhead.cli.servers.metrics_page import read_page
from polyhead.v1 import attention_pb2
from polyhead_server.auth.tokens import make_token
from polyhead_server.errors import StartupError
from polyhead_server.inference import grpc_inference_pb2
from polyhead_server.limits import RenewalLimits
from polyhead_server.running import running_server

QUERY = np.ones((1, 3, 6), np.float32)
PATIENCE_S = 20
TOKENS, LINES = {}, {}
for _roles in ("infer", "admin", "infer admin"):
    _name = _roles.replace(" ", "-and-")
    TOKENS[_roles], LINES[_roles] = make_token(_name, _roles.split())

OPEN, ANY, INFER, ADMIN = "open", "any role", "infer", "admin"
METHODS = {
    "grpc.health.v1.Health": {"Check": OPEN, "Watch": OPEN},
    "polyhead.v1.AttentionService": {
        "Attend": INFER,
        "AttendRows": INFER,
        "AttendStream": INFER,
        "Forward": INFER,
        "ListModels": ANY,
        "ReloadModels": ADMIN,
        "GetModel": ANY,
        "GetServerInfo": ANY,
    },
    "inference.GRPCInferenceService": {
        "ServerLive": OPEN,
        "ServerReady": OPEN,
        "ModelReady": ANY,
        "ServerMetadata": ANY,
        "ModelMetadata": ANY,
        "ModelConfig": ANY,
        "RepositoryIndex": ANY,
        "ModelInfer": INFER,
        "ModelStreamInfer": INFER,
        "ModelStatistics": ADMIN,
        "RepositoryModelLoad": ADMIN,
        "RepositoryModelUnload": ADMIN,
    },
    "grpc.reflection.v1.ServerReflection": {"ServerReflectionInfo": ADMIN},
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": ADMIN},
}
SERVED = [
    f"{service.full_name}/{method.name}"
    for module in (health_pb2, attention_pb2, grpc_inference_pb2, reflection_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.name != "List"  # of health; the library does not implement it
] + ["grpc.reflection.v1.ServerReflection/ServerReflectionInfo"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("tokens") / "tokens"


@pytest.fixture(scope="module")
def server(file):
    file.write_text("".join(f"{line}\n" for line in LINES.values()))
    renewal = RenewalLimits(poll_s=0.02)
    with running_server(
        tokens_file=file,
        model_control="explicit",
        renewal_limits=renewal,
        log_limits=EVERY_LINE,
        metrics_port=0,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.target) as channel:
        yield channel


def bearer(token):
    return (("authorization", f"Bearer {token}"),)


def outcome(channel, method, metadata=(), request=b""):
    """Call a method of any kind; return how it was refused, or None if it was admitted."""
    call = channel.stream_stream(f"/{method}")(
        iter([request]), metadata=metadata, timeout=PATIENCE_S
    )
    try:
        with suppress(StopIteration):
            next(call)
    except grpc.RpcError as error:
        refusal = read_refusal(error)
        # empty requests are malformed to most methods, and an admitted caller hears that
        admitted = {"INVALID_ARGUMENT", "NOT_FOUND"}
        return None if refusal.code in admitted else (refusal.code, refusal.reason)
    finally:
        call.cancel()
    return None


def test_every_method_asks_for_its_role(channel):
    for method in SERVED:
        service, _, name = method.partition("/")
        needed = METHODS[service][name]
        allowed = {OPEN: TOKENS, ANY: TOKENS}.get(needed, [r for r in TOKENS if needed in r])
        unknown, _ = make_token("infer", ["infer"])
        missing, wrong = (outcome(channel, method, m) for m in ((), bearer(unknown)))
        if needed is OPEN:
            assert missing is wrong is None, method
        else:
            assert missing == ("UNAUTHENTICATED", "TOKEN_REQUIRED"), method
            assert wrong == ("UNAUTHENTICATED", "TOKEN_INVALID"), method
        for roles, token in TOKENS.items():
            expected = None if roles in allowed else ("PERMISSION_DENIED", "ROLE_REQUIRED")
            assert outcome(channel, method, bearer(token)) == expected, (method, roles)


@pytest.mark.parametrize(
    "method",
    [
        "",
        "/",
        "x",
        "x/y",
        "polyhead.v1.AttentionService",
        "polyhead.v1.AttentionService/",
        "polyhead.v1.AttentionService/attend",
        "polyhead.v1.AttentionService/Attend/",
        "polyhead.v1.AttentionService//Attend",
        "polyhead.v1.AttentionService/Attend?",
        "/polyhead.v1.AttentionService/Attend",
        "POLYHEAD.V1.ATTENTIONSERVICE/ATTEND",
        "grpc.health.v1.Health/../polyhead.v1.AttentionService/Attend",
        "inference.GRPCInferenceService/ServerLive/../RepositoryModelLoad",
        "grpc.channelz.v1.Channelz/GetServers",
        "grpc.reflection.v2.ServerReflection/ServerReflectionInfo",
    ],
)
def test_odd_paths_lead_nowhere(channel, method):
    without, known = (outcome(channel, method, m) for m in ((), bearer(TOKENS["infer"])))
    assert known == ("UNIMPLEMENTED", "")
    assert without == ("UNAUTHENTICATED", "TOKEN_REQUIRED")


@pytest.mark.parametrize(
    "metadata",
    [
        [("authorization", "")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", TOKENS["infer"])],
        [("authorization", f"Basic {TOKENS['infer']}")],
        [("authorization", f"Bearer{TOKENS['infer']}")],
        [("authorization", f"Bearer {TOKENS['infer']} x")],
        [("authorization", f"Bearer {TOKENS['infer']}x")],
        [("authorization", f"Bearer {TOKENS['infer'].swapcase()}")],
        [("authorization", f"Bearer {TOKENS['infer']}")] * 2,
        [("authorization", f"Bearer {TOKENS['infer']}"), ("authorization", "Bearer x")],
        [("x-authorization", f"Bearer {TOKENS['infer']}")],
        [("token", TOKENS["infer"])],
    ],
)
def test_other_metadata_are_refused(channel, metadata):
    refused = outcome(channel, "polyhead.v1.AttentionService/ListModels", metadata)
    assert refused[0] == "UNAUTHENTICATED"


def test_the_scheme_is_read_in_any_case(channel):
    metadata = [("authorization", f"bEARER {TOKENS['infer']}")]
    assert outcome(channel, "polyhead.v1.AttentionService/ListModels", metadata) is None


def test_a_refusal_has_advice(channel):
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelStatistics")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", metadata=bearer(TOKENS["infer"]), timeout=PATIENCE_S)
    refusal = read_refusal(caught.value)
    assert "with the role admin" in refusal.message
    assert refusal.figures == {"role": "admin"}


def test_metrics_count_callers_by_name_and_refused_callers(server, channel):
    def total(name, **labels):
        return read_page("127.0.0.1", server.metrics_port, PATIENCE_S).total(name, **labels)

    wrong, _ = make_token("infer", ["infer"])
    refused = {"grpc_method": "ListModels", "grpc_code": "Unauthenticated"}
    calls = total("polyhead_caller_calls_total", caller="infer")
    refusals = total("grpc_server_handled_total", **refused)
    with polyhead.Client(server.target, token=TOKENS["infer"]) as client:
        client.models()
    assert outcome(channel, "polyhead.v1.AttentionService/ListModels", bearer(wrong))
    assert total("polyhead_caller_calls_total", caller="infer") == calls + 1
    assert total("grpc_server_handled_total", **refused) == refusals + 1


def test_the_log_names_callers_and_holds_no_token(server, channel):
    method = "polyhead.v1.AttentionService/ListModels"
    wrong, _ = make_token("infer", ["infer"])
    with call_log() as log, polyhead.Client(server.target, token=TOKENS["infer"]) as client:
        client.attend(QUERY, model="river-bank", request_id="unary")
        list(client.attend_many([{"query": QUERY, "request_id": "streamed"}], model="river-bank"))
        with pytest.raises(polyhead.ModelNotFoundError):
            client.attend(QUERY, model="none", request_id="fails")
        for request_id in ("unary", "streamed", "fails"):
            assert log.line_of(request_id).caller == "infer"
        assert outcome(channel, method, bearer(wrong))
        assert outcome(channel, "inference.GRPCInferenceService/ModelStatistics", bearer(wrong))
        assert outcome(channel, "made/up", bearer(wrong))
    lines = [vars(line) for line in log.lines]
    assert [line["method"] for line in lines if line.get("code") == "UNAUTHENTICATED"] == [
        method,
        "inference.GRPCInferenceService/ModelStatistics",
        "unknown/unknown",
    ]
    assert all("caller" not in line for line in lines if line.get("code") == "UNAUTHENTICATED")
    for secret in (token.rpartition(".")[2] for token in (*TOKENS.values(), wrong)):
        assert secret not in str(lines)


def test_stock_clients_send_tokens_as_metadata(server):
    headers = {"authorization": f"Bearer {TOKENS['infer']}"}
    with stock.InferenceServerClient(server.target) as triton:
        assert triton.is_server_live()
        inputs = inputs_of({"query": QUERY})
        assert triton.infer("river-bank", inputs, headers=headers).as_numpy("output").size
        with pytest.raises(stock.InferenceServerException, match="needs a token"):
            triton.infer("river-bank", inputs)
        with pytest.raises(stock.InferenceServerException, match="role admin"):
            triton.load_model("river-bank", headers=headers)
        triton.load_model("river-bank", headers=dict(bearer(TOKENS["admin"])))


def test_the_client_raises_authentication_error(server, monkeypatch):
    def attend(**options):
        with polyhead.Client(server.target, **options) as client:
            return client.attend(QUERY, model="river-bank").output.size

    with pytest.raises(polyhead.AuthenticationError, match="POLYHEAD_TOKEN") as caught:
        attend()
    assert (caught.value.code, caught.value.reason) == ("UNAUTHENTICATED", "TOKEN_REQUIRED")
    with pytest.raises(polyhead.AuthenticationError, match="role infer") as caught:
        attend(token=TOKENS["admin"])
    assert (caught.value.code, caught.value.reason) == ("PERMISSION_DENIED", "ROLE_REQUIRED")
    for transport in ("unary", "stream"):
        assert attend(token=TOKENS["infer"], transport=transport)
    monkeypatch.setenv("POLYHEAD_TOKEN", TOKENS["infer"])
    assert attend()


def wait_until(condition):
    give_up_at = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_at


def test_changes_of_the_file_take_effect(file, channel):
    method = "polyhead.v1.AttentionService/ListModels"
    as_it_was = file.read_text()

    def is_admitted(token):
        return outcome(channel, method, bearer(token)) is None

    new, line = make_token("new", ["infer"])
    try:
        assert is_admitted(TOKENS["infer"])
        assert not is_admitted(new)
        replace_file(file, f"{line}\n")
        wait_until(lambda: is_admitted(new))
        assert not is_admitted(TOKENS["infer"])
        # a mistake in one line shuts out nobody else
        replace_file(file, f"{LINES['infer']}\nnew infer oops\n")
        wait_until(lambda: is_admitted(TOKENS["infer"]))
        assert not is_admitted(new)
        file.unlink()
        wait_until(lambda: not is_admitted(TOKENS["infer"]))
    finally:
        replace_file(file, as_it_was)
        wait_until(lambda: is_admitted(TOKENS["infer"]))


def test_calls_are_admitted_while_the_file_is_read(file, server):
    """The token is in each version of the file."""
    as_it_was = file.read_text()
    with polyhead.Client(server.target, token=TOKENS["infer"]) as client:
        for number in range(20):
            replace_file(file, f"# {number}\n{as_it_was}")
            for _ in range(10):
                client.models()


def test_a_wrong_file_keeps_the_server_from_starting(tmp_path):
    file = tmp_path / "tokens"
    for content, problem in (("", "lists no token"), ("ci infer x\n", "line 1: the third field")):
        file.write_text(content)
        with (
            pytest.raises(StartupError, match=rf"--tokens-file .*{problem}"),
            running_server(tokens_file=file),
        ):
            pass
