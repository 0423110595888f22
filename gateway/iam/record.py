"""What the calls to IAM were like lately: for the status page, never for a decision."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

_LATEST: Final = 512
_SHARES: Final = (("p50", 0.50), ("p95", 0.95), ("p99", 0.99))


class CallRecord:
    """The latest 512 exchanges: size, duration and failure. `wall` is Unix time."""

    __slots__ = ("_calls", "_last_error", "_latest", "_wall")

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._latest: deque[tuple[int, float]] = deque(maxlen=_LATEST)
        self._calls = 0
        self._last_error: dict[str, Any] | None = None
        self._wall = wall

    def add(self, size: int, taken_s: float, code: str, reason: str) -> None:
        """One exchange with `size` questions ended; `code` is empty for success."""
        self._calls += 1
        self._latest.append((size, taken_s))
        if reason:
            self._last_error = {"code": code, "reason": reason, "at_s": self._wall()}

    def snapshot(self) -> dict[str, Any]:
        """Durations in milliseconds, `at_s` in Unix time; None where nothing was measured."""
        taken = sorted(taken_s for _, taken_s in self._latest)
        sizes = [size for size, _ in self._latest]
        return {
            "calls": self._calls,
            "latency_ms": {name: _percentile_ms(taken, share) for name, share in _SHARES},
            "mean_batch_size": round(sum(sizes) / len(sizes), 2) if sizes else None,
            "last_error": self._last_error,
        }


def _percentile_ms(ordered: list[float], share: float) -> float | None:
    if not ordered:
        return None
    return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000, 3)
