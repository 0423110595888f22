"""Many timers of which hardly one ever rings: what is due within the same few milliseconds shares one of the loop's.

Rules: nothing rings early, and nothing later than TICK_S after its time (and what the loop is late by); what is due in
the same tick rings in the order in which it was set; an error in one of them is the loop's to report, and takes nothing
from the others. Setting and taking back cost a dictionary entry each, where a
timer of the loop costs a hundred times as much.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, Final, Protocol

TICK_S: Final = 0.005
_PER_S: Final = 200
_SLACK_S: Final = 0.001
"""uvloop's timers have whole milliseconds and may be that much early."""


class Due(Protocol):
    """Something that waits for its time."""

    def ring(self) -> None:
        """The time is over."""


Tick = dict[Due, None]
"""What rings together. To take something back, `pop` it; it may have rung already."""


class Ticks:
    """The timers of one event loop."""

    __slots__ = ("_ticks", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._ticks: dict[int, Tick] = {}

    def set(self, at_s: float, due: Due) -> Tick:
        """Let `due` ring at `at_s`, in the loop's time. A `due` is in at most one place of a tick."""
        number = int(at_s * _PER_S) + 1
        tick = self._ticks.get(number)
        if tick is None:
            tick = self._ticks[number] = {}
            self.loop.call_at(number / _PER_S + _SLACK_S, self._ring, number)
        tick[due] = None
        return tick

    def _ring(self, number: int) -> None:
        self._ring_all(self._ticks.pop(number))

    def _ring_all(self, tick: Tick) -> None:
        try:
            while tick:
                due = next(iter(tick))
                del tick[due]
                due.ring()
        finally:
            if tick:  # an error came out of one: the others ring in the loop's next turn
                self.loop.call_soon(self._ring_all, tick)


class _Present:
    """The timers of the loop that runs now: looking for it by name would cost more than setting a timer."""

    ticks: ClassVar[Ticks | None] = None


def ticks_of(loop: asyncio.AbstractEventLoop) -> Ticks:
    """The timers of `loop`."""
    ticks = _Present.ticks
    if ticks is None or ticks.loop is not loop:
        ticks = _Present.ticks = Ticks(loop)
    return ticks
