"""The questions that wait for a call: in order, bounded, and no more than a share of them for one subject.

Rules: what the free places for calls will take at once does not count as waiting, so an idle gateway refuses nothing;
over the limit the answer is no, at once. One subject holds at most a twentieth, so that it fills only its own share.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import islice
from typing import Final

from gateway.iam.asking import Pending

_SHARE: Final = 20


class Waiting:
    """A queue of Pendings. `limit` is `max_queue`."""

    __slots__ = ("_by_subject", "_limit", "_order", "_share")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._share = math.ceil(limit / _SHARE)
        self._order: OrderedDict[tuple[str, str], Pending] = OrderedDict()
        self._by_subject: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._order)

    def full_for(self, subject: str, free: int) -> bool:
        """Whether one more question of `subject` is too much, while `free` of those here can leave at once."""
        if len(self._order) < free:
            return False
        return len(self._order) - free >= self._limit or self._by_subject.get(subject, 0) - free >= self._share

    def add(self, pending: Pending) -> None:
        """Put it last."""
        self._order[pending.key] = pending
        subject = pending.key[0]
        self._by_subject[subject] = self._by_subject.get(subject, 0) + 1

    def drop(self, pending: Pending) -> None:
        """Take it out: nobody waits for it any more."""
        del self._order[pending.key]
        self._forget(pending.key[0])

    def take(self, most: int) -> list[Pending]:
        """The first ones, at most `most`; what one caller asked together stays together where it fits into one call."""
        taken = list(islice(self._order.values(), most + 1))
        if len(taken) > most:
            taken = taken[: _cut(taken, most)]
        for pending in taken:
            del self._order[pending.key]
            self._forget(pending.key[0])
        return taken

    def _forget(self, subject: str) -> None:
        left = self._by_subject[subject] - 1
        if left:
            self._by_subject[subject] = left
        else:
            del self._by_subject[subject]


def _cut(pendings: list[Pending], most: int) -> int:
    """Where to end a call of at most `most`: before a caller whose questions would be torn apart."""
    torn = pendings[most].asker
    end = most
    while end and pendings[end - 1].asker is torn:
        end -= 1
    return end or most
