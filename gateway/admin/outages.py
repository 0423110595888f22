"""What was broken in the last hour, since when, and what it cost: routes, IAM, circuits that were not closed.

Rules: a route is broken from its first second in which a twentieth of its answers is a 5xx, or stands in for its
upstream, until ten seconds without such a second. IAM in the same way (what it did not decide), and as long as its
circuit is not closed; it is slow while a twentieth of its calls takes a second. A circuit is broken from when it opens
until it is closed. Judged once a second, never by a request. The cost of an outage is `errors`, the requests that were
refused, and `degraded`, those that something else served, by what that was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from gateway.admin.tally import add_counts

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
        elif self._is_over(outage, at_s, QUIET_S):
            self._end(outage, outage.last_s)
            return
        outage.requests += seen.requests
        outage.errors += seen.errors
        add_counts(outage.causes, seen.causes)
        add_counts(outage.degraded, seen.degraded)

    def circuit(self, name: str, after: str, cause: str, at_s: float) -> None:
        """A circuit changed its state."""
        outage = self._open.get(("circuit", name))
        if after == "closed":
            if outage is not None:
                self._end(outage, at_s)
            if name == IAM and IAM_ITSELF in self._open:
                self._open[IAM_ITSELF].last_s = at_s
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
        held = (outage.what, outage.name) == IAM_ITSELF and ("circuit", IAM) in self._open
        return not held and now_s - outage.last_s >= quiet_s

    def _end(self, outage: Outage, at_s: float) -> None:
        outage.until_s = at_s
        del self._open[outage.what, outage.name]
        self._ended.append(outage)


def merge_outages(workers: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Of several workers: what overlaps is one."""
    merged: list[dict[str, Any]] = []
    for outage in sorted((one for worker in workers for one in worker), key=lambda one: float(one["since_s"])):
        same = next((one for one in reversed(merged) if _overlap(one, outage)), None)
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
