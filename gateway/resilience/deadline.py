"""One deadline for a whole request: queueing, identity, IAM, retries and the upstream's response head.

Rules: created once where the request begins; every wait inside asks `remaining_s`; `enforced()` cancels what is inside
when it ends and raises DeadlineExceeded there; time in which the caller is still sending its body does not count
(`pause` and `resume`, or `extend`); `stop` ends enforcement when the response head is there. Once it has expired,
nothing rearms it. A wait inside that ends at the deadline by itself knows more of what it waited for, so enforcement
leaves it the first word (GRACE_S). Times are the event loop's clock, which is monotonic.
"""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Final, Self

GRACE_S: Final = 0.005


class DeadlineExceeded(Exception):
    """The deadline ended inside `enforced()`."""


class Deadline:
    """When a request must have its answer, and how long it was at first (`granted_s`).

    `at_s` is in the event loop's time; infinite while paused. `expired`: it ended and cancelled what was inside
    `enforced()`, which may still be on its way out. Enforced at most once, in one task (as asyncio.Timeout, whose rules
    on cancellation these are, without its cost per request).
    """

    __slots__ = ("_cancelling", "_handle", "_left_s", "_stopped", "_task", "at_s", "expired", "granted_s")

    def __init__(self, at_s: float, granted_s: float = 0.0) -> None:
        self.at_s = at_s
        self.granted_s = granted_s
        self.expired = False
        self._task: asyncio.Task[object] | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._cancelling = 0
        self._left_s: float | None = None
        self._stopped = False

    @classmethod
    def after(cls, seconds: float) -> Self:
        """A deadline `seconds` from now."""
        return cls(asyncio.get_running_loop().time() + seconds, seconds)

    def remaining_s(self) -> float:
        """Seconds left, 0 when over; stands still while paused."""
        if self._left_s is not None:
            return max(0.0, self._left_s)
        return max(0.0, self.at_s - asyncio.get_running_loop().time())

    def cap(self, seconds: float) -> float:
        """`seconds`, or what is left if that is less."""
        return min(seconds, self.remaining_s())

    def extend(self, seconds: float) -> None:
        """Give back time that does not count."""
        if self._left_s is None:
            self.at_s += seconds
            self._arm()
        else:
            self._left_s += seconds

    def pause(self) -> None:
        """Time stands still until `resume`: the caller is sending its body."""
        if self._left_s is None:
            self._left_s = self.at_s - asyncio.get_running_loop().time()
            self.at_s = math.inf
            self._arm()

    def resume(self) -> None:
        """Time goes on."""
        if self._left_s is not None:
            self.at_s = asyncio.get_running_loop().time() + self._left_s
            self._left_s = None
            self._arm()

    def stop(self) -> None:
        """End enforcement: the response head is there, what follows has its own timeouts."""
        self._stopped = True
        self._arm()

    def enforced(self) -> Self:
        """`async with`: cancel what is inside when the deadline ends, and raise DeadlineExceeded instead."""
        return self

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task is not None else 0
        self._arm()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        self._arm()
        # Only our own cancellation is turned into ours: a caller who left at the same time is still cancelled.
        if self.expired and task is not None:
            others = task.uncancel() > self._cancelling
            if kind is asyncio.CancelledError and not others:
                raise DeadlineExceeded from None

    def _arm(self) -> None:
        """Let the timer follow what changed."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._task is not None and not self.expired and not self._stopped and self._left_s is None:
            self._handle = asyncio.get_running_loop().call_at(self.at_s + GRACE_S, self._end)

    def _end(self) -> None:
        self._handle = None
        self.expired = True
        if self._task is not None:
            self._task.cancel()
