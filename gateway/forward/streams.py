"""How long a stream may stay open: what ends an event stream or a WebSocket that nobody closed.

The code that serves the stream decides how the end looks on the wire. `Exchange.become_stream` counts streams. Idle
time is measured where the bytes are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from gateway.errors import GatewayError
from gateway.model.permit import Permit
from gateway.model.request import name_of

_LONGEST_SLEEP_S: Final = 30.0  # the wall clock may be set while we sleep


class Recheck(Protocol):
    """Asks again whether an open stream may go on."""

    async def __call__(self, permit: Permit) -> None:
        """Return if it may; GatewayError `iam_denied`, `unauthenticated` or `iam_*` if not. Has its own time limit."""


async def _never_asks(permit: Permit) -> None:
    """Nobody rechecks."""


class Streams:
    """Watches over all open streams of this process. `wall` is Unix time, which is what tokens expire by."""

    def __init__(self, *, recheck: Recheck = _never_asks, wall: Callable[[], float] = time.time) -> None:
        self.open = 0
        self._recheck = recheck
        self._wall = wall
        self._draining = False
        self._watching: set[_Watched] = set()

    def drain(self) -> None:
        """The gateway stops: every open stream ends, and every later one ends immediately."""
        self._draining = True
        for watched in self._watching:
            watched.told.set()

    def end_subject(self, name: str) -> None:
        """End every open stream of a subject (`name_of`)."""
        for watched in self._watching:
            subject = watched.permit.subject
            if subject is not None and name_of(subject.id) == name:
                watched.purged = True
                watched.told.set()

    async def serve(self, permit: Permit, work: Coroutine[Any, Any, None]) -> GatewayError | None:
        """Do the stream's work. None when it is over by itself, else why the stream has to end: then it was cancelled.

        What the work raises is raised. Cancelling this cancels the work.
        """
        self.open += 1
        working = asyncio.ensure_future(work)
        watching = asyncio.ensure_future(self.ends(permit))
        try:
            await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
                return None
            return watching.result()
        finally:
            self.open -= 1
            working.cancel()
            watching.cancel()
            await asyncio.gather(working, watching, return_exceptions=True)

    async def ends(self, permit: Permit) -> GatewayError:
        """Wait until a stream with this permit has to end, and say why."""
        watched = _Watched(permit)
        if self._draining:
            watched.told.set()
        self._watching.add(watched)
        try:
            return await self._until_over(permit, watched)
        finally:
            self._watching.discard(watched)

    async def _until_over(self, permit: Permit, watched: _Watched) -> GatewayError:
        loop = asyncio.get_running_loop()
        every_s = permit.route.recheck_s
        recheck_at_s = None if every_s is None else loop.time() + every_s
        while True:
            waits = [_LONGEST_SLEEP_S]
            # A permit is valid only now: the stream ends when its token expires.
            expires_at_s = permit.subject.expires_at_s if permit.subject else None
            if expires_at_s is not None:
                waits.append(expires_at_s - self._wall())
            if recheck_at_s is not None:
                waits.append(recheck_at_s - loop.time())
            if await watched.is_told(max(0.0, min(waits))):
                if watched.purged:
                    return GatewayError("unauthenticated", "An operator had everything about this subject forgotten.")
                return GatewayError("draining", "The gateway is shutting down.")
            if expires_at_s is not None and self._wall() >= expires_at_s:
                return GatewayError("unauthenticated", "The token has expired.")
            if recheck_at_s is not None and every_s is not None and loop.time() >= recheck_at_s:
                try:
                    await self._recheck(permit)
                except GatewayError as error:
                    # The recheck is denied, or has no answer any more.
                    return error
                recheck_at_s = loop.time() + every_s


class _Watched:
    """An open stream: what it was permitted by, and whether it was told to end."""

    __slots__ = ("permit", "purged", "told")

    def __init__(self, permit: Permit) -> None:
        self.permit = permit
        self.told = asyncio.Event()
        self.purged = False

    async def is_told(self, seconds: float) -> bool:
        """Sleep so long, or until it is told to end: True."""
        try:
            async with asyncio.timeout(seconds):
                await self.told.wait()
        except TimeoutError:
            return False
        return True
