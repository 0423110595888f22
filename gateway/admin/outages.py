"""What was broken in the last hour, and since when: routes that answered 5xx, circuits that were not closed.

Rules: a route is broken from its first second in which a twentieth of its answers is a 5xx until ten seconds without
one; a circuit from when it opens until it is closed. Judged once a second and route, never by a request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

QUIET_S: Final = 10.0
KEPT_S: Final = 3600.0
MOST: Final = 100
_SHARE: Final = 20
_MOST_OPEN: Final = 10_000


@dataclass(slots=True)
class Outage:
    """Times are Unix time; `until_s` None while it lasts. `causes`: how often which code was the error's."""

    what: str
    name: str
    since_s: float
    until_s: float | None = None
    requests: int = 0
    errors: int = 0
    causes: dict[str, int] = field(default_factory=dict)
    last_s: float = field(default=0.0, repr=False)


class Outages:
    """Those that last, and those that ended in the last hour, MOST at most."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], Outage] = {}
        self._ended: deque[Outage] = deque(maxlen=MOST)

    def second(self, name: str, requests: int, errors: int, causes: Mapping[str, int], at_s: float) -> None:
        """What a route did in the second that ends at `at_s`."""
        outage = self._open.get(("route", name))
        bad = errors * _SHARE >= requests and errors > 0
        if bad and outage is None and len(self._open) < _MOST_OPEN:
            outage = self._open["route", name] = Outage("route", name, at_s - 1)
        if outage is None:
            return
        if not bad and at_s - outage.last_s >= QUIET_S:
            self._end(outage, outage.last_s)
            return
        outage.requests += requests
        outage.errors += errors
        outage.last_s = at_s if bad else outage.last_s
        for cause, count in causes.items():
            outage.causes[cause] = outage.causes.get(cause, 0) + count

    def circuit(self, name: str, after: str, cause: str, at_s: float) -> None:
        """A circuit changed its state."""
        outage = self._open.get(("circuit", name))
        if after == "closed":
            if outage is not None:
                self._end(outage, at_s)
        elif outage is None:
            self._open["circuit", name] = Outage("circuit", name, at_s, causes={cause: 1})

    def shown(self, now_s: float) -> list[dict[str, Any]]:
        """All of them, the latest first; a route nobody asks any more is not broken for ever."""
        for outage in [*self._open.values()]:
            if outage.what == "route" and now_s - outage.last_s >= KEPT_S / 60:
                self._end(outage, outage.last_s)
        while self._ended and now_s - (self._ended[0].until_s or 0.0) > KEPT_S:
            self._ended.popleft()
        found = sorted([*self._open.values(), *self._ended], key=lambda outage: -outage.since_s)
        return [{name: value for name, value in asdict(outage).items() if name != "last_s"} for outage in found]

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
            merged.append({**outage, "causes": dict(outage["causes"])})
            continue
        ends = (same["until_s"], outage["until_s"])
        same["until_s"] = None if None in ends else max(ends)
        same["requests"] += outage["requests"]
        same["errors"] += outage["errors"]
        for cause, count in outage["causes"].items():
            same["causes"][cause] = same["causes"].get(cause, 0) + count
    return merged[::-1][:MOST]


def _overlap(one: dict[str, Any], later: dict[str, Any]) -> bool:
    together = (one["what"], one["name"]) == (later["what"], later["name"])
    return together and (one["until_s"] is None or float(later["since_s"]) <= float(one["until_s"]) + QUIET_S)
