"""A bounded store of single answers, in which each subject and client has a share.

Every operation costs the same whatever is stored.
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from sys import getsizeof
from typing import Final

SUBJECT_SHARE: Final = 20
ENTRY_BYTES: Final = 1024
"""Upper bound of what one entry costs: the entry, two digests, the client's address and its places in the lists."""
WORDS_BYTES: Final = 2048
"""Upper bound for the cost of a denial's texts for the caller, beside its entry."""
SECOND_CHANCES: Final = 8


Words = tuple[tuple[str, str], ...]


def cost_of(words: Words) -> int:
    """The bytes that a denial's words take."""
    return sum(getsizeof(pair) + getsizeof(pair[0]) + getsizeof(pair[1]) for pair in words) + getsizeof(words)


class Holder:
    """Who holds entries: a subject or a client. The oldest entry stands first."""

    __slots__ = ("entries", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: OrderedDict[bytes, Known] = OrderedDict()


class Known:
    """One answer. `asked_s` is monotonic: when IAM was asked; `dies_s` is Unix time. `used` since the last check.

    `words`: a denial's words for the caller (see Decision.reason_user), at most WORDS_BYTES.
    """

    __slots__ = ("asked_s", "client", "dies_s", "digest", "subject", "used", "words")

    def __init__(self, digest: bytes, subject: Holder, client: Holder, asked_s: float, dies_s: float) -> None:
        self.digest = digest
        self.subject = subject
        self.client = client
        self.asked_s = asked_s
        self.dies_s = dies_s
        self.used = False
        self.words: Words = ()


class Shelf:
    """At most `max_entries` answers by the digests of their questions."""

    __slots__ = ("_clients", "_entries", "_largest", "_share", "_sizes", "_subjects", "max_entries", "newest_evicted_s")

    def __init__(self, max_entries: int) -> None:
        self.newest_evicted_s = -inf
        """When IAM was asked for the newest of all answers that had to make room."""
        self.resize(max_entries)
        self.clear()

    def __len__(self) -> int:
        return len(self._entries)

    def resize(self, max_entries: int) -> None:
        """Hold so many from now on. Entries above the limit are dropped with the next answers."""
        self.max_entries = max_entries
        self._share = max(1, max_entries // SUBJECT_SHARE)

    def clear(self) -> None:
        """Forget everything."""
        self._entries: dict[bytes, Known] = {}
        self._subjects: dict[str, Holder] = {}
        self._clients: dict[str, Holder] = {}
        self._sizes: dict[int, dict[Holder, None]] = {}
        self._largest = 0

    def get(self, digest: bytes) -> Known | None:
        """The answer, if there is one."""
        return self._entries.get(digest)

    def all(self) -> list[Known]:
        """Every answer, in no order."""
        return list(self._entries.values())

    def put(self, digest: bytes, subject: str, client: str, asked_s: float, dies_s: float) -> Known:
        """Keep an answer that is not there yet, and make room for it: another's, or if there is no other its own."""
        of_subject = self._subjects.get(subject) or self._subjects.setdefault(subject, Holder(subject))
        of_client = self._clients.get(client) or self._clients.setdefault(client, Holder(client))
        known = Known(digest, of_subject, of_client, asked_s, dies_s)
        self._entries[digest] = known
        of_subject.entries[digest] = known
        of_client.entries[digest] = known
        self._resized(of_client, len(of_client.entries) - 1)
        # A subject that holds more than its share (a twentieth) loses its own oldest.
        if len(of_subject.entries) > self._share:
            self._evict(of_subject)
        for _ in range(SECOND_CHANCES):
            if len(self._entries) <= self.max_entries:
                break
            # The client that holds most loses one: a client that invents names evicts only its own entries.
            self._evict(next(iter(self._sizes[self._largest])))
        return known

    def drop(self, digest: bytes) -> bool:
        """Forget one answer. Whether there was one."""
        known = self._entries.pop(digest, None)
        if known is None:
            return False
        del known.subject.entries[digest]
        del known.client.entries[digest]
        self._resized(known.client, len(known.client.entries) + 1)
        if not known.subject.entries:
            del self._subjects[known.subject.name]
        if not known.client.entries:
            del self._clients[known.client.name]
        return True

    def drop_subject(self, subject: str) -> int:
        """Forget everything about one subject. How many answers that was."""
        holder = self._subjects.get(subject)
        digests = list(holder.entries) if holder else []
        for digest in digests:
            self.drop(digest)
        return len(digests)

    def _evict(self, holder: Holder) -> None:
        """Drop the holder's oldest entry that was not used lately."""
        digest, known = next(iter(holder.entries.items()))
        for _ in range(SECOND_CHANCES):
            # Used entries are skipped, but only a fixed number of them, so that the cost is bounded.
            if not known.used:
                break
            known.used = False
            holder.entries.move_to_end(digest)
            digest, known = next(iter(holder.entries.items()))
        self.newest_evicted_s = max(self.newest_evicted_s, known.asked_s)
        self.drop(digest)

    def _resized(self, client: Holder, before: int) -> None:
        """A client holds one more or one less than `before`: update which client holds most."""
        now = len(client.entries)
        if before:
            # A size changes by one at a time, so each step is a look-up.
            peers = self._sizes[before]
            del peers[client]
            if not peers:
                del self._sizes[before]
        if now:
            self._sizes.setdefault(now, {})[client] = None
        if now > self._largest or (before == self._largest and before not in self._sizes):
            self._largest = now
