"""Who waits for which question, and the queue of questions: bounded, taken by turns of their subjects."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from gateway.errors import GatewayError
from gateway.model.permit import ALLOW, DENY, Decision, Outcome, Question, unknown
from gateway.telemetry.observer import Span

if TYPE_CHECKING:
    from gateway.iam.call import Call


# Who waits for what: an Ask is one caller's questions, a Pending is one distinct question and all who wait for it.
#
# Rules: identical questions are one Pending, waiting or in flight; who joined later gets the same answer,
# `coalesced`. A caller who leaves takes only its own waits along; a Pending that nobody waits for any more says so.

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


# The questions that wait for a call: bounded, and taken by turns of their subjects.

_SHARE: Final = 20


class Waiting:
    """A queue of Pendings. `limit` is `max_queue`."""

    __slots__ = ("_count", "_greedy", "_limit", "_share", "_turns")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._share = math.ceil(limit / _SHARE)
        self._count = 0
        self._turns: OrderedDict[str, dict[Key, Pending]] = OrderedDict()
        self._greedy: set[str] = set()

    def __len__(self) -> int:
        return self._count

    def full(self, free: int) -> bool:
        """Whether one more question is too much, while `free` of those here can leave at once."""
        # What can leave at once does not count as waiting, so an idle gateway refuses nothing.
        return self._count - free >= self._limit

    def surplus(self, subject: str) -> Pending | None:
        """What has to go so that `subject` can ask one more question; None if that is this question itself."""
        most = max(self._greedy, key=self._held_by, default=None)
        if most is None or self._held_by(most) <= self._held_by(subject):
            return None
        # The newest question of the subject that holds most: a flood only delays itself.
        return next(reversed(self._turns[most].values()))

    def add(self, pending: Pending) -> None:
        """Put it last."""
        subject = pending.key[0]
        mine = self._turns.get(subject)
        if mine is None:
            mine = self._turns[subject] = {}
        mine[pending.key] = pending
        self._count += 1
        # Who holds less than a twentieth is never refused for another's flood.
        if len(mine) > self._share:
            self._greedy.add(subject)

    def drop(self, pending: Pending) -> None:
        """Take it out: nobody waits for it any more."""
        self._remove(pending.key[0], (pending,))

    def take(self, most: int, barred: Collection[str] = (), alone: Collection[str] = ()) -> list[Pending]:
        """What leaves in the next call, at most `most`, of subjects that are not `barred`.

        What one caller asked together stays together where it fits into one call. Subjects that travel `alone` share
        their call with nobody.
        """
        if self._count <= most and not barred and not alone:  # all fit in: nobody has to take turns
            return self.take_all()
        taken: list[Pending] = []
        while len(taken) < most:
            subject = next((each for each in self._turns if each not in barred and not (taken and each in alone)), None)
            if subject is None:
                break
            together = _together(self._turns[subject], most)
            if taken and len(taken) + len(together) > most:
                break
            taken += together
            self._remove(subject, together)
            # Subjects take turns, the oldest question of each first.
            if subject in self._turns:
                self._turns.move_to_end(subject)
            if subject in alone:
                break
        return taken

    def take_all(self) -> list[Pending]:
        """Everything that waits."""
        taken = [pending for mine in self._turns.values() for pending in mine.values()]
        self._turns.clear()
        if self._greedy:
            self._greedy.clear()
        self._count = 0
        return taken

    def _held_by(self, subject: str) -> int:
        return len(self._turns.get(subject, ()))

    def _remove(self, subject: str, pendings: list[Pending] | tuple[Pending, ...]) -> None:
        mine = self._turns[subject]
        for pending in pendings:
            del mine[pending.key]
        self._count -= len(pendings)
        if len(mine) <= self._share:
            self._greedy.discard(subject)
        if not mine:
            del self._turns[subject]


def _together(pendings: dict[Key, Pending], most: int) -> list[Pending]:
    """The oldest question and what its caller asked with it, at most `most`."""
    together: list[Pending] = []
    for pending in pendings.values():
        if together and (len(together) == most or pending.asker is not together[0].asker):
            break
        together.append(pending)
    return together
