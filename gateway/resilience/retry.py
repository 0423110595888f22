"""When to try again: the wait before the next attempt, and what a peer's `Retry-After` says.

Deliberately absent: whether a retry is safe, and the loop around the attempts. They belong to the callers, which know
what was sent.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import math
import random as _random
import time
from collections import Counter, deque
from collections.abc import Callable
from itertools import takewhile
from typing import Final

from gateway.model.route import RetryPolicy
from gateway.resilience.counters import SlidingWindow

# How many retries: a share of the requests (Google SRE, chapter 22; Envoy's `retry_budget`).

_WINDOW_S: Final = 10.0
_LATEST: Final = 1024
"""The number of latest retries whose subjects are known."""


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
        """Whether the budget has a retry for a request of `subject`. Does not take it."""
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
        # Three attempts each would triple the load in an outage, so only a share of the requests is retried.
        allowed = self._ratio * window.calls
        if window.marked + 1 <= allowed:
            return True
        # A few retries are always allowed, so that a gateway with little traffic can retry too.
        if len(latest) < self._trickle or now - latest[-self._trickle][0] >= 1.0:
            return True
        self._forget_before(now - _WINDOW_S)
        greedy, total = self._greedy, len(latest)
        share = self._counts[greedy] / total
        if greedy in {"", subject} or share <= 1 / 2:
            return False
        # If one subject took most retries, the others may still make half as many as the budget has.
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


BELIEVED_S = 300.0
_LONGEST_VALUE = 64
_LONGEST_NUMBER = 9


def backoff_s(policy: RetryPolicy, attempt: int, random: Callable[[], float] = _random.random) -> float:
    """Seconds to wait after attempt number `attempt` (from 1) failed: `backoff_s` doubling up to `backoff_max_s`.

    Spread evenly over the upper half: between 50 % and 100 % of that.
    """
    # Spread, so that callers who failed together do not retry together.
    ceiling = min(policy.backoff_s * 2.0 ** min(attempt - 1, 30), policy.backoff_max_s)
    return ceiling * (0.5 + 0.5 * random())


def retry_after_s(value: bytes | None, now: float) -> float | None:
    """Seconds that a `Retry-After` field asks for (RFC 9110 section 10.2.3), between 0 and 300.

    `now` is Unix time, for the form with a date; a date that has passed is 0. None if there is no valid value.
    """
    if value is None or len(value) > _LONGEST_VALUE:
        return None
    # A value that is no number of seconds and no HTTP-date is ignored.
    text = value.strip(b" \t")
    if text.isdigit():
        return BELIEVED_S if len(text) > _LONGEST_NUMBER else min(float(text), BELIEVED_S)
    until = _http_date(text)
    return None if until is None else min(max(until - now, 0.0), BELIEVED_S)


def _http_date(text: bytes) -> float | None:
    """Unix time of an HTTP-date (RFC 9110 section 5.6.7, all three forms), None if it is not one."""
    try:
        when = email.utils.parsedate_to_datetime(text.decode("ascii"))
        return when.replace(tzinfo=when.tzinfo or dt.UTC).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
