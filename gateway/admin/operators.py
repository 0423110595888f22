"""What operators do is logged: what, from where, by whom as far as that is known, and whether it was done.

Rules: everything that changes something and passed the guard makes one line, whatever it is; no query and no body, as
they may name a subject.
"""

from __future__ import annotations

import logging
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOG: Final = logging.getLogger("gateway")
_LONGEST: Final = 100
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
        agent = Headers(scope=scope).get("user-agent", "")[:_LONGEST]
        by = f"{peer}, {self._who}" + (f", {agent}" if agent else "")
        _LOG.info("[operator] %s %s: %d (by %s)", scope["method"], scope["path"][:_LONGEST], status, by)
