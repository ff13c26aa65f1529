"""Settings that limit requests and callers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from polyhead_server.limits import PeerLimits
from polyhead_server.settings.option import UNITS, Option

__all__ = ["LimitSettings"]


@dataclass(frozen=True, kw_only=True)
class LimitSettings:
    """How much requests and callers may take."""

    max_queue_size: Annotated[
        int,
        Option(
            "requests that may wait for their run in each worker; more are refused",
            at_least=0,
            at_most=1_000_000,
        ),
    ] = 256
    max_queue_bytes: Annotated[
        int,
        Option(
            "bytes that each worker holds at once: requests that wait or run, and the blocks and "
            "projections of AttendRows; more are refused. AttendStreams share as much again",
            at_least=1024,
            at_most=2**63 - 1,
        ),
    ] = 1 * UNITS["GiB"]
    max_batch_tokens: Annotated[
        int,
        Option(
            "most tokens in a batch of requests of one shape; 0: the provider's default (cpu: 256)",
            at_least=0,
            at_most=2**31 - 1,
        ),
    ] = 0
    solo_above_tokens: Annotated[
        int,
        Option(
            "requests of more tokens run alone, because batching does not make them faster; 0: the "
            "provider's default (cpu: 16)",
            at_least=0,
            at_most=2**31 - 1,
        ),
    ] = 0
    max_queue_delay_ms: Annotated[
        float,
        Option(
            "milliseconds that a request may wait for a fuller batch; 0: only for a free slot",
            at_least=0,
            at_most=60_000,
        ),
    ] = 0.0
    max_request_bytes: Annotated[
        int, Option("largest request message", at_least=1024, at_most=2**30)
    ] = 128 * UNITS["MiB"]
    max_text_characters: Annotated[
        int,
        Option(
            "characters of a text that are made tokens, which takes a second a million and cannot "
            "be interrupted, and most tokens that a text of thousands of characters may become; a "
            "longer text is refused unless the model needs only its beginning",
            at_least=1,
            at_most=2**30,
        ),
    ] = 250_000
    max_response_bytes: Annotated[
        int, Option("largest response message", at_least=1024, at_most=2**31 - 1)
    ] = 256 * UNITS["MiB"]
    max_scores_bytes: Annotated[
        int,
        Option(
            "largest score matrix in one run; larger ones are computed in blocks, and only one "
            "row, num_heads x kv_seq_len x 4 bytes, must fit",
            at_least=1024,
            at_most=2**63 - 1,
        ),
    ] = 64 * UNITS["MiB"]
    max_memory_bytes: Annotated[
        int,
        Option(
            "memory that each worker may use; from three quarters on, calls whose requests are "
            "still arriving are cut. The four limits of bytes above are lower by default where "
            "memory is scarce. 0: what the container or the machine has, divided by --workers",
            at_least=0,
            at_most=2**63 - 1,
        ),
    ] = 0
    max_connections: Annotated[
        int,
        Option(
            "connections that each worker has at once; further ones are closed",
            at_least=1,
            at_most=2**31 - 1,
        ),
    ] = 1000
    max_concurrent_streams: Annotated[
        int,
        Option(
            "calls that a client may have at once on one connection; it lets further ones wait",
            at_least=1,
            at_most=2**31 - 1,
        ),
    ] = 100
    max_open_calls: Annotated[
        int,
        Option(
            "calls that each worker has at once, of all connections and methods; more are refused",
            at_least=1,
            at_most=2**31 - 1,
        ),
    ] = 4000
    max_peer_share: Annotated[
        float,
        Option(
            "largest share of --max-open-calls, --max-queue-bytes and, when they are scarce, "
            "--max-connections that one address may have, so that it leaves something to others; 1 "
            "behind a proxy that all callers come through",
            at_least=0.001,
            at_most=1,
        ),
    ] = 0.5
    receive_timeout_s: Annotated[
        float,
        Option(
            "seconds from the begin of a call within which its request must have arrived",
            at_least=0.1,
            at_most=86_400,
        ),
    ] = 60.0
    write_timeout_s: Annotated[
        float,
        Option(
            "seconds within which a client must take a message, and one more for each 100 kB; a "
            "call whose client takes longer is cut",
            at_least=0.1,
            at_most=86_400,
        ),
    ] = 60.0
    allow_non_finite: Annotated[bool, Option("accept NaN and infinity in query, key and value")] = (
        False
    )

    @property
    def peer_limits(self) -> PeerLimits:
        """Limits of each peer's calls, and of the time that calls wait for their peer."""
        return PeerLimits(
            receive_timeout_s=self.receive_timeout_s,
            write_timeout_s=self.write_timeout_s,
            max_calls=self.max_open_calls,
            max_share=self.max_peer_share,
        )
