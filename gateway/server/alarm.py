"""One timer for everything a connection waits for, re-armed lazily: most of what it would interrupt never happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf


class Alarm:
    """Calls `ring` when the time set last is over. Setting a later time costs no timer; `clear` costs nothing."""

    __slots__ = ("_at", "_due", "_loop", "_ring", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._due = inf
        self._at = inf
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """Ring in `seconds`, instead of what was set before."""
        self._due = self._loop.time() + seconds
        if self._due < self._at:
            self._schedule()

    def clear(self) -> None:
        """Do not ring."""
        self._due = inf

    def cancel(self) -> None:
        """Never ring again: nothing keeps the connection alive through this."""
        self.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._at = None, inf

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = self._due
        self._timer = self._loop.call_at(self._at, self._fire)

    def _fire(self) -> None:
        self._timer, self._at = None, inf
        if self._due == inf:
            return
        if self._due > self._loop.time():
            self._schedule()
            return
        self._due = inf
        self._ring()
