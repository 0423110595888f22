"""Who waits for what: an Ask is one caller's questions, a Pending is one distinct question and all who wait for it.

Rules: identical questions are one Pending, waiting or in flight; who joined later gets the same answer, `coalesced`. A
caller who leaves takes only its own waits along; a Pending that nobody waits for any more says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from gateway.errors import GatewayError
from gateway.model.question import ALLOW, DENY, Decision, Outcome, Question, unknown
from gateway.telemetry.observer import Span

if TYPE_CHECKING:
    from gateway.iam.call import Call

Key = tuple[str, str]

_COALESCED_ALLOW: Final = Decision(Outcome.ALLOW, "coalesced")
_UNANSWERED: Final = unknown(GatewayError("internal_error", reason="a question without an answer"))
_COALESCED_DENY: Final = Decision(Outcome.DENY, "coalesced")


class Ask:
    """One caller with its questions. `decisions` is complete when `left` is 0; then `done` is resolved.

    What has no answer yet stands there as unknown, so that no mistake can read it as anything else. `expire` is called
    when its time is over.
    """

    __slots__ = ("_expire", "decisions", "done", "left", "pendings", "request_id", "span")

    def __init__(
        self, size: int, request_id: str, span: Span, done: asyncio.Future[None], expire: Callable[[Ask], None]
    ) -> None:
        self.decisions = [_UNANSWERED] * size
        self.left = size
        self.pendings: list[tuple[Pending, int]] = []
        self.request_id = request_id
        self.span = span
        self.done = done
        self._expire = expire

    def ring(self) -> None:
        """The time is over: called by the timer."""
        self._expire(self)

    def answer(self, index: int, decision: Decision) -> None:
        """Fill in one decision."""
        self.decisions[index] = decision
        self.left -= 1
        if not self.left:
            self.pendings = []  # they know their asker: a circle would keep both until the garbage is collected
            if not self.done.done():
                self.done.set_result(None)

    def leave(self) -> list[tuple[Pending, int]]:
        """Stop waiting for what has no answer yet: which that was."""
        unanswered = [(pending, index) for pending, index in self.pendings if self.decisions[index] is _UNANSWERED]
        for pending, index in unanswered:
            del pending.waiters[self, index]
        return unanswered


class Pending:
    """One distinct question on its way, known in `registry` until it has its answer. `call` is None while it waits.

    `asker` is who asked it first.
    """

    __slots__ = ("asker", "call", "key", "question", "registry", "waiters")

    def __init__(self, question: Question, key: Key, registry: dict[Key, Pending], asker: Ask) -> None:
        self.question = question
        self.asker = asker
        self.key = key
        self.registry = registry
        self.call: Call | None = None
        self.waiters: dict[tuple[Ask, int], bool] = {}
        registry[key] = self

    @property
    def known(self) -> bool:
        """Whether somebody may still join: it has no answer, and was not given up."""
        return self.registry.get(self.key) is self

    def join(self, ask: Ask, index: int) -> None:
        """`ask` waits for this as its question number `index`."""
        if self.call is not None and not self.waiters:  # all had left, the call went on for others
            self.call.waited_for += 1
        self.waiters[ask, index] = bool(self.waiters)
        ask.pendings.append((self, index))

    def resolve(self, decision: Decision) -> None:
        """Answer everybody; who asks the same from now on asks anew."""
        self.forget()
        waiters, self.waiters = self.waiters, {}
        if self.call is not None and waiters:
            self.call.waited_for -= 1
        for (ask, index), joined in waiters.items():
            ask.answer(index, _coalesced(decision) if joined else decision)

    def forget(self) -> None:
        """Nobody may join any more."""
        if self.known:
            del self.registry[self.key]


def _coalesced(decision: Decision) -> Decision:
    if decision is ALLOW:
        return _COALESCED_ALLOW
    if decision is DENY:
        return _COALESCED_DENY
    return replace(decision, source="coalesced")
