"""The page's requests: JSON objects, whose fields are checked when they are read."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any, TypeGuard

from polyhead_explorer.web.errors import BadRequestError, BusyError

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["Body", "BodyReader"]

_MAX_BODY_BYTES = 4 << 20
_MAX_BYTES, _MAX_S = 64 << 20, 30.0
"""Bytes of all requests that arrive at once, and the time for each."""


class Body:
    """The fields of a request. Each method may raise BadRequestError, which names the field."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def text(self, name: str) -> str:
        """Return a text."""
        value = self._fields.get(name)
        if not isinstance(value, str):
            raise BadRequestError(f"{name}: expected a text")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BadRequestError(
                f"{name}: expected a text; it has half of a character (a lone surrogate)"
            ) from error
        return value

    def optional_text(self, name: str) -> str | None:
        """Return a text, or None if the field is missing or null."""
        return None if self._fields.get(name) is None else self.text(name)

    def data(self, name: str, size: int) -> bytes:
        """Return ``size`` bytes, which the field has as base64."""
        try:
            data = base64.b64decode(self.text(name), validate=True)
        except ValueError as error:
            raise BadRequestError(f"{name}: expected base64") from error
        if len(data) != size:
            raise BadRequestError(f"{name}: expected {size} bytes; got {len(data)}")
        return data

    def number(self, name: str, first: int, last: int) -> int:
        """Return an integer from ``first`` to ``last``."""
        value = self._fields.get(name)
        if _is_integer(value) and first <= value <= last:
            return value
        raise BadRequestError(f"{name}: expected a number from {first} to {last}")

    def optional_number(self, name: str, first: int, last: int) -> int | None:
        """Return an integer, or None if the field is missing or null."""
        return None if self._fields.get(name) is None else self.number(name, first, last)

    def numbers(self, name: str) -> frozenset[int]:
        """Return integers; an empty set if the field is missing."""
        values = self._fields.get(name, [])
        if not isinstance(values, list) or not all(map(_is_integer, values)):
            raise BadRequestError(f"{name}: expected a list of numbers")
        return frozenset(values)

    def switch(self, name: str) -> bool:
        """Return true or false; false if the field is missing."""
        value = self._fields.get(name, False)
        if not isinstance(value, bool):
            raise BadRequestError(f"{name}: expected true or false")
        return value


class BodyReader:
    """Reads the bodies of requests, within limits of their size, number and time."""

    def __init__(self, *, max_bytes: int = _MAX_BYTES, max_s: float = _MAX_S) -> None:
        """``max_bytes``: of all bodies that arrive at once. ``max_s``: for one of them."""
        self._max_bytes = max_bytes
        self._max_s = max_s
        self._num_bytes = 0

    async def read(self, request: Request) -> Body:
        """Read a JSON object. Raises BadRequestError, and BusyError if others fill the memory."""
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            # browsers let pages of other sites send some types without a preflight, but not this
            raise BadRequestError("content-type: expected application/json")
        try:
            async with asyncio.timeout(self._max_s):
                data = await self._receive(request)
        except TimeoutError:
            raise BadRequestError(
                f"the request did not arrive within {self._max_s:g} s: try again"
            ) from None
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BadRequestError("expected a JSON object") from error
        if not isinstance(fields, dict):
            raise BadRequestError("expected a JSON object")
        return Body(fields)

    async def _receive(self, request: Request) -> bytearray:
        data = bytearray()
        try:
            async for chunk in request.stream():
                data += chunk
                self._num_bytes += len(chunk)
                if len(data) > _MAX_BODY_BYTES:
                    raise BadRequestError(
                        f"the request is too long: over {_MAX_BODY_BYTES >> 20} MiB"
                    )
                if self._num_bytes > self._max_bytes:
                    raise BusyError
            return data
        finally:
            self._num_bytes -= len(data)


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
