"""Waits before the next attempt, and what a peer's `Retry-After` is believed to say."""

from email.utils import formatdate

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.model.route import RetryPolicy
from gateway.resilience.retry import backoff_s, retry_after_s

NOW = 1_700_000_000.0
PATIENT = RetryPolicy(attempts=3, backoff_s=2.0, backoff_max_s=8.0)


def test_waits_double_up_to_the_maximum():
    assert [backoff_s(PATIENT, attempt, lambda: 1.0) for attempt in (1, 2, 3, 4, 900)] == [2, 4, 8, 8, 8]


def test_waits_are_spread_over_their_upper_half():
    assert backoff_s(PATIENT, 1, lambda: 0.0) == 1.0
    assert all(1.0 <= backoff_s(PATIENT, 1) <= 2.0 for _ in range(100))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (b"7", 7.0),
        (b" 7 ", 7.0),
        (b"0", 0.0),
        (b"299", 299.0),
        (b"300", 300.0),
        (b"301", 300.0),
        (b"999999999", 300.0),
        (b"9" * 60, 300.0),
        (b"9" * 65, None),
        (b"-1", None),
        (b"+7", None),
        (b"7.5", None),
        (b"1e3", None),
        (b"0x10", None),
        (b"", None),
        (b"soon", None),
        (b"7, 8", None),
        ("\N{ARABIC-INDIC DIGIT SEVEN}".encode(), None),
        (formatdate(NOW + 42, usegmt=True).encode(), 42.0),
        (formatdate(NOW + 4200, usegmt=True).encode(), 300.0),
        (formatdate(NOW - 42, usegmt=True).encode(), 0.0),
        (b"Tuesday, 14-Nov-23 22:14:02 GMT", 42.0),
        (b"Tue Nov 14 22:14:02 2023", 42.0),
        (b"Tue, 99 Nov 2023 22:14:02 GMT", None),
        (b"Tue, 14 Nov 99999 22:14:02 GMT", None),
    ],
)
def test_retry_after(value, expected):
    assert retry_after_s(value, NOW) == expected


@given(st.binary(max_size=80))
def test_no_value_whatever_raises_or_is_believed_beyond_five_minutes(value):
    seconds = retry_after_s(value, NOW)
    assert seconds is None or 0 <= seconds <= 300
