"""What one process says of itself: `/routes`, and its share of `/status`, in words for operators.

`admin.merge` makes the documents that are shown of it. Rules: nothing is measured here; no secret and nothing of a
request but what the access log says of it too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from gateway import __version__
from gateway.app.pauses import in_slices
from gateway.config.matrix import Row, failure_matrix
from gateway.iam.client import Iam
from gateway.model.route import (
    AccessKind,
    AggregateAction,
    DecideAction,
    HealthAction,
    PermissionsAction,
    Route,
    UpstreamFailureMode,
)
from gateway.model.settings import Configuration
from gateway.resilience.admission import ConcurrencyLimit

if TYPE_CHECKING:
    from gateway.app.running import Gateway

_ACCESS: Final = (AccessKind.CHECKS, AccessKind.AUTHENTICATED, AccessKind.PUBLIC)


class Status:
    """Reads a running gateway; changes nothing. What a configuration means is worked out once."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._read = ""
        self._rows: list[dict[str, Any]] = []
        self._summary = ""

    async def own(self) -> dict[str, Any]:
        """This process's share of the page. Made in slices, so it is of no one instant."""
        rows = await self.routes()
        composition, recent = self._gateway.composition, self._gateway.recent
        configuration, figures = composition.configuration, recent.figures()
        second = configuration.iam_shadow
        breakers = await in_slices(list(composition.breakers.items()), lambda each: (each[0], each[1].snapshot()))

        def shown(row: dict[str, Any]) -> dict[str, Any]:
            limit = composition.site.services[row["id"]].limit if row["id"] in composition.site.services else None
            in_flight, most = (limit.in_use, limit.limit) if isinstance(limit, ConcurrencyLimit) else (0, None)
            return {**row, "in_flight": in_flight, "max_concurrency": most, "lately": figures(row["id"])}

        routes = await in_slices(rows, shown)
        return {
            "version": __version__,
            "time_s": time.time(),
            "ready": self._gateway.ready,
            "draining": self._gateway.draining.is_set(),
            "config": {
                "file": str(configuration.file),
                "hash": configuration.hash,
                "loaded_at_s": self._gateway.loaded_at_s,
                "warnings": list(configuration.warnings),
                "reload_problems": list(self._gateway.reload_problems),
                "refused_since_s": self._gateway.refused_since_s,
                "failure_summary": self._summary,
            },
            "iam": self._iam(),
            "breakers": dict(breakers),
            "routes": routes,
            "unrouted": figures(""),
            "history": recent.history(),
            "refusals": recent.refusals(),
            "outages": recent.outages(),
            "iam_outage": recent.last_outage(),
            "shadow": None if second is None else {"sample": second.sample, **recent.agreements()},
            "upstreams": {name: upstream.snapshot() for name, upstream in composition.upstreams.items()},
            "cache": {"entries": len(composition.cache)},
            "copies": composition.copies.snapshot(),
            "in_flight": composition.site.in_flight,
            "streams": composition.streams.open,
        }

    async def routes(self) -> list[dict[str, Any]]:
        """One row per route, in the order of the file."""
        configuration = self._gateway.composition.configuration
        if configuration.hash != self._read:
            self._rows, self._summary = await asyncio.to_thread(_read, configuration)
            self._read = configuration.hash  # not itself: it would be kept until somebody looks again
        return self._rows

    def _iam(self) -> dict[str, Any]:
        composition = self._gateway.composition
        iam, settings = composition.iam, composition.configuration.iam
        shown: Mapping[str, Any] = {}
        if isinstance(iam, Iam):
            shown = {
                **iam.snapshot(),
                "max_queue": settings.max_queue,
                "max_concurrency": settings.max_concurrency,
                "failure_threshold": settings.breaker.failure_threshold,
            }
        return {"api": settings.api.value, **shown, "lately": self._gateway.recent.iam()}


def _read(configuration: Configuration) -> tuple[list[dict[str, Any]], str]:
    """The rows, and what happens when IAM is down in one sentence."""
    matrix = failure_matrix(configuration)
    rules: dict[str, list[Row]] = {route.id: [] for route in configuration.routes}
    for row in matrix.rows:
        rules.setdefault(row.route, []).append(row)
    return [_row(route, rules[route.id]) for route in configuration.routes], matrix.summary


def _row(route: Route, rules: list[Row]) -> dict[str, Any]:
    kinds = {access.kind for access in route.access.values()}
    return {
        "id": route.id,
        "host": route.host,
        "path": route.path,
        "methods": sorted(route.methods),
        "policy": route.policy,
        "access": next(kind.value for kind in _ACCESS if kind in kinds),
        "to": _destination(route),
        "on_iam_failure": {method: rule.mode.value for method, rule in sorted(route.on_iam_failure.items())},
        "if_iam_fails": [{"methods": list(rule.methods), "mode": rule.outcome, "text": rule.text} for rule in rules],
        "if_upstream_fails": _upstream_rules(route),
        "deadline_s": route.deadline_s,
    }


def _upstream_rules(route: Route) -> list[dict[str, Any]]:
    """What stands in for the upstream, for the methods where something does."""
    by_rule: dict[tuple[str, float], list[str]] = {}
    for method, rule in sorted(route.on_upstream_failure.items()):
        if rule.mode is not UpstreamFailureMode.ERROR:
            by_rule.setdefault((rule.mode.value, rule.max_stale_s), []).append(method)
    return [
        {"methods": methods, "mode": mode, "max_stale_s": max_stale_s}
        for (mode, max_stale_s), methods in by_rule.items()
    ]


def _destination(route: Route) -> str:
    match route.action:
        case AggregateAction(parts=parts):
            return ", ".join(part.upstream for part in parts)
        case PermissionsAction() | HealthAction() | DecideAction():
            return ""
        case action:
            return action.upstream
