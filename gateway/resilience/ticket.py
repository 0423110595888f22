"""What admission gives: a ticket to be settled once, or the refusal that says when to come back."""

from __future__ import annotations

from typing import Protocol

from gateway.resilience.evidence import Blame


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
        """Nothing was learnt: the caller left, or we could not ask."""
        if not self._settled:
            self._settled = True
            self._breaker.released(self)

    def arrived(self) -> None:
        """The body of this request, admitted without it, is here now."""
        self._breaker.arrived(self)

    def still_open(self) -> None:
        """Ask before each further attempt: CircuitOpen if the circuit opened since and this is not its trial."""
        self._breaker.check(self)
