"""What each caller holds of an upstream's connections.

Rules: of the connections one caller (`share_key`) has at most a quarter for requests whose body is still arriving; more
of them wait. One that leaves a quarter unread gets no more connections at all, and those beyond the quarter that it did
not read for UNREAD_S are broken off while others wait. The gateway's own calls, without a key, are not counted.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.upstream.wire import Connection

UNREAD_S: Final = 1.0


class Shares:
    """`quarter` is the number of connections that one caller may hold slowly."""

    __slots__ = ("_held", "_sending", "_unread", "quarter")

    def __init__(self, max_connections: int) -> None:
        self.quarter = max(1, max_connections // 4)
        self._held: dict[str, int] = {}
        self._sending: dict[str, int] = {}
        self._unread: dict[str, dict[Connection, float]] = {}

    def take(self, key: str, *, sending: bool) -> None:
        """The caller has one connection more, or one is made for it; `sending`: its request body is still arriving."""
        self._held[key] = self._held.get(key, 0) + 1
        if sending:
            self._sending[key] = self._sending.get(key, 0) + 1

    def give_back(self, key: str, *, sending: bool) -> None:
        """One less."""
        _less(self._held, key)
        if sending:
            _less(self._sending, key)

    def release(self, connection: Connection) -> None:
        """It is nobody's."""
        if self._unread:
            self.read(connection)
        _less(self._held, connection.share_key)
        if connection.sending:
            self.sent(connection)
        connection.share_key = ""

    def sent(self, connection: Connection) -> None:
        """The whole request body has arrived and was sent."""
        connection.sending = False
        _less(self._sending, connection.share_key)

    def unread(self, connection: Connection) -> None:
        """Its caller takes no more of the answer."""
        self._unread.setdefault(connection.share_key, {})[connection] = time.monotonic()

    def read(self, connection: Connection) -> None:
        """Its caller takes the answer again."""
        own = self._unread.get(connection.share_key)
        if own is not None:
            own.pop(connection, None)
            if not own:
                del self._unread[connection.share_key]

    def modest(self, key: str) -> bool:
        """Whether the caller holds less than a quarter."""
        return not key or self._held.get(key, 0) < self.quarter

    def may(self, key: str, *, sending: bool) -> bool:
        """Whether the caller may have one more connection. Always where nobody is slow."""
        if not key or not (self._sending or self._unread):
            return True
        slow = self._sending.get(key, 0) if sending else 0
        unread = self._unread.get(key)
        if unread is not None:
            slow += len(unread) if sending else len(_since(unread))
        return slow < self.quarter

    def excess(self) -> list[Connection]:
        """What callers leave unread beyond their quarter.

        The latest of them: those that stay have been unread for long, so their caller gets no others in their place.
        """
        excess: list[Connection] = []
        for own in self._unread.values():
            if len(own) > self.quarter:
                excess += _since(own)[self.quarter :]
        return excess


def _since(unread: dict[Connection, float]) -> list[Connection]:
    """Those not read for UNREAD_S; they are in the order of their times."""
    before_s = time.monotonic() - UNREAD_S
    return [connection for connection, since_s in unread.items() if since_s <= before_s]


def _less(counts: dict[str, int], key: str) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]
