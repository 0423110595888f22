"""The admin application: paths to operations, and nothing else.

Every answer says `Cache-Control: no-store`. Deliberately absent: editing the configuration (that is routes.yaml's
business) and anything on the public listener.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from gateway.admin.guard import AdminGuard
from gateway.admin.operations import Operations
from gateway.model.settings import ServerSettings

NO_STORE: Final = {"cache-control": "no-store"}
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def admin_app(operations: Operations, settings: ServerSettings) -> ASGIApp:
    """The guarded ASGI application of the admin listener."""
    app = _application(operations)
    return AdminGuard(app, listen=settings.admin, token=settings.admin_token, hosts=settings.admin_hosts)


def worker_app(operations: Operations, snapshot: Callable[[], Any]) -> ASGIApp:
    """What a worker answers its supervisor with, on a socket that nobody else can reach."""

    async def values(_: Request) -> Response:
        return JSONResponse(snapshot())

    return _application(operations, Route("/snapshot", values))


def _application(operations: Operations, *more: BaseRoute) -> Starlette:
    views = _Views(operations)
    routes: list[BaseRoute] = [
        *more,
        Route("/livez", views.livez),
        Route("/readyz", views.readyz),
        Route("/metrics", views.metrics),
        Route("/status", views.document(operations.status)),
        Route("/routes", views.document(operations.routes)),
        Route("/breakers", views.breakers),
        Route("/config", views.document(operations.config)),
        Route("/health/systems", views.document(operations.systems_health)),
        Route("/-/reload", views.reload, methods=["POST"]),
        Route("/-/drain", views.drain, methods=["POST"]),
        Route("/cache/purge", views.purge, methods=["POST"]),
        Route("/breakers/{name}/{mode:str}", views.force, methods=["POST"]),
    ]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    return app


class _Views:
    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def document(self, source: Callable[[], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
        """A view that shows what `source` returns as JSON."""

        async def view(_: Request) -> Response:
            return JSONResponse(await source(), headers=NO_STORE)

        return view

    async def livez(self, _: Request) -> Response:
        return JSONResponse({"status": "alive"}, headers=NO_STORE)

    async def readyz(self, _: Request) -> Response:
        ready = self._operations.ready
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503, NO_STORE)

    async def metrics(self, _: Request) -> Response:
        return Response(await self._operations.metrics(), headers=NO_STORE, media_type=METRICS_TYPE)

    async def breakers(self, _: Request) -> Response:
        return JSONResponse({"breakers": await self._operations.breakers()}, headers=NO_STORE)

    async def reload(self, _: Request) -> Response:
        serves, problems = await self._operations.reload()
        return JSONResponse({"reloaded": serves, "problems": problems}, 200 if serves else 422, NO_STORE)

    async def drain(self, _: Request) -> Response:
        await self._operations.drain()
        return JSONResponse({"draining": True}, 202, NO_STORE)

    async def purge(self, _: Request) -> Response:
        return JSONResponse({"purged": await self._operations.purge_cache()}, headers=NO_STORE)

    async def force(self, request: Request) -> Response:
        name, mode = request.path_params["name"], request.path_params["mode"]
        if mode not in {"open", "close", "auto"} or not await self._operations.force_breaker(name, mode):
            return JSONResponse({"detail": f"no breaker {name!r}, or not open, close or auto"}, 404, NO_STORE)
        return JSONResponse({"breaker": name, "mode": mode}, headers=NO_STORE)
