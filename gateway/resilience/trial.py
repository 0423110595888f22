"""A breaker's tickets: what a call remembers of when it began, and who tries a half-open circuit."""

from __future__ import annotations

from math import inf
from typing import Final, Protocol

from gateway.resilience.evidence import Blame

# What admission gives: a ticket to be settled once, or the refusal that says when to come back.


class _Issuer(Protocol):
    """What a ticket needs of the breaker that issued it."""

    def succeeded(self, ticket: Ticket) -> None: ...
    def failed(self, ticket: Ticket, code: str, blame: Blame | None) -> Blame: ...
    def released(self, ticket: Ticket) -> None: ...
    def arrived(self, ticket: Ticket) -> None: ...
    def check(self, ticket: Ticket) -> None: ...


class CircuitOpen(Exception):
    """Not admitted. `retry_after_s`: until asking again can help. `cause_code`: the last failure's, `""` if forced.

    `held_back`: not because anything failed, but because the peer said when to come back.
    """

    def __init__(self, retry_after_s: float, cause_code: str, *, held_back: bool = False) -> None:
        super().__init__(retry_after_s, cause_code)
        self.retry_after_s = retry_after_s
        self.cause_code = cause_code
        self.held_back = held_back


class Ticket:
    """One admitted request of `subject`. Settled exactly once: by the first of `success`, `failure` and `neutral`.

    `answers` is how many answers the dependency had given when the request began (see Evidence).
    """

    __slots__ = ("_breaker", "_settled", "answers", "generation", "subject")

    def __init__(self, breaker: _Issuer, generation: int, answers: int = 0, subject: str = "") -> None:
        self._breaker = breaker
        self._settled = False
        self.generation = generation
        self.answers = answers
        self.subject = subject

    def success(self) -> None:
        """The dependency answered."""
        if not self._settled:
            self._settled = True
            self._breaker.succeeded(self)

    def failure(self, code: str, blame: Blame | None = None) -> Blame:
        """The request failed, with a code of the table. Returns whose failure it is; REQUEST if already settled.

        `blame`: the verdict of who knows more than who was answered; None judges by that alone.
        """
        if self._settled:
            return Blame.REQUEST
        self._settled = True
        return self._breaker.failed(self, code, blame)

    def neutral(self) -> None:
        """The attempt has no result: the caller left, or we could not ask."""
        if not self._settled:
            self._settled = True
            self._breaker.released(self)

    def arrived(self) -> None:
        """The body of this request, admitted without it, is here now."""
        self._breaker.arrived(self)

    def still_open(self) -> None:
        """Ask before each further attempt: CircuitOpen if the circuit opened since and this is not its trial."""
        self._breaker.check(self)


# Rules: there is one trial at a time. It has failed when it takes longer than its limit. The time does not count while
# its body has not fully arrived. Such a request gives up its place: immediately to a complete request, and after a
# second to another incomplete one. It still closes the circuit if it is answered first. A subject whose trial failed
# leaves the next one to others who were refused meanwhile, for a fifth of the open time (at least a second) after its
# end. So no caller can keep a circuit open. Times are monotonic seconds, given by the caller.

MAX_SUBJECTS: Final = 16
_GIVES_WAY_S: Final = 1.0
_SHARE: Final = 0.2
_LEAST_S: Final = 1.0


class Trial:
    """The place of the trial, and which subjects failed with it. `ticket`: the request that has it now."""

    __slots__ = ("_begun_s", "_failed", "_limit_s", "_others", "_until_s", "_whole", "ticket")

    def __init__(self) -> None:
        self.ticket: Ticket | None = None
        self._begun_s = 0.0
        self._limit_s = 0.0
        self._until_s = inf
        self._whole = True
        self._failed: dict[str, None] = {}
        self._others = False

    def begin(self, ticket: Ticket, now_s: float, limit_s: float, *, whole: bool) -> None:
        """This request takes the place, also from another one. `whole`: its body is here, or it has none."""
        self.ticket = ticket
        self._begun_s, self._limit_s, self._whole = now_s, limit_s, whole
        self._until_s = now_s + limit_s if whole else inf

    def arrived(self, ticket: Ticket, now_s: float) -> None:
        """The rest of the body came: from now on it is a trial like others."""
        if ticket is self.ticket and not self._whole:
            self._whole = True
            self._until_s = now_s + self._limit_s

    def end(self) -> None:
        """The place is free."""
        self.ticket = None

    def overdue(self, now_s: float) -> bool:
        """Whether the trial took longer than its limit."""
        return self.ticket is not None and now_s >= self._until_s

    def gives_way(self, now_s: float, *, whole: bool) -> bool:
        """Whether a request may take the place from the one that has it. `whole`: as for `begin`."""
        return not self._whole and (whole or now_s - self._begun_s >= _GIVES_WAY_S)

    # Whose trials failed since the circuit opened

    def failed(self, subject: str) -> bool:
        """A trial of this subject failed. Whether that is news: not if it is the same one's again while others wait."""
        news = not (self._others and subject in self._failed)
        if subject and len(self._failed) < MAX_SUBJECTS:
            self._failed[subject] = None
        self._others = False
        return news

    def refused(self, subject: str) -> None:
        """Somebody was not admitted."""
        if subject not in self._failed:
            self._others = True

    def yield_s(self, subject: str, since_end_s: float, open_s: float) -> float:
        """Seconds for which this subject leaves the trial to others. `since_end_s`: since the open time ended."""
        if not self._others or subject not in self._failed:
            return 0.0
        return max(0.0, max(_LEAST_S, _SHARE * open_s) - since_end_s)

    def forget(self) -> None:
        """The circuit closed."""
        self.ticket = None
        self._failed.clear()
        self._others = False
