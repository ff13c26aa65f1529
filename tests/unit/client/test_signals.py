"""Commands with temporary files end in order when a signal comes."""

from __future__ import annotations

import signal

import pytest

from polyhead.cli.signals import exit_on_signals

SIGNALS = [signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_leaves_all_contexts(number):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended, exit_on_signals(1):
        signal.raise_signal(number)
    assert ended.value.code == 1
    assert signal.getsignal(number) == before


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with exit_on_signals():
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
