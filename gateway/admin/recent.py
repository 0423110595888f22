"""What happened lately, for the status page: figures by route and of IAM over a minute, and the last refusals.

Rules: written by the event loop alone, once a request, in less than a microsecond; keyed by ids of the configuration;
everything is bounded: 60 seconds, one tally a route and second, 50 refusals. Only seconds that are over are shown, so
a rate never looks smaller than it is. Of a refusal it keeps what the access log says of it too: no path, no query, no
header, no subject.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from gateway.admin.figures import Times, add_up, bucket_of
from gateway.model.record import AccessRecord
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


class Tally:
    """What one route did in one second. `errors` are answers of 500 and above, those of unknowns included."""

    __slots__ = ("degraded", "denied", "errors", "requests", "times", "unknown")

    def __init__(self) -> None:
        self.requests = 0
        self.denied = 0
        self.unknown = 0
        self.degraded = 0
        self.errors = 0
        self.times: Times = {}


class CallTally:
    """The calls to IAM of one second."""

    __slots__ = ("calls", "evaluations", "failed", "times")

    def __init__(self) -> None:
        self.calls = 0
        self.evaluations = 0
        self.failed = 0
        self.times: Times = {}


COUNTED: Final = ("requests", "denied", "unknown", "degraded", "errors")
COUNTED_OF_CALLS: Final = ("calls", "evaluations", "failed")


@dataclass(frozen=True, slots=True)
class _Second:
    number: int
    routes: dict[str, Tally]
    iam: CallTally


@dataclass(frozen=True, slots=True)
class Refusal:
    """One request that was denied or could not be decided. `at_s` is Unix time."""

    at_s: float
    request_id: str
    route: str
    outcome: str
    code: str
    reason: str


class Recent(Observer):
    """Keeps it. `clock` is monotonic (workers of one machine share it), `wall` Unix time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._wall = wall
        self._refusals: deque[Refusal] = deque(maxlen=MOST_REFUSALS)
        self._over: deque[_Second] = deque()
        self._begun = int(clock())
        self._now = _Second(self._begun, {}, CallTally())
        self._until = self._begun + 1

    def request_ended(self, record: AccessRecord, span: Span) -> None:  # noqa: ARG002 - the hook's signature
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
            tally.degraded += 1
        if status >= _ERRORS_FROM:
            tally.errors += 1
        if record.authz_outcome in _REFUSED:
            self._refused(record, tally)

    def iam_call_ended(self, span: Span, size: int, code: str, duration_s: float) -> None:  # noqa: ARG002 - as above
        """See Observer."""
        now = self._clock()
        if now >= self._until:
            self._turn(int(now))
        tally = self._now.iam
        tally.calls += 1
        tally.evaluations += size
        tally.failed += bool(code)
        bucket = bucket_of(duration_s)
        tally.times[bucket] = tally.times.get(bucket, 0) + 1

    def routes(self) -> dict[str, dict[str, Any]]:
        """By route id ("" where none was found), over the last minute: what is counted, `times`, `rate_10s`, `rate_1m`.

        All of it adds up over workers. Times are `[bucket, count]` pairs, rates are in requests a second.
        """
        seconds = self._seconds()
        short = self._last(seconds, SHORT_S)
        names = dict.fromkeys(name for second in seconds for name in second.routes)
        return {
            name: {
                **_sum([second.routes[name] for second in seconds if name in second.routes], COUNTED),
                "rate_1m": self._rate(seconds, name, KEPT_S),
                "rate_10s": self._rate(short, name, SHORT_S),
            }
            for name in names
        }

    def iam(self) -> dict[str, Any]:
        """The calls to IAM of the last minute, in the same way."""
        return _sum([second.iam for second in self._seconds()], COUNTED_OF_CALLS)

    def history(self) -> dict[str, list[int]]:
        """The last 60 seconds, the oldest first: what is counted, over all routes."""
        self._turn(int(self._clock()))
        by_age = {self._now.number - second.number: second.routes.values() for second in self._over}
        return {
            what: [sum(getattr(tally, what) for tally in by_age.get(age, ())) for age in range(KEPT_S, 0, -1)]
            for what in COUNTED
        }

    def refusals(self) -> list[dict[str, Any]]:
        """The last denials and unknowns, the latest first."""
        return [
            {
                "at_s": refusal.at_s,
                "request_id": refusal.request_id,
                "route": refusal.route,
                "outcome": refusal.outcome,
                "code": refusal.code,
                "reason": refusal.reason,
            }
            for refusal in reversed(self._refusals)
        ]

    def _refused(self, record: AccessRecord, tally: Tally) -> None:
        if record.authz_outcome == "deny":
            tally.denied += 1
        else:
            tally.unknown += 1
        code = record.code or record.authz_code or str(status_of(record))
        self._refusals.append(
            Refusal(
                self._wall(), record.request_id[:_MAX_ID], record.route, record.authz_outcome, code, record.authz_reason
            )
        )

    def _turn(self, second: int) -> None:
        """A new second has begun: the one before is over."""
        if second <= self._now.number:
            return
        if self._now.routes or self._now.iam.calls:
            self._over.append(self._now)
        while self._over and self._over[0].number < second - KEPT_S:
            self._over.popleft()
        self._now = _Second(second, {}, CallTally())
        self._until = second + 1

    def _seconds(self) -> list[_Second]:
        self._turn(int(self._clock()))
        return list(self._over)

    def _last(self, seconds: list[_Second], count: int) -> list[_Second]:
        return [second for second in seconds if second.number >= self._now.number - count]

    def _rate(self, seconds: list[_Second], name: str, over_s: int) -> float:
        """Requests a second; a process that is younger than `over_s` is judged by what there is of it."""
        lived_s = max(1, min(over_s, self._now.number - self._begun))
        return sum(second.routes[name].requests for second in seconds if name in second.routes) / lived_s


def _sum(tallies: Iterable[Tally | CallTally], counted: tuple[str, ...]) -> dict[str, Any]:
    tallies = list(tallies)
    return {
        **{what: sum(getattr(tally, what) for tally in tallies) for what in counted},
        "times": [list(pair) for pair in add_up(tally.times for tally in tallies).items()],
    }
