"""One deadline for a whole request: queueing, identity, IAM, retries and the upstream's response head.

Times are those of the event loop's clock, which is monotonic. The end comes with the next tick: deadlines rarely end.
"""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import ClassVar, Final, Protocol, Self

# Many timers, most of which never ring. Timers that are due within the same few milliseconds share one of the loop's.
#
# Rules: no timer rings early, or later than TICK_S after its time (plus the loop's own delay). Timers of the same tick
# ring in the order in which they were set. The loop reports an error in one of them, and the others still ring. To set
# or cancel one costs a dictionary entry; a timer of the loop costs a hundred times as much.

TICK_S: Final = 0.005
_PER_S: Final = 200
_SLACK_S: Final = 0.001
"""uvloop's timers have whole milliseconds and may be that much early."""


class Due(Protocol):
    """Something that waits for its time."""

    def ring(self) -> None:
        """The time is over."""


Tick = dict[Due, None]
"""Timers that ring together. To cancel one, `pop` it; it may have rung already."""


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
            if tick:  # one raised an error: the others ring in the loop's next turn
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


GRACE_S: Final = 2 * TICK_S


class DeadlineExceeded(Exception):
    """The deadline ended inside `enforced()`."""


class Deadline:
    """When a request must have its answer, and how long it was at first (`granted_s`).

    `at_s` is in the event loop's time; infinite while paused. `expired`: it ended and cancelled what was inside
    `enforced()`, which may still be on its way out. Enforced at most once, in one task (as asyncio.Timeout, whose rules
    on cancellation these are, without its cost per request). `excused_from_s`: since when an excuse lasts, if one does.
    """

    __slots__ = (
        "_cancelling",
        "_excused_s",
        "_left_s",
        "_stopped",
        "_task",
        "_tick",
        "at_s",
        "excused_from_s",
        "expired",
        "granted_s",
        "loop",
    )

    def __init__(self, at_s: float, granted_s: float = 0.0, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.at_s = at_s
        self.granted_s = granted_s
        self.expired = False
        self.loop = loop or asyncio.get_running_loop()
        self._task: asyncio.Task[object] | None = None
        self._tick: Tick | None = None
        self._cancelling = 0
        self._left_s: float | None = None
        self._stopped = False
        self._excused_s = 0.0
        self.excused_from_s: float | None = None

    @classmethod
    def after(cls, seconds: float, loop: asyncio.AbstractEventLoop | None = None) -> Self:
        """A deadline `seconds` from now. `loop`: the running one, where it is known (to ask calls the system)."""
        loop = loop or asyncio.get_running_loop()
        return cls(loop.time() + seconds, seconds, loop)

    def remaining_s(self) -> float:
        """Seconds left, 0 when over; stands still while paused."""
        if self._left_s is not None:
            return max(0.0, self._left_s)
        return max(0.0, self.at_s - self.loop.time())

    def cap(self, seconds: float) -> float:
        """`seconds`, or what is left if that is less."""
        return min(seconds, self.remaining_s())

    def extend(self, seconds: float) -> None:
        """Add time that did not count."""
        if self._left_s is None:
            self.at_s += seconds
            self._arm()
        else:
            self._left_s += seconds

    def pause(self) -> None:
        """Time does not count until `resume`: the caller is sending its body."""
        if self._left_s is None:
            self._left_s = self.at_s - self.loop.time()
            self.at_s = math.inf
            self._disarm()

    def resume(self) -> None:
        """Time counts again."""
        if self._left_s is not None:
            self.at_s = self.loop.time() + self._left_s
            self._left_s = None
            self._arm()

    def excuse(self) -> None:
        """From now on time does not count against the system: its caller is sending, or the request is in our queue."""
        self.excused_from_s = self.loop.time()

    def excuse_ends(self) -> None:
        """From now on time counts against the system again."""
        if self.excused_from_s is not None:
            self._excused_s += self.loop.time() - self.excused_from_s
            self.excused_from_s = None

    def excused_s(self) -> float:
        """Seconds that were excused up to now."""
        if self.excused_from_s is None:
            return self._excused_s
        return self._excused_s + self.loop.time() - self.excused_from_s

    def stop(self) -> None:
        """End enforcement: the response head is there, what follows has its own timeouts."""
        self._stopped = True
        tick = self._tick
        if tick is not None:
            self._tick = None
            tick.pop(self, None)

    def enforced(self) -> Self:
        """`with`: cancel what is inside when the deadline ends, and raise DeadlineExceeded instead."""
        return self

    def __enter__(self) -> None:
        task = self._task = asyncio.current_task(self.loop)
        self._cancelling = task.cancelling() if task is not None else 0
        self._arm()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._tick is not None:
            self._disarm()
        # Only our own cancellation becomes DeadlineExceeded. If the caller left too, it stays a cancellation.
        if self.expired and task is not None:
            others = task.uncancel() > self._cancelling
            if kind is asyncio.CancelledError and not others:
                raise DeadlineExceeded from None

    def ring(self) -> None:
        """The time is over: called by the timer."""
        # Once it has expired, nothing arms it again.
        self._tick = None
        self.expired = True
        if self._task is not None:
            self._task.cancel()

    def _arm(self) -> None:
        """Let the timer follow what changed."""
        if self._tick is not None:
            self._disarm()
        if self._task is not None and not self.expired and not self._stopped and self.at_s != math.inf:
            # A wait inside can report a better error, so enforcement comes a little later.
            self._tick = ticks_of(self.loop).set(self.at_s + GRACE_S, self)

    def _disarm(self) -> None:
        tick = self._tick
        if tick is not None:
            self._tick = None
            tick.pop(self, None)
