"""What outlives a configuration: breakers by name, pools and clients by their settings, what was learned from IAM.

Rules: a part is taken over when what it was made from has not changed, else made anew. Every composition that took a
part holds it, and it is closed when the last of them has let go: a request that still runs on an old configuration
never loses a pool that a later one no longer knows. Breakers keep their state under a changed policy. The decision
cache is emptied when checks or IAM change.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

_LOG: Final = logging.getLogger("gateway")

Part = TypeVar("Part")
Close = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class _Held:
    """A part, what it was made from, and how many compositions hold it."""

    part: Any
    made_from: object
    close: Close | None
    holders: int = 0


class Parts:
    """The long-lived parts of one composition. `before`: the one whose unchanged parts are taken over."""

    def __init__(self, before: Parts | None = None) -> None:
        self.held: dict[Hashable, _Held] = {}
        self._before = before.held if before is not None else {}
        self._changes: list[Callable[[], None]] = []

    def when_settled(self, change: Callable[[], None]) -> None:
        """Change a part that was taken over, but only once this composition serves."""
        self._changes.append(change)

    def take(
        self, key: Hashable, made_from: object, make: Callable[[], Part], close: Callable[[Part], Close] | None = None
    ) -> Part:
        """The part under `key`: the one from before if it was made from an equal thing, else a new one."""
        held = self.held.get(key)
        if held is None:
            held = self._before.get(key)
            if held is None or held.made_from != made_from:
                made = make()
                held = _Held(made, made_from, close(made) if close else None)
            held.holders += 1
            self.held[key] = held
        part: Part = held.part
        return part

    def settle(self) -> None:
        """This composition serves now: make the changes, and forget the one before, so that it can be collected."""
        for change in self._changes:
            change()
        self._changes.clear()
        self._before = {}

    async def release(self) -> None:
        """Let go of every part, and close those that nobody else holds, the last made first."""
        let_go = list(reversed(self.held.values()))
        self.held, self._before = {}, {}
        self._changes.clear()
        for held in let_go:
            held.holders -= 1
        for held in let_go:
            if held.holders == 0 and held.close is not None:
                await _close(held.close, type(held.part).__name__)


async def _close(close: Close, name: str) -> None:
    """One part that cannot be closed must not keep the others open."""
    try:
        await close()
    except Exception:  # noqa: BLE001 - whatever it is, it is logged whole
        _LOG.exception("%s was not closed", name)
