"""What is counted for the status page: latencies, by second and minute, and what was broken in the last hour."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, ClassVar, Final, NamedTuple

# Rules: a percentile is told as the upper edge of its bucket, so it is never too small and at most a tenth too large;
# what takes longer than the last edge (two minutes) is told as that edge.

_FIRST_S: Final = 0.0001
_GROWTH: Final = 1.1
_EDGES: Final = 148
EDGES_S: Final = tuple(_FIRST_S * _GROWTH**number for number in range(_EDGES))
_SHARES: Final = (("p50", 0.50), ("p95", 0.95), ("p99", 0.99))

Times = dict[int, int]
"""Number of a bucket → how many durations fell into it."""


def bucket_of(seconds: float) -> int:
    """The number of the bucket that a duration falls into."""
    return bisect_left(EDGES_S, seconds)


def add_up(many: Iterable[Mapping[int, int]]) -> Times:
    """The sum of several counts."""
    total: Times = {}
    for times in many:
        for bucket, count in times.items():
            total[bucket] = total.get(bucket, 0) + count
    return total


def percentiles_ms(times: Mapping[int, int]) -> dict[str, float | None]:
    """`p50`, `p95` and `p99` in milliseconds; None where nothing was measured."""
    whole = sum(times.values())
    ordered = sorted(times.items())
    return {name: _edge_ms(ordered, whole * share) if whole else None for name, share in _SHARES}


def _edge_ms(ordered: list[tuple[int, int]], rank: float) -> float:
    counts = accumulate(count for _, count in ordered)
    bucket = next(bucket for (bucket, _), seen in zip(ordered, counts, strict=True) if seen >= rank)
    return float(f"{EDGES_S[min(bucket, _EDGES - 1)] * 1000:.3g}")


# Counts of one second, or of the seconds of a minute: what is added can be taken away again.


class Tally:
    """What one route did.

    `errors` are answers of 500 and above, those of unknowns included. `causes`: why, by code, of errors and of what was
    degraded. `stood_in`: what served instead of IAM or of the upstream, as `iam stale`, `upstream fallback`.
    """

    __slots__ = ("causes", "degraded", "denied", "errors", "requests", "stood_in", "times", "unknown")
    counted: ClassVar[tuple[str, ...]] = ("requests", "denied", "unknown", "degraded", "errors")

    def __init__(self) -> None:
        self.requests = 0
        self.denied = 0
        self.unknown = 0
        self.degraded = 0
        self.errors = 0
        self.causes: dict[str, int] = {}
        self.stood_in: dict[str, int] = {}
        self.times: Times = {}


class CallTally:
    """What the calls to IAM were like. `evaluations` are the questions in them."""

    __slots__ = ("calls", "evaluations", "failed", "times")
    counted: ClassVar[tuple[str, ...]] = ("calls", "evaluations", "failed")

    def __init__(self) -> None:
        self.calls = 0
        self.evaluations = 0
        self.failed = 0
        self.times: Times = {}


def add(total: Tally | CallTally, tally: Tally | CallTally, sign: int = 1) -> None:
    """Add a tally of the same kind to a total; with `sign` -1 take it away."""
    for what in tally.counted:
        setattr(total, what, getattr(total, what) + sign * getattr(tally, what))
    if isinstance(total, Tally) and isinstance(tally, Tally):
        add_counts(total.causes, tally.causes, sign)
        add_counts(total.stood_in, tally.stood_in, sign)
    add_counts(total.times, tally.times, sign)


def add_counts(total: dict[Any, int], counts: Mapping[Any, int], sign: int = 1) -> None:
    """Add counts to others; what becomes nothing is left out."""
    for name, count in counts.items():
        left = total.get(name, 0) + sign * count
        if left:
            total[name] = left
        else:
            total.pop(name, None)


def as_json(tally: Tally | CallTally) -> dict[str, Any]:
    """Everything counted; `times` as `[bucket, count]` pairs."""
    return {
        **{what: getattr(tally, what) for what in tally.counted},
        "times": [list(pair) for pair in tally.times.items()],
        **({"causes": dict(tally.causes)} if isinstance(tally, Tally) else {}),
    }


# What was broken in the last hour, since when, and what it cost: routes, IAM, circuits that were not closed.
#
# Rules: a route is broken from its first second in which a twentieth of its answers is a 5xx, or stands in for its
# upstream, until ten seconds without such a second. IAM in the same way (what it did not decide), and as long as its
# circuit is not closed; it is slow while a twentieth of its calls takes a second. A circuit is broken from when it
# opens until it is closed. Judged once a second, never by a request. The cost of an outage is `errors`, the requests
# that were refused, and `degraded`, those that something else served, by what that was.

QUIET_S: Final = 10.0
UNASKED_S: Final = 60.0
KEPT_S: Final = 3600.0
MOST: Final = 100
_SHARE: Final = 20
_MOST_OPEN: Final = 10_000
_COUNTS: Final = ("causes", "degraded")


IAM: Final = "iam"
IAM_ITSELF: Final = ("iam", IAM)


class Seen(NamedTuple):
    """What was seen in one second; for `slow`, `errors` are the slow calls."""

    requests: int
    errors: int
    causes: Mapping[str, int]
    degraded: Mapping[str, int]


@dataclass(slots=True)
class Outage:
    """Times are Unix time; `until_s` None while it lasts. `causes`: how often which code was why."""

    what: str
    name: str
    since_s: float
    until_s: float | None = None
    requests: int = 0
    errors: int = 0
    causes: dict[str, int] = field(default_factory=dict)
    degraded: dict[str, int] = field(default_factory=dict)
    last_s: float = field(default=0.0, repr=False)
    after: list[Seen] = field(default_factory=list, repr=False)
    """The good seconds since the last bad one. They are no part of it if no bad one follows."""

    def count(self, seen: Seen, sign: int = 1) -> None:
        """Add what was seen in a second; with `sign` -1 take it away."""
        self.requests += sign * seen.requests
        self.errors += sign * seen.errors
        add_counts(self.causes, seen.causes, sign)
        add_counts(self.degraded, seen.degraded, sign)

    def document(self) -> dict[str, Any]:
        """As JSON data. Written out, since `asdict` takes ten times as long and there may be thousands."""
        return {
            "what": self.what,
            "name": self.name,
            "since_s": self.since_s,
            "until_s": self.until_s,
            "requests": self.requests,
            "errors": self.errors,
            "causes": dict(self.causes),
            "degraded": dict(self.degraded),
        }


class Outages:
    """Those that last, and those that ended in the last hour, MOST at most."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], Outage] = {}
        self._ended: deque[Outage] = deque(maxlen=MOST)

    def second(self, what: str, name: str, seen: Seen, at_s: float) -> None:
        """What was seen of it in the second that ends at `at_s`."""
        outage = self._open.get((what, name))
        failed = seen.errors + sum(seen.degraded.values())
        bad = failed * _SHARE >= seen.requests and failed > 0
        if bad and outage is None and len(self._open) < _MOST_OPEN:
            outage = self._open[what, name] = Outage(what, name, at_s - 1)
        if outage is None:
            return
        if bad:
            outage.last_s = at_s
            outage.after.clear()
        elif self._is_over(outage, at_s, QUIET_S):
            self._end(outage, outage.last_s)
            return
        elif not self._is_held(outage):
            outage.after.append(seen)
        outage.count(seen)

    def circuit(self, name: str, after: str, cause: str, at_s: float) -> None:
        """A circuit changed its state."""
        outage = self._open.get(("circuit", name))
        if after == "closed":
            if outage is not None:
                self._end(outage, at_s)
            if name == IAM and IAM_ITSELF in self._open:
                self._open[IAM_ITSELF].last_s = at_s
                self._open[IAM_ITSELF].after.clear()
        elif outage is None:
            self._open["circuit", name] = Outage("circuit", name, at_s, causes={cause: 1})
            if name == IAM and IAM_ITSELF not in self._open:
                self._open[IAM_ITSELF] = Outage(*IAM_ITSELF, at_s, last_s=at_s)

    def shown(self, now_s: float) -> list[dict[str, Any]]:
        """All of them, the latest first; a route nobody asks any more is not broken for ever."""
        for outage in [*self._open.values()]:
            if outage.what != "circuit" and self._is_over(outage, now_s, UNASKED_S):
                self._end(outage, outage.last_s)
        while self._ended and now_s - (self._ended[0].until_s or 0.0) > KEPT_S:
            self._ended.popleft()
        found = sorted([*self._open.values(), *self._ended], key=lambda outage: -outage.since_s)
        return [outage.document() for outage in found]

    def _is_over(self, outage: Outage, now_s: float, quiet_s: float) -> bool:
        return not self._is_held(outage) and now_s - outage.last_s >= quiet_s

    def _is_held(self, outage: Outage) -> bool:
        """IAM is away as long as its circuit is not closed, whoever asks."""
        return (outage.what, outage.name) == IAM_ITSELF and ("circuit", IAM) in self._open

    def _end(self, outage: Outage, at_s: float) -> None:
        outage.until_s = at_s
        for seen in outage.after:
            outage.count(seen, -1)
        outage.after.clear()
        del self._open[outage.what, outage.name]
        self._ended.append(outage)


def merge_outages(workers: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Of several workers: what overlaps is one."""
    merged: list[dict[str, Any]] = []
    for outage in sorted((one for worker in workers for one in worker), key=lambda one: float(one["since_s"])):
        latest_first = merged[::-1]  # the compiler of the hot rooms cannot take reversed() here
        same = next((one for one in latest_first if _overlap(one, outage)), None)
        if same is None:
            merged.append({**outage, **{name: dict(outage[name]) for name in _COUNTS}})
            continue
        ends = (same["until_s"], outage["until_s"])
        same["until_s"] = None if None in ends else max(ends)
        same["requests"] += outage["requests"]
        same["errors"] += outage["errors"]
        for name in _COUNTS:
            add_counts(same[name], outage[name])
    return merged[::-1][:MOST]


def _overlap(one: dict[str, Any], later: dict[str, Any]) -> bool:
    together = (one["what"], one["name"]) == (later["what"], later["name"])
    return together and (one["until_s"] is None or float(later["since_s"]) <= float(one["until_s"]) + QUIET_S)
