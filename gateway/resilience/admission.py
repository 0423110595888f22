"""Who is admitted: limits of requests in flight, and subjects that a dependency asked to wait."""

from __future__ import annotations

import hashlib
from typing import Final, Protocol

from gateway.errors import GatewayError
from gateway.resilience.evidence import RECENT_S, WIDESPREAD

# How much at the same time: a count with a limit. Above the limit the answer is an immediate no. Nothing waits here.


class ConcurrencyLimit:
    """At most `limit` at the same time. `limit` may be changed by a reload; what is in use stays.

    `by_caller` is what each caller has of it, where that is counted.
    """

    __slots__ = ("by_caller", "in_use", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_use = 0
        self.by_caller: dict[str, int] = {}

    def try_acquire(self) -> bool:
        """Take a place if there is one. Each True is followed by exactly one `release`."""
        if self.in_use >= self.limit:
            return False
        self.in_use += 1
        return True

    def release(self) -> None:
        """Give the place back."""
        self.in_use -= 1


# Rules: a request takes a place of every limit or none; a stream (SSE, WebSocket) gives its places back and takes one
# of `max_streams` instead, so that long-lived answers never use up what short ones need. One caller has at most a
# quarter of the streams. Overflow is `overloaded`, at once.

_SHARE: Final = 4
"""One caller has at most a quarter of the streams."""


class Limit(Protocol):
    """A number of places."""

    limit: int
    in_use: int
    by_caller: dict[str, int]


class Place:
    """What one request holds. `release` may be called more than once."""

    __slots__ = ("_held", "_share_key", "_streams")

    def __init__(self, whole: Limit, route: Limit, streams: Limit) -> None:
        self._streams = streams
        self._held: tuple[Limit, ...] = ()
        self._share_key = ""
        if whole.in_use >= whole.limit:
            raise GatewayError("overloaded", "The gateway is at its limit of requests in flight.")
        if route.in_use >= route.limit:
            raise GatewayError("overloaded", "This route is at its limit of requests in flight.")
        whole.in_use += 1
        route.in_use += 1
        self._held = (whole, route)

    def become_stream(self, share_key: str) -> None:
        """Exchange the request's places for a stream's. `overloaded` at `max_streams`, or at the caller's share."""
        streams = self._streams
        if streams.in_use >= streams.limit:
            raise GatewayError("overloaded", "The gateway is at its limit of open streams.")
        of_caller = streams.by_caller.get(share_key, 0)
        if of_caller >= max(1, streams.limit // _SHARE):
            raise GatewayError("overloaded", "This caller has its share of open streams.")
        streams.in_use += 1
        self.release()
        self._held = (streams,)
        self._share_key = share_key
        streams.by_caller[share_key] = of_caller + 1

    def release(self) -> None:
        """Give everything back."""
        held, self._held = self._held, ()
        for limit in held:
            limit.in_use -= 1
        if self._share_key:
            _less(self._streams.by_caller, self._share_key)
            self._share_key = ""


def _less(counts: dict[str, int], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


# Who may not ask for now because a peer said when to come back: everybody, or single subjects.
#
# Rules: a wait is never shortened by a later, smaller one; the number of subjects is bounded, and so is what is kept
# of each. If there is no room, the subject whose wait ends first is forgotten. If a peer said so to WIDESPREAD subjects
# within a second, it means everybody. Times are monotonic seconds, given by the caller.

MAX_SUBJECTS: Final = 1000
_LONGEST_NAME: Final = 128
_EVERYBODY: Final = ""
_SWEEP_S: Final = 1.0


class HeldBack:
    """Until when each is held back. While `until_s` is empty nobody is, and there is nothing to ask here."""

    __slots__ = ("_sweep_at_s", "_told", "until_s")

    def __init__(self) -> None:
        self.until_s: dict[str, float] = {}
        self._told: dict[str, tuple[float, float]] = {}
        self._sweep_at_s = 0.0

    def everybody(self, until_s: float) -> None:
        """Nobody may ask until then."""
        self._hold(_EVERYBODY, until_s)

    def subject(self, subject: str, until_s: float, now_s: float) -> None:
        """This one may not ask until then; nobody may if two others were told so within the last second.

        Then each keeps its own wait, and those who were not told wait for the shortest of them.
        """
        name = _short(subject)
        self._hold(name, until_s)
        self._told = {who: told for who, told in self._told.items() if now_s - told[0] < RECENT_S}
        self._told[name] = (now_s, until_s)
        if len(self._told) >= WIDESPREAD:
            self.everybody(min(until_s for _, until_s in self._told.values()))
            self._told.clear()

    def wait_s(self, subject: str, now_s: float) -> float:
        """Seconds until this subject may ask; without a name, until anybody may."""
        if now_s >= self._sweep_at_s:
            self._sweep(now_s)
        until_s = self.until_s.get(_EVERYBODY, now_s)
        if subject:
            until_s = max(until_s, self.until_s.get(_short(subject), now_s))
        return max(0.0, until_s - now_s)

    def subjects(self, now_s: float) -> int:
        """How many single subjects are held back."""
        self._sweep(now_s)
        return len(self.until_s) - (_EVERYBODY in self.until_s)

    def release_everybody(self) -> None:
        """Cancel the wait for everybody."""
        self.until_s.pop(_EVERYBODY, None)

    def _hold(self, name: str, until_s: float) -> None:
        held = self.until_s
        if name not in held and len(held) >= MAX_SUBJECTS:
            del held[min(held, key=held.__getitem__)]
        held[name] = max(held.get(name, 0.0), until_s)

    def _sweep(self, now_s: float) -> None:
        """Forget whose wait is over: not at every request, as there may be many."""
        self._sweep_at_s = now_s + _SWEEP_S
        for name in [name for name, until_s in self.until_s.items() if until_s <= now_s]:
            del self.until_s[name]


def _short(subject: str) -> str:
    """The subject, or or a hash of it if its name is long: callers choose how long names are."""
    if len(subject) <= _LONGEST_NAME:
        return subject
    return hashlib.sha256(subject.encode("utf-8", "surrogatepass")).hexdigest()
