"""Who waits for a connection, and whose turn it is: one caller's many requests are one turn, not many.

Rules: callers take turns, each with its oldest request; one that holds less than a quarter of the connections goes
before one that holds more. A caller that waits for nothing has no entry here. When too many wait, the caller with the
most loses its latest, so that a flood pushes out only itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from gateway.upstream.outgoing import Outgoing
    from gateway.upstream.wire import Connection


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
