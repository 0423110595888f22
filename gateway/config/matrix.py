"""What callers get while IAM can't answer: one sentence for the whole file, and a row for each route and outcome.

A route is counted once, by the most that any of its methods grants: failing open before a response of its own, that
before the embedded policies, those before stale permits. An aggregate's bulk path has rows of its own and is counted
with its route.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from gateway.config.route_checks import is_bulk
from gateway.config.values import format_duration
from gateway.model.route import (
    AccessKind,
    AggregateAction,
    IamFailureMode,
    NavigationAction,
    PermissionsAction,
    Route,
)
from gateway.model.settings import Configuration

UNKNOWN: Final = "unknown"
UNAFFECTED: Final = "unaffected"
_ORDER: Final = (*(mode.value for mode in IamFailureMode), UNKNOWN, UNAFFECTED)
_GRANTING: Final = ("allow", "fallback", "local", "stale", "fail_closed", UNKNOWN, UNAFFECTED)
_CLAUSES: Final[Mapping[str, tuple[str, str]]] = {
    "fail_closed": ("answers 503", "answer 503"),
    "stale": ("serves stale", "serve stale"),
    "local": ("asks the embedded policies", "ask the embedded policies"),
    "fallback": ("answers with its own response", "answer with their own response"),
    "allow": ("fails open", "fail open"),
    UNKNOWN: ("shows access as unknown", "show access as unknown"),
    UNAFFECTED: ("is unaffected", "are unaffected"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """What some methods of a route do. `outcome`: a mode of `on_iam_failure`, or UNKNOWN or UNAFFECTED."""

    route: str
    path: str
    methods: tuple[str, ...]
    outcome: str
    max_stale_s: float = 0.0

    @property
    def text(self) -> str:
        """The outcome in words."""
        return _CLAUSES[self.outcome][0] + _detail(self.outcome, [self])


@dataclass(frozen=True, slots=True)
class FailureMatrix:
    """The rows, and the number of routes by outcome."""

    rows: tuple[Row, ...]
    counts: Mapping[str, int]

    @property
    def summary(self) -> str:
        """One sentence: `if IAM is down: 3 routes answer 503, 2 serve stale up to 60s, 1 fails open (GET, HEAD)`."""
        clauses: list[str] = []
        for outcome in _ORDER:
            if count := self.counts.get(outcome, 0):
                noun = "" if clauses else (" route" if count == 1 else " routes")
                verb = _CLAUSES[outcome][0 if count == 1 else 1]
                detail = _detail(outcome, [row for row in self.rows if row.outcome == outcome])
                clauses.append(f"{count}{noun} {verb}{detail}")
        return "if IAM is down: " + ", ".join(clauses)

    def as_json(self) -> dict[str, Any]:
        """The summary, the counts and the rows as JSON."""
        rows = [asdict(row) | {"methods": list(row.methods)} for row in self.rows]
        return {"summary": self.summary, "counts": dict(self.counts), "routes": rows}

    def as_text(self) -> str:
        """The summary and a table."""
        cells = [(row.route, row.path, ", ".join(row.methods), row.text) for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
        return "\n".join([self.summary, *(f"  {line}".rstrip() for line in lines)])


def failure_matrix(configuration: Configuration) -> FailureMatrix:
    """What every route does while IAM can't answer."""
    rows = [row for route in configuration.routes for row in _rows(route)]
    counts: dict[str, int] = {}
    for route in configuration.routes:
        if not is_bulk(route):
            names = {route.id, f"{route.id}.bulk"}
            outcomes = {row.outcome for row in rows if row.route in names}
            most = next(outcome for outcome in _GRANTING if outcome in outcomes)
            counts[most] = counts.get(most, 0) + 1
    return FailureMatrix(tuple(rows), {outcome: counts[outcome] for outcome in _ORDER if outcome in counts})


def _rows(route: Route) -> Iterator[Row]:
    by_outcome: dict[tuple[str, float], list[str]] = {}
    for method in sorted(route.methods):
        by_outcome.setdefault(_outcome(route, method), []).append(method)
    for (outcome, max_stale_s), methods in by_outcome.items():
        yield Row(route.id, route.path, tuple(methods), outcome, max_stale_s)


def _outcome(route: Route, method: str) -> tuple[str, float]:
    rule = route.on_iam_failure[method]
    if route.access[method].kind is AccessKind.CHECKS or _asks_for_parts(route):
        return rule.mode.value, rule.max_stale_s
    if isinstance(route.action, NavigationAction | PermissionsAction):
        return UNKNOWN, 0.0
    return UNAFFECTED, 0.0


def _asks_for_parts(route: Route) -> bool:
    return isinstance(route.action, AggregateAction) and any(part.access for part in route.action.parts)


def _detail(outcome: str, rows: Iterable[Row]) -> str:
    rows = list(rows)
    if outcome == "stale":
        return f" up to {format_duration(max(row.max_stale_s for row in rows))}"
    if outcome == "allow":
        return f" ({', '.join(sorted({method for row in rows for method in row.methods}))})"
    return ""
