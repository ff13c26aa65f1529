"""Limits, most of them without a flag: of the event loop, of streams, peers, loading, and so on."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "FetchLimits",
    "InlineLimits",
    "LoadLimits",
    "LogLimits",
    "MetricsLimits",
    "PeerLimits",
    "RenewalLimits",
    "StreamLimits",
    "WorkerLimits",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class InlineLimits:
    """Which requests run on the event loop, and how many before other tasks get a turn.

    Handing a request to a thread and back costs 0.3 to 0.6 ms of latency and of CPU time (measured
    with one token of width 384 and 768). Requests that take less run inline.
    """

    max_multiply_adds: int = 1_000_000
    """A request with this many multiply-adds or more runs in a thread."""
    max_moved_bytes: int = 256 << 10
    """A request that reads this many bytes or more runs in a thread, because moving them takes time
    even if little is computed."""
    batch_multiply_adds: int = 16_000_000
    """Most multiply-adds that run in one turn of the event loop; they take some milliseconds."""
    batch_requests: int = 256
    """Most requests that run in one turn."""
    min_multiply_adds: int = 4_000_000
    """A request with its own run counts as at least this many multiply-adds. gRPC takes a call in
    about three turns, so with 16 such runs in each the calls of others waited for a second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamLimits:
    """The memory and the duration of one stream."""

    max_requests: int = 1024
    """Most requests that wait, run, or have responses that are not yet sent."""
    max_ordered_requests: int = 64
    """The same limit for ModelStreamInfer, which answers in the order of the requests."""
    min_bytes: int = 1 << 20
    """Bytes of requests and responses that a stream may hold however many streams there are."""
    max_bytes: int = 64 << 20
    """Bytes that a stream may hold if there are few streams."""
    max_age_s: float = 300.0
    """Seconds after which a stream ends, so that balancers reach servers that were added later."""
    message_bytes: int = 1 << 20
    """Responses are put into one message up to this size, because larger messages gain nothing."""
    requests_per_turn: int = 64
    """Requests that are read and checked before other tasks get a turn; takes a millisecond. One
    whose template is not known counts as 16."""

    def max_held_bytes(self, share_bytes: int) -> int:
        """Return how many bytes a stream may hold before it stops reading.

        One request may exceed this. ``share_bytes``: this stream's share of --max-queue-bytes.
        """
        return max(self.min_bytes, min(self.max_bytes, share_bytes))


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerLimits:
    """How many calls a peer may have, and how long calls wait for their peer."""

    receive_timeout_s: float = 60.0
    """Seconds from the begin of a call within which its request must have arrived."""
    write_timeout_s: float = 60.0
    """Seconds within which a peer must take a message, in addition to the time for its size."""
    min_write_bytes_per_s: float = 100_000
    """Slowest rate at which a peer must take messages, because they use memory that others need."""
    max_calls: int = 4000
    """Most open calls."""
    max_share: float = 0.5
    """Largest share of the calls, and of the reserved bytes, of one peer."""
    poll_s: float = 0.25
    """Seconds between two checks for overdue calls."""

    @property
    def max_calls_of_peer(self) -> int:
        """Most open calls of one peer."""
        return max(1, int(self.max_calls * self.max_share))

    def max_seconds_to_write(self, num_bytes: int) -> float:
        """Return the seconds within which a peer must take a message of this size."""
        return self.write_timeout_s + num_bytes / self.min_write_bytes_per_s


@dataclass(frozen=True, kw_only=True, slots=True)
class RenewalLimits:
    """How soon changed files of certificates, keys and tokens are used."""

    poll_s: float = 1.0
    """Seconds between two checks of the files. A change counts when two checks have seen it."""


@dataclass(frozen=True, kw_only=True)
class LoadLimits:
    """How long loading a model may take, how large its files may be, how many loads may wait."""

    timeout_s: float = 120.0
    """Seconds that reading a folder, or loading one version of a model, may take."""
    max_check_s: float = 120.0
    """Most seconds for the runs that compare a model with its metadata, which can be ended."""
    max_graph_bytes: int = 2**31 - 1
    """Longest model.onnx; an ONNX file holds less than 2 GiB."""
    max_graph_nodes: int = 100_000
    """Most nodes of a graph, where a call of a function in the file is as many as that has. ONNX
    Runtime takes 50 to 80 s and 300 MB for 65,000 nodes of functions (1.28, 1.32)."""
    max_graph_fields: int = 10_000_000
    """Most protobuf fields of a graph that are read before ONNX Runtime reads it, a microsecond
    each."""
    max_config_bytes: int = 1 << 18
    """Longest config.pbtxt."""
    max_abandoned: int = 4
    """Most loads that may go on after their time was up or their caller had gone."""
    max_waiting: int = 16
    """Most loads and unloads that may wait for the one before them."""
    watch_interval_s: float = 2.0
    """Seconds between two checks of the repository's files, with --watch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchLimits:
    """Limits of listing a store, of fetching from it, and of its cache."""

    timeout_s: float = 1800.0
    """Seconds that fetching one version may take."""
    max_cache_bytes: int = 0
    """Most bytes of cached versions; 0: as many as the disk holds."""
    allows_unverified: bool = False
    """Whether versions without SHA256SUMS are fetched."""
    max_listed_files: int = 100_000
    """Most files of a store."""
    max_files: int = 1000
    """Most files of a version."""
    chunk_bytes: int = 8 << 20
    """Bytes per request to the store."""
    answer_s: float = 60.0
    """Seconds that a listing, or so many bytes, may take."""
    kept_s: float = 600.0
    """Seconds since its last use during which a version stays cached, because it may be loaded
    now."""
    partial_kept_s: float = 86_400.0
    """Seconds during which the files of an interrupted fetch stay cached, at least."""
    lock_poll_s: float = 0.1
    """Seconds between two checks whether another process has fetched the version."""
    progress_s: float = 10.0
    """Seconds between two lines of the log about a fetch."""
    watch_interval_s: float = 30.0
    """Seconds between two checks of a store, with --watch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogLimits:
    """How many refusals of one method, code and reason have lines of their own in the log."""

    lines_in_window: int = 3
    """Lines in a window. One more line counts the refusals that were left out."""
    window_s: float = 10.0
    """Seconds from the first of these lines to the line with the count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricsLimits:
    """Limits of clients of the metrics port."""

    connections: int = 16
    """Most connections at once. For a further one, that which has sent its request for longest is
    closed; if all have sent theirs, the further one."""
    request_bytes: int = 8 << 10
    """Largest request."""
    request_s: float = 10.0
    """Seconds from a connection to the end of its response."""
    max_share: float = 0.1
    """Largest share of a CPU's time that making pages may take. Requests that come faster wait, and
    get one page together."""
    worker_s: float = 2.0
    """Seconds within which a worker must send its numbers. Otherwise its series are missing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerLimits:
    """Times after which a worker counts as hanging, and within which it must stop."""

    beat_s: float = 1.0
    """Seconds between two beats of a worker's event loop, and between the supervisor's checks."""
    silent_s: float = 20.0
    """Seconds without a beat after which a worker is replaced."""
    start_s: float = 60.0
    """Seconds that a worker has for its first beat."""
    stop_s: float = 15.0
    """Seconds that a worker may take to stop besides --drain-delay-s and --grace-s."""
