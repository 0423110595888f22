"""The connections to one origin: which one a request gets, and what becomes of it afterwards."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from math import inf
from typing import Final

from gateway.errors import GatewayError
from gateway.model.route import Timeouts
from gateway.resilience.deadline import Deadline
from gateway.upstream import failures
from gateway.upstream.connect import Connector, Origin
from gateway.upstream.idle import Idle
from gateway.upstream.outgoing import Outgoing, binds_connection, head_of
from gateway.upstream.reply import Reply
from gateway.upstream.sharing import Shares, Turns, Waiter
from gateway.upstream.wire import Connection

UNKEPT_S: Final = 60.0
"""How long an origin that sent what nobody asked for has no kept connections."""
_JITTER: Final = 0.1
_RELIEF_S: Final = 0.25
_FIRST_S: Final = 0.002
"""So much before the deadline the wait ends, so that the caller learns from here what it was that took too long."""

_log = logging.getLogger("gateway.upstream")


class Pool:
    """The connections to `origin`. One event loop only."""

    def __init__(
        self,
        origin: Origin,
        connector: Connector,
        *,
        max_connections: int,
        max_pending: int,
        idle_timeout_s: float,
        max_age_s: float = inf,
    ) -> None:
        self.origin = origin
        self._name = str(origin)
        self._connector = connector
        self._max_connections = max_connections
        self._max_pending = max_pending
        self._idle_timeout_s = idle_timeout_s
        self._max_age_s = max_age_s
        self._unkept_until_s = 0.0
        self._open: set[Connection] = set()
        self._idle = Idle()
        self._closing: set[Connection] = set()
        self._dials: set[asyncio.Task[None]] = set()
        self._dialing: dict[Waiter, None] = {}
        self._queue: Turns[Waiter] = Turns()
        self._shares = Shares(max_connections)
        self._streams: set[Connection] = set()
        self._reliever: asyncio.TimerHandle | None = None
        self._closed = False
        self._emptied: asyncio.Future[None] | None = None
        self.connecting = 0
        """Connections being made."""
        self.last_error: dict[str, object] | None = None
        """What went wrong last: its `code`, its `reason` and `at_s` in Unix time."""

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
        return self._queue.count

    @property
    def streams(self) -> int:
        """Connections with answers that may last for ever."""
        return len(self._streams)

    @property
    def limit(self) -> int:
        """How many connections there may be, streams apart."""
        return self._max_connections

    @property
    def has_room(self) -> bool:
        """Whether one more request may wait."""
        return self._queue.count < self._max_pending

    @property
    def load(self) -> int:
        """Requests that have or wait for a connection: what balancing compares."""
        return len(self._open) - len(self._idle) + len(self._streams) + len(self._dialing) + self._queue.count

    def update(self, *, max_connections: int, max_pending: int, idle_timeout_s: float, max_age_s: float) -> None:
        """Go on under other limits. Connections that are too many now are closed as they grow idle and old."""
        self._max_connections = max_connections
        self._max_pending = max_pending
        self._idle_timeout_s = idle_timeout_s
        self._max_age_s = max_age_s
        self._shares.limit(max_connections)
        self._fill()

    async def exchange(self, outgoing: Outgoing, timeouts: Timeouts, deadline: Deadline) -> Reply:
        """See `Upstream.exchange`; ConnectFailed when no connection could be made."""
        head = head_of(outgoing)
        # One at rest is used before a new one is made.
        connection = None if outgoing.fresh else self._take_for(outgoing)
        if connection is None:
            connection = await self._wait_for_one(outgoing, timeouts, deadline)
        connection.bound = binds_connection(head)
        kept = connection.requests > 0
        try:
            return await connection.exchange(head, outgoing, timeouts, deadline)
        except failures.ConnectionLost as lost:
            # Replaced once, if nothing was sent or it may be repeated (RFC 9110 section 9.2.2).
            if not kept or (lost.sent and not outgoing.replayable):
                raise
        # New means never used: where one kept connection was dead the next may be too.
        connection = await self._obtain(outgoing, timeouts, deadline, new=True)
        return await connection.exchange(head, outgoing, timeouts, deadline)

    async def aclose(self) -> None:
        """Close every connection, also those in use; requests that wait are refused."""
        self._closed = True
        if self._reliever is not None:
            self._reliever.cancel()
        for waiter in [*self._queue.everyone(), *self._dialing]:
            self._refuse(waiter, failures.closed(sent=False))
        dials = [*self._dials]
        for dial in dials:
            dial.cancel()
        await asyncio.gather(*dials, return_exceptions=True)
        for connection in [*self._open, *self._streams]:
            connection.abort(failures.closed(sent=True))
        if self._closing:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    # --- what connections call ----------------------------------------------------------------------------------------

    def on_free(self, connection: Connection) -> None:
        """An exchange is over: the connection goes to who waits, or rests."""
        now_s = connection.answered_s
        if connection.share_key:
            self._shares.release(connection)
        # After `max_age_s` it takes no further request: whoever connects follows a name that has moved.
        if now_s >= connection.retire_at_s or now_s < self._unkept_until_s or connection in self._streams:
            connection.abort()
        elif self._queue or self._dialing or self._closed:
            self._give(connection)
        else:
            self._idle.rest(connection, self._idle_timeout_s, now_s)

    def on_lost(self, connection: Connection) -> None:
        """A connection will take no more requests: its place is free."""
        self._open.discard(connection)
        self._streams.discard(connection)
        self._closing.add(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if connection.share_key:
            self._shares.release(connection)
        self._fill()

    def on_sent(self, connection: Connection) -> None:
        """Its caller may send another one."""
        self._shares.sent(connection)
        self._fill()

    def on_unread(self, connection: Connection) -> None:
        """See Owner."""
        self._shares.unread(connection)

    def on_read(self, connection: Connection) -> None:
        """See Owner."""
        self._shares.read(connection)
        self._fill()

    def on_stream(self, connection: Connection) -> None:
        """It gives its place to the next request; the limit of streams is the server's."""
        if connection in self._open:
            self._open.discard(connection)
            self._streams.add(connection)
            if connection.share_key:
                self._shares.release(connection)
            self._fill()

    def on_closed(self, connection: Connection) -> None:
        """Its socket is closed."""
        self._closing.discard(connection)
        if self._emptied is not None and not self._closing and not self._emptied.done():
            self._emptied.set_result(None)

    def on_failed(self, connection: Connection, error: Exception) -> None:
        """What fails on a kept connection makes suspect those at rest that have answered nothing since it began."""
        self._note(error)
        if connection.requests > 1:
            self._idle.end_silent_since(connection.began_s)

    def on_unasked(self, connection: Connection) -> None:
        """It sent what nobody asked for: keep no connection, or the next request gets another's answer."""
        if connection.requests:
            _log.warning(
                "[upstream] %s sent an answer that nobody asked for: its connections are not kept for %g s",
                self._name,
                UNKEPT_S,
            )
            self._unkept_until_s = time.monotonic() + UNKEPT_S
            self._idle.end_all()

    # --- getting a connection -----------------------------------------------------------------------------------------

    async def _wait_for_one(self, outgoing: Outgoing, timeouts: Timeouts, deadline: Deadline) -> Connection:
        connection = await self._obtain(outgoing, timeouts, deadline, new=outgoing.fresh)
        if connection.requests and not connection.usable():  # something came since it was given to us
            connection = await self._obtain(outgoing, timeouts, deadline, new=True)
        return connection

    def _take_for(self, outgoing: Outgoing) -> Connection | None:
        key = outgoing.share_key
        if not key:
            return self._idle.take()
        sending = outgoing.streamed
        if not self._idle or not self._shares.may(key, sending=sending):
            return None
        connection = self._idle.take()
        if connection is not None:
            connection.share_key, connection.sending = key, sending
            self._shares.take(key, sending=sending)
        return connection

    async def _obtain(
        self, outgoing: Outgoing, timeouts: Timeouts, deadline: Deadline, *, new: bool = False
    ) -> Connection:
        """Wait for a connection; a `new` one was never used, even if one of those kept has to go for it."""
        waiter = self._wait(outgoing, timeouts.connect_s, new=new)
        end = self._expire_at(waiter, deadline)
        if waiter not in self._dialing:  # it stands in our queue, of which the upstream knows nothing
            deadline.excuse()
        try:
            return await waiter.future
        except BaseException:
            self._leave(waiter)
            raise
        finally:
            deadline.excuse_ends()
            if end is not None:
                end.cancel()

    def _wait(self, outgoing: Outgoing, connect_s: float, *, new: bool) -> Waiter:
        if self._closed:
            raise failures.closed(sent=False)
        if new and self._full and self._idle:
            self._idle[0].abort()
        waiter = Waiter(outgoing, connect_s, new=new)
        # Who waits has a connection being made for it, or stands in the queue for a place.
        if not self._full and self._may(waiter):
            self._dial(waiter)
        else:
            self._enqueue(waiter)
        return waiter

    def _enqueue(self, waiter: Waiter) -> None:
        if self._queue.count >= self._max_pending:
            too_many = failures.overloaded(f"{self._max_pending} requests wait for a connection")
            if not self._queue or (loser := self._queue.loser(waiter.share_key)) is None:
                raise too_many
            self._refuse(loser, too_many)
        self._queue.add(waiter)
        if self._reliever is None:
            self._reliever = asyncio.get_running_loop().call_later(_RELIEF_S, self._relieve)

    def send_away(self) -> None:
        """Whoever waits for a connection looks for another origin."""
        for waiter in [*self._queue.everyone(), *self._dialing]:
            self._refuse(waiter, failures.sent_away())

    def _relieve(self) -> None:
        """While requests wait: break off what other callers leave unread beyond their share."""
        self._reliever = None
        if not self._queue or self._closed:
            return
        if self._full:
            for connection in self._shares.break_off(self._queue):
                connection.abort(failures.unread())
        self._fill()
        if self._queue:
            self._reliever = asyncio.get_running_loop().call_later(_RELIEF_S, self._relieve)

    def _may(self, waiter: Waiter) -> bool:
        return self._shares.may(waiter.share_key, sending=waiter.sending)

    def _expire_at(self, waiter: Waiter, deadline: Deadline) -> asyncio.TimerHandle | None:
        if deadline.at_s == inf:
            return None
        return asyncio.get_running_loop().call_at(deadline.at_s - _FIRST_S, self._refuse_late, waiter)

    def _leave(self, waiter: Waiter) -> None:
        """A request gives up waiting; what it was given meanwhile goes on to the next."""
        self._forget(waiter)
        future = waiter.future
        if future.done() and not future.cancelled() and future.exception() is None:
            connection = future.result()
            if not connection.lost:
                if connection.share_key:
                    self._shares.release(connection)
                self._give(connection)

    def _forget(self, waiter: Waiter) -> None:
        """It waits no longer, and got nothing."""
        self._queue.drop(waiter)
        self._dialing.pop(waiter, None)
        if waiter.holds:
            self._shares.give_back(waiter)
            if self._queue:
                asyncio.get_running_loop().call_soon(self._fill)

    def _refuse(self, waiter: Waiter, error: Exception) -> None:
        self._forget(waiter)
        if not waiter.future.done():
            waiter.future.set_exception(error)

    def _refuse_late(self, waiter: Waiter) -> None:
        dialing = waiter in self._dialing
        self._refuse(waiter, failures.deadline_exceeded(sent=False) if dialing else failures.queued_too_long())

    @property
    def _full(self) -> bool:
        return len(self._open) + self.connecting >= self._max_connections

    def _first_waiter(self, *, used: bool) -> Waiter | None:
        """Who gets a connection: the queue first, as the others have one on its way."""
        if self._queue and (waiter := self._queue.first(self._may, self._shares.modest)) is not None:
            return waiter
        return next((waiter for waiter in self._dialing if not (used and waiter.new)), None)

    def _give(self, connection: Connection, waiter: Waiter | None = None) -> None:
        """Let `waiter` have it, or the first one that waits, or let it rest."""
        used = connection.requests > 0
        waiter = waiter or self._first_waiter(used=used)
        while waiter is not None and waiter.future.done():  # cancelled in this turn of the loop: it has not left yet
            self._forget(waiter)
            waiter = self._first_waiter(used=used)
        if self._closed or (used and waiter is not None and waiter.new):
            connection.abort()  # its place is free then, for the new one that the first of the queue needs
        elif waiter is None:
            self._idle.rest(connection, self._idle_timeout_s, time.monotonic())
        else:
            self._dialing.pop(waiter, None)
            self._hand_over(connection, waiter)

    def _hand_over(self, connection: Connection, waiter: Waiter) -> None:
        self._queue.taken(waiter)
        if waiter.share_key:
            self._shares.hand_over(connection, waiter)
        waiter.future.set_result(connection)

    def _fill(self) -> None:
        """Use free places, and connections at rest, for those who stand in the queue."""
        while self._queue and not self._closed and (self._idle or not self._full):
            waiter = self._queue.first(self._may, self._shares.modest)
            if waiter is None:
                return
            if waiter.future.done():  # cancelled in this turn of the loop: it has not left yet
                self._forget(waiter)
            elif self._idle and not waiter.new:
                self._hand_over_kept(waiter)
            elif not self._full:
                self._queue.taken(waiter)
                self._dial(waiter)
            else:
                self._idle[0].abort()

    def _hand_over_kept(self, waiter: Waiter) -> None:
        if (connection := self._idle.take()) is None:
            return
        if waiter.future.done() or waiter in self._dialing:  # served while connections were looked at
            self._give(connection)
        else:
            self._hand_over(connection, waiter)

    # --- making connections -------------------------------------------------------------------------------------------

    def _dial(self, waiter: Waiter) -> None:
        self._dialing[waiter] = None
        if waiter.share_key:
            self._shares.reserve(waiter)
        self.connecting += 1
        # The pool's task, not the request's: if that leaves, the connection goes to the next one.
        dial = asyncio.get_running_loop().create_task(self._connect(waiter))
        self._dials.add(dial)
        dial.add_done_callback(self._dials.discard)

    async def _connect(self, waiter: Waiter) -> None:
        try:
            connection = await self._connector(self.origin, self._new, waiter.connect_s)
        except Exception as error:  # noqa: BLE001 - whatever it is, the one who waits has to know
            self._note(error)
            self.connecting -= 1
            self._refuse(waiter, error)
            self._fill()
            return
        except BaseException:
            self.connecting -= 1
            raise
        self.connecting -= 1
        if connection.lost:
            self._refuse(waiter, failures.lost(None, connection.peer, sent=False))
            self._fill()
        else:
            self._open.add(connection)
            # A tenth more or less, so that connections do not end together.
            connection.retire_at_s = time.monotonic() + self._max_age_s * (1 + _JITTER * (2 * random.random() - 1))  # noqa: S311
            self._give(connection, waiter if waiter in self._dialing else None)

    def _note(self, error: Exception) -> None:
        if isinstance(error, GatewayError):
            self.last_error = {"code": error.code, "reason": error.reason, "at_s": time.time()}

    def _new(self) -> Connection:
        return Connection(self._name, self)
