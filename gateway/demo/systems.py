"""The toy systems, and what they know: nine small services that answer as their models do and can be broken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

# What the toy systems know. People and devices differ between systems on purpose: audits find it.

Record = dict[str, Any]

SWITCHES: Final[dict[str, Record]] = {
    "7": {"id": "7", "name": "sw-core-7", "site": "Berlin", "ports": 48, "firmware": "17.9.4"},
    "8": {"id": "8", "name": "sw-edge-8", "site": "Lyon", "ports": 24, "firmware": "17.6.1"},
}

WORKDAY: Final[dict[str, Record]] = {
    "john.doe@wheels.com": {
        "id": "W-1001",
        "descriptor": "John Doe",
        "email": "john.doe@wheels.com",
        "jobTitle": "Senior Engineer",
        "department": "Engineering",
        "active": True,
    },
    "jane.roe@wheels.com": {
        "id": "W-1002",
        "descriptor": "Jane Roe",
        "email": "jane.roe@wheels.com",
        "jobTitle": "Fleet Manager",
        "department": "Operations",
        "active": True,
    },
    "max.left@wheels.com": {
        "id": "W-1003",
        "descriptor": "Max Left",
        "email": "max.left@wheels.com",
        "jobTitle": "Analyst",
        "department": "Finance",
        "active": False,
    },
}

ACTIVE_DIRECTORY: Final[dict[str, Record]] = {
    "john.doe@wheels.com": {
        "sAMAccountName": "jdoe",
        "mail": "john.doe@wheels.com",
        "title": "Senior Engineer",
        "department": "Engineering",
        "enabled": True,
    },
    "jane.roe@wheels.com": {
        "sAMAccountName": "jroe",
        "mail": "jane.roe@wheels.com",
        "title": "Fleet Manager",
        "department": "Operations",
        "enabled": True,
    },
    "max.left@wheels.com": {
        "sAMAccountName": "mleft",
        "mail": "max.left@wheels.com",
        "title": "Analyst",
        "department": "Finance",
        "enabled": True,
    },
}

ENTRA: Final[dict[str, Record]] = {
    "john.doe@wheels.com": {
        "id": "e-77",
        "mail": "john.doe@wheels.com",
        "displayName": "John Doe",
        "jobTitle": "Engineer",
        "department": "Engineering",
        "accountEnabled": True,
    },
    "jane.roe@wheels.com": {
        "id": "e-78",
        "mail": "jane.roe@wheels.com",
        "displayName": "Jane Roe",
        "jobTitle": "Fleet Manager",
        "department": "Operations",
        "accountEnabled": True,
    },
    **{
        f"guest{n}@wheels.com": {
            "id": f"e-{100 + n}",
            "mail": f"guest{n}@wheels.com",
            "displayName": f"Guest {n}",
            "jobTitle": "Contractor",
            "department": "External",
            "accountEnabled": True,
        }
        for n in range(1, 6)
    },
}

LANSWEEPER: Final[dict[str, Record]] = {
    "LT-0042": {"assetName": "LT-0042", "serialNumber": "5CD042", "os": "Windows 11 23H2", "owner": "john.doe"},
    "LT-0043": {"assetName": "LT-0043", "serialNumber": "5CD043", "os": "Windows 11 24H2", "owner": "jane.roe"},
}

INTUNE: Final[dict[str, Record]] = {
    "LT-0042": {
        "deviceName": "LT-0042",
        "serialNumber": "5CD042",
        "osVersion": "Windows 11 23H2",
        "complianceState": "compliant",
    },
    "LT-0044": {
        "deviceName": "LT-0044",
        "serialNumber": "5CD044",
        "osVersion": "Windows 10 22H2",
        "complianceState": "noncompliant",
    },
}

HELIX: Final[dict[str, Record]] = {
    "LT-0042": {"name": "LT-0042", "serial": "5CD042", "status": "Deployed", "os": "Windows 11 22H2"},
    "LT-0043": {"name": "LT-0043", "serial": "5CD043", "status": "In Repair", "os": "Windows 11 24H2"},
}

NAVIGATION: Final[Record] = {
    "title": "Operations portal",
    "systems": [
        {
            "id": "inventory",
            "name": "Inventory",
            "menus": [
                {"id": "switches", "label": "Switches", "action": "read", "resource": "system:inventory"},
                {"id": "add-switch", "label": "Add a switch", "action": "write", "resource": "system:inventory"},
            ],
        },
        {
            "id": "monitoring",
            "name": "Monitoring",
            "menus": [
                {"id": "alarms", "label": "Alarms", "action": "read", "resource": "system:monitoring"},
                {"id": "silence", "label": "Silence an alarm", "action": "write", "resource": "system:monitoring"},
            ],
        },
        {
            "id": "audit",
            "name": "Audit",
            "menus": [{"id": "users", "label": "User audit", "action": "audit", "resource": "system:audit"}],
        },
        {
            "id": "registry",
            "name": "Registry",
            "menus": [{"id": "systems", "label": "Systems", "action": "read", "resource": "system:registry"}],
        },
        {
            "id": "admin",
            "name": "Administration",
            "menus": [{"id": "rights", "label": "Rights", "action": "write", "resource": "system:admin"}],
        },
    ],
}


# `Breakable.mode` (of MODES) is set by the supervisor; a system that is down does not listen at all.

PAGE: Final = 3
LARGEST_PAGE: Final = 100
_PAGING: Final = (("$skip", "0"), ("$top", str(PAGE)))
SLOW_S: Final = 4.0
MODES: Final = ("ok", "down", "hang", "slow", "errors")


class Breakable:
    """An ASGI app that can be told to fail."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._mode = "ok"
        self._changed = asyncio.Event()

    @property
    def mode(self) -> str:
        """What it does with requests now."""
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        self._mode = mode
        self._changed.set()
        self._changed = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, or fail as told. Nobody is kept longer than the fault lasts."""
        mode = self._mode if scope["type"] == "http" else "ok"
        if mode == "hang":
            await _first_of(self._changed.wait(), _left(receive))
        if mode == "slow":
            await _first_of(self._changed.wait(), asyncio.sleep(SLOW_S))
        if mode in ("hang", "errors"):
            await JSONResponse({"error": "broken on purpose"}, 500)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _first_of(*waits: Coroutine[Any, Any, Any]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _not_found(what: str) -> JSONResponse:
    return JSONResponse({"error": f"{what} not found"}, 404)


def _one(records: Mapping[str, Record], name: str) -> Callable[[Request], Response]:
    """Answer with the record whose key is the path parameter `key`."""

    def endpoint(request: Request) -> Response:
        found = records.get(request.path_params["key"])
        return JSONResponse(found) if found else _not_found(name)

    return endpoint


def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


def _inventory() -> list[Route]:
    def switches(request: Request) -> Response:
        seen = {"subject": request.headers.get("x-auth-subject"), "degraded": request.headers.get("x-gateway-degraded")}
        return JSONResponse({"switches": list(SWITCHES.values()), "seen": seen})

    async def create(request: Request) -> Response:
        return JSONResponse({"created": await request.json()}, 201)

    return [
        Route("/inventory/switches", switches),
        Route("/inventory/switches", create, methods=["POST"]),
        Route("/inventory/switches/{key}", _one(SWITCHES, "switch")),
        Route("/inventory/{key}", _one(SWITCHES, "switch")),
        Route("/inventory", switches),
    ]


def _monitoring() -> list[Route]:
    def alarms(_: Request) -> Response:
        return JSONResponse({"alarms": [{"id": 1, "switch": "8", "text": "port 3 down", "severity": "major"}]})

    def status(_: Request) -> Response:
        return JSONResponse({"status": "all systems operational"})

    def events(_: Request) -> Response:
        async def ticks() -> AsyncIterator[bytes]:
            n = 0
            while True:
                n += 1
                yield b'id: %d\ndata: {"tick": %d}\n\n' % (n, n)
                await asyncio.sleep(1)

        return StreamingResponse(ticks(), media_type="text/event-stream")

    return [
        Route("/monitoring/alarms", alarms),
        Route("/monitoring/events", events),
        Route("/monitoring", alarms),
        Route("/public/status", status),
        Route("/public", status),
    ]


def _registry() -> list[Route]:
    return [Route("/registry/navigation", lambda _: JSONResponse(NAVIGATION))]


def _workday() -> list[Route]:
    def worker(request: Request) -> Response:
        found = WORKDAY.get(request.query_params.get("email", ""))
        return JSONResponse(found) if found else _not_found("worker")

    return [Route("/staffing/v6/workers", worker)]


def _active_directory() -> list[Route]:
    return [Route("/users/{key}", _one(ACTIVE_DIRECTORY, "user"))]


def _entra() -> list[Route]:
    def users(request: Request) -> Response:
        """A page at a time: `$top` people from `$skip` on, with a link to the next page while there is one."""
        try:
            skip, top = (max(0, int(request.query_params.get(name, default))) for name, default in _PAGING)
        except ValueError:
            return JSONResponse({"error": {"code": "BadRequest", "message": "$top and $skip are numbers"}}, 400)
        everybody, end = list(ENTRA.values()), skip + (min(top, LARGEST_PAGE) or PAGE)
        page: Record = {"value": everybody[skip:end]}
        if end < len(everybody):
            page["@odata.nextLink"] = f"{request.base_url}v1.0/users?$top={end - skip}&$skip={end}"
        return JSONResponse(page)

    return [Route("/v1.0/users", users), Route("/v1.0/users/{key}", _one(ENTRA, "user"))]


def _lansweeper() -> list[Route]:
    async def graphql(request: Request) -> Response:
        """Knows one query: the asset whose name is the variable `name`; null if there is none, as GraphQL has it."""
        try:
            name = (await request.json())["variables"]["name"]
        except (ValueError, KeyError, TypeError):
            return JSONResponse({"errors": [{"message": "a query with the variable name is expected"}]}, 400)
        return JSONResponse({"data": {"asset": LANSWEEPER.get(str(name))}})

    return [Route("/api/v2/graphql", graphql, methods=["POST"])]


def _intune() -> list[Route]:
    return [Route("/v1.0/deviceManagement/managedDevices/{key}", _one(INTUNE, "device"))]


def _helix() -> list[Route]:
    return [Route("/api/arsys/v1/entry/AST:ComputerSystem/{key}", _one(HELIX, "asset"))]


SYSTEMS: Final[Mapping[str, Callable[[], list[Route]]]] = {
    "inventory": _inventory,
    "monitoring": _monitoring,
    "registry": _registry,
    "workday": _workday,
    "ad": _active_directory,
    "entra": _entra,
    "lansweeper": _lansweeper,
    "intune": _intune,
    "helix": _helix,
}


def system(name: str) -> Breakable:
    """One toy system by the name of its upstream in routes.yaml."""
    return Breakable(Starlette(routes=[Route("/health", _health), *SYSTEMS[name]()]))
