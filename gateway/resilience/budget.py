"""How many retries: a share of the requests, so that retrying never multiplies the load on what is already failing.

Rules: over the last ten seconds at most `ratio` of the requests are retried; a trickle of `min_per_s` is always
allowed, so that a quiet gateway can retry at all. Why a budget and not a number of attempts alone: with three attempts
each, an outage triples the load exactly when it hurts most (Google SRE, chapter 22; Envoy's `retry_budget`).
One subject whose requests always fail would take all of it. Where one made more than half of the latest retries, the
others may still make half as many as the budget has, whatever that one took.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable
from itertools import takewhile
from typing import Final

from gateway.resilience.window import SlidingWindow

_WINDOW_S: Final = 10.0
_LATEST: Final = 1024
"""Retries of which it is known whose they were."""


class RetryBudget:
    """Shared by everything that retries towards one peer. `min_per_s` is in retries a second."""

    __slots__ = ("_clock", "_counts", "_greedy", "_latest", "_ratio", "_trickle", "_window")

    def __init__(
        self, *, ratio: float = 0.2, min_per_s: float = 3.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ratio = ratio
        self._clock = clock
        self._window = SlidingWindow(_WINDOW_S)
        self._trickle = math.ceil(min_per_s)
        self._latest: deque[tuple[float, str]] = deque()
        self._counts: Counter[str] = Counter()
        self._greedy = ""

    def request(self) -> None:
        """Count one request (not its retries)."""
        self._window.add(self._clock(), calls=1)

    def available(self, subject: str = "") -> bool:
        """Whether the budget has a retry for a request of `subject`. Takes nothing."""
        return self._has(self._clock(), subject)

    def try_retry(self, subject: str = "") -> bool:
        """Take one retry if the budget has it. `subject`: empty where the request is several subjects'."""
        now = self._clock()
        if not self._has(now, subject):
            return False
        self._window.add(now, marked=1)
        self._forget_before(now - _WINDOW_S)
        self._latest.append((now, subject))
        self._counts[subject] += 1
        if 2 * self._counts[subject] > len(self._latest):
            self._greedy = subject
        return True

    def _has(self, now: float, subject: str) -> bool:
        window, latest = self._window, self._latest
        window.slide(now)
        allowed = self._ratio * window.calls
        if window.marked + 1 <= allowed:
            return True
        if len(latest) < self._trickle or now - latest[-self._trickle][0] >= 1.0:
            return True
        self._forget_before(now - _WINDOW_S)
        greedy, total = self._greedy, len(latest)
        share = self._counts[greedy] / total
        if greedy in {"", subject} or share <= 1 / 2:
            return False
        if window.marked * (1 - share) + 1 <= allowed / 2:
            return True
        lately = sum(who != greedy for _, who in takewhile(lambda each: now - each[0] < 1.0, reversed(latest)))
        return 2 * lately < self._trickle

    def _forget_before(self, since_s: float) -> None:
        latest = self._latest
        while latest and (latest[0][0] < since_s or len(latest) >= _LATEST):
            _, who = latest.popleft()
            self._counts[who] -= 1
            if not self._counts[who]:
                del self._counts[who]
