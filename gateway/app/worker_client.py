"""Several workers as one gateway: what the admin listener shows and does concerns all of them.

Each worker answers operators on a Unix socket in a private folder; this side asks all of them at the same time and
makes one document of their answers. A worker that does not answer in time (it may just be starting) is left out of what
is shown; what is done is done by all that are there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx

from gateway.admin.merge import merge_breakers, merge_status
from gateway.telemetry import exposition

OWN_STATUS: Final = "/own-status"
SNAPSHOT: Final = "/snapshot"
"""Where a worker tells what is put together here: its share of the status, its metrics."""
PATIENCE_S: Final = 10.0
SHORT_PATIENCE_S: Final = 2.0
"""What is shown every second does not wait for a worker that hangs."""
HEADERS: Final = {"x-gateway-admin": "1", "host": "worker"}


class Workers:
    """The operations of all workers. `sockets` names the sockets of those that run; `drain` begins to end them all."""

    def __init__(self, sockets: Callable[[], Sequence[Path]], drain: Callable[[], None]) -> None:
        self._sockets = sockets
        self._drain = drain
        self._clients: dict[Path, httpx.AsyncClient] = {}
        self.started = False
        self.draining = False

    @property
    def ready(self) -> bool:
        """All workers were up once, and none is told to end."""
        return self.started and not self.draining

    async def status(self) -> dict[str, Any]:
        """The status of all workers as one."""
        return merge_status(await self._documents(OWN_STATUS, SHORT_PATIENCE_S), expected=len(self._sockets()))

    async def routes(self) -> list[dict[str, Any]]:
        """One row per route."""
        documents: list[list[dict[str, Any]]] = await self._documents("/routes")
        return documents[0] if documents else []

    async def breakers(self) -> dict[str, dict[str, Any]]:
        """Every breaker, in the worst state that any worker has it in."""
        return merge_breakers([document["breakers"] for document in await self._documents("/breakers")])

    async def config(self) -> dict[str, Any]:
        """The configuration, secrets masked."""
        documents: list[dict[str, Any]] = await self._documents("/config")
        return documents[0] if documents else {}

    async def systems_health(self) -> dict[str, Any]:
        """Asked by one worker: the systems are the same for all."""
        for socket in self._sockets():
            reply = await self._ask(socket, "GET", "/health/systems")
            if reply is not None and reply.is_success:
                document: dict[str, Any] = reply.json()
                return document
        return {}

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Metrics of all workers, added up."""
        return exposition(await self._documents(SNAPSHOT), accept)

    async def reload(self) -> tuple[bool, list[str]]:
        """All workers reload. They read the same files, so they agree unless a file changes in between."""
        replies = await self._all("POST", "/-/reload")
        problems = [problem for reply in replies if reply for problem in reply.json()["problems"]]
        problems += [f"worker {number} did not answer" for number, reply in enumerate(replies) if reply is None]
        return all(reply is not None and reply.is_success for reply in replies), list(dict.fromkeys(problems))

    async def drain(self) -> None:
        """Begin to end all workers."""
        self._drain()

    async def force_breaker(self, name: str, mode: str) -> bool:
        """In every worker."""
        replies = await self._all("POST", f"/breakers/{name}/{mode}")
        return any(reply is not None and reply.is_success for reply in replies)

    async def purge_cache(self, subject: str | None = None) -> int:
        """In every worker."""
        replies = await self._all("POST", "/cache/purge" + (f"?subject={quote(subject, safe='')}" if subject else ""))
        return sum(reply.json()["purged"] for reply in replies if reply is not None and reply.is_success)

    async def up(self, socket: Path) -> bool:
        """Whether one worker is ready."""
        reply = await self._ask(socket, "GET", "/readyz")
        return reply is not None and reply.is_success

    async def aclose(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.aclose()

    async def _documents(self, path: str, patience_s: float = PATIENCE_S) -> list[Any]:
        replies = await self._all("GET", path, patience_s)
        return [reply.json() for reply in replies if reply is not None and reply.is_success]

    async def _all(self, method: str, path: str, patience_s: float = PATIENCE_S) -> list[httpx.Response | None]:
        asking = (self._ask(socket, method, path, patience_s) for socket in self._sockets())
        return list(await asyncio.gather(*asking))

    async def _ask(self, socket: Path, method: str, path: str, patience_s: float = PATIENCE_S) -> httpx.Response | None:
        client = self._clients.get(socket)
        if client is None:
            transport = httpx.AsyncHTTPTransport(uds=str(socket))
            client = httpx.AsyncClient(transport=transport, base_url="http://worker", trust_env=False, headers=HEADERS)
            self._clients[socket] = client
        try:
            return await client.request(method, path, timeout=patience_s)
        except httpx.TransportError:
            return None
