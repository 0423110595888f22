"""When to stop asking: one circuit breaker for one dependency. The only place that knows pybreaker.

pybreaker is the state machine of record. Admission and outcomes are ours, because its own `call` is made for blocking
code: under asyncio it counts no failure, lets everybody through while half-open, and counts a caller who left.
Nothing here waits.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any, Final

import pybreaker

from gateway.model.route import BreakerPolicy
from gateway.resilience.admission import HeldBack
from gateway.resilience.counters import Tally
from gateway.resilience.evidence import Blame, Evidence
from gateway.resilience.trial import CircuitOpen, Ticket, Trial
from gateway.telemetry.observer import Observer

__all__ = ["CLOSED", "HALF_OPEN", "OPEN", "Breaker", "CircuitOpen", "Ticket"]

CLOSED: Final = "closed"
OPEN: Final = "open"
HALF_OPEN: Final = "half_open"

_NAMES = {pybreaker.STATE_CLOSED: CLOSED, pybreaker.STATE_OPEN: OPEN, pybreaker.STATE_HALF_OPEN: HALF_OPEN}
_JITTER = 0.1
_TRIAL_RETRY_AFTER_S = 1.0
_TRIAL_LIMIT_S = 60.0
_TIMER_GRACE_S = 0.005  # a retry that slept until `Retry-After` may wake slightly early
_LOG = logging.getLogger(__name__)


class Breaker:
    """The breaker of one dependency: `name` as shown (`iam`, a route's id, `route.part`), `kind` iam or upstream.

    `trial_limit_s`: a trial not settled by then has failed. `clock` is monotonic; `jitter` gives 0 to 1. Kept across
    reloads: `update` changes the policy and keeps the state.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        policy: BreakerPolicy,
        *,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        trial_limit_s: float = _TRIAL_LIMIT_S,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.kind = kind
        self.state = CLOSED
        self.forced: str | None = None
        self.generation = 0
        self.last_failure = ""
        self.on_try: list[Callable[[], asyncio.Future[None]]] = []
        self._observer = observer
        self._clock = clock
        self._wall = wall
        self._jitter = jitter
        self._storage = pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
        self._machine = pybreaker.CircuitBreaker(name=name, state_storage=self._storage, listeners=[_Listener(self)])
        self._reason = ""
        self.evidence = Evidence()
        self._tally = Tally(policy)
        self._trial = Trial()
        self._held = HeldBack()
        self._open_until = 0.0
        self._open_for_s = 0.0
        self._opened_at: float | None = None
        self._failed_trials = 0
        self._trial_limit_s = trial_limit_s
        self.update(policy)

    def __repr__(self) -> str:
        return f"<Breaker {self.name}: {self.state}, {self._tally.consecutive} failures, generation {self.generation}>"

    def update(self, policy: BreakerPolicy) -> None:
        """Use another policy: the state, its remaining time and the counted failures stay."""
        self.policy = policy
        self._machine.fail_max = policy.failure_threshold
        self._tally.update(policy)

    # Before an attempt

    def admit(self, trial_limit_s: float | None = None, subject: str = "", *, whole: bool = True) -> Ticket:
        """Ask before a request. Raises CircuitOpen; while half-open exactly one ticket is out: the trial.

        `trial_limit_s`: how long the trial may take if this becomes it; the breaker's own limit by default.
        `subject`: on whose behalf, so that one subject's failures are told from everybody's. `whole`: the request's
        body is here (or there is none); if not, say so with `Ticket.arrived` once it is.
        """
        if self.state == CLOSED and not self._held.until_s:
            return Ticket(self, self.generation, self.evidence.answers, subject)
        now = self._clock()
        refusal_s, held_back = self._refusal_s(now, subject, whole=whole)
        if refusal_s > 0:
            # A subject that is refused now may have the next trial before one whose trial failed.
            self._trial.refused(subject)
            raise CircuitOpen(refusal_s, "" if self.forced else self.last_failure, held_back=held_back)
        return self._admit(now, trial_limit_s, subject, whole=whole)

    def probe(self) -> Ticket | None:
        """A trial of the gateway's own while the circuit is open, before its time is over.

        None if there is nothing to try. Success closes the circuit; failure leaves everything as it is.
        """
        if self.state == CLOSED or self.forced or self._trial_out(self._clock()):
            return None
        return self._try(self._clock(), None, "", whole=True)

    def check(self, ticket: Ticket) -> None:
        """Called by `Ticket.still_open`."""
        held_s = self._held_s(self._clock(), ticket.subject)
        if held_s > _TIMER_GRACE_S or (self.state != CLOSED and ticket is not self._trial.ticket):
            wait_s = max(self.remaining_s(ticket.subject), _TRIAL_RETRY_AFTER_S)
            raise CircuitOpen(wait_s, self.last_failure, held_back=self.state == CLOSED)

    def remaining_s(self, subject: str = "") -> float:
        """Seconds until the open circuit lets a trial through (or nobody is held back any more), 0 otherwise."""
        if self.state == CLOSED and not self._held.until_s:
            return 0.0
        now = self._clock()
        return max(self._open_s(now), self._held_s(now, subject))

    def set_aside(self, seconds: float) -> None:
        """A peer's `Retry-After` for all: reject until then. Not a state, and not shortened by a later, smaller one."""
        if seconds > 0:
            self._held.everybody(self._clock() + seconds)

    def hold_back(self, subject: str, seconds: float) -> None:
        """A peer's `Retry-After` for one subject; for all if it says so to three of them within a second."""
        if seconds > 0:
            now = self._clock()
            self._held.subject(subject, now + seconds, now)

    def refusal_s(self, subject: str = "") -> float:
        """Seconds after which asking again can help; 0 if `admit` would give a ticket now. Takes nothing."""
        if self.state == CLOSED and not self._held.until_s:
            return 0.0
        return self._refusal_s(self._clock(), subject, whole=True)[0]

    def _refusal_s(self, now: float, subject: str, *, whole: bool) -> tuple[float, bool]:
        """Seconds of refusal, and whether it is for being held back."""
        held_s, open_s = self._held_s(now, subject), self._open_s(now)
        if open_s <= 0 and self.state != CLOSED and not self.forced:
            if self._trial_out(now) and not self._trial.gives_way(now, whole=whole):
                open_s = self._open_s(now) or _TRIAL_RETRY_AFTER_S
            else:  # an overdue trial has failed just now
                open_s = self._open_s(now) or self._trial.yield_s(subject, now - self._open_until, self._open_for_s)
        return max(held_s, open_s), held_s >= open_s

    def _admit(self, now: float, trial_limit_s: float | None, subject: str, *, whole: bool) -> Ticket:
        if self.state == CLOSED:
            return Ticket(self, self.generation, self.evidence.answers, subject)
        if self.state == OPEN:
            # The open time is over: exactly one trial is admitted.
            self._change(self._machine.half_open, "open time is over, one trial")
        return self._try(now, trial_limit_s, subject, whole=whole)

    def _try(self, now: float, limit_s: float | None, subject: str, *, whole: bool) -> Ticket:
        ticket = Ticket(self, self.generation, self.evidence.answers, subject)
        self._trial.begin(ticket, now, self._trial_limit_s if limit_s is None else limit_s, whole=whole)
        return ticket

    def _trial_out(self, now: float) -> bool:
        """Whether the place of the trial is taken; a trial that outlived its limit fails here and frees it."""
        trial = self._trial.ticket
        # A trial that is not settled within its time limit has failed.
        if trial is not None and self._trial.overdue(now):
            trial.failure(f"{self.kind}_timeout")
        return self._trial.ticket is not None

    def _open_s(self, now: float) -> float:
        if self.state != OPEN:
            return 0.0
        return self.policy.open_for_s if self.forced else max(0.0, self._open_until - now)

    def _held_s(self, now: float, subject: str) -> float:
        # A `Retry-After` rejects without being a state. A close forced by an operator overrides it.
        return 0.0 if self.forced == CLOSED else self._held.wait_s(subject, now)

    # After an attempt: called by Ticket

    def succeeded(self, ticket: Ticket) -> None:
        """Called by `Ticket.success`."""
        now = self._clock()
        self.evidence.answered(ticket.subject, now)
        # What was admitted before a change of state does not count after it.
        if ticket.generation != self.generation:
            return
        if self.state == CLOSED:
            if self._tally.consecutive:
                self._storage.reset_counter()
            self._tally.success(now)
        elif not self.forced:  # the trial, or a request that was the trial until it gave up its place
            self._change(self._machine.close, "trial succeeded")

    def failed(self, ticket: Ticket, code: str, blame: Blame | None) -> Blame:
        """Called by `Ticket.failure`. Whose failure it is: only the dependency's own counts as consecutive."""
        if blame is None:
            # A failure during which somebody else was answered is that request's own.
            blame = self.evidence.blame(ticket.answers)
        if ticket is self._trial.ticket:
            self._trial_failed(ticket, code, blame)
        elif self.state == CLOSED and ticket.generation == self.generation:
            self._count(ticket, code, blame)
        return blame

    def _count(self, ticket: Ticket, code: str, blame: Blame) -> None:
        now = self._clock()
        self.evidence.failed(ticket.subject, now)
        if blame is Blame.DEPENDENCY:
            self.last_failure = code
            self._storage.increment_counter()
        silence, threshold = self.evidence.silence, self.policy.failure_threshold
        at_least = min(silence.calls, threshold) if silence.proves(threshold) else 0
        self._tally.failure(now, consecutive=blame is Blame.DEPENDENCY, at_least=at_least)
        reason = self._reason_to_open(now)
        # A state forced by an operator stays until `auto`.
        if reason and not self.forced:
            self.last_failure = code
            self._change(self._machine.open, f"{reason}, last: {code}")

    def _reason_to_open(self, now: float) -> str:
        # Consecutive failures do not open it if it answered somebody within the last second.
        in_a_row = "" if self.evidence.recent(now) else self._tally.in_a_row()
        if in_a_row:
            return in_a_row
        # The rate does not open it for only one or two subjects.
        too_many = self._tally.too_many()
        return too_many if too_many and self._many_subjects(now) else ""

    def _many_subjects(self, now: float) -> bool:
        """Failures of one client, while others are answered, do not count against the dependency."""
        policy = self.policy
        if self.evidence.widespread(now, policy.window_s):
            return True
        # A rate set in the configuration also counts if there are fewer than three subjects at all.
        return policy.rate_is_set and self.evidence.all_alike(now, policy.window_s)

    def released(self, ticket: Ticket) -> None:
        """Called by `Ticket.neutral`."""
        if ticket is self._trial.ticket:
            # A cancelled trial frees its place and has no result.
            self._trial.end()

    def arrived(self, ticket: Ticket) -> None:
        """Called by `Ticket.arrived`."""
        self._trial.arrived(ticket, self._clock())

    def _trial_failed(self, ticket: Ticket, code: str, blame: Blame) -> None:
        self._trial.end()
        if blame is Blame.REQUEST:  # somebody else was answered: the next request is the trial
            return
        self.last_failure = code
        if self.state == HALF_OPEN:
            self._failed_trials += self._trial.failed(ticket.subject)
            self._change(self._machine.open, f"trial failed: {code}")

    # Changes of state

    def force_open(self) -> None:
        """An operator opens the circuit, until `force_close` or `auto`."""
        self.forced = OPEN
        self._trial.end()
        self.generation += self.state == OPEN  # else the change counts: a trial begun before may not close it later
        self._change(self._machine.open, "forced by operator")

    def force_close(self) -> None:
        """An operator closes the circuit: whatever fails, it stays closed until `force_open` or `auto`."""
        self.forced = CLOSED
        self._held.release_everybody()
        self._change(self._machine.close, "forced by operator")

    def auto(self) -> None:
        """The breaker decides again: after a forced open the next request is the trial."""
        if self.forced == OPEN:
            self._open_until = self._clock()
        self.forced = None

    def try_now(self) -> list[asyncio.Future[None]]:
        """An operator wants the next trial now: that of whoever probes (done with the futures), else a request's."""
        if not self.on_try:
            self.end_open_time()
        return [told() for told in self.on_try]

    def end_open_time(self) -> None:
        """The next request is the trial."""
        if self.state == OPEN and not self.forced:
            self._open_until = self._clock()

    def changed(self, before: str, after: str) -> None:
        """Called by the state machine on every change: forget what belongs to the previous state, and notify."""
        if before == after:
            return
        self.state = after
        self.generation += 1
        self._trial.end()
        if after == OPEN:
            self._opened_at = self._wall()
            self._open_for_s = self._open_time_s()
            self._open_until = self._clock() + self._open_for_s
        elif after == HALF_OPEN:
            self.evidence.forget_silence()
        elif after == CLOSED:
            self._failed_trials = 0
            self._trial.forget()
            self._tally.clear()
            self.evidence.forget_failures()
        self._tell(before, after)

    def snapshot(self) -> dict[str, Any]:
        """What a status page shows. `opened_at_s` is Unix time, other durations are seconds."""
        now = self._clock()
        self._trial_out(now)
        return {
            "name": self.name,
            "kind": self.kind,
            "state": self.state,
            "forced": self.forced,
            "remaining_s": round(self._open_s(now), 3),
            "set_aside_s": round(self._held_s(now, ""), 3),
            "held_back": self._held.subjects(now),
            "consecutive_failures": self._tally.consecutive,
            "last_failure": self.last_failure,
            "opened_at_s": None if self.state == CLOSED else self._opened_at,
            "trial": self._trial.ticket is not None,
            "generation": self.generation,
        }

    def _change(self, change: Callable[[], Any], reason: str) -> None:
        self._reason = reason
        change()

    def _open_time_s(self) -> float:
        """`open_for_s`; after failed trials doubled for each, with jitter, and never above `open_for_max_s`."""
        policy = self.policy
        if not self._failed_trials:
            return policy.open_for_s
        doubled = policy.open_for_s * 2.0 ** min(self._failed_trials, 30)
        return max(policy.open_for_s, min(doubled * (1 + _JITTER * self._jitter()), policy.open_for_max_s))

    def _tell(self, before: str, after: str) -> None:
        try:
            self._observer.circuit(self.name, self.kind, before, after, self._reason)
        except Exception:  # noqa: BLE001 - a listener's error must not affect the change
            _LOG.exception("an observer failed on a change of circuit %s", self.name)


class _Listener(pybreaker.CircuitBreakerListener):
    """Lets the breaker follow its state machine of record."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:  # pybreaker's signature
        self._breaker.changed(_NAMES[old_state.name], _NAMES[new_state.name])
