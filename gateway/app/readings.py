"""What the metrics show of the gateway at this moment: requests, streams, connections of both sides.

Read in a thread while the event loop works, so every number is taken by itself and no collection is walked through that
may change meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gateway.server import Listener
from gateway.telemetry.instruments import (
    ACTIVE_REQUESTS,
    CLIENT_CONNECTIONS,
    CLIENT_CONNECTIONS_LIMIT,
    CLIENT_PENDING,
    CONNECTIONS,
    STREAMS,
)
from gateway.telemetry.store import Readings
from gateway.upstream import Upstream

if TYPE_CHECKING:
    from gateway.app.running import Gateway


def of(gateway: Gateway, listeners: Mapping[str, Listener]) -> Readings:
    """Of one process. `listeners`: by what they are called."""
    yield ACTIVE_REQUESTS, (), gateway.in_flight
    yield STREAMS, (), gateway.streams
    for name, listener in listeners.items():
        yield CONNECTIONS, (name,), listener.connections
    for upstream in list(gateway.composition.upstreams.values()):
        yield from _of_upstream(upstream)


def _of_upstream(upstream: Upstream) -> Readings:
    for member in upstream.members:
        pool, origin = member.pool, (upstream.name, member.server.address, member.server.port)
        yield CLIENT_CONNECTIONS, (*origin, "active"), pool.in_flight + pool.streams
        yield CLIENT_CONNECTIONS, (*origin, "idle"), pool.idle
        yield CLIENT_CONNECTIONS_LIMIT, origin, pool.limit
        yield CLIENT_PENDING, origin, pool.pending
