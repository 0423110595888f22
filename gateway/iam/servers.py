"""The urls of one IAM, in order of preference: which of them a call goes to, and what becomes of one that fails.

Deliberately absent: the queue, retries and the breaker, which are about all urls together.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from gateway.iam.failure import CallFailure
from gateway.iam.http import Note
from gateway.iam.inquiry import HedgeBudget, Inquiry, Server
from gateway.model.permit import Check, Decision, Question
from gateway.model.request import Subject
from gateway.resilience.breaker import OPEN, Breaker
from gateway.telemetry.observer import Observer
from gateway.telemetry.observer import Server as Peer

_LOG: Final = logging.getLogger("gateway")
_PROBE: Final = Question(
    Subject("gateway", "gateway", "gateway:probe", '{"type":"gateway","id":"gateway"}'),
    Check(
        {"name": "probe"},
        {"type": "gateway", "id": "iam"},
        None,
        '"action":{"name":"probe"},"resource":{"id":"iam","type":"gateway"}',
    ),
)


class Servers:
    """All urls of IAM, asked as one (see Api). `total_s`: for one question. `hedge_s`: see IamSettings."""

    def __init__(
        self,
        servers: Sequence[Server],
        *,
        total_s: float,
        hedge_s: float | None,
        breaker: Breaker,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = tuple(servers)
        # Each url but the last has at most a share of the time, so that the next one can still be asked.
        self._share_s = total_s / len(self._servers)
        self._hedge = None if hedge_s is None else HedgeBudget(hedge_s, observer.iam_hedged)
        self._breaker = breaker
        self._clock = clock
        self._only = self._servers[0].api if len(self._servers) == 1 else None
        self._watched: dict[Server, asyncio.Task[None]] = {}

    @property
    def max_size(self) -> int:
        """Of the url that is asked first now."""
        return self._first.api.max_size

    @property
    def operation(self) -> str:
        """Of the url that is asked first now."""
        return self._first.api.operation

    @property
    def peer(self) -> Peer:
        """The url that is asked first now."""
        return self._first.peer

    def ask(self, questions: Sequence[Question], note: Note) -> Coroutine[Any, Any, list[Decision]]:
        """One decision for each question, in order. Raises CallFailure."""
        if self._only is not None:
            return self._only.ask(questions, note)
        return self._inquire(questions, note)

    async def look(self) -> dict[str, CallFailure | None]:
        """How each url answers the harmless question: None is well. All at the same time."""
        looks = await asyncio.gather(*(self._look(server, self._share_s) for server in self._servers))
        return {server.url: failure for server, failure in zip(self._servers, looks, strict=True)}

    async def probe(self) -> None:
        """Ask the harmless question of all urls at the same time. Raises CallFailure if none of them answers it."""
        if self._only is not None:
            await self._only.ask([_PROBE], Note("", None, fresh=True))
            return
        # All at the same time: IAM works if one of them answers.
        looks = [asyncio.ensure_future(self._look(server, None)) for server in self._servers]
        try:
            failure: CallFailure | None = None
            for look in asyncio.as_completed(looks):
                failure = await look
                if failure is None:
                    return
            if failure is not None:
                raise failure
        finally:
            for each in looks:
                each.cancel()

    def snapshot(self) -> list[dict[str, Any]]:
        """How each url is, for the status page."""
        return [server.snapshot() for server in self._servers]

    async def aclose(self) -> None:
        """End what runs by itself."""
        tasks = [*self._watched.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def _first(self) -> Server:
        if self._only is not None:
            return self._servers[0]
        return next((each for each in self._servers if not each.standing.ill), self._servers[0])

    async def _inquire(self, questions: Sequence[Question], note: Note) -> list[Decision]:
        inquiry = Inquiry(self._order(), questions, note, self._share_s, self._hedge)
        try:
            return await inquiry.run()
        finally:
            self._judge(inquiry)

    def _order(self) -> Sequence[Server]:
        ill = [server for server in self._servers if server.standing.ill]
        if not ill:
            return self._servers
        for server in ill:
            self._watch(server)
        # One that is set aside is asked last.
        ill.sort(key=lambda server: server.standing.failed_s)
        return [server for server in self._servers if server not in ill] + ill

    def _judge(self, inquiry: Inquiry) -> None:
        """What one call says of the urls that it went to: nothing against any of them, unless one of them decided."""
        winner, now_s = inquiry.decided_by, self._clock()
        # A question that fails everywhere sets no url aside: whose failure it is, others judge.
        if winner is None:
            return
        winner.standing.answered(now_s)
        if winner.standing.ill:
            self._is_well(winner)
        for attempt in inquiry.failed:
            server = attempt.server
            # Aside goes a url that failed what another one decided, and that answered nobody else meanwhile.
            if server.standing.failed(attempt.answers, attempt.setbacks, now_s):
                server.standing.ill = True
                _LOG.warning(
                    "[iam] %s is set aside for %g s (%s)", server.url, server.standing.aside_s, attempt.failure.code
                )
                self._watch(server)

    def _watch(self, server: Server) -> None:
        if server not in self._watched:
            self._watched[server] = asyncio.get_running_loop().create_task(self._until_well(server))

    async def _until_well(self, server: Server) -> None:
        try:
            while server.standing.ill:
                await asyncio.sleep(server.standing.aside_s)
                # An open circuit has probes of its own.
                if self._breaker.state != OPEN and await self._look(server, self._share_s):
                    server.standing.put_off(self._clock())
        finally:
            if self._watched.get(server) is asyncio.current_task():
                del self._watched[server]

    async def _look(self, server: Server, within_s: float | None) -> CallFailure | None:
        """Whether this url answers the harmless question; a refusal of it is an answer."""
        try:
            async with asyncio.timeout(within_s):
                await server.api.ask([_PROBE], Note("", None, fresh=True))
        except CallFailure as failure:
            if failure.counts:
                server.failed(failure)
                return failure
        except TimeoutError:
            silent = CallFailure("iam_timeout", f"no answer within {within_s:g}s")
            server.failed(silent)
            return silent
        if server.standing.ill:
            self._is_well(server)
        return None

    def _is_well(self, server: Server) -> None:
        server.standing.looks_well()
        watching = self._watched.get(server)
        if watching is not None and watching is not asyncio.current_task():
            self._watched.pop(server).cancel()
        _LOG.info("[iam] %s answers again", server.url)
