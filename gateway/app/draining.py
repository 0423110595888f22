"""How a gateway stops, so that few requests fail. It takes at most `drain_notice` and `drain_timeout`.

    signal         not ready any more; every answer has `Connection: close`; streams end, and clients connect elsewhere
    drain_notice   new connections are still accepted, so that load balancers can notice
    then           connections that wait in the kernel are accepted, then no new ones; requests on open connections are
                   served as long as anything is in flight, and for IDLE_S
    the end        idle connections are closed; a request that still runs `drain_timeout` after the notice is answered
                   `draining`, or aborted

Idle connections are kept this long because their clients do not know about the drain. To close one while its next
request is on the way would fail that request. A client that uses its connection learns it from the next answer.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Final

from gateway.app.listeners import Server
from gateway.app.running import Gateway
from gateway.model.settings import ServerSettings

NOTICE_S: Final = 5.0
IDLE_S: Final = 5.0
"""How long connections without a request are kept if nothing else is in flight."""
ANSWER_S: Final = 1.0
"""How long an aborted request has for its last answer."""
_LOOK_S: Final = 0.05


def notice_s(settings: ServerSettings) -> float:
    """How long a stopping gateway accepts new connections. On a terminal there is no load balancer to inform."""
    if settings.drain_notice_s is not None:
        return settings.drain_notice_s
    return 0.0 if sys.stderr.isatty() else min(NOTICE_S, settings.drain_timeout_s / 2)


async def drain(
    gateway: Gateway,
    servers: Sequence[Server],
    serving: Sequence[asyncio.Task[None]],
    timeout_s: float,
    notice_s: float = 0.0,
) -> int:
    """End what `servers` serve; `serving` are their tasks. How many requests were not over in time."""
    loop = asyncio.get_running_loop()
    gateway.begin_to_end()
    for server in servers:
        server.close_after_responses()
    await asyncio.sleep(notice_s)
    begun_s = loop.time()
    end_s, idle_end_s = begun_s + timeout_s, begun_s + min(IDLE_S, timeout_s / 2)

    def serves() -> bool:
        """Somebody is served, or may be about to ask."""
        connected = any(server.server_state.connections for server in servers)
        return gateway.in_flight > 0 or (connected and loop.time() < idle_end_s)

    await asyncio.gather(*(server.stop_listening() for server in servers))
    while serves() and loop.time() < end_s:  # noqa: ASYNC110 - an event would cost every request
        await asyncio.sleep(_LOOK_S)
    broken_off = gateway.in_flight
    for server in servers:
        server.end(within_s=max(0.0, end_s - loop.time()))
    await asyncio.wait(serving)
    if left := [task for server in servers for task in server.server_state.tasks]:
        await asyncio.wait(left, timeout=ANSWER_S)
    return broken_off
