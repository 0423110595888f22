"""The connections to one origin that wait for their next request: the one that came back last is used first.

So those not needed grow old and are closed. A file of its own: a class made from `list` is not compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.upstream.wire import Connection


class Idle(list["Connection"]):
    """In the order in which they came back. Whoever aborts one learns by `on_lost` that it has to go from here."""

    def take(self) -> Connection | None:
        """The latest one that is still usable."""
        while self:
            connection = self.pop()
            if connection.usable():
                return connection
        return None

    def rest(self, connection: Connection, idle_timeout_s: float, now_s: float) -> None:
        """It has nothing to do from `now_s` on; after `idle_timeout_s`, or when it is too old, it ends."""
        self.append(connection)
        left_s = connection.retire_at_s - now_s
        connection.watch.start(min(left_s, idle_timeout_s))

    def end_silent_since(self, when_s: float) -> None:
        """Close those that have answered nothing since then, in monotonic seconds."""
        for connection in [*self]:
            if connection.answered_s < when_s:
                connection.abort()

    def end_all(self) -> None:
        """Close every one."""
        for connection in [*self]:
            connection.abort()
