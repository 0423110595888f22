"""Places for requests in flight: the gateway's own (`max_concurrency`), a route's share, and streams apart from both.

Rules: a request takes a place of every limit or none; a stream (SSE, WebSocket) gives its places back and takes one of
`max_streams` instead, so that long-lived answers never use up what short ones need. Overflow is `overloaded`, at once.
"""

from __future__ import annotations

from typing import Protocol

from gateway.errors import GatewayError


class Limit(Protocol):
    """A number of places."""

    def try_acquire(self) -> bool:
        """Take a place, False if none is free."""

    def release(self) -> None:
        """Give it back."""


class Place:
    """What one request holds. `release` may be called more than once."""

    __slots__ = ("_held", "_streams")

    def __init__(self, whole: Limit, route: Limit, streams: Limit) -> None:
        self._streams = streams
        self._held: tuple[Limit, ...] = ()
        if not whole.try_acquire():
            raise GatewayError("overloaded", "The gateway is at its limit of requests in flight.")
        if not route.try_acquire():
            whole.release()
            raise GatewayError("overloaded", "This route is at its limit of requests in flight.")
        self._held = (whole, route)

    def become_stream(self) -> None:
        """Exchange the request's places for a stream's. Raises `overloaded` at `max_streams`."""
        if not self._streams.try_acquire():
            raise GatewayError("overloaded", "The gateway is at its limit of open streams.")
        self.release()
        self._held = (self._streams,)

    def release(self) -> None:
        """Give everything back."""
        held, self._held = self._held, ()
        for limit in held:
            limit.release()
