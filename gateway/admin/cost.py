"""What the last outage of IAM cost, and what a second IAM says otherwise: for the status page, since the process began.

The outage is that of `gateway report`, told from requests and not from lines: a time in which requests failed by IAM's
own failure, or had something stand in for it. It is over when none did for a minute, or for ten seconds in which IAM
answered. Cost: nothing for a request that IAM permitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from gateway.errors import KINDS

QUIET_S: Final = 60.0
QUIET_WHILE_ANSWERING_S: Final = 10.0
_CIRCUIT: Final = "iam_circuit_open"
_REFUSED: Final = "unknown"
_AGREEMENTS: Final = ("same", "different", "unknown")

Document = dict[str, Any]


class LastOutage:
    """Times are Unix time. `shown` is None before there was one."""

    __slots__ = ("_answered", "_last_s", "_shown")

    def __init__(self) -> None:
        self._shown: Document | None = None
        self._last_s = 0.0
        self._answered = False

    def failed(self, route: str, outcome: str, code: str, at_s: float) -> None:
        """A request was refused (`unknown`) or served with `outcome`, because of `code`."""
        if code not in KINDS or not KINDS[code].degrades:
            return
        if self._shown is None or self._over(at_s):
            self._shown = {"since_s": at_s, "until_s": None, "refused": 0, "degraded": {}, "codes": {}, "routes": {}}
        self._answered = False
        self._last_s = at_s
        cost = self._shown["routes"].setdefault(route, {"refused": 0, "degraded": {}})
        for counted in (self._shown, cost):
            if outcome == _REFUSED:
                counted["refused"] += 1
            else:
                counted["degraded"][outcome] = counted["degraded"].get(outcome, 0) + 1
        codes = self._shown["codes"]
        codes[code] = codes.get(code, 0) + 1

    def answered(self) -> None:
        """IAM answered a call."""
        self._answered = True

    def shown(self, now_s: float) -> Document | None:
        """`until_s` is that of its last failure, None while it lasts; `cause` the code that came most often."""
        if self._shown is None:
            return None
        until_s = self._last_s if self._over(now_s) else None
        return {**self._shown, "until_s": until_s, "cause": _cause(self._shown["codes"])}

    def _over(self, now_s: float) -> bool:
        return now_s - self._last_s > (QUIET_WHILE_ANSWERING_S if self._answered else QUIET_S)


class Agreements:
    """How often a second IAM said the same, by route; `last_different_s` is Unix time.

    `differences`: by route what it said of the latest one, and since when there are any.
    """

    __slots__ = ("_differences", "_last_s", "_routes")

    def __init__(self) -> None:
        self._routes: dict[str, dict[str, int]] = {}
        self._differences: dict[str, Document] = {}
        self._last_s: float | None = None

    def add(self, route: str, agreement: str, at_s: float, said: str = "") -> None:
        """One comparison."""
        counts = self._routes.get(route)
        if counts is None:
            counts = self._routes[route] = dict.fromkeys(_AGREEMENTS, 0)
        counts[agreement] += 1
        if agreement == "different":
            self._last_s = at_s
            before = self._differences.get(route)
            since_s = at_s if before is None else before["since_s"]
            self._differences[route] = {"said": said, "since_s": since_s, "latest_s": at_s}

    def shown(self) -> Document:
        """Sums, and the counts of each route."""
        own = {"routes": self._routes, "last_different_s": self._last_s, "differences": self._differences}
        return _agreements([own])


def merge_shadow(workers: Sequence[Document | None]) -> Document | None:
    """Of several workers; `sample` is what the configuration says. None without a second IAM."""
    some = [worker for worker in workers if worker is not None]
    return {"sample": some[0]["sample"], **_agreements(some)} if some else None


def merge_last_outage(workers: Iterable[Document | None]) -> Document | None:
    """The latest, with what other workers had at the same time."""
    some = sorted((worker for worker in workers if worker is not None), key=_end, reverse=True)
    if not some:
        return None
    merged: Document = {"since_s": some[0]["since_s"], "until_s": some[0]["until_s"]}
    together = [one for one in some if _end(one) + QUIET_S >= merged["since_s"]]
    merged["since_s"] = min(one["since_s"] for one in together)
    merged |= {"refused": 0, "degraded": {}, "codes": {}, "routes": {}}
    for one in together:
        _add(merged, one)
        for code, count in one["codes"].items():
            merged["codes"][code] = merged["codes"].get(code, 0) + count
        for route, cost in one["routes"].items():
            _add(merged["routes"].setdefault(route, {"refused": 0, "degraded": {}}), cost)
    return {**merged, "cause": _cause(merged["codes"])}


def _end(outage: Document) -> float:
    until_s = outage["until_s"]
    return float("inf") if until_s is None else float(until_s)


def _add(total: Document, cost: Document) -> None:
    total["refused"] += cost["refused"]
    for mode, count in cost["degraded"].items():
        total["degraded"][mode] = total["degraded"].get(mode, 0) + count


def _cause(codes: Mapping[str, int]) -> str:
    """The code that came most often; an open circuit only if there is no other, since something opened it."""
    causes = {code: count for code, count in codes.items() if code != _CIRCUIT} or codes
    return max(causes, key=lambda code: causes[code])


def _agreements(workers: Sequence[Document]) -> Document:
    routes: dict[str, dict[str, int]] = {}
    for worker in workers:
        for route, counts in worker["routes"].items():
            total = routes.setdefault(route, dict.fromkeys(_AGREEMENTS, 0))
            for agreement, count in counts.items():
                total[agreement] += count
    differences: dict[str, Document] = {}
    for worker in workers:
        for route, one in worker["differences"].items():
            other = differences.get(route, one)
            latest = max(one, other, key=lambda each: float(each["latest_s"]))
            differences[route] = {**latest, "since_s": min(one["since_s"], other["since_s"])}
    times = [worker["last_different_s"] for worker in workers if worker["last_different_s"] is not None]
    return {
        **{agreement: sum(counts[agreement] for counts in routes.values()) for agreement in _AGREEMENTS},
        "last_different_s": max(times, default=None),
        "routes": routes,
        "differences": differences,
    }
