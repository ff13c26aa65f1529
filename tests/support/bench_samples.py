"""A workload of `polyhead bench`, and samples like those of a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from polyhead.bench.plan import Workload
from polyhead.bench.samples import Samples

PLAIN = Workload(
    model="m",
    version=1,
    widths=(8, None, None),
    lengths=(4,),
    batch_size=1,
    dtype="float32",
    need_weights=False,
)


def samples(latencies_ms=(), **changes):
    """Samples of one process: ten seconds, 16 tokens in each answer."""
    answers = np.zeros((len(latencies_ms), 6))
    answers[:, 0] = np.linspace(0, 9, len(answers))
    answers[:, 1] = np.asarray(latencies_ms, float) / 1e3
    answers[:, 2:] = 16, 0.5, 2.5, 4
    made = Samples(
        sent=len(answers),
        answers=answers,
        failures=np.zeros((0, 3)),
        error_types=(),
        error_messages=(),
        lags=np.zeros(len(answers)),
        held_back=0,
        arrived=len(answers),
        arrived_tokens=16 * len(answers),
        elapsed_s=10.0,
        cpu_s=(1.0,),
        is_stopped=False,
    )
    return replace(made, **changes)
