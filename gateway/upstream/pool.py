"""The connections to one origin: which one a request gets, and what becomes of it afterwards.

Rules:
1. The connection that came back last is used first (LIFO), so that those not needed grow old and are closed.
2. At most `max_connections` are open or being opened; at most `max_pending` requests wait for a place, oldest first.
3. Connecting is done by a task of the pool, not of the request: a request that leaves loses nothing, the connection
   goes to the next one or is kept. Every request that waits either has a connection being made for it or stands in the
   queue for a place, and whenever a place is free the first of the queue gets it.
4. A kept connection that ends before the first byte of the response is replaced once by a new one, if nothing was sent
   or if the request may be repeated (RFC 9110 section 9.2.2, RFC 9112 section 9.3.1). New means never used: where one
   kept connection was dead the next may be too.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import Final

from gateway.model.route import Timeouts
from gateway.resilience.deadline import Deadline
from gateway.upstream import failures
from gateway.upstream.connect import Connector, Origin
from gateway.upstream.outgoing import Outgoing, head_of
from gateway.upstream.reply import Reply
from gateway.upstream.wire import Connection

_FIRST_S: Final = 0.002
"""So much before the deadline the wait ends, so that the caller learns from here what it was that took too long."""


class _Waiter:
    """A request that waits for a connection; `new`: for one that was never used."""

    __slots__ = ("connect_s", "future", "new")

    def __init__(self, connect_s: float, *, new: bool) -> None:
        self.connect_s = connect_s
        self.new = new
        self.future: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()


class Pool:
    """The connections to `origin`. One event loop only."""

    def __init__(
        self, origin: Origin, connector: Connector, *, max_connections: int, max_pending: int, idle_timeout_s: float
    ) -> None:
        self.origin = origin
        self._name = str(origin)
        self._connector = connector
        self._max_connections = max_connections
        self._max_pending = max_pending
        self._idle_timeout_s = idle_timeout_s
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []
        self._closing: set[Connection] = set()
        self._dials: set[asyncio.Task[None]] = set()
        self._dialing: dict[_Waiter, None] = {}
        self._queue: dict[_Waiter, None] = {}
        self._closed = False
        self._emptied: asyncio.Future[None] | None = None
        self.connecting = 0
        """Connections being made."""

    def __repr__(self) -> str:
        return (
            f"<Pool {self._name}{' CLOSED' if self._closed else ''} in_flight={self.in_flight} idle={self.idle}"
            f" connecting={self.connecting} pending={self.pending}>"
        )

    @property
    def in_flight(self) -> int:
        """Requests that have a connection."""
        return len(self._open) - len(self._idle)

    @property
    def idle(self) -> int:
        """Connections kept for the next request."""
        return len(self._idle)

    @property
    def pending(self) -> int:
        """Requests that wait for a place."""
        return len(self._queue)

    @property
    def load(self) -> int:
        """Requests that have or wait for a connection: what balancing compares."""
        return len(self._open) - len(self._idle) + len(self._dialing) + len(self._queue)

    async def exchange(self, outgoing: Outgoing, timeouts: Timeouts, deadline: Deadline) -> Reply:
        """See `Upstream.exchange`; ConnectFailed when no connection could be made."""
        head = head_of(outgoing)
        connection = self._take(outgoing.method) or await self._obtain(timeouts, deadline)
        kept = connection.requests > 0
        try:
            return await connection.exchange(head, outgoing, timeouts, deadline)
        except failures.ConnectionLost as lost:
            if not kept or (lost.sent and not outgoing.replayable):
                raise
        connection = await self._obtain(timeouts, deadline, new=True)
        return await connection.exchange(head, outgoing, timeouts, deadline)

    async def aclose(self) -> None:
        """Close every connection, also those in use; requests that wait are refused."""
        self._closed = True
        for waiter in [*self._queue, *self._dialing]:
            self._refuse(waiter, failures.closed(sent=False))
        dials = [*self._dials]
        for dial in dials:
            dial.cancel()
        await asyncio.gather(*dials, return_exceptions=True)
        for connection in [*self._open]:
            connection.abort(failures.closed(sent=True))
        if self._closing:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    # --- what connections call ----------------------------------------------------------------------------------------

    def on_free(self, connection: Connection) -> None:
        """An exchange is over: the connection goes to who waits, or rests."""
        if self._queue or self._dialing or self._closed:
            self._give(connection)
        else:
            self._idle.append(connection)
            connection.watch.start(self._idle_timeout_s)

    def on_lost(self, connection: Connection) -> None:
        """A connection will take no more requests: its place is free."""
        self._open.discard(connection)
        self._closing.add(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._fill()

    def on_closed(self, connection: Connection) -> None:
        """Its socket is closed."""
        self._closing.discard(connection)
        if self._emptied is not None and not self._closing and not self._emptied.done():
            self._emptied.set_result(None)

    # --- getting a connection -----------------------------------------------------------------------------------------

    def _take(self, method: bytes) -> Connection | None:
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.usable(method):
                return connection
            connection.abort()
        return None

    async def _obtain(self, timeouts: Timeouts, deadline: Deadline, *, new: bool = False) -> Connection:
        """Wait for a connection; a `new` one was never used, even if one of those kept has to go for it."""
        waiter = self._wait(timeouts.connect_s, new=new)
        end = self._expire_at(waiter, deadline)
        try:
            return await waiter.future
        except BaseException:
            self._leave(waiter)
            raise
        finally:
            if end is not None:
                end.cancel()

    def _wait(self, connect_s: float, *, new: bool) -> _Waiter:
        if self._closed:
            raise failures.closed(sent=False)
        if new and self._full and self._idle:
            self._idle[0].abort()
        waiter = _Waiter(connect_s, new=new)
        if not self._full:
            self._dial(waiter)
        elif len(self._queue) < self._max_pending:
            self._queue[waiter] = None
        else:
            raise failures.overloaded(f"{self._max_pending} requests wait for a connection")
        return waiter

    def _expire_at(self, waiter: _Waiter, deadline: Deadline) -> asyncio.TimerHandle | None:
        if deadline.at_s == inf:
            return None
        return asyncio.get_running_loop().call_at(deadline.at_s - _FIRST_S, self._refuse_late, waiter)

    def _leave(self, waiter: _Waiter) -> None:
        """A request gives up waiting; what it was given meanwhile goes on to the next."""
        self._queue.pop(waiter, None)
        self._dialing.pop(waiter, None)
        future = waiter.future
        if future.done() and not future.cancelled() and future.exception() is None:
            connection = future.result()
            if not connection.lost:
                self._give(connection)

    def _refuse(self, waiter: _Waiter, error: Exception) -> None:
        self._queue.pop(waiter, None)
        self._dialing.pop(waiter, None)
        if not waiter.future.done():
            waiter.future.set_exception(error)

    def _refuse_late(self, waiter: _Waiter) -> None:
        queued = waiter in self._queue
        self._refuse(waiter, failures.queued_too_long() if queued else failures.deadline_exceeded(sent=False))

    @property
    def _full(self) -> bool:
        return len(self._open) + self.connecting >= self._max_connections

    def _first_waiter(self, *, used: bool) -> _Waiter | None:
        """Who gets a connection: the queue first, as the others have one on its way."""
        if self._queue:
            return next(iter(self._queue))
        return next((waiter for waiter in self._dialing if not (used and waiter.new)), None)

    def _give(self, connection: Connection, waiter: _Waiter | None = None) -> None:
        """Let `waiter` have it, or the first one that waits, or let it rest."""
        used = connection.requests > 0
        waiter = waiter or self._first_waiter(used=used)
        while waiter is not None and waiter.future.done():  # cancelled in this turn of the loop: it has not left yet
            self._queue.pop(waiter, None)
            self._dialing.pop(waiter, None)
            waiter = self._first_waiter(used=used)
        if self._closed or (used and waiter is not None and waiter.new):
            connection.abort()  # its place is free then, for the new one that the first of the queue needs
        elif waiter is None:
            self._idle.append(connection)
            connection.watch.start(self._idle_timeout_s)
        else:
            self._queue.pop(waiter, None)
            self._dialing.pop(waiter, None)
            waiter.future.set_result(connection)

    def _fill(self) -> None:
        """Use free places for those who stand in the queue."""
        while self._queue and not self._full and not self._closed:
            waiter = next(iter(self._queue))
            del self._queue[waiter]
            self._dial(waiter)

    # --- making connections -------------------------------------------------------------------------------------------

    def _dial(self, waiter: _Waiter) -> None:
        self._dialing[waiter] = None
        self.connecting += 1
        dial = asyncio.get_running_loop().create_task(self._connect(waiter))
        self._dials.add(dial)
        dial.add_done_callback(self._dials.discard)

    async def _connect(self, waiter: _Waiter) -> None:
        try:
            connection = await self._connector(self.origin, self._new, waiter.connect_s)
        except Exception as error:  # noqa: BLE001 - whatever it is, the one who waits has to know
            self.connecting -= 1
            self._refuse(waiter, error)
            self._fill()
            return
        except BaseException:
            self.connecting -= 1
            raise
        self.connecting -= 1
        if connection.lost:
            self._refuse(waiter, failures.lost(None, sent=False))
            self._fill()
        else:
            self._open.add(connection)
            self._give(connection, waiter if waiter in self._dialing else None)

    def _new(self) -> Connection:
        return Connection(self._name, self)
