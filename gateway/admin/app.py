"""The admin application: paths to operations, and nothing else.

Every answer says `Cache-Control: no-store`, every error is problem+json. Deliberately absent: editing the configuration
(that is routes.yaml's business) and anything on the public listener.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.admin.assets import PAGE, PUBLIC_FILES, asset
from gateway.admin.feed import Feed, FeedResponse, shown
from gateway.admin.guard import AdminGuard, problem
from gateway.model.settings import ServerSettings

# What the admin listener shows and does, whoever does it: this process, or all workers together.


class Operations(Protocol):
    """The running gateway as an operator sees it. Documents are JSON-ready."""

    @property
    def ready(self) -> bool:
        """Configuration loaded, listening, not draining. IAM's state does not matter."""

    async def status(self) -> dict[str, Any]:
        """Everything that the page shows."""

    async def routes(self) -> list[dict[str, Any]]:
        """One row per route."""

    async def breakers(self) -> dict[str, dict[str, Any]]:
        """Every breaker by name."""

    async def config(self) -> dict[str, Any]:
        """The configuration with secrets masked."""

    async def systems_health(self) -> dict[str, Any]:
        """IAM and every upstream, asked now (shared for a second)."""

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Metrics and their media type, by what an `Accept` field asks for: Prometheus text, or OpenMetrics."""

    async def reload(self) -> tuple[bool, list[str]]:
        """Load routes.yaml again: whether it serves now, and the mistakes if not."""

    async def drain(self) -> None:
        """Begin to end, as on SIGTERM."""

    async def force_breaker(self, name: str, mode: str) -> bool:
        """`open`, `close`, `auto` or `try`; False if there is no such breaker."""

    async def purge_cache(self, subject: str | None = None) -> int:
        """Forget every decision and copy, or those of one subject, and end its streams; how many decisions it was."""


# What operators do is logged: what, from where, by whom as far as that is known, and whether it was done.
#
# Rules: everything that changes something and passed the guard makes one line, whatever it is; no query and no body,
# as they may name a subject; no path that is not ours, as it may hold anything.

_LOG: Final = logging.getLogger("gateway")
_NOT_FOUND: Final = 404
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class OperatorLog:
    """ASGI middleware behind the guard. `with_token`: who comes here has shown the admin token."""

    def __init__(self, app: ASGIApp, *, with_token: bool) -> None:
        self._app = app
        self._who = "with the admin token" if with_token else "without a token"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on; log what changes something, when its answer begins."""
        if scope["type"] != "http" or scope["method"] in _READING:
            await self._app(scope, receive, send)
            return

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._tell(scope, message["status"])
            await send(message)

        await self._app(scope, receive, telling)

    def _tell(self, scope: Scope, status: int) -> None:
        peer = (scope.get("client") or ("an unknown address",))[0]
        what = scope["path"] if status != _NOT_FOUND else "what is not there"
        _LOG.info("[operator] %s %s: %d (by %s, %s)", scope["method"], what, status, peer, self._who)


# gzip for what is large and asked for often: `/metrics`.

_QUICK: Final = 1
"""Of the levels of gzip: repetitive text shrinks to a tenth also so."""


def takes_gzip(accept_encoding: str) -> bool:
    """Whether `Accept-Encoding` names gzip, or `*`, and not with `q=0` (RFC 9110 section 12.5.3)."""
    weights = dict(_weights(accept_encoding))
    return weights.get("gzip", weights.get("*", 0.0)) > 0


async def compressed(content: bytes) -> bytes:
    """In a thread: the compressor lets others run."""
    return await asyncio.to_thread(gzip.compress, content, _QUICK)


def _weights(accept_encoding: str) -> list[tuple[str, float]]:
    """Codings and their weights; a weight that is no number is 0."""
    found = []
    for item in accept_encoding.lower().split(","):
        coding, _, parameter = (part.strip() for part in item.partition(";"))
        text = parameter.partition("=")[2].strip() if parameter else "1"
        found.append((coding, float(text) if text.replace(".", "", 1).isdigit() else 0.0))
    return found


NO_STORE: Final = {"cache-control": "no-store"}
MODES: Final = ("open", "close", "auto", "try")
_DETAILS: Final = {404: "There is nothing here.", 405: "This path takes other methods: see Allow."}


def admin_app(operations: Operations, settings: ServerSettings, feed: Feed) -> ASGIApp:
    """The guarded ASGI application of the admin listener. `feed` is closed by whoever ends the listener."""
    app = _application(operations, Route("/status/stream", partial(_watch, feed)), *_page())
    app.add_middleware(OperatorLog, with_token=settings.admin_token is not None)
    return AdminGuard(app, listen=settings.admin, token=settings.admin_token, hosts=settings.admin_hosts)


def worker_app(operations: Operations, documents: Mapping[str, Callable[[], Awaitable[Any]]]) -> ASGIApp:
    """What a worker answers its supervisor with, on a socket that nobody else can reach. `documents`: by path."""
    return _application(operations, *(Route(path, _shown(make)) for path, make in documents.items()))


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
        Route("/config", views.document(operations.config, spent=True)),
        Route("/health/systems", views.document(operations.systems_health)),
        Route("/-/reload", views.reload, methods=["POST"]),
        Route("/-/drain", views.drain, methods=["POST"]),
        Route("/cache/purge", views.purge, methods=["POST"]),
        *(Route(f"/breakers/{{name}}/{mode}", partial(views.force, mode), methods=["POST"]) for mode in MODES),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _refused, Exception: _failed})
    app.router.redirect_slashes = False
    return app


def _page() -> list[Route]:
    return [Route("/", _file(PAGE)), *(Route(f"/{name}", _file(name)) for name in PUBLIC_FILES)]


def _file(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def view(_: Request) -> Response:
        return asset(name)

    return view


def _shown(make: Callable[[], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
    async def view(_: Request) -> Response:
        return await shown(await make())

    return view


async def _watch(feed: Feed, _: Request) -> Response:
    return FeedResponse(feed)


async def _refused(_: Request, error: Exception) -> Response:
    """What Starlette refuses: no such path, another method."""
    if not isinstance(error, HTTPException):
        raise error
    return problem(error.status_code, _DETAILS.get(error.status_code, error.detail), error.headers)


async def _failed(_: Request, __: Exception) -> Response:
    """A bug. Starlette raises it on after this answer, so the log has it in full."""
    return problem(500, "Something went wrong in the gateway; the log has it.")


class _Views:
    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def document(
        self, source: Callable[[], Awaitable[Any]], *, spent: bool = False
    ) -> Callable[[Request], Awaitable[Response]]:
        """A view that shows what `source` returns as JSON. `spent`: it makes a new one each time."""

        async def view(_: Request) -> Response:
            return await shown(await source(), NO_STORE, spent=spent)

        return view

    async def livez(self, _: Request) -> Response:
        return JSONResponse({"status": "alive"}, headers=NO_STORE)

    async def readyz(self, _: Request) -> Response:
        if self._operations.ready:
            return JSONResponse({"status": "ready"}, headers=NO_STORE)
        return problem(503, "Not ready: still starting, or draining.")

    async def metrics(self, request: Request) -> Response:
        content, media_type = await self._operations.metrics(request.headers.get("accept", ""))
        headers = {**NO_STORE, "vary": "accept, accept-encoding", "content-type": media_type}
        if takes_gzip(request.headers.get("accept-encoding", "")):
            content, headers["content-encoding"] = await compressed(content), "gzip"
        return Response(content, headers=headers)

    async def breakers(self, _: Request) -> Response:
        return await shown({"breakers": await self._operations.breakers()}, NO_STORE)

    async def reload(self, _: Request) -> Response:
        serves, problems = await self._operations.reload()
        return JSONResponse({"reloaded": serves, "problems": problems}, 200 if serves else 422, NO_STORE)

    async def drain(self, _: Request) -> Response:
        await self._operations.drain()
        return JSONResponse({"draining": True}, 202, NO_STORE)

    async def purge(self, request: Request) -> Response:
        """Everything only where nothing is named: half a name must not be everybody."""
        named = request.query_params.multi_items()
        subject = named[0][1] if len(named) == 1 and named[0][0] == "subject" else ""
        if request.url.query and not subject:
            return problem(400, "Say ?subject=ID for one subject, or nothing for all.")
        return JSONResponse({"purged": await self._operations.purge_cache(subject or None)}, headers=NO_STORE)

    async def force(self, mode: str, request: Request) -> Response:
        name = request.path_params["name"]
        if not await self._operations.force_breaker(name, mode):
            return problem(404, "There is no breaker of this name: GET /breakers lists them.")
        return JSONResponse({"breaker": name, "mode": mode}, headers=NO_STORE)
