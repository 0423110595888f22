"""What IAM said before, by the whole question: subject, action, resource and context.

Two uses of one store. *Served*: a permit younger than `ttl_s` or a denial younger than `negative_ttl_s` answers in
IAM's stead. *Known*: a permit is remembered, however small the ttl, for when IAM cannot answer (`degrade: stale`,
`recheck`).

Rules: errors are never kept. A denial replaces a permit, and a permit asked for before the known answer was is dropped,
so a slow old answer never outlives a newer one. A permit dies with the token it was asked with (wall clock); ages are
monotonic and count from when IAM was asked. What was asked before a purge is not stored after it. Bounded:
`max_entries` in all, a twentieth of them for one subject; the least recently used subject's least recently used answer
goes first. Questions over 10,000 characters are not kept: what a caller may swell must not cost the others.
Deliberately absent: IAM's cache headers, and any timer (what is too old is never served and makes room in its turn).
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from gateway.model.question import Decision, Outcome, Question
from gateway.model.settings import CacheSettings

MAX_QUESTION_CHARS: Final = 10_000
SUBJECT_SHARE: Final = 20


class _Answer(NamedTuple):
    """`asked_s` is monotonic, `dies_s` Unix time."""

    permit: bool
    asked_s: float
    dies_s: float


class Stamp(NamedTuple):
    """When, and before which purge, IAM was asked."""

    asked_s: float
    epoch: int


class DecisionCache:
    """A bounded memory of single decisions. `serves`: whether any answer may be given in IAM's stead."""

    __slots__ = ("_clock", "_count", "_epoch", "_settings", "_share", "_subjects", "_wall", "serves")

    def __init__(
        self,
        settings: CacheSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.serves = settings.ttl_s > 0 or settings.negative_ttl_s > 0
        self._settings = settings
        self._share = max(1, settings.max_entries // SUBJECT_SHARE)
        self._clock = clock
        self._wall = wall
        self._epoch = 0
        self._count = 0
        self._subjects: OrderedDict[str, OrderedDict[str, _Answer]] = OrderedDict()

    def __len__(self) -> int:
        return self._count

    @property
    def max_stale_s(self) -> float:
        """How long a permit may stand in for an answer where no rule says less."""
        return self._settings.max_stale_s

    def stamp(self) -> Stamp:
        """To be taken before IAM is asked and given back with its answers."""
        return Stamp(self._clock(), self._epoch)

    def get(self, question: Question) -> Decision | None:
        """The answer that may be served in IAM's stead, None if IAM has to be asked."""
        answer = self._living(question)
        if answer is None:
            return None
        age_s = self._clock() - answer.asked_s
        if age_s >= (self._settings.ttl_s if answer.permit else self._settings.negative_ttl_s):
            return None
        subject, fragment = question.key
        self._subjects.move_to_end(subject)
        self._subjects[subject].move_to_end(fragment)
        return Decision(Outcome.ALLOW if answer.permit else Outcome.DENY, "cache", age_s=age_s)

    def permit_age_s(self, question: Question) -> float | None:
        """The age of the known permit for exactly this question, None without one. Its limit is the caller's."""
        answer = self._living(question)
        return self._clock() - answer.asked_s if answer is not None and answer.permit else None

    def remember(self, questions: Sequence[Question], decisions: Sequence[Decision], stamp: Stamp) -> None:
        """Keep what IAM answered to the questions asked at `stamp`."""
        if stamp.epoch != self._epoch:
            return
        for question, decision in zip(questions, decisions, strict=True):
            if decision.unauthenticated:
                self._forget(question)
            elif decision.outcome is not Outcome.UNKNOWN:
                self._keep(question, decision.outcome is Outcome.ALLOW, stamp.asked_s)

    def purge(self) -> None:
        """Forget everything, also what is being asked right now."""
        self._epoch += 1
        self._count = 0
        self._subjects.clear()

    def _living(self, question: Question) -> _Answer | None:
        subject, fragment = question.key
        answers = self._subjects.get(subject)
        answer = answers.get(fragment) if answers else None
        if answer is not None and answer.dies_s != math.inf and self._wall() >= answer.dies_s:
            return None  # it stays until it makes room: an older answer that comes late is still older
        return answer

    def _keep(self, question: Question, permit: bool, asked_s: float) -> None:  # noqa: FBT001 - the answer itself
        subject = question.subject
        fragment = question.check.fragment
        if len(fragment) + len(subject.document) > MAX_QUESTION_CHARS:
            return
        answers = self._subjects.get(subject.key)
        if answers is None:
            answers = self._subjects[subject.key] = OrderedDict()
        known = answers.get(fragment)
        if known is None:
            self._count += 1
        elif permit and known.asked_s > asked_s:
            return
        dies_s = subject.expires_at_s
        answers[fragment] = _Answer(permit, asked_s, math.inf if dies_s is None else dies_s)
        answers.move_to_end(fragment)
        self._subjects.move_to_end(subject.key)
        self._make_room(subject.key, answers)

    def _make_room(self, subject: str, answers: OrderedDict[str, _Answer]) -> None:
        if len(answers) > self._share:
            self._evict(subject, answers)
        while self._count > self._settings.max_entries:
            self._evict(*next(iter(self._subjects.items())))

    def _evict(self, subject: str, answers: OrderedDict[str, _Answer]) -> None:
        answers.popitem(last=False)
        self._count -= 1
        if not answers:
            del self._subjects[subject]

    def _forget(self, question: Question) -> None:
        subject, fragment = question.key
        answers = self._subjects.get(subject)
        if answers is None or answers.pop(fragment, None) is None:
            return
        self._count -= 1
        if not answers:
            del self._subjects[subject]
