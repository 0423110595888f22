"""What the connections of one listener share: settings, admission, and who is told of refusals."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import resource
import sys
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Final, Protocol

from gateway.errors import GatewayError
from gateway.forwarded import Trust
from gateway.model.settings import ServerSettings

# Connections that were refused: counted by reason, and told once a second at most, however many they are.

EVERY_S: Final = 1.0
_LOG: Final = logging.getLogger("gateway.server")
_WHY: Final = {
    "max_connections": "there are as many connections as server.max_connections allows",
    "max_connections_per_client": "a client has as many connections as server.max_connections_per_client allows",
    "open_files": "the process has opened as many files as it may; raise its limit (ulimit -n, LimitNOFILE of systemd)",
}


class ConnectionRefusals:
    """Refused connections of one listener. `on_count` hears of each, by reason. `name`: the listener in the log."""

    def __init__(self, name: str = "") -> None:
        self._of = f" of the {name} listener" if name else ""
        self.on_count: Callable[[str], None] | None = None
        self.total: Counter[str] = Counter()
        self._untold: Counter[str] = Counter()
        self._peers: dict[str, str] = {}
        self._telling = False

    def count(self, reason: str, peer: str) -> None:
        """One more was refused. The first is told at once, those that follow together."""
        self.total[reason] += 1
        if self.on_count is not None:
            self.on_count(reason)
        self._untold[reason] += 1
        self._peers[reason] = peer
        if not self._telling:
            self._telling = True
            self._tell()

    def _tell(self) -> None:
        if not self._untold:
            self._telling = False
            return
        for reason, number in self._untold.items():
            what = "a connection" if number == 1 else f"{number} connections"
            last = f"; the last came from {self._peers[reason]}" if self._peers[reason] else ""
            _LOG.warning("refused %s%s: %s%s", what, self._of, _WHY[reason], last)
        self._untold.clear()
        self._peers.clear()
        asyncio.get_running_loop().call_later(EVERY_S, self._tell)


OnRefusal = Callable[[GatewayError, str, str, bytes], None]
"""Called with the error, the peer's address, the request ID and the raw target (b"" if there was none yet)."""
_OWN_FILES: Final = 48
"""Files that a process without connections has open, and some to spare."""


def _nobody(error: GatewayError, peer: str, request_id: str, target: bytes) -> None:
    """Nobody wants to know."""


class Waiting(Protocol):
    """A connection that may be closed to make room for another."""

    def make_room(self) -> bool:
        """Close, if no request is being served. Whether it did."""


class Admission:
    """The place of one connection, from accept to its end. `since_s`: when it was accepted, in the loop's time."""

    __slots__ = ("_listener", "client", "connection", "peer", "since_s")

    def __init__(self, listener: Listener, peer: str, client: str, since_s: float) -> None:
        self._listener: Listener | None = listener
        self.peer = peer
        self.client = client
        self.since_s = since_s
        self.connection: Waiting | None = None

    def release(self) -> None:
        """The connection is over; saying so twice is no mistake."""
        listener, self._listener, self.connection = self._listener, None, None
        if listener is not None:
            listener.forget(self)


class Listener:
    """The state that all connections of one listener share.

    `on_refusal` hears of requests that never reached the app. `makes_room`: one too many closes the connection that has
    been without a request for longest, for the few connections of operators and of the decision point.
    """

    def __init__(
        self, settings: ServerSettings, on_refusal: OnRefusal = _nobody, *, makes_room: bool = False, name: str = ""
    ) -> None:
        self.settings = settings
        self.on_refusal = on_refusal
        self.refusals = ConnectionRefusals(name)
        self._makes_room = makes_room
        self._trust = Trust(settings.trusted_proxies)
        self._admitted: dict[Admission, None] = {}
        self._by_client: Counter[str] = Counter()
        # The few of a listener that makes room come from the rest: operators get in when clients use up their share.
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._last_file = sys.maxsize if makes_room else files_for_connections(limit)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._admitted)

    def update(self, settings: ServerSettings) -> None:
        """Serve under new settings from now on (reload). The address listened on does not change."""
        self.settings = settings
        self._trust = Trust(settings.trusted_proxies)

    def admit(self, peer: str, file: int, now_s: float) -> Admission | GatewayError:
        """A new connection's place, or the refusal. `file`: the number of its socket, which the system keeps low."""
        client = client_of(peer)
        error = self._too_many(peer, client, file)
        if error is not None and not (self._makes_room and self._room_made(client)):
            # Refused ones count for nothing, so they cannot use up the room of the others.
            self.refusals.count(error.reason, peer)
            return error
        admission = Admission(self, peer, client, now_s)
        self._admitted[admission] = None
        self._by_client[client] += 1
        return admission

    def forget(self, admission: Admission) -> None:
        """A connection is over."""
        self._admitted.pop(admission, None)
        self._by_client[admission.client] -= 1
        if not self._by_client[admission.client]:
            del self._by_client[admission.client]

    def _too_many(self, peer: str, client: str, file: int) -> GatewayError | None:
        settings = self.settings
        if file > self._last_file:
            return GatewayError("overloaded", "There are too many connections.", reason="open_files")
        if len(self._admitted) >= settings.max_connections:
            return GatewayError("overloaded", "There are too many connections.", reason="max_connections")
        # A trusted proxy's connections carry many clients.
        if peer and self._by_client[client] >= settings.max_connections_per_client and peer not in self._trust:
            return GatewayError(
                "overloaded", "There are too many connections of this client.", reason="max_connections_per_client"
            )
        return None

    def _room_made(self, client: str) -> bool:
        """Close the connection without a request that is there for longest, of this client if it has too many."""
        own_only = self._by_client[client] >= self.settings.max_connections_per_client
        for admission in tuple(self._admitted):
            if own_only and admission.client != client:
                continue
            if admission.connection is not None and admission.connection.make_room():
                admission.release()
                return True
        return False


@lru_cache(maxsize=4096)
def client_of(peer: str) -> str:
    """Who a connection counts for: the address, or the first 64 bits of an IPv6 one (RFC 6177: what one site has)."""
    if ":" not in peer:
        return peer
    return str(ipaddress.IPv6Network((peer, 64), strict=False))


def files_for_connections(limit: int) -> int:
    """How many of the files that a process may open (RLIMIT_NOFILE) its clients may use."""
    if limit == resource.RLIM_INFINITY:
        return sys.maxsize
    # A quarter is left for upstreams, IAM and files to be read.
    return max(1, limit - limit // 4 - _OWN_FILES // 4)


def files_for(connections: int) -> int:
    """How many files a process needs for so many connections of clients."""
    return (connections + _OWN_FILES) * 4 // 3 + 1
