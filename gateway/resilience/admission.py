"""Places for requests in flight: the gateway's own (`max_concurrency`), a route's share, and streams apart from both.

Rules: a request takes a place of every limit or none; a stream (SSE, WebSocket) gives its places back and takes one of
`max_streams` instead, so that long-lived answers never use up what short ones need. One caller has at most a quarter of
the streams. Overflow is `overloaded`, at once.
"""

from __future__ import annotations

from typing import Final, Protocol

from gateway.errors import GatewayError

_SHARE: Final = 4
"""One caller has at most the fourth part of the streams."""


class Limit(Protocol):
    """A number of places."""

    limit: int
    in_use: int
    by_caller: dict[str, int]


class Place:
    """What one request holds. `release` may be called more than once."""

    __slots__ = ("_held", "_share_key", "_streams")

    def __init__(self, whole: Limit, route: Limit, streams: Limit) -> None:
        self._streams = streams
        self._held: tuple[Limit, ...] = ()
        self._share_key = ""
        if whole.in_use >= whole.limit:
            raise GatewayError("overloaded", "The gateway is at its limit of requests in flight.")
        if route.in_use >= route.limit:
            raise GatewayError("overloaded", "This route is at its limit of requests in flight.")
        whole.in_use += 1
        route.in_use += 1
        self._held = (whole, route)

    def become_stream(self, share_key: str) -> None:
        """Exchange the request's places for a stream's. `overloaded` at `max_streams`, or at the caller's share."""
        streams = self._streams
        if streams.in_use >= streams.limit:
            raise GatewayError("overloaded", "The gateway is at its limit of open streams.")
        of_caller = streams.by_caller.get(share_key, 0)
        if of_caller >= max(1, streams.limit // _SHARE):
            raise GatewayError("overloaded", "This caller has its share of open streams.")
        streams.in_use += 1
        self.release()
        self._held = (streams,)
        self._share_key = share_key
        streams.by_caller[share_key] = of_caller + 1

    def release(self) -> None:
        """Give everything back."""
        held, self._held = self._held, ()
        for limit in held:
            limit.in_use -= 1
        if self._share_key:
            _less(self._streams.by_caller, self._share_key)
            self._share_key = ""


def _less(counts: dict[str, int], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
