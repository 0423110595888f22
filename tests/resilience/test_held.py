"""A peer says when to come back: to one subject, or to all."""

from __future__ import annotations

import pytest

from gateway.model.route import BreakerPolicy
from gateway.resilience.admission import MAX_SUBJECTS, HeldBack
from gateway.resilience.breaker import Breaker, CircuitOpen


@pytest.fixture
def breaker(clock, memory):
    return Breaker("r", "upstream", BreakerPolicy(), observer=memory, clock=clock)


def test_it_holds_back_that_subject_alone(clock, breaker):
    breaker.hold_back("heavy", 300)
    with pytest.raises(CircuitOpen) as caught:
        breaker.admit(subject="heavy")
    assert (caught.value.retry_after_s, caught.value.held_back) == (300, True)
    breaker.admit(subject="bob").success()
    assert breaker.snapshot()["held_back"] == 1
    assert breaker.snapshot()["set_aside_s"] == 0
    clock.pass_s(300)
    breaker.admit(subject="heavy").success()


def test_three_subjects_within_a_second_are_all_of_them(clock, breaker):
    breaker.hold_back("one", 300)
    breaker.hold_back("two", 5)
    clock.pass_s(0.9)
    breaker.hold_back("three", 60)
    assert breaker.remaining_s("four") == pytest.approx(4.1), "the shortest of what was said"
    assert breaker.remaining_s("one") == pytest.approx(299.1)


def test_two_of_them_or_three_in_a_longer_time_are_not(clock, breaker):
    for subject in ("one", "two", "one", "two"):
        breaker.hold_back(subject, 30)
    clock.pass_s(1.1)
    breaker.hold_back("three", 30)
    assert breaker.remaining_s("four") == 0


def test_a_later_smaller_wait_does_not_shorten_it(breaker):
    breaker.hold_back("heavy", 300)
    breaker.hold_back("heavy", 1)
    assert breaker.remaining_s("heavy") == 300


def test_what_is_kept_is_bounded_in_number_and_in_bytes():
    held = HeldBack()
    for number in range(3 * MAX_SUBJECTS):
        held.subject(f"{number}" * 5000, 100.0 + number, now_s=2.0 * number)
    assert len(held.until_s) <= MAX_SUBJECTS
    assert max(map(len, held.until_s)) <= 128
