"""When to try again: the wait before the next attempt, and what a peer's `Retry-After` says.

Rules: waits grow exponentially and are spread over the upper half of their length, so that callers who failed together
do not come back together and no wait is longer than the policy says. A peer's `Retry-After` is believed up to five
minutes; what is not a number of seconds or an HTTP-date is as if it were absent. Deliberately absent: whether a retry
is safe, and the loop around the attempts (they belong to the callers, which know what was sent).
"""

from __future__ import annotations

import datetime as dt
import email.utils
import random as _random
from collections.abc import Callable

from gateway.model.route import RetryPolicy

BELIEVED_S = 300.0
_LONGEST_VALUE = 64
_LONGEST_NUMBER = 9


def backoff_s(policy: RetryPolicy, attempt: int, random: Callable[[], float] = _random.random) -> float:
    """Seconds to wait after attempt number `attempt` (from 1) failed: `backoff_s` doubling up to `backoff_max_s`.

    Spread evenly over the upper half: between 50 % and 100 % of that.
    """
    ceiling = min(policy.backoff_s * 2.0 ** min(attempt - 1, 30), policy.backoff_max_s)
    return ceiling * (0.5 + 0.5 * random())


def retry_after_s(value: bytes | None, now: float) -> float | None:
    """Seconds that a `Retry-After` field asks for (RFC 9110 section 10.2.3), between 0 and 300.

    `now` is Unix time, for the form with a date; a date that has passed is 0. None if there is no valid value.
    """
    if value is None or len(value) > _LONGEST_VALUE:
        return None
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
