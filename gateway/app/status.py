"""The documents of `/status` and `/routes`: what is, in words an operator needs in the ten seconds that count."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from gateway import __version__
from gateway.iam.client import Iam
from gateway.model.route import AggregateAction, HealthAction, PermissionsAction, Route

if TYPE_CHECKING:
    from gateway.app.running import Gateway


class Status:
    """Reads a running gateway; changes nothing."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._composition = gateway.composition

    def document(self) -> dict[str, Any]:
        """Everything on the page."""
        composition, configuration = self._composition, self._composition.configuration
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
            },
            "iam": self._iam(),
            "breakers": {name: breaker.snapshot() for name, breaker in composition.breakers.items()},
            "routes": self.routes(),
            "upstreams": {name: upstream.snapshot() for name, upstream in composition.upstreams.items()},
            "cache": {"entries": len(composition.cache)},
            "copies": composition.copies.snapshot(),
            "in_flight": composition.site.in_flight,
            "streams": composition.streams.open,
        }

    def routes(self) -> list[dict[str, Any]]:
        """One row per route, in the order of the file."""
        return [_row(route) for route in self._composition.configuration.routes]

    def _iam(self) -> dict[str, Any]:
        iam, settings = self._composition.iam, self._composition.configuration.iam
        return {"api": settings.api.value, **(iam.snapshot() if isinstance(iam, Iam) else {})}


def _row(route: Route) -> dict[str, Any]:
    return {
        "id": route.id,
        "host": route.host,
        "path": route.path,
        "methods": sorted(route.methods),
        "policy": route.policy,
        "to": _destination(route),
        "on_iam_failure": {method: rule.mode.value for method, rule in sorted(route.on_iam_failure.items())},
        "deadline_s": route.deadline_s,
    }


def _destination(route: Route) -> str:
    match route.action:
        case AggregateAction(parts=parts):
            return ", ".join(part.upstream for part in parts)
        case PermissionsAction() | HealthAction():
            return ""
        case action:
            return action.upstream
