"""What operators do is logged: what, from where, by whom as far as that is known, and whether it was done.

Rules: everything that changes something and passed the guard makes one line, whatever it is; no query and no body, as
they may name a subject; no path that is not ours, as it may hold anything.
"""

from __future__ import annotations

import logging
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
