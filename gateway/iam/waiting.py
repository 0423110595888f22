"""The questions that wait for a call: bounded, and taken by turns of their subjects: a flood only delays itself.

Rules: subjects take turns, each with what one caller asked together, oldest first. What the free places for calls will
take at once does not count as waiting, so an idle gateway refuses nothing. A subject's questions wait, however many.
Only when all of them are more than the limit somebody has to go: the newest question of the subject that holds most, if
that is more than a twentieth, so that whoever holds less than its share is never refused for another's flood.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection
from typing import Final

from gateway.iam.asking import Key, Pending

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
        return self._count - free >= self._limit

    def surplus(self, subject: str) -> Pending | None:
        """What has to go so that `subject` can ask one more question; None if that is this question itself."""
        most = max(self._greedy, key=self._held_by, default=None)
        if most is None or self._held_by(most) <= self._held_by(subject):
            return None
        return next(reversed(self._turns[most].values()))

    def add(self, pending: Pending) -> None:
        """Put it last."""
        subject = pending.key[0]
        mine = self._turns.get(subject)
        if mine is None:
            mine = self._turns[subject] = {}
        mine[pending.key] = pending
        self._count += 1
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
