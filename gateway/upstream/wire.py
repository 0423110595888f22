"""One HTTP/1.1 connection to an origin: writes one request at a time, reads its response, tells its pool when free."""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import AsyncIterator
from math import inf
from typing import Final, cast

from gateway.errors import GatewayError
from gateway.model.route import Timeouts
from gateway.resilience.deadline import Deadline
from gateway.upstream import failures
from gateway.upstream.connect import ended_in_order, peer_of
from gateway.upstream.outgoing import Outgoing, asks_to_bind, send_chunked, send_sized
from gateway.upstream.parse import FIRST_STRIDE, TURN_BYTES, TURN_PARTS, ResponseParser, Violation, fitted
from gateway.upstream.reply import Owner, Reply
from gateway.upstream.watch import Watch

JOINED: Final = 16 * 1024
"""Bytes of body that are copied behind the head for the sake of one write."""

_REDIRECT: Final = 300
_UNAUTHORIZED: Final = 401
_LAST_LOOK_S: Final = 1.0
_LAST_INSTANT_S: Final = 0.002  # whoever enforces the deadline may cancel a hair before it ends
_TOO_LATE: Final = (b"HTTP/1.1 408", b"HTTP/1.0 408")
"""How some servers say that they end an idle connection: nobody's answer."""


class Connection(asyncio.Protocol):
    """One connection. `requests` counts those begun; a `kept` connection has had one before.

    In monotonic seconds: `began_s` is when the last exchange began, `answered_s` when the upstream was last heard to be
    well, `retire_at_s` from when on it takes no further exchange. `peer` is the address at the other end.
    `share_key` is whose it is at present, `sending` whether the body of that request is still arriving (see Shares).
    """

    __slots__ = (
        "_loop",
        "_owner",
        "_parser",
        "_poll",
        "_pump",
        "_reading_paused",
        "_reply",
        "_rest",
        "_resumed",
        "_sent",
        "_stride",
        "_transport",
        "_unwritten",
        "_write_s",
        "_writing_paused",
        "answered_s",
        "began_s",
        "bound",
        "lost",
        "name",
        "peer",
        "read_s",
        "requests",
        "retire_at_s",
        "sending",
        "share_key",
        "watch",
    )

    def __init__(self, name: str, owner: Owner) -> None:
        self.name = name
        self.peer = name
        self.requests = 0
        self.lost = False
        self.bound = False
        self.share_key = ""
        self.sending = False
        self.read_s = inf
        self.began_s = self.answered_s = time.monotonic()
        self.retire_at_s = inf
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._parser = ResponseParser()
        self._reply: Reply | None = None
        self._pump: asyncio.Task[None] | None = None
        self.watch = Watch(self._on_silence, self._on_deadline)
        self._write_s = inf
        self._reading_paused = False
        self._writing_paused = False
        self._unwritten = 0
        self._rest = b""
        self._stride = FIRST_STRIDE
        self._resumed: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        open_as = "IDLE" if self._reply is None else "READING" if self._parser.head_done else "WAITING"
        state = "CLOSED" if self.lost else open_as
        sending = " SENDING" if self._pump is not None else ""
        return f"<Connection {self.name} {state}{sending} requests={self.requests}>"

    # --- one exchange -------------------------------------------------------------------------------------------------

    async def exchange(self, head: bytes, outgoing: Outgoing, timeouts: Timeouts, deadline: Deadline) -> Reply:
        """Send `outgoing`, of which `head` is the head, and wait for the response head.

        Raises ConnectionLost when the connection ended before the first byte of a response, otherwise as
        `Upstream.exchange`; or what the request body raised.
        """
        reply = self._reply = Reply(self)
        waiter = reply.wait(self._loop)
        self.requests += 1
        self.began_s = time.monotonic()
        self.read_s = timeouts.read_s
        self._write_s = timeouts.write_s
        self.watch.deadline = deadline
        self._parser.start(reply, bare=outgoing.method == b"HEAD")
        try:
            self._write(head, outgoing)
            await waiter
        except BaseException:
            # Half an exchange is of no use to anybody; but by now the connection may be the next request's.
            if self._reads(reply):
                if deadline.remaining_s() <= _LAST_INSTANT_S:
                    self._owner.on_failed(self, failures.deadline_exceeded(sent=True))
                self.abort()
            raise
        if reply.error is not None and not reply.buffered:  # no head, or one with which the response broke off
            raise reply.error
        return reply

    def _reads(self, reply: Reply) -> bool:
        """Whether it is still this reply that is read. Asked by a function, as it changes while somebody waits."""
        return self._reply is reply

    def _write(self, head: bytes, outgoing: Outgoing) -> None:
        body = outgoing.body
        transport = self._transport
        self._sent = not (self.lost or transport.is_closing())
        if self.lost:
            self.abort(failures.lost(None, self.peer, sent=False))
            return
        if not self._sent:  # `connection_lost` is on its way, and knows why
            self.watch.start(self.read_s)
            return
        if not body:
            transport.write(head)
        elif isinstance(body, bytes):
            # The head leaves in one write, with a small body joined to it.
            if len(body) <= JOINED:
                transport.write(head + body)
            else:
                transport.writelines((head, body))
        else:
            transport.write(head)
            self.watch.start(self._write_s if self._writing_paused else inf)
            assert self._reply is not None  # noqa: S101 - `exchange` has just set it
            # A task of its own, so that a response which comes early is seen at once.
            self._pump = self._loop.create_task(self._send_body(self._reply, body, outgoing.content_length))
            return
        self._on_request_sent()

    def _on_request_sent(self) -> None:
        self.watch.start(self._write_s if self._writing_paused else self.read_s)

    # --- the request body ---------------------------------------------------------------------------------------------

    async def _send_body(self, reply: Reply, body: AsyncIterator[bytes], length: int | None) -> None:
        try:
            if length is None:
                await send_chunked(self._transport, body, self._ready_to_write)
            else:
                await send_sized(self._transport, body, length, self._ready_to_write)
        except asyncio.CancelledError:
            if not self._parser.head_done:  # not by us, or this is over anyway
                self.give_up(reply, GatewayError("bad_request", "The request body ended early."))
            raise
        except Exception as error:  # noqa: BLE001 - the caller's iterator may raise anything; it gets it back
            # A request whose body broke off is never ended, and the caller gets what the body raised.
            self._pump = None
            self.give_up(reply, error)
        else:
            self._pump = None
            if self._reply is reply and self.sending:
                self._owner.on_sent(self)
            if self._reply is reply and not self._parser.head_done:
                self._on_request_sent()

    async def _ready_to_write(self) -> None:
        """Wait until the upstream takes more; let an answer that is already there be read before a write can fail."""
        while self._writing_paused:
            resumed = self._resumed = self._loop.create_future()
            await resumed
        while not self._parser.head_done and self._readable():  # noqa: ASYNC110 - no event tells of it but the reading itself
            await asyncio.sleep(0)

    # --- what the reply calls -----------------------------------------------------------------------------------------

    def resume(self) -> None:
        """The caller took what was waiting."""
        if self._reading_paused:
            self._reading_paused = False
            if self._rest:
                self._loop.call_soon(self._go_on)
            else:
                self._transport.resume_reading()
            if self.share_key:
                self._owner.on_read(self)

    def become_stream(self, silence_s: float) -> None:
        """The answer may last for ever, and be silent for so long."""
        self.read_s = silence_s
        self._owner.on_stream(self)

    def give_up(self, reply: Reply, error: Exception | None = None) -> None:
        """End the exchange of `reply`, and the connection with it; nothing if that exchange is over already."""
        if self._reply is reply:
            self.abort(error)

    def abort(self, error: Exception | None = None) -> None:
        """Close at once, without sending what is still unsent; whoever waits gets `error`. May be called again.

        For whoever owns the connection. An exchange calls `give_up`.
        """
        reply = self._reply
        self._reply = None
        self._rest = b""
        self.watch.stop()
        if self._pump is not None:
            self._pump.cancel()
        self._transport.abort()
        if not self.lost:
            self.lost = True
            self._owner.on_lost(self)
        if reply is not None:
            # An exchange whose connection ends always has an outcome.
            reply.fail(error or failures.broken_off(None, self.peer))

    # --- what the pool calls ------------------------------------------------------------------------------------------

    def usable(self) -> bool:
        """Whether it may take another request. If not, it is lost afterwards.

        What lies unread in the socket is its end, or an answer that nobody asked for and the next request would get.
        """
        if not self.lost and self._readable():
            self._retire()
        return not self.lost

    # --- what the event loop calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected, TLS included."""
        self._transport = cast("asyncio.Transport", transport)
        self.peer = peer_of(transport) or self.name
        self._poll = select.poll()
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        """Bytes of a response, or bytes that nobody asked for."""
        reply = self._reply
        if reply is None:
            if not data.startswith(_TOO_LATE):
                self._owner.on_unasked(self)
            self.abort()
            return
        if len(data) <= FIRST_STRIDE and not self._rest:
            self._parse(reply, data, more=False)
        elif self._rest:  # TLS may deliver a little after reading was paused
            self._rest += data
        else:
            self._parse_in_turns(reply, data)

    def _parse_in_turns(self, reply: Reply, data: bytes) -> bool:
        """So much of it as this turn of the loop allows; whether that is all. The stride fits the work in the bytes."""
        parser, size, at, parts = self._parser, len(data), 0, 0
        while at < size and self._reply is reply:
            # Between turns other connections have theirs.
            if at >= TURN_BYTES or parts >= TURN_PARTS or self._reading_paused:
                self._rest = data[at:]
                self._transport.pause_reading()
                if not self._reading_paused:
                    self._loop.call_soon(self._go_on)
                return False
            before, begun = parser.parts, at
            at = min(size, at + self._stride)
            self._parse(reply, data[begun:at], more=at < size)
            grown = max(0, parser.parts - before)
            parts += grown
            self._stride = fitted(self._stride, grown)
        return True

    def _go_on(self) -> None:
        """The next turn with what is left."""
        reply, data = self._reply, self._rest
        if reply is None or not data or self._reading_paused:
            return
        self._rest = b""
        if self._parse_in_turns(reply, data):
            self._read_on()

    def _read_on(self) -> None:
        if not (self._reading_paused or self.lost):
            self._transport.resume_reading()

    def _parse_rest(self) -> None:
        """The connection ends: what has come counts all the same."""
        if self._rest and self._reply is not None:
            data, self._rest = self._rest, b""
            self._parse(self._reply, data, more=False)

    def _parse(self, reply: Reply, data: bytes, *, more: bool) -> None:
        """`more`: there is more that came with it."""
        parser = self._parser
        try:
            parser.feed(data)
        except Violation as error:
            self._fail(failures.protocol_error(str(error)))
            return
        if parser.complete:
            parser.surplus = parser.surplus or more
            self._complete(reply)
        elif parser.head_done:
            self._on_part(reply)
        else:
            self.watch.heard()

    def eof_received(self) -> bool:
        """The upstream will send no more, which completes a body that has no other end."""
        self._parse_rest()
        reply = self._reply
        if reply is not None and self._parser.ends_here and ended_in_order(self._transport):
            self._complete(reply)
        self._fail_lost(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._parse_rest()
        self._fail_lost(exc)
        self.watch.close()
        self._owner.on_closed(self)

    def pause_writing(self) -> None:
        """The upstream takes less than we write."""
        self._writing_paused = True
        self._unwritten = self._transport.get_write_buffer_size()
        if self._reply is not None:
            self.watch.start(self._write_s)

    def resume_writing(self) -> None:
        """The upstream took what was waiting."""
        self._writing_paused = False
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)
        if self._reply is not None:
            self.watch.start(inf if self._pump is not None and not self._parser.head_done else self.read_s)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _on_part(self, reply: Reply) -> None:
        """The head is there, or more of the body."""
        # The deadline is watched only until the head, silence only while somebody waits for the upstream.
        self.watch.stop()
        # An early response of 3xx and above stops the sending (RFC 9112 section 9.5), one below need not.
        if self._pump is not None and reply.status >= _REDIRECT:
            self._pump.cancel()
        reply.wake()
        if reply.full and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()
            if self.share_key:
                self._owner.on_unread(self)

    def _complete(self, reply: Reply) -> None:
        parser = self._parser
        self._reply = None
        self.watch.stop()
        self.answered_s = time.monotonic()
        reply.finish()
        if parser.surplus and not parser.bare:
            self._owner.on_unasked(self)
        if self._keepable(reply):
            if self._reading_paused:
                self.resume()
            self._owner.on_free(self)
        else:
            self.abort()

    def _keepable(self, reply: Reply) -> bool:
        parser = self._parser
        # Whole, kept alive by both, no byte beyond it, and all of the request sent.
        if not parser.keep_alive or parser.surplus or self._pump is not None or self._writing_paused or self.bound:
            return False
        # Nor one that stands for a user (Negotiate, NTLM).
        return reply.status != _UNAUTHORIZED or not asks_to_bind(reply.headers)

    def _retire(self) -> None:
        """Take no more requests, and read what is there before closing."""
        self.lost = True
        self._owner.on_lost(self)
        self.watch.start(_LAST_LOOK_S)

    def _fail(self, error: Exception) -> None:
        """The upstream does not answer as it should."""
        self._owner.on_failed(self, error)
        self.abort(error)

    def _fail_lost(self, error: Exception | None) -> None:
        if self._reply is None:
            self.abort()
        elif self._parser.received:
            self._fail(failures.broken_off(error, self.peer))
        else:
            self._fail(failures.lost(error, self.peer, sent=self._sent))

    def _readable(self) -> bool:
        return bool(self._poll.poll(0))

    def _on_deadline(self) -> None:
        self._fail(failures.deadline_exceeded(sent=True))

    def _on_silence(self) -> None:
        if self._reply is None:  # at rest for long enough
            self.abort()
            return
        unwritten = self._transport.get_write_buffer_size()
        if not self._writing_paused:
            self._fail(failures.read_timed_out(self.watch.silence_s, self.peer))
        elif unwritten < self._unwritten:  # slow, but not silent
            self._unwritten = unwritten
            self.watch.start(self._write_s)
        else:
            self._fail(failures.write_timed_out(self._write_s, self.peer))
