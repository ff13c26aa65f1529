"""Calls servers all the time, inside a container of the project's image.

    python -c "$(cat container_load.py)" stock=envoy:50051 client=dns:///server:50051 …

Each argument is a caller and its target. stock: a gRPC stub without retries; round_robin: a stub
that goes round all addresses, and tries again; client: polyhead's client; stream: the same with an
AttendStream. Five times a second a line of JSON on standard output says how many calls of each
caller ended how. The callers stop at the end of standard input.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter

import grpc
import numpy as np

import polyhead
from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import attention_pb2_grpc
from polyhead.wire.tensors import to_tensor

QUERY = np.ones((1, 3, 6), np.float32)
REQUEST = pb.AttendRequest(model="river-bank", query=to_tensor(QUERY))
PAUSE_S = 0.002  # leaves CPU time for what is tried


NO_RETRIES = [("grpc.enable_retries", 0)]
RETRIES = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
}
ROUND_ROBIN = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [{"name": [{}], "retryPolicy": RETRIES}],
}


def call_by_stub(target, options, stop, codes):
    with grpc.insecure_channel(target, options) as channel:
        stub = attention_pb2_grpc.AttentionServiceStub(channel)
        while not stop.wait(PAUSE_S):
            try:
                stub.Attend(REQUEST, timeout=30)
                codes["OK"] += 1
            except grpc.RpcError as error:
                codes[f"{error.code().name}: {error.details()}"] += 1


def call_by_client(target, transport, stop, codes):
    with polyhead.Client(target, transport=transport) as client:
        while not stop.wait(PAUSE_S):
            try:
                client.attend(QUERY, model="river-bank", timeout=30)
                codes["OK"] += 1
            except polyhead.PolyheadError as error:
                codes[f"{type(error).__name__}: {error}"] += 1


CALLERS = {
    "stock": (call_by_stub, NO_RETRIES),
    "round_robin": (call_by_stub, [("grpc.service_config", json.dumps(ROUND_ROBIN))]),
    "client": (call_by_client, "unary"),
    "stream": (call_by_client, "stream"),
}


def main(arguments):
    stop, codes, threads = threading.Event(), {}, []
    for argument in arguments:
        kind, _, target = argument.partition("=")
        call, how = CALLERS[kind]
        codes[argument] = Counter()
        threads.append(threading.Thread(target=call, args=(target, how, stop, codes[argument])))
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    for thread in threads:
        thread.start()
    while not stop.wait(0.2):
        print(json.dumps(codes), flush=True)
    for thread in threads:
        thread.join()
    print(json.dumps(codes), flush=True)


main(sys.argv[1:])
