"""How many retries: a share of the requests, so that retrying never multiplies the load on what is already failing.

Rules: over the last ten seconds at most `ratio` of the requests are retried; a trickle of `min_per_s` is always
allowed, so that a quiet gateway can retry at all. Why a budget and not a number of attempts alone: with three attempts
each, an outage triples the load exactly when it hurts most (Google SRE, chapter 22; Envoy's `retry_budget`).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from gateway.resilience.window import SlidingWindow

_WINDOW_S = 10.0


class RetryBudget:
    """Shared by everything that retries towards one peer. `min_per_s` is in retries a second."""

    __slots__ = ("_clock", "_ratio", "_recent", "_window")

    def __init__(
        self, *, ratio: float = 0.2, min_per_s: float = 3.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ratio = ratio
        self._clock = clock
        self._window = SlidingWindow(_WINDOW_S)
        self._recent: deque[float] = deque(maxlen=math.ceil(min_per_s))

    def request(self) -> None:
        """Count one request (not its retries)."""
        self._window.add(self._clock(), calls=1)

    def available(self) -> bool:
        """Whether the budget has a retry. Takes nothing."""
        return self._has(self._clock())

    def try_retry(self) -> bool:
        """Take one retry if the budget has it."""
        now = self._clock()
        if not self._has(now):
            return False
        self._window.add(now, marked=1)
        self._recent.append(now)
        return True

    def _has(self, now: float) -> bool:
        self._window.slide(now)
        if self._window.marked + 1 <= self._ratio * self._window.calls:
            return True
        recent = self._recent
        return len(recent) < (recent.maxlen or 0) or now - recent[0] >= 1.0
