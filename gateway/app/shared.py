"""What outlives a configuration: breakers by name, pools and clients by their settings, what was learned from IAM.

Rules: a part is taken over when what it was made from has not changed, else made anew; whoever composed it first never
closes what the next composition took over. Breakers keep their state under a changed policy. The decision cache is
emptied when checks or IAM change.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

Part = TypeVar("Part")
Close = Callable[[], Awaitable[None]]


class Parts:
    """The long-lived parts of one composition. `before`: the one whose unchanged parts are taken over."""

    def __init__(self, before: Parts | None = None) -> None:
        self.held: dict[Hashable, tuple[Any, Any, Close | None]] = {}
        self._before = before.held if before is not None else {}
        self._changes: list[Callable[[], None]] = []

    def when_settled(self, change: Callable[[], None]) -> None:
        """Change a part that was taken over, but only once this composition serves."""
        self._changes.append(change)

    def take(
        self, key: Hashable, made_from: object, make: Callable[[], Part], close: Callable[[Part], Close] | None = None
    ) -> Part:
        """The part under `key`: the one from before if it was made from an equal thing, else a new one."""
        if key in self.held:
            part: Part = self.held[key][0]
            return part
        known = self._before.get(key)
        if known is not None and known[1] == made_from:
            self.held[key] = known
            taken: Part = known[0]
            return taken
        made = make()
        self.held[key] = (made, made_from, close(made) if close else None)
        return made

    def settle(self) -> None:
        """This composition serves now: make the changes, and forget the one before, so that it can be collected."""
        for change in self._changes:
            change()
        self._changes.clear()
        self._before = {}

    async def close_all_but(self, kept: Parts | None) -> None:
        """Close what `kept` did not take over, the last made first."""
        held_elsewhere = {id(part) for part, _, _ in kept.held.values()} if kept is not None else set()
        for part, _, close in reversed(self.held.values()):
            if close is not None and id(part) not in held_elsewhere:
                await close()
        self.held.clear()
