"""What happened lately, for the status page: figures by route and of IAM over a minute, and the last refusals.

Rules: written by the event loop alone, once a request, in less than a microsecond; reading costs no more than there are
routes, since sums are kept and not made; keyed by ids of the configuration; all is bounded: 60 seconds, one tally a
route and second, 50 refusals. Only seconds that are over are shown, so a rate never looks smaller than it is. Of a
refusal it keeps what the access log says of it too: no path, no query, no header, no subject.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

from gateway.admin.cost import Agreements, LastOutage
from gateway.admin.figures import IAM, IAM_ITSELF, CallTally, Outages, Seen, Tally, add, as_json, bucket_of
from gateway.errors import KINDS
from gateway.model.request import AccessRecord
from gateway.telemetry.metrics import status_of
from gateway.telemetry.observer import Observer, Span

KEPT_S: Final = 60
SHORT_S: Final = 10
MOST_REFUSALS: Final = 50
_MAX_ID: Final = 128
_REFUSED: Final = frozenset({"deny", "unknown"})
_ERRORS_FROM: Final = 500
_SWITCHED: Final = 101
"""A WebSocket: how long it was open says nothing about latency."""


SLOW_S: Final = 1.0
_SLOW: Final = bucket_of(SLOW_S)
_INSTEAD_OF_IAM: Final = frozenset({"stale", "local", "fallback", "fail_open"})
_OF_IAM: Final = frozenset(code for code, kind in KINDS.items() if kind.degrades)


class Refusal(NamedTuple):
    """One request that was denied or could not be decided. `at_s` is Unix time."""

    at_s: float
    request_id: str
    route: str
    outcome: str
    code: str
    reason: str


class _Second:
    """`number` is the second of the monotonic clock; `whole` sums up the routes once it is over."""

    __slots__ = ("iam", "number", "routes", "whole")

    def __init__(self, number: int) -> None:
        self.number = number
        self.routes: dict[str, Tally] = {}
        self.iam = CallTally()
        self.whole = Tally()


class Recent(Observer):
    """Keeps it. `clock` is monotonic (workers of one machine share it), `wall` Unix time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._wall = wall
        self._refusals: deque[Refusal] = deque(maxlen=MOST_REFUSALS)
        self._begun = int(clock())
        self._now = _Second(self._begun)
        self._until = self._begun + 1
        self._over: deque[_Second] = deque()
        self._minute: dict[str, Tally] = {}
        self._iam_minute = CallTally()
        self._outages = Outages()
        self._last_outage = LastOutage()
        self._agreements = Agreements()

    def request_ended(self, record: AccessRecord, span: Span) -> None:  # the hook's signature
        """See Observer."""
        now = self._clock()
        if now >= self._until:
            self._turn(int(now))
        tally = self._now.routes.get(record.route)
        if tally is None:
            tally = self._now.routes[record.route] = Tally()
        tally.requests += 1
        status = record.status
        if status != _SWITCHED:
            bucket = bucket_of(now - record.started_s)
            tally.times[bucket] = tally.times.get(bucket, 0) + 1
        if record.degraded:
            _degraded(record, tally)
        if status >= _ERRORS_FROM:
            tally.errors += 1
            cause = record.code or str(status)
            tally.causes[cause] = tally.causes.get(cause, 0) + 1
        if record.authz_outcome in _REFUSED:
            self._refused(record, tally)
        elif record.degraded:
            self._last_outage.failed(record.route, record.authz_outcome, record.authz_code, self._wall())

    def iam_call_ended(self, span: Span, size: int, code: str, duration_s: float, *_: object) -> None:  # as above
        """See Observer."""
        now = self._clock()
        if now >= self._until:
            self._turn(int(now))
        tally = self._now.iam
        tally.calls += 1
        tally.evaluations += size
        if code:
            tally.failed += 1
        else:
            self._last_outage.answered()
        bucket = bucket_of(duration_s)
        tally.times[bucket] = tally.times.get(bucket, 0) + 1

    def routes(self) -> dict[str, dict[str, Any]]:
        """By route id ("" where none was found), what `figures` gives."""
        figures = self.figures()
        return {name: shown for name in [*self._minute] if (shown := figures(name)) is not None}

    def figures(self) -> Callable[[str], dict[str, Any] | None]:
        """What gives the last minute of a route: what is counted, `times`, `rate_10s`, `rate_1m`; None if nobody asked.

        All of it adds up over workers. Times are `[bucket, count]` pairs, rates are in requests a second. Of thousands
        of routes each is asked for by itself, so that others have their turn between them.
        """
        self._turn(int(self._clock()))
        lately = self._lately()
        lived_1m, lived_10s = self._lived_s(KEPT_S), self._lived_s(SHORT_S)

        def of(name: str) -> dict[str, Any] | None:
            tally = self._minute.get(name)
            if tally is None:
                return None
            rates = {"rate_1m": tally.requests / lived_1m, "rate_10s": lately.get(name, 0) / lived_10s}
            return {**as_json(tally), **rates}

        return of

    def iam(self) -> dict[str, Any]:
        """The calls to IAM of the last minute, in the same way."""
        self._turn(int(self._clock()))
        return as_json(self._iam_minute)

    def history(self) -> dict[str, list[int]]:
        """The last 60 seconds, the oldest first: what is counted, over all routes."""
        self._turn(int(self._clock()))
        by_age = {self._now.number - second.number: second.whole for second in self._over}
        return {
            what: [getattr(by_age[age], what) if age in by_age else 0 for age in range(KEPT_S, 0, -1)]
            for what in Tally.counted
        }

    def refusals(self) -> list[dict[str, Any]]:
        """The last denials and unknowns, the latest first."""
        return [refusal._asdict() for refusal in reversed(self._refusals)]

    def circuit(self, name: str, kind: str, before: str, after: str, reason: str) -> None:  # as above
        """See Observer."""
        self._outages.circuit(name, after, reason, self._wall())

    def outages(self) -> list[dict[str, Any]]:
        """What is and was broken in the last hour, the latest first."""
        self._turn(int(self._clock()))
        return self._outages.shown(self._wall())

    def last_outage(self) -> dict[str, Any] | None:
        """What the last outage of IAM cost, see `LastOutage`."""
        return self._last_outage.shown(self._wall())

    def shadow(self, route: str, agreement: str, said: str = "") -> None:
        """See Observer."""
        self._agreements.add(route, agreement, self._wall(), said)

    def agreements(self) -> dict[str, Any]:
        """How often a second IAM said the same."""
        return self._agreements.shown()

    def _refused(self, record: AccessRecord, tally: Tally) -> None:
        outcome = record.authz_outcome
        if outcome == "deny":
            tally.denied += 1
        else:
            tally.unknown += 1
            self._last_outage.failed(record.route, outcome, record.authz_code, self._wall())
        code = record.code or record.authz_code or str(status_of(record))
        request_id = record.request_id[:_MAX_ID]
        self._refusals.append(Refusal(self._wall(), request_id, record.route, outcome, code, record.authz_reason))

    def _turn(self, second: int) -> None:
        """A new second has begun: the one before is over, and what is a minute old is forgotten."""
        if second <= self._now.number:
            return
        if self._now.routes or self._now.iam.calls:
            self._end(self._now)
        while self._over and self._over[0].number < second - KEPT_S:
            self._forget(self._over.popleft())
        self._now = _Second(second)
        self._until = second + 1

    def _end(self, second: _Second) -> None:
        self._over.append(second)
        add(self._iam_minute, second.iam)
        at_s = self._wall()
        for name, tally in second.routes.items():
            add(second.whole, tally)
            self._outages.second("route", name, _of_route(tally), at_s)
            add(self._minute.setdefault(name, Tally()), tally)
        if second.whole.requests:
            self._outages.second(*IAM_ITSELF, _of_iam(second.whole), at_s)
        if second.iam.calls:
            slow = sum(count for bucket, count in second.iam.times.items() if bucket >= _SLOW)
            self._outages.second("slow", IAM, Seen(second.iam.calls, slow, {}, {}), at_s)

    def _forget(self, second: _Second) -> None:
        add(self._iam_minute, second.iam, -1)
        for name, tally in second.routes.items():
            whole = self._minute[name]
            if whole.requests == tally.requests:  # of thousands of routes most were asked in one second of the minute
                del self._minute[name]
            else:
                add(whole, tally, -1)

    def _lately(self) -> dict[str, int]:
        """Requests of the last ten seconds, by route."""
        counts: dict[str, int] = {}
        for second in islice(reversed(self._over), SHORT_S):
            if second.number >= self._now.number - SHORT_S:
                for name, tally in second.routes.items():
                    counts[name] = counts.get(name, 0) + tally.requests
        return counts

    def _lived_s(self, over_s: int) -> int:
        """A process that is younger than `over_s` is judged by what there is of it."""
        return max(1, min(over_s, self._now.number - self._begun))


def _degraded(record: AccessRecord, tally: Tally) -> None:
    cause = record.authz_code if record.authz_outcome in _INSTEAD_OF_IAM else record.code
    what = f"{'iam' if cause in _OF_IAM else 'upstream'} {record.degraded}"
    tally.degraded += 1
    tally.stood_in[what] = tally.stood_in.get(what, 0) + 1
    if cause and record.status < _ERRORS_FROM:
        tally.causes[cause] = tally.causes.get(cause, 0) + 1


def _of_route(tally: Tally) -> Seen:
    """What its upstream did to a route."""
    return Seen(tally.requests, tally.errors, tally.causes, _part(tally.stood_in, "upstream "))


def _of_iam(whole: Tally) -> Seen:
    """What IAM did to all routes: what it did not decide, by its own failure."""
    causes = {code: count for code, count in whole.causes.items() if code in _OF_IAM}
    instead = _part(whole.stood_in, "iam ")
    return Seen(whole.requests, max(0, sum(causes.values()) - sum(instead.values())), causes, instead)


def _part(stood_in: Mapping[str, int], of: str) -> dict[str, int]:
    return {what.removeprefix(of): count for what, count in stood_in.items() if what.startswith(of)}
