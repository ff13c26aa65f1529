"""Settings of the hardware that models run on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from polyhead_server.errors import StartupError
from polyhead_server.settings.option import Option

__all__ = ["ResourceSettings"]


@dataclass(frozen=True, kw_only=True)
class ResourceSettings:
    """The provider, processes, threads and runs of models."""

    provider: Annotated[
        str,
        Option(
            "where models run; cuda fails without a GPU, auto falls back to cpu and says so",
            choices=("auto", "cpu", "cuda"),
        ),
    ] = "auto"
    provider_options: Annotated[
        str, Option("ONNX Runtime's options for cuda, such as device_id=1,gpu_mem_limit=2147483648")
    ] = ""
    workers: Annotated[
        int,
        Option(
            "processes that serve the port, each with its own models, queue and limits",
            at_least=1,
            at_most=256,
        ),
    ] = 1
    threads: Annotated[
        int,
        Option(
            "threads of one run, in a pool of each model; fewer if the pools of many models would "
            "have more than 128 together; with --spinning on, in one pool for all models; 0: the "
            "CPUs that this process may use, divided by --workers",
            at_least=0,
            at_most=1024,
        ),
    ] = 0
    spinning: Annotated[
        bool,
        Option("let idle threads spin for some 50 ms: lower latency if there are CPUs to spare"),
    ] = False
    max_concurrent_runs: Annotated[
        int,
        Option(
            "runs at once in each worker, each with --threads threads; very small ones do not "
            "count, and short ones do not wait for long ones",
            at_least=1,
            at_most=1024,
        ),
    ] = 1

    def parsed_provider_options(self) -> dict[str, str]:
        """Split provider_options into names and values. Raises StartupError."""
        options = {}
        for pair in filter(str.strip, self.provider_options.split(",")):
            name, _, value = (part.strip() for part in pair.partition("="))
            if not (name and value):
                raise StartupError(
                    f"--provider-options is {self.provider_options!r}; "
                    "expected NAME=VALUE,NAME=VALUE, such as device_id=1"
                )
            options[name] = value
        return options
