"""Whose failure is it? One rule decides this. Its evidence is who was answered, and when.

Breakers, degrade rules, skipped origins and trials use the result.
Deliberately absent: what counts as an answer or a failure. The caller knows the protocol and says so.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from math import inf
from typing import Final

RECENT_S: Final = 1.0
"""A dependency that answered somebody this recently is not down."""
_GROUPS: Final = 32
WIDESPREAD: Final = 3
"""If this many subjects fail, one client cannot be the cause."""


class Blame(enum.Enum):
    """Whose failure it is."""

    DEPENDENCY = enum.auto()
    REQUEST = enum.auto()


class Answers:
    """When one dependency answered somebody, whoever that was. `now_s` is monotonic seconds.

    `answers` only grows. A request notes it when it begins: if it has grown by the time the request fails, somebody
    else was answered meanwhile. `answered_s` is the time of the last answer, minus infinity before the first. Whoever
    is answered writes both: this happens for every request.
    """

    __slots__ = ("answered_s", "answers")

    def __init__(self) -> None:
        self.answers = 0
        self.answered_s = -inf

    def blame(self, answers_before: int) -> Blame:
        """Whose failure it is that began when `answers` was `answers_before`, and failed now."""
        # The dependency's only if it answered nobody else while the request was open; else the request's own.
        return Blame.DEPENDENCY if self.answers == answers_before else Blame.REQUEST

    def recent(self, now_s: float) -> bool:
        """Whether somebody was answered within the last second."""
        return now_s - self.answered_s < RECENT_S


class Evidence(Answers):
    """Who was answered by one dependency, and who failed."""

    __slots__ = ("_answered", "_failed", "_latest", "_silence")

    def __init__(self) -> None:
        super().__init__()
        self._silence = Silence(0)
        self._latest = ""
        self._answered: dict[str, float] = {}
        self._failed: dict[str, float] = {}

    def answered(self, subject: str, now_s: float) -> None:
        """The dependency gave `subject` an outcome that is no failure."""
        self.answers += 1
        if subject != self._latest:  # several answers to the same subject are recorded when another subject is answered
            if self.answers > 1:
                _note(self._answered, self._latest, self.answered_s)
            self._latest = subject
        self.answered_s = now_s

    def failed(self, subject: str, now_s: float) -> None:
        """A request of `subject` failed, whoever is to blame."""
        _note(self._failed, subject, now_s)

    def widespread(self, now_s: float, window_s: float) -> bool:
        """Whether at least three subjects failed within `window_s`, so that one client cannot be the cause."""
        return len(_since(self._failed, now_s - window_s)) >= WIDESPREAD

    def all_alike(self, now_s: float, window_s: float) -> bool:
        """Whether every subject that was answered within `window_s` also failed."""
        since_s = now_s - window_s
        if self.answers:
            _note(self._answered, self._latest, self.answered_s)
        return _since(self._answered, since_s) <= _since(self._failed, since_s)

    def unanswered(self, groups: Iterable[Sequence[str]]) -> Silence:
        """One call failed: the subjects of its questions, in groups of those that failed together (see Silence)."""
        silence = self.silence
        silence.add(groups)
        return silence

    @property
    def silence(self) -> Silence:
        """What failed since the last answer."""
        if self._silence.since != self.answers:
            self._silence = Silence(self.answers)
        return self._silence

    def forget_silence(self) -> None:
        """The next request is a trial. Only its own result counts."""
        self._silence = Silence(self.answers)

    def forget_failures(self) -> None:
        """The circuit closed: start counting again."""
        self._failed.clear()


class Silence:
    """The calls and questions that failed since answer number `since`, and whose they were.

    A question that failed in a call of its own is a group by itself. Of questions that failed together one may be the
    cause of all: then the others' subjects say nothing.
    """

    __slots__ = ("_groups", "calls", "questions", "since")

    def __init__(self, since: int) -> None:
        self.since = since
        self.calls = 0
        self.questions = 0
        self._groups: set[frozenset[str]] = set()

    def add(self, groups: Iterable[Sequence[str]]) -> None:
        """One more call failed."""
        self.calls += 1
        for group in groups:
            self.questions += len(group)
            if len(self._groups) < _GROUPS:
                self._groups.add(frozenset(group))

    def proves(self, questions: int) -> bool:
        """Whether it is the dependency's own: so many questions failed, and no two subjects can be behind them all."""
        # Always at fault: enough questions of at least three subjects failed, and none was answered.
        return self.questions >= questions and not _explained(self._groups, WIDESPREAD - 1)


def _explained(groups: Iterable[frozenset[str]], subjects: int) -> bool:
    """Whether so many subjects are enough for each group to hold one of them."""
    left = list(groups)
    if not left or not subjects:
        return not left
    # One of the smallest group must be among them: of a question that failed alone that is its own subject.
    return any(
        _explained((group for group in left if subject not in group), subjects - 1) for subject in min(left, key=len)
    )


def _since(latest: dict[str, float], since_s: float) -> set[str]:
    return {subject for subject, at_s in latest.items() if at_s >= since_s}


def _note(latest: dict[str, float], subject: str, now_s: float) -> None:
    """Keep the latest WIDESPREAD subjects, in order: more are not needed to know that there are so many."""
    latest.pop(subject, None)
    latest[subject] = now_s
    if len(latest) > WIDESPREAD:
        del latest[next(iter(latest))]
