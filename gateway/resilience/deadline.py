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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

GRACE_S: Final = 0.005


class DeadlineExceeded(Exception):
    """The deadline ended inside `enforced()`."""


class Deadline:
    """When a request must have its answer, and how long it was at first (`granted_s`).

    `at_s` is in the event loop's time; infinite while paused.
    """

    __slots__ = ("_left_s", "_stopped", "_timeout", "at_s", "granted_s")

    def __init__(self, at_s: float, granted_s: float = 0.0) -> None:
        self.at_s = at_s
        self.granted_s = granted_s
        self._timeout: asyncio.Timeout | None = None
        self._left_s: float | None = None
        self._stopped = False

    @classmethod
    def after(cls, seconds: float) -> Deadline:
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

    @property
    def expired(self) -> bool:
        """Whether it ended and has cancelled what is inside `enforced()`."""
        return self._timeout is not None and self._timeout.expired()

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

    def _arm(self) -> None:
        """Let the timeout follow what changed."""
        timeout = self._timeout
        if timeout is not None and not timeout.expired():
            timeout.reschedule(None if self._stopped or self._left_s is not None else self.at_s + GRACE_S)

    @asynccontextmanager
    async def enforced(self) -> AsyncIterator[None]:
        """Cancel what is inside when the deadline ends, and raise DeadlineExceeded instead."""
        try:
            async with asyncio.timeout_at(self.at_s + GRACE_S) as self._timeout:
                yield
        except TimeoutError:
            if self._timeout is not None and self._timeout.expired():
                raise DeadlineExceeded from None
            raise
        finally:
            self._timeout = None
