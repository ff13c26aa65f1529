"""docs/open-inference-protocol.md: its examples run against a server."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from tritonclient_requests import stock

from polyhead_models import builtin
from polyhead_server.running import running_server

GUIDE = (Path(__file__).parents[3] / "docs" / "open-inference-protocol.md").read_text()


def test_the_examples_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert len(blocks) == 2
    with running_server(builtin.repository(), threads=1) as served:
        code = "\n".join(blocks).replace("localhost:50051", served.target)
        names = {}
        with warnings.catch_warnings():  # its stubs are made for the protobuf before
            warnings.simplefilter("ignore")
            exec(compile(code, "open-inference-protocol.md", "exec"), names)
        assert isinstance(names["client"], stock.InferenceServerClient)
        names["client"].close()
    assert capsys.readouterr().out == "(1, 10, 6)\n(1, 1, 10, 10)\n0\n1\n2\n"
