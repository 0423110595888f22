"""IAM's earlier answers, by the whole question: subject, action, resource and context.

*Served*: a permit younger than `ttl_s` or a denial younger than `negative_ttl_s` is used without asking IAM.
*Known*: a permit is remembered for when IAM cannot answer (`degrade: stale`, `recheck`).
Deliberately absent: IAM's cache headers, and timers. An entry that is too old is never served, and is dropped later.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv6Address
from typing import Final, Protocol

from gateway.authorize.shelf import ENTRY_BYTES, SUBJECT_SHARE, WORDS_BYTES, Known, Shelf, cost_of
from gateway.model.permit import DENY, Decision, Outcome, Question
from gateway.model.request import name_of
from gateway.model.settings import CacheSettings

__all__ = ["SUBJECT_SHARE", "DecisionCache", "Stamp", "digest_of"]

_DENIALS_SHARE: Final = 10
_MIN_DENIALS: Final = 1000
_SHORT: Final = 512
_SITE_PREFIX: Final = 64  # the network of one IPv6 subscriber (RFC 6177)


Stamp = tuple[float, int]
"""When (monotonic seconds), and before which purge, IAM was asked."""


def digest_of(question: Question) -> bytes:
    """The identity of a question in 32 bytes (SHA-256)."""
    subject, fragment = question.subject.key, question.check.fragment
    if len(subject) + len(fragment) > _SHORT:
        return _digest(subject, fragment)
    return _remembered_digest(subject, fragment)


def _digest(subject: str, fragment: str) -> bytes:
    # A digest costs the same whatever the question is.
    return sha256(f"{len(subject)}:{subject}{fragment}".encode("utf-8", "surrogatepass")).digest()


_remembered_digest: Final = lru_cache(maxsize=2048)(_digest)  # each at most _SHORT long: at most 2 MiB


def _site_of(client: str) -> str:
    """Whose share a client address counts for: of IPv6 its /64, which one caller may have whole."""
    if ":" not in client:
        return client
    try:
        return str(int(IPv6Address(client)) >> _SITE_PREFIX)
    except ValueError:
        return client


class Restored(Protocol):
    """A permit of a snapshot. Times are Unix time."""

    @property
    def subject(self) -> bytes:
        """Whose it is, hidden."""

    @property
    def asked_at_s(self) -> float:
        """When IAM was asked."""

    @property
    def dies_at_s(self) -> float:
        """When the token ends."""


class DecisionCache:
    """A bounded memory of single decisions. `serves`: whether any answer may be used instead of asking IAM."""

    __slots__ = (
        "_clock",
        "_denials",
        "_epoch",
        "_hide",
        "_permits",
        "_purges",
        "_restored",
        "_settings",
        "_wall",
        "serves",
    )

    def __init__(
        self,
        settings: CacheSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._epoch = 0
        self._purges: dict[str, float] = {}
        self._restored: Mapping[bytes, Restored] = {}
        self._hide: Callable[[bytes], bytes] = bytes
        self._permits = Shelf(0)
        self._denials = Shelf(0)
        self.update(settings)

    def __len__(self) -> int:
        return len(self._permits) + len(self._denials)

    def update(self, settings: CacheSettings) -> None:
        """Use other settings: what is known stays, as far as there is room."""
        self.serves = settings.ttl_s > 0 or settings.negative_ttl_s > 0
        self._settings = settings
        # Denials have their own shelf, so that they evict no permit.
        self._permits.resize(settings.max_entries)
        self._denials.resize(max(_MIN_DENIALS, settings.max_entries // _DENIALS_SHARE))

    @property
    def max_stale_s(self) -> float:
        """How long a permit may stand in for an answer where no rule says less."""
        return self._settings.max_stale_s

    @property
    def max_entries(self) -> int:
        """How many permits there can be."""
        return self._settings.max_entries

    @property
    def max_bytes(self) -> int:
        """What all entries together can cost at most."""
        return self._permits.max_entries * ENTRY_BYTES + self._denials.max_entries * (ENTRY_BYTES + WORDS_BYTES)

    def stamp(self) -> Stamp:
        """To be taken before IAM is asked and given back with its answers."""
        return self._clock(), self._epoch

    def get(self, question: Question) -> Decision | None:
        """The answer that may be used instead of asking IAM, None if IAM has to be asked."""
        digest = digest_of(question)
        known = self._living(self._permits.get(digest))
        if known is not None:
            return self._served(known, Outcome.ALLOW, self._settings.ttl_s)
        known = self._living(self._denials.get(digest))
        return self._served(known, Outcome.DENY, self._settings.negative_ttl_s) if known else None

    def permit_age_s(self, question: Question) -> float | None:
        """The age of the known permit for exactly this question, None without one. Its limit is the caller's."""
        digest = digest_of(question)
        known = self._living(self._permits.get(digest))
        if known is not None:
            return self._clock() - known.asked_s
        return self._restored_age_s(digest) if self._restored else None

    def restore(self, records: Mapping[bytes, Restored], hide: Callable[[bytes], bytes]) -> None:
        """Know also what a snapshot holds, under digests that were hidden by `hide`."""
        self._restored, self._hide = records, hide

    def permits(self) -> Iterator[tuple[bytes, str, float, float]]:
        """Every known permit: digest, subject, when IAM was asked and when the token ends (Unix time)."""
        since_s = self._wall() - self._clock()
        for known in self._permits.all():
            yield known.digest, known.subject.name, known.asked_s + since_s, known.dies_s

    def purges(self) -> dict[str, float]:
        """What was purged and when (Unix time): subjects, "" for everybody."""
        return dict(self._purges)

    def remember(
        self, questions: Sequence[Question], decisions: Sequence[Decision], stamp: Stamp, client: str = ""
    ) -> None:
        """Keep what IAM answered to the questions asked at `stamp`. `client`: the address they came from."""
        asked_s, epoch = stamp
        # What was asked before a purge is not stored after it.
        if epoch != self._epoch:
            return
        for question, decision in zip(questions, decisions, strict=True):
            # Errors are never kept: only a permit, a denial and invalid credentials have a branch here.
            if decision.unauthenticated and not self._restored:
                self._forget(question)
            elif decision.unauthenticated:
                self._denied(question, asked_s, client)  # restored permits must be compared with it
            # Kept even with a small ttl, so that a stale rule that is switched on in an outage finds it.
            elif decision.outcome is Outcome.ALLOW:
                self._permitted(question, asked_s, client)
            elif decision.outcome is Outcome.DENY:
                self._denied(question, asked_s, client, decision)

    def purge(self) -> int:
        """Forget everything, also what is being asked right now. How many answers that was."""
        known = len(self._denials) + max(len(self._permits), len(self._restored))
        self._epoch += 1
        _remembered_digest.cache_clear()
        self._purges, self._restored = {"": self._wall()}, {}
        self._permits.clear()
        self._denials.clear()
        return known

    def purge_subject(self, name: str) -> int:
        """Forget everything about one subject (`name_of`), also what is being asked. How many answers that was."""
        self._epoch += 1  # answers on the way are not kept: cheaper than knowing whose they are
        _remembered_digest.cache_clear()
        now_s = self._wall()
        self._purges = {who: at_s for who, at_s in self._purges.items() if at_s > now_s - self.max_stale_s}
        self._purges[name] = now_s
        hidden = self._hide(bytes.fromhex(name))
        others = {digest: kept for digest, kept in self._restored.items() if kept.subject != hidden}
        restored, self._restored = len(self._restored) - len(others), others
        # A snapshot holds this worker's own permits too.
        return max(self._permits.drop_subject(name), restored) + self._denials.drop_subject(name)

    def _living(self, known: Known | None) -> Known | None:
        """None also if its token has ended: the entry stays, so that a later answer can be compared with it."""
        # A permit ends with the token that it was asked with (wall-clock time).
        if known is not None and known.dies_s != math.inf and self._wall() >= known.dies_s:
            return None
        return known

    def _restored_age_s(self, digest: bytes) -> float | None:
        """The age of a permit of before the start, or of another worker's; never one older than a denial known here."""
        kept = self._restored.get(self._hide(digest))
        now_s = self._wall()
        if kept is None or not kept.asked_at_s <= now_s < kept.dies_at_s:
            return None
        age_s = now_s - kept.asked_at_s
        denied = self._denials.get(digest)
        asked_s = self._clock() - age_s
        if asked_s <= (self._denials.newest_evicted_s if denied is None else denied.asked_s):
            return None
        return age_s

    def _served(self, known: Known, outcome: Outcome, ttl_s: float) -> Decision | None:
        # Ages are monotonic and count from when IAM was asked.
        age_s = self._clock() - known.asked_s
        if age_s >= ttl_s:
            return None
        known.used = True
        return Decision(outcome, "cache", age_s=age_s, reason_user=known.words)

    def _permitted(self, question: Question, asked_s: float, client: str) -> None:
        dies_s = question.subject.expires_at_s
        digest = digest_of(question)
        known = self._permits.get(digest)
        if known is not None:
            if known.asked_s <= asked_s:
                known.asked_s, known.used = asked_s, True
                known.dies_s = math.inf if dies_s is None else dies_s
            return
        denied = self._denials.get(digest)
        # A slow old answer never replaces a newer one.
        if denied is not None and denied.asked_s > asked_s:
            return
        if asked_s < self._denials.newest_evicted_s:
            return  # a later denial of this question may have been dropped for lack of room
        self._denials.drop(digest)
        subject = name_of(question.subject.id)
        self._permits.put(digest, subject, _site_of(client), asked_s, math.inf if dies_s is None else dies_s)

    def _denied(self, question: Question, asked_s: float, client: str, decision: Decision = DENY) -> None:
        """A denial is known but never served if not all of it is kept: a challenge, or long texts."""
        digest, dies_s = digest_of(question), question.subject.expires_at_s
        words = decision.reason_user
        whole = not decision.step_up and (not words or cost_of(words) <= WORDS_BYTES)
        dies_s = -math.inf if not whole else math.inf if dies_s is None else dies_s
        # A denial ends the permit.
        self._permits.drop(digest)
        known = self._denials.get(digest)
        if known is None:
            known = self._denials.put(digest, name_of(question.subject.id), _site_of(client), asked_s, dies_s)
        elif known.asked_s <= asked_s:
            known.asked_s, known.dies_s, known.used = asked_s, dies_s, True
        else:
            return
        known.words = words if whole else ()

    def _forget(self, question: Question) -> None:
        digest = digest_of(question)
        self._permits.drop(digest)
        self._denials.drop(digest)
