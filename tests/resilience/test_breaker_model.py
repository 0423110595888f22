"""The breaker against a model of a few lines, over random interleavings of everything that can happen to it."""

import hypothesis.strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from gateway.model.route import BreakerPolicy
from gateway.resilience.breaker import CLOSED, HALF_OPEN, OPEN, Breaker, CircuitOpen
from gateway.telemetry.observer import Observer
from tests.support.properties import examples

THRESHOLD, OPEN_S, MAX_S = 3, 5.0, 20.0


class Changes(Observer):
    def __init__(self):
        self.pairs = []

    def circuit(self, name, kind, before, after, reason):
        assert reason
        self.pairs.append((before, after))


class Model(RuleBasedStateMachine):
    """`era` counts changes of state and orders to stay open; what a ticket says counts in the era it was given in."""

    tickets = Bundle("tickets")
    limit_s = 4.0

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.changes = Changes()
        self.breaker = Breaker(
            "x",
            "upstream",
            BreakerPolicy(failure_threshold=THRESHOLD, open_for_s=OPEN_S, open_for_max_s=MAX_S),
            observer=self.changes,
            clock=lambda: self.now,
            jitter=lambda: 0.0,
            trial_limit_s=self.limit_s,
        )
        self.state, self.forced, self.era, self.orders = CLOSED, None, 0, 0
        self.failures = self.failed_trials = 0
        self.open_until = 0.0
        self.trial, self.trial_until = None, 0.0
        self.answers, self.answered_at = 0, float("-inf")
        self.begun = {}

    def own(self, ticket):
        """Whether somebody else was answered while this was open."""
        return self.begun[ticket] != self.answers

    def become(self, state):
        if state == self.state:
            return
        self.state, self.trial, self.era = state, None, self.era + 1
        if state == OPEN:
            self.open_until = self.now + min(OPEN_S * 2**self.failed_trials, MAX_S)
        if state == CLOSED:
            self.failures = self.failed_trials = 0

    def trial_fails(self):
        own, self.trial = self.own(self.trial), None
        if self.state == HALF_OPEN and not own:
            self.failed_trials += 1
            self.become(OPEN)

    def would_admit(self):
        if self.state == OPEN and (self.forced or self.now < self.open_until):
            return False
        if self.trial is not None and self.now >= self.trial_until:
            self.trial_fails()
        if self.state == OPEN and self.now < self.open_until:
            return False
        return self.trial is None

    def given(self, ticket):
        self.begun[ticket] = self.answers
        return (ticket, self.era)

    @rule(target=tickets)
    def admit(self):
        expected = self.would_admit()
        try:
            ticket = self.breaker.admit()
        except CircuitOpen:
            assert not expected
            assert self.breaker.refusal_s() > 0
            return (None, -1)
        assert expected
        if self.state != CLOSED:
            self.become(HALF_OPEN)
            self.trial, self.trial_until = ticket, self.now + self.limit_s
        return self.given(ticket)

    @rule(target=tickets)
    def probe(self):
        if self.state != CLOSED and not self.forced and self.trial is not None and self.now >= self.trial_until:
            self.trial_fails()
        ticket = self.breaker.probe()
        allowed = self.state != CLOSED and not self.forced and self.trial is None
        assert (ticket is not None) == allowed
        if ticket is None:
            return (None, -1)
        self.trial, self.trial_until = ticket, self.now + self.limit_s
        return self.given(ticket)

    @rule(given=consumes(tickets))
    def success(self, given):
        ticket, era = given
        if ticket is None:
            return
        if not ticket._settled:
            self.answers, self.answered_at = self.answers + 1, self.now
        if era == self.era and self.state == CLOSED:
            self.failures = 0
        elif era == self.era and not self.forced:  # the trial, or what was it until it gave way
            self.become(CLOSED)
        ticket.success()

    @rule(given=consumes(tickets))
    def failure(self, given):
        ticket, era = given
        if ticket is None:
            return
        if ticket is self.trial:
            self.trial_fails()
        elif era == self.era and self.state == CLOSED:
            self.failures += not self.own(ticket)
            if self.failures >= THRESHOLD and not self.forced and self.now - self.answered_at >= 1:
                self.become(OPEN)
        ticket.failure("upstream_timeout")

    @rule(given=consumes(tickets))
    def cancelled(self, given):
        ticket, _ = given
        if ticket is None:
            return
        if ticket is self.trial:
            self.trial = None
        ticket.neutral()

    @rule(given=tickets)
    def asked_again(self, given):
        ticket, _ = given
        if ticket is None:
            return
        try:
            ticket.still_open()
        except CircuitOpen:
            assert self.state != CLOSED
            assert ticket is not self.trial
        else:
            assert self.state == CLOSED or ticket is self.trial

    @rule(seconds=st.sampled_from([0.1, 0.9, 1.0, 4.0, 5.0, 10.0, 20.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule()
    def force_open(self):
        self.forced, self.trial = OPEN, None
        self.orders += self.state == OPEN
        self.era += self.state == OPEN
        self.become(OPEN)
        self.breaker.force_open()

    @rule()
    def force_close(self):
        self.forced = CLOSED
        self.become(CLOSED)
        self.breaker.force_close()

    @rule()
    def auto(self):
        if self.forced == OPEN:
            self.open_until = self.now
        self.forced = None
        self.breaker.auto()

    @rule()
    def reload(self):
        self.breaker.update(self.breaker.policy)

    @invariant()
    def same_state(self):
        assert self.breaker.state == self.state
        assert self.breaker.forced == self.forced
        assert self.breaker._tally.consecutive == self.failures
        assert self.breaker._machine.current_state.replace("-", "_") == self.state
        if self.state == OPEN and not self.forced:
            assert abs(self.breaker.remaining_s() - max(0.0, self.open_until - self.now)) < 1e-6

    @invariant()
    def every_change_was_told_once_and_in_order(self):
        assert len(self.changes.pairs) == self.era - self.orders
        last = CLOSED
        for before, after in self.changes.pairs:
            assert before == last
            assert after != before
            last = after


class PatientModel(Model):
    """A trial may take longer than the circuit is open."""

    limit_s = 3 * OPEN_S


TestModel, TestPatientModel = Model.TestCase, PatientModel.TestCase
TestModel.settings = TestPatientModel.settings = examples(80, stateful_step_count=40)
