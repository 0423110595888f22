"""The breaker's promises, one by one, on a clock that stands still."""

import pytest

from gateway.model.route import BreakerPolicy
from gateway.resilience.breaker import CLOSED, HALF_OPEN, OPEN, Breaker, CircuitOpen
from gateway.resilience.evidence import Blame
from gateway.telemetry.observer import Observer

POLICY = BreakerPolicy(failure_threshold=5, open_for_s=5.0, open_for_max_s=60.0)


@pytest.fixture
def breaker(clock, memory):
    return Breaker("iam", "iam", POLICY, observer=memory, clock=clock, jitter=lambda: 1.0, trial_limit_s=3.0)


def fail(breaker, times=1, code="iam_timeout"):
    for _ in range(times):
        breaker.admit().failure(code)


def open_it(breaker):
    fail(breaker, breaker.policy.failure_threshold)
    assert breaker.state == OPEN


def test_opens_after_the_threshold_and_says_why(breaker, memory):
    fail(breaker, 4, "iam_unreachable")
    assert breaker.state == CLOSED
    fail(breaker)
    assert breaker.state == OPEN
    assert memory.changes == [(CLOSED, OPEN, "5 consecutive failures, last: iam_timeout")]


def test_a_success_starts_the_count_anew(breaker):
    fail(breaker, 4)
    breaker.admit().success()
    fail(breaker, 4)
    assert breaker.state == CLOSED


def test_open_rejects_with_the_remaining_time_and_the_cause(breaker, clock):
    open_it(breaker)
    clock.pass_s(1.5)
    with pytest.raises(CircuitOpen) as refused:
        breaker.admit()
    assert refused.value.retry_after_s == pytest.approx(3.5)
    assert refused.value.cause_code == "iam_timeout"
    assert breaker.remaining_s() == pytest.approx(3.5)
    assert breaker.refusal_s() == pytest.approx(3.5)


def test_half_open_admits_exactly_one_trial(breaker, clock):
    open_it(breaker)
    clock.pass_s(5)
    trial = breaker.admit()
    assert breaker.state == HALF_OPEN
    for _ in range(50):
        with pytest.raises(CircuitOpen) as refused:
            breaker.admit()
        assert refused.value.retry_after_s >= 1
    trial.success()
    assert breaker.state == CLOSED
    breaker.admit()


def test_looking_whether_it_would_refuse_takes_no_place(breaker, clock):
    open_it(breaker)
    clock.pass_s(5)
    assert breaker.refusal_s() == 0
    assert breaker.state == OPEN
    breaker.admit()
    assert breaker.refusal_s() >= 1


def test_a_cancelled_trial_frees_its_place_and_says_nothing(breaker, clock):
    open_it(breaker)
    clock.pass_s(5)
    breaker.admit().neutral()
    assert breaker.state == HALF_OPEN
    breaker.admit().success()
    assert breaker.state == CLOSED


def test_a_trial_that_is_never_settled_has_failed_after_its_limit(breaker, clock, memory):
    open_it(breaker)
    clock.pass_s(5)
    lost = breaker.admit()
    clock.pass_s(3)
    with pytest.raises(CircuitOpen):
        breaker.admit()
    assert breaker.state == OPEN
    assert memory.changes[-1] == (HALF_OPEN, OPEN, "trial failed: iam_timeout")
    lost.success()
    assert breaker.state == OPEN


def test_results_of_calls_begun_before_a_change_of_state_are_ignored(breaker, clock):
    early = [breaker.admit() for _ in range(8)]
    open_it(breaker)
    remaining = breaker.remaining_s()
    clock.pass_s(1)
    for ticket in early[:4]:
        ticket.failure("iam_error")
    assert breaker.remaining_s() == pytest.approx(remaining - 1)
    for ticket in early[4:6]:
        ticket.success()
    assert breaker.state == OPEN
    clock.pass_s(4)
    trial = breaker.admit()
    early[6].success()
    early[7].failure("iam_error")
    assert breaker.state == HALF_OPEN
    trial.success()
    assert breaker.state == CLOSED


def test_failures_from_before_an_outage_do_not_count_after_it(breaker, clock):
    early = [breaker.admit() for _ in range(5)]
    open_it(breaker)
    clock.pass_s(5)
    breaker.admit().success()
    for ticket in early:
        ticket.failure("iam_timeout")
    assert breaker.state == CLOSED


def test_failures_from_before_an_operator_closed_it_do_not_count_after_it(breaker):
    early = [breaker.admit() for _ in range(5)]
    open_it(breaker)
    breaker.force_close()
    breaker.auto()
    for ticket in early:
        ticket.failure("iam_timeout")
    assert breaker.state == CLOSED


def test_failed_trials_double_the_open_time_with_jitter_up_to_the_maximum(breaker, clock):
    open_it(breaker)
    times = [breaker.remaining_s()]
    for _ in range(6):
        clock.pass_s(breaker.remaining_s())
        breaker.admit().failure("iam_error")
        times.append(breaker.remaining_s())
    assert times == pytest.approx([5, 11, 22, 44, 60, 60, 60])


def test_the_first_open_time_has_no_jitter_and_success_starts_anew(breaker, clock):
    open_it(breaker)
    clock.pass_s(5)
    breaker.admit().failure("iam_error")
    clock.pass_s(breaker.remaining_s())
    breaker.admit().success()
    clock.pass_s(1)
    open_it(breaker)
    assert breaker.remaining_s() == 5


def test_a_route_without_maximum_never_doubles(clock, memory):
    breaker = Breaker("inventory", "upstream", BreakerPolicy(failure_threshold=1), observer=memory, clock=clock)
    fail(breaker)
    clock.pass_s(30)
    breaker.admit().failure("upstream_timeout")
    assert breaker.remaining_s() == 30


def test_a_ticket_is_settled_once(breaker):
    ticket = breaker.admit()
    ticket.success()
    for _ in range(9):
        ticket.failure("iam_error")
    assert breaker.state == CLOSED
    assert breaker.snapshot()["consecutive_failures"] == 0


def test_neutral_neither_counts_nor_resets(breaker):
    fail(breaker, 4)
    breaker.admit().neutral()
    assert breaker.state == CLOSED
    fail(breaker)
    assert breaker.state == OPEN


def test_a_further_attempt_is_refused_once_the_circuit_opened(breaker, clock):
    ticket = breaker.admit()
    ticket.still_open()
    open_it(breaker)
    with pytest.raises(CircuitOpen) as refused:
        ticket.still_open()
    assert refused.value.retry_after_s == pytest.approx(5)
    clock.pass_s(5)
    trial = breaker.admit()
    trial.still_open()
    with pytest.raises(CircuitOpen):
        ticket.still_open()


def alternate(breaker, *, answered, failing):
    """One answer and one failure, ten times, by turns of the `failing` subjects."""
    for turn in range(10):
        breaker.admit(subject=answered).success()
        breaker.admit(subject=failing[turn % len(failing)]).failure("iam_timeout")


@pytest.mark.parametrize(
    ("answered", "failing"),
    [("alice", ["alice"]), ("alice", ["bob", "carol", "dave"]), ("alice", ["alice", "bob"])],
    ids=["only one subject at all", "three subjects fail", "nobody else was answered"],
)
def test_the_failure_rate_opens_when_failures_and_successes_alternate(clock, memory, answered, failing):
    policy = BreakerPolicy(failure_threshold=50, failure_rate=0.5, rate_is_set=True, window_s=10, min_calls=20)
    breaker = Breaker("iam", "iam", policy, observer=memory, clock=clock)
    alternate(breaker, answered=answered, failing=failing)
    assert memory.changes == [(CLOSED, OPEN, "10 of 20 calls failed in 10s, last: iam_timeout")]


@pytest.mark.parametrize("failing", [["bob"], ["bob", "carol"]])
def test_the_failures_of_one_or_two_subjects_do_not_open_for_others_who_are_answered(clock, memory, failing):
    policy = BreakerPolicy(failure_threshold=5, failure_rate=0.5, rate_is_set=True, window_s=10, min_calls=20)
    breaker = Breaker("iam", "iam", policy, observer=memory, clock=clock)
    for _ in range(20):
        alternate(breaker, answered="alice", failing=failing)
        clock.pass_s(0.2)
    assert memory.changes == []


def test_a_failure_during_which_somebody_else_was_answered_is_its_own(breaker):
    for _ in range(50):
        poison = breaker.admit(subject="mallory")
        breaker.admit(subject="alice").success()
        assert poison.failure("iam_timeout") is Blame.REQUEST
    assert breaker.state == CLOSED
    assert breaker.snapshot()["consecutive_failures"] == 0


def test_a_failure_during_which_nobody_was_answered_is_the_dependencys(breaker, clock):
    breaker.admit().success()
    clock.pass_s(1)
    assert breaker.admit().failure("iam_timeout") is Blame.DEPENDENCY


def test_a_settled_ticket_blames_nobody(breaker):
    ticket = breaker.admit()
    ticket.neutral()
    assert ticket.failure("iam_timeout") is Blame.REQUEST


def test_what_answered_within_the_last_second_is_not_down_yet_and_a_dead_one_is_a_second_later(breaker, clock):
    breaker.admit().success()
    clock.pass_s(0.5)
    fail(breaker, 50)
    assert breaker.state == CLOSED
    clock.pass_s(0.5)
    fail(breaker)
    assert breaker.state == OPEN


def test_a_trial_fails_only_if_nobody_else_was_answered_meanwhile(breaker, clock):
    early = breaker.admit()
    open_it(breaker)
    clock.pass_s(5)
    trial = breaker.admit()
    early.success()
    assert trial.failure("iam_error") is Blame.REQUEST
    assert breaker.state == HALF_OPEN
    assert breaker.admit().failure("iam_error") is Blame.DEPENDENCY
    assert breaker.state == OPEN


def test_the_failure_rate_forgets_what_is_older_than_its_window(clock, memory):
    policy = BreakerPolicy(failure_threshold=100, failure_rate=0.5, rate_is_set=True, window_s=10, min_calls=20)
    breaker = Breaker("iam", "iam", policy, observer=memory, clock=clock)
    fail(breaker, 19)
    clock.pass_s(11)
    fail(breaker, 19)
    assert breaker.state == CLOSED
    fail(breaker)
    assert breaker.state == OPEN


def test_set_aside_rejects_without_being_a_state(breaker, clock, memory):
    breaker.set_aside(7)
    breaker.set_aside(2)
    with pytest.raises(CircuitOpen) as refused:
        breaker.admit()
    assert refused.value.retry_after_s == pytest.approx(7)
    assert (breaker.state, memory.changes) == (CLOSED, [])
    assert breaker.remaining_s() == pytest.approx(7)
    clock.pass_s(7)
    breaker.admit().success()


def test_set_aside_ends_further_attempts_until_its_time_is_over(breaker, clock):
    ticket = breaker.admit()
    breaker.set_aside(7)
    with pytest.raises(CircuitOpen):
        ticket.still_open()
    clock.pass_s(7)
    ticket.still_open()


def test_the_later_of_set_aside_and_open_counts(breaker):
    open_it(breaker)
    breaker.set_aside(9)
    assert breaker.remaining_s() == pytest.approx(9)


def test_forced_open_rejects_until_told_otherwise(breaker, clock, memory):
    breaker.force_open()
    clock.pass_s(1000)
    with pytest.raises(CircuitOpen) as refused:
        breaker.admit()
    assert refused.value.retry_after_s >= 1
    assert refused.value.cause_code == ""
    assert breaker.snapshot()["forced"] == OPEN
    breaker.auto()
    trial = breaker.admit()
    assert breaker.state == HALF_OPEN
    trial.success()
    assert breaker.state == CLOSED
    assert memory.changes[0] == (CLOSED, OPEN, "forced by operator")


def test_forced_closed_stays_closed_whatever_fails(breaker):
    open_it(breaker)
    breaker.set_aside(60)
    breaker.force_close()
    fail(breaker, 50)
    assert breaker.state == CLOSED
    breaker.auto()
    fail(breaker)
    assert breaker.state == OPEN


def test_forced_closed_nobody_is_held_back(breaker):
    breaker.hold_back("alice", 60)
    with pytest.raises(CircuitOpen):
        breaker.admit(subject="alice")
    breaker.force_close()
    breaker.admit(subject="alice").success()


def test_a_trial_in_flight_cannot_close_what_an_operator_opened(breaker, clock):
    open_it(breaker)
    clock.pass_s(5)
    trial = breaker.admit()
    breaker.force_open()
    trial.success()
    assert breaker.state == OPEN


def test_a_probe_in_flight_cannot_close_what_an_operator_opened_again(breaker):
    breaker.force_open()
    breaker.auto()
    probe = breaker.probe()
    breaker.force_open()
    breaker.auto()
    probe.success()
    assert breaker.state == OPEN


def test_a_probe_closes_early_and_its_failure_changes_nothing(breaker, clock, memory):
    assert breaker.probe() is None
    open_it(breaker)
    clock.pass_s(1)
    first = breaker.probe()
    assert breaker.probe() is None
    first.failure("iam_error")
    assert breaker.state == OPEN
    assert breaker.remaining_s() == pytest.approx(4)
    breaker.probe().success()
    assert breaker.state == CLOSED
    assert len(memory.changes) == 2


def test_a_probe_holds_the_place_of_the_one_trial(breaker, clock):
    open_it(breaker)
    clock.pass_s(4.5)
    probe = breaker.probe()
    clock.pass_s(1)
    with pytest.raises(CircuitOpen):
        breaker.admit()
    probe.neutral()
    breaker.admit()


def test_a_lost_probe_does_not_block_the_trial_for_ever(breaker, clock):
    open_it(breaker)
    breaker.probe()
    clock.pass_s(5)
    breaker.admit().success()
    assert breaker.state == CLOSED


def test_no_probe_while_forced(breaker):
    breaker.force_open()
    assert breaker.probe() is None


def test_a_reload_keeps_state_time_and_count(breaker, clock):
    fail(breaker, 3)
    breaker.update(BreakerPolicy(failure_threshold=4, open_for_s=20, open_for_max_s=20))
    fail(breaker)
    assert breaker.state == OPEN
    clock.pass_s(8)
    breaker.update(POLICY)
    assert breaker.remaining_s() == pytest.approx(12)


def test_whoever_listens_cannot_make_a_call_fail(clock, caplog):
    class Broken(Observer):
        def circuit(self, *args):
            raise RuntimeError("exporter is down")

    breaker = Breaker("iam", "iam", POLICY, observer=Broken(), clock=clock)
    open_it(breaker)
    assert "an observer failed" in caplog.text


def test_pybreaker_is_the_state_machine_of_record(breaker, clock):
    machine = breaker._machine
    fail(breaker, 3)
    assert machine.fail_counter == 3
    fail(breaker, 2)
    assert machine.current_state == "open"
    clock.pass_s(5)
    trial = breaker.admit()
    assert machine.current_state == "half-open"
    trial.success()
    assert (machine.current_state, machine.fail_counter) == ("closed", 0)
    machine.open()
    assert breaker.state == OPEN


def test_the_snapshot_says_all_that_a_page_shows(clock, memory):
    breaker = Breaker("iam", "iam", POLICY, observer=memory, clock=clock, wall=lambda: 1_700_000_000.0)
    open_it(breaker)
    assert breaker.snapshot() == {
        "name": "iam",
        "kind": "iam",
        "state": "open",
        "forced": None,
        "remaining_s": 5.0,
        "set_aside_s": 0.0,
        "held_back": 0,
        "consecutive_failures": 5,
        "last_failure": "iam_timeout",
        "opened_at_s": 1_700_000_000.0,
        "trial": False,
        "generation": 1,
    }
    assert repr(breaker) == "<Breaker iam: open, 5 failures, generation 1>"
