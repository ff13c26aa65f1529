"""The bytes of an input that is a program, one after the other."""

from __future__ import annotations


class Steps:
    """Reads a program."""

    def __init__(self, data):
        self._data, self._at = data, 0

    @property
    def is_done(self):
        return self._at >= len(self._data)

    def next(self):
        """Return the next byte; 0 at the end."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def take(self, count):
        """Return the next bytes, as many as there are."""
        self._at += count
        return self._data[self._at - count : self._at]
