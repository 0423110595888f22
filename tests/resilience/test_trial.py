"""No caller can keep a circuit open: whose the trial is, and when it gives way."""

from __future__ import annotations

import pytest

from gateway.model.route import BreakerPolicy
from gateway.resilience.breaker import Breaker, CircuitOpen

POLICY = BreakerPolicy(failure_threshold=1, open_for_s=30.0, open_for_max_s=300.0)


@pytest.fixture
def breaker(clock, memory):
    breaker = Breaker("r", "upstream", POLICY, observer=memory, clock=clock, jitter=lambda: 0.0)
    breaker.admit(subject="mallory").failure("http_503")
    assert breaker.state == "open"
    return breaker


def refused_s(breaker, subject="", **how) -> float:
    with pytest.raises(CircuitOpen) as caught:
        breaker.admit(subject=subject, **how)
    return caught.value.retry_after_s


def test_an_unfinished_upload_gives_way_at_once_and_still_closes_the_circuit(clock, breaker):
    clock.pass_s(30)
    upload = breaker.admit(10.0, "mallory", whole=False)
    other = breaker.admit(10.0, "bob")
    assert refused_s(breaker, "carol") == 1.0
    upload.success()
    assert breaker.state == "closed"
    other.failure("http_503")
    assert breaker.state == "closed", "that began before the change of state"


def test_an_upload_that_gave_way_and_fails_changes_nothing(clock, breaker):
    clock.pass_s(30)
    upload = breaker.admit(10.0, "mallory", whole=False)
    other = breaker.admit(10.0, "bob")
    upload.failure("upstream_timeout")
    assert breaker.state == "half_open"
    other.success()
    assert breaker.state == "closed"


def test_two_uploads_take_turns_of_a_second(clock, breaker):
    clock.pass_s(30)
    breaker.admit(10.0, "mallory", whole=False)
    assert refused_s(breaker, "bob", whole=False) == 1.0
    clock.pass_s(1)
    breaker.admit(10.0, "bob", whole=False).success()
    assert breaker.state == "closed"


def test_a_trials_time_stands_still_until_its_body_is_whole(clock, breaker):
    clock.pass_s(30)
    upload = breaker.admit(10.0, "mallory", whole=False)
    clock.pass_s(1000)
    assert breaker.snapshot()["trial"]
    upload.arrived()
    clock.pass_s(9.9)
    assert breaker.snapshot()["trial"]
    assert refused_s(breaker, "bob") == 1.0, "it is a trial like others now"
    clock.pass_s(0.2)
    assert not breaker.snapshot()["trial"]
    assert breaker.state == "open"


def test_whose_trial_failed_leaves_the_next_one_to_others_who_were_refused(clock, breaker):
    clock.pass_s(30)
    breaker.admit(subject="mallory").failure("http_503")
    refused_s(breaker, "bob")
    clock.pass_s(60)
    assert refused_s(breaker, "mallory") == pytest.approx(12.0), "a fifth of the open time"
    breaker.admit(subject="bob").success()
    assert breaker.state == "closed"
    breaker.admit(subject="mallory").success()


def test_it_does_not_leave_it_to_nobody(clock, breaker):
    clock.pass_s(30)
    breaker.admit(subject="mallory").failure("http_503")
    refused_s(breaker, "mallory")
    clock.pass_s(60)
    breaker.admit(subject="mallory").success()
    assert breaker.state == "closed"


def test_one_client_alone_does_not_double_the_open_time_of_others(clock, breaker):
    for _ in range(4):
        clock.pass_s(breaker.remaining_s())
        refused = breaker.refusal_s("mallory")
        clock.pass_s(refused + 13)
        breaker.admit(subject="mallory").failure("http_503")
        refused_s(breaker, "bob")
    assert breaker.remaining_s() == 60.0, "doubled once, by the first"


def test_a_probe_that_is_answered_does_not_close_what_an_operator_opened(breaker):
    probe = breaker.probe()
    breaker.force_open()
    probe.success()
    assert breaker.state == "open"
