"""What fuzzing has found before, without the fuzzer: `make fuzz` searches for more."""

from __future__ import annotations

import pytest
from tests import fuzz
from tests.fuzz.bounds import bounded
from tests.fuzz.minimise import MAX_BYTES, MAX_FILES


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_the_corpus(name):
    target = fuzz.target(name)
    seeds = target.seeds()
    target.check(seeds[0])  # loads what the target has, which counts for no input
    files = fuzz.corpus(name)
    assert files
    check = bounded(target.check)
    for data in (*seeds, *(file.read_bytes() for file in files)):
        check(data)


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_the_corpus_is_small(name):
    sizes = [file.stat().st_size for file in fuzz.corpus(name)]
    assert len(sizes) <= MAX_FILES
    assert max(sizes) <= MAX_BYTES
