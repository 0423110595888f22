"""One deadline for a whole request: queueing, identity, IAM, retries and the upstream's response head.

Rules: created once where the request begins; every wait inside asks `remaining_s`; `enforced()` cancels what is inside
when it ends and raises DeadlineExceeded there; time in which the caller is still sending its body is given back with
`extend`; `stop` ends enforcement when the response head is there. Times are the event loop's clock, which is monotonic.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class DeadlineExceeded(Exception):
    """The deadline ended inside `enforced()`."""


class Deadline:
    """When a request must have its answer. `at_s` is in the event loop's time."""

    __slots__ = ("_timeout", "at_s")

    def __init__(self, at_s: float) -> None:
        self.at_s = at_s
        self._timeout: asyncio.Timeout | None = None

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """A deadline `seconds` from now."""
        return cls(asyncio.get_running_loop().time() + seconds)

    def remaining_s(self) -> float:
        """Seconds left, 0 when over."""
        return max(0.0, self.at_s - asyncio.get_running_loop().time())

    def cap(self, seconds: float) -> float:
        """`seconds`, or what is left if that is less."""
        return min(seconds, self.remaining_s())

    def extend(self, seconds: float) -> None:
        """Give back time that does not count."""
        self.at_s += seconds
        if self._timeout is not None and self._timeout.when() is not None:
            self._timeout.reschedule(self.at_s)

    def stop(self) -> None:
        """End enforcement: the response head is there, what follows has its own timeouts."""
        if self._timeout is not None:
            self._timeout.reschedule(None)

    @asynccontextmanager
    async def enforced(self) -> AsyncIterator[None]:
        """Cancel what is inside when the deadline ends, and raise DeadlineExceeded instead."""
        try:
            async with asyncio.timeout_at(self.at_s) as self._timeout:
                yield
        except TimeoutError:
            if self._timeout is not None and self._timeout.expired():
                raise DeadlineExceeded from None
            raise
        finally:
            self._timeout = None
