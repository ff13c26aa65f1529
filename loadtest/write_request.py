"""Writes a request of Attend as JSON, for ghz and k6: random embeddings for a block of a server.

    python loadtest/write_request.py --model minilm-0 --tokens 16 > request.json

loadtest/request.json is such a request, of 16 tokens for the built-in model.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.json_format import MessageToDict

from polyhead import PolyheadError
from polyhead.bench.payloads import input_widths
from polyhead.cli.shared_arguments import add_server_arguments, open_client
from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_tensor

if TYPE_CHECKING:
    from polyhead.types import AttentionSpec


def main() -> None:
    """Ask the server for the model's widths, and print the request."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_server_arguments(parser, timeout_s=10)
    parser.add_argument("--model", required=True, help="a block of the server")
    parser.add_argument("--tokens", type=int, default=16, help="length of the sequence")
    arguments = parser.parse_args()
    try:
        with open_client(arguments) as client:
            spec = client.model(arguments.model).spec
    except PolyheadError as error:
        sys.exit(str(error))
    if spec is None:
        sys.exit(f"{arguments.model!r} is not a block: name a block that `polyhead models` lists")
    request = make_request(arguments.model, spec, arguments.tokens)
    sys.stdout.write(json.dumps(request, indent=2) + "\n")


def make_request(model: str, spec: AttentionSpec, num_tokens: int) -> dict[str, Any]:
    """Return a request of Attend in protobuf's JSON, with normally distributed embeddings."""
    generator = np.random.default_rng(0)
    arrays = {
        name: to_tensor(generator.standard_normal((1, num_tokens, width), np.float32))
        for name, width in zip(("query", "key", "value"), input_widths(spec), strict=True)
        if width is not None
    }
    request: dict[str, Any] = MessageToDict(
        pb.AttendRequest(model=model, **arrays), preserving_proto_field_name=True
    )
    return request


if __name__ == "__main__":
    main()
