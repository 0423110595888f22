"""Places for requests in flight: the gateway's own (`max_concurrency`), a route's share, and streams apart from both.

Rules: a request takes a place of every limit or none; a stream (SSE, WebSocket) gives its places back and takes one of
`max_streams` instead, so that long-lived answers never use up what short ones need. Overflow is `overloaded`, at once.
"""

from __future__ import annotations

from typing import Protocol

from gateway.errors import GatewayError


class Limit(Protocol):
    """A number of places."""

    limit: int
    in_use: int


class Place:
    """What one request holds. `release` may be called more than once."""

    __slots__ = ("_held", "_streams")

    def __init__(self, whole: Limit, route: Limit, streams: Limit) -> None:
        self._streams = streams
        self._held: tuple[Limit, ...] = ()
        if whole.in_use >= whole.limit:
            raise GatewayError("overloaded", "The gateway is at its limit of requests in flight.")
        if route.in_use >= route.limit:
            raise GatewayError("overloaded", "This route is at its limit of requests in flight.")
        whole.in_use += 1
        route.in_use += 1
        self._held = (whole, route)

    def become_stream(self) -> None:
        """Exchange the request's places for a stream's. Raises `overloaded` at `max_streams`."""
        streams = self._streams
        if streams.in_use >= streams.limit:
            raise GatewayError("overloaded", "The gateway is at its limit of open streams.")
        streams.in_use += 1
        self.release()
        self._held = (streams,)

    def release(self) -> None:
        """Give everything back."""
        held, self._held = self._held, ()
        for limit in held:
            limit.in_use -= 1
