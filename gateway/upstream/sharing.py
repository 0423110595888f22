"""How an upstream's connections are shared: what each caller holds, and whose turn is next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from gateway.upstream.outgoing import Outgoing
    from gateway.upstream.wire import Connection


# What each caller holds of an upstream's connections: slow ones never have all of them.

UNREAD_S: Final = 1.0
SLOW_S: Final = 30.0
_MAX_SLOW: Final = 256
"""Callers that are known to be slow."""


class Shares:
    """`quarter`: how many connections one caller may hold slowly; `most_slow`: how many all may."""

    __slots__ = ("_arriving", "_held", "_sending", "_slow", "_unread", "most_slow", "quarter")

    def __init__(self, max_connections: int) -> None:
        self._held: dict[str, int] = {}
        self._sending: dict[str, int] = {}
        self._unread: dict[str, dict[Connection, float]] = {}
        self._slow: dict[str, float] = {}
        self._arriving = 0  # the sum of `_sending`
        self.limit(max_connections)

    def limit(self, max_connections: int) -> None:
        """So many connections there may be from now on."""
        self.quarter = max(1, max_connections // 4)
        self.most_slow = max_connections - self.quarter

    def take(self, key: str, *, sending: bool) -> None:
        """The caller has one connection more, or one is made for it; `sending`: its request body is still arriving."""
        self._held[key] = self._held.get(key, 0) + 1
        if sending:
            self._sending[key] = self._sending.get(key, 0) + 1
            self._arriving += 1

    def reserve(self, waiter: Waiter) -> None:
        """A connection is being made for this one."""
        waiter.holds = True
        self.take(waiter.share_key, sending=waiter.sending)

    def give_back(self, waiter: Waiter) -> None:
        """It will not have what was reserved for it."""
        waiter.holds = False
        _less(self._held, waiter.share_key)
        if waiter.sending:
            _less(self._sending, waiter.share_key)
            self._arriving -= 1

    def hand_over(self, connection: Connection, waiter: Waiter) -> None:
        """The connection is the waiter's."""
        if not waiter.holds:
            self.take(waiter.share_key, sending=waiter.sending)
        waiter.holds = False
        connection.share_key, connection.sending = waiter.share_key, waiter.sending

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
        self._arriving -= 1

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
        # The gateway's own calls, without a key, are not counted.
        if not key or not (self._sending or self._unread or self._slow):
            return True
        # Many slow callers together leave a quarter to the others: so many bodies may arrive at a time.
        if sending and self._arriving >= max(1, self.most_slow):
            return False
        # Those whose answers were broken off share three quarters for a while, or they would be back at once.
        if self._slow and self._is_slow(key) and sum(self._held.get(each, 0) for each in self._slow) >= self.most_slow:
            return False
        slow = self._sending.get(key, 0) if sending else 0
        unread = self._unread.get(key)
        if unread is not None:
            slow += len(unread) if sending else len(_since(unread))
        # One caller has at most a quarter for bodies that still arrive, and none more if a quarter is unread.
        return slow < self.quarter

    def excess(self) -> list[Connection]:
        """What callers leave unread beyond their quarter, and all of them beyond three quarters.

        Of one caller the latest: those that stay have been unread for long, so it gets no others in their place. Of all
        the oldest, as whoever reads slowly but does read is not among them.
        """
        excess: list[Connection] = []
        stay: dict[Connection, float] = {}
        for own in self._unread.values():
            long = _since(own)
            excess += long[self.quarter :]
            stay |= {connection: own[connection] for connection in long[: self.quarter]}
        return excess + sorted(stay, key=stay.__getitem__)[: max(0, len(stay) - self.most_slow)]

    def break_off(self, waiting: Collection[str]) -> list[Connection]:
        """What is to be broken off so that others than its caller get a connection. Their callers are slow now."""
        excess = [connection for connection in self.excess() if any(key != connection.share_key for key in waiting)]
        for connection in excess:
            self._slow.pop(connection.share_key, None)
            self._slow[connection.share_key] = time.monotonic()
            if len(self._slow) > _MAX_SLOW:
                del self._slow[next(iter(self._slow))]
        return excess

    def _is_slow(self, key: str) -> bool:
        before_s = time.monotonic() - SLOW_S
        for each, at_s in [*self._slow.items()]:
            if at_s > before_s:
                break
            del self._slow[each]
        return key in self._slow


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


# Who waits for a connection, and whose turn it is: one caller's many requests are one turn, not many.
#
# Rules: callers take turns, each with its oldest request; one that holds less than a quarter of the connections goes
# before one that holds more. A caller that waits for nothing has no entry here. When too many wait, the caller with
# the most loses its latest, so that a flood pushes out only itself.


class HasKey(Protocol):
    """Something that waits, for the caller with `share_key`."""

    @property
    def share_key(self) -> str:
        """Empty: the gateway's own calls."""


W = TypeVar("W", bound=HasKey)


class Turns(dict[str, dict[W, None]]):
    """Those who wait, by caller: the keys are in the order of turns, each with its requests, oldest first."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def add(self, waiter: W) -> None:
        """It waits from now on."""
        self.setdefault(waiter.share_key, {})[waiter] = None
        self.count += 1

    def drop(self, waiter: W) -> bool:
        """It waits no longer. Whether it did."""
        own = self.get(waiter.share_key)
        if own is None or waiter not in own:
            return False
        del own[waiter]
        self.count -= 1
        if not own:
            del self[waiter.share_key]
        return True

    def first(self, may: Callable[[W], bool], modest: Callable[[str], bool]) -> W | None:
        """Whose turn it is among those who `may`: the first caller that is `modest`, else the first at all."""
        best: W | None = None
        for key, own in self.items():
            waiter = next((each for each in own if may(each)), None)
            if waiter is not None and modest(key):
                return waiter
            best = best or waiter
        return best

    def taken(self, waiter: W) -> None:
        """It got its connection: its caller's next turn comes after everybody else's."""
        self.drop(waiter)
        own = self.pop(waiter.share_key, None)
        if own is not None:
            self[waiter.share_key] = own

    def loser(self, share_key: str) -> W | None:
        """Who has to go so that one more of `share_key` may wait; None: that one itself."""
        most = max(self, key=lambda key: len(self[key]))
        if len(self[most]) <= len(self.get(share_key, ())) + 1:
            return None
        return next(reversed(self[most]))

    def everyone(self) -> list[W]:
        """All of them."""
        return [waiter for own in self.values() for waiter in own]


class Waiter:
    """A request that waits for a connection; `new`: for one that was never used. `holds`: it counts in its share."""

    __slots__ = ("connect_s", "future", "holds", "new", "sending", "share_key")

    def __init__(self, outgoing: Outgoing, connect_s: float, *, new: bool) -> None:
        self.connect_s = connect_s
        self.new = new
        self.share_key = outgoing.share_key
        self.sending = outgoing.streamed
        self.holds = False
        self.future: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
