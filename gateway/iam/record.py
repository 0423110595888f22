"""How many calls to IAM there were, and what went wrong last: for the status page, never for a decision.

Deliberately absent: durations and batch sizes, which every call tells the observer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class CallRecord:
    """All exchanges since the start. `wall` is Unix time."""

    __slots__ = ("_answered_at_s", "_calls", "_last_error", "_wall")

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._calls = 0
        self._answered_at_s: float | None = None
        self._last_error: dict[str, Any] | None = None
        self._wall = wall

    def add(self, code: str, reason: str) -> None:
        """One exchange ended; `code` is empty for success."""
        self._calls += 1
        if reason:
            self._last_error = {"code": code, "reason": reason, "at_s": self._wall()}
        if not code:
            self.answered()

    def answered(self) -> None:
        """IAM answered, a call or a look at it."""
        self._answered_at_s = self._wall()

    def snapshot(self) -> dict[str, Any]:
        """`at_s` in Unix time; None where nothing went wrong, or nothing was answered."""
        return {"calls": self._calls, "answered_at_s": self._answered_at_s, "last_error": self._last_error}
