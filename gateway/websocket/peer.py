"""One side of an open WebSocket, on an asyncio transport: `take` what it sent, `give` it what the other side sent.

Turns: at most a slice of what a side sent is worked on in one turn of the loop; the rest waits for the next turn, so
that one side that sends much, or many small things, leaves everybody else their turns.
Backpressure: what was read and not taken is one slice at most; beyond that nothing is read from the socket. `give`
returns when the other side has taken most of it. A side that waits like this is never taken for dead: there are no
pings of ours, and TCP's own keep-alive finds the ones whose machine is gone.
Pings are answered here, also while nothing is taken: MAX_CONTROLS a second at once, then one for those that came when
the second is over. Who goes on sending control frames meanwhile, or pings without reading pongs, is closed with 1008.
Closing: who broke a rule is told so, and what it still sends is thrown away for a while, as a TCP reset would take the
close frame from it; no more than MAX_THROWN_AWAY, after which nothing is read from the socket. A close handshake has a
time limit, after which the connection is broken off.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Final

from gateway.websocket.frames import (
    ABNORMAL,
    CLOSE,
    FIN,
    MAX_MESSAGE,
    PING,
    POLICY,
    PONG,
    SLICE_BYTES,
    SLICE_FRAMES,
    End,
    FrameReader,
    Piece,
    Violation,
    close_payload,
    encode,
    end_of,
)

MAX_CONTROLS: Final = 100
"""Control frames in a second, and pings whose pongs are not read."""
MAX_LATE: Final = 20
"""Control frames beyond those: who waits for each pong before the next ping is slowed down and not closed."""
MAX_THROWN_AWAY: Final = 1 << 20
"""Bytes: more than is under way when it learns that it is closed. Who sends on without end costs nobody his turns."""
_LINGER_S: Final = 2.0
_PROBES: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))


def _nobody() -> None:
    """Nobody wants to know."""


class Peer(asyncio.Protocol):
    """One side. `client`: we are its client, so our frames are masked and its are not (section 5.1).

    `heard` is called whenever it shows life: anything arrived, or it took something that it had been slow to take.
    `close_timeout_s` is how long it has for its part of a closing handshake. `lost` is done when TCP has ended.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, client: bool, close_timeout_s: float) -> None:
        self.loop = loop
        self.transport: asyncio.Transport
        self.heard: Callable[[], None] = _nobody
        self.lost: asyncio.Future[None] = loop.create_future()
        self._ended: End | None = None
        self._client = client
        self._close_timeout_s = close_timeout_s
        self._reader = FrameReader(masked=not client)
        self._ready: list[Piece] = []
        self._ready_bytes = 0
        self._waiting: asyncio.Future[None] | None = None  # who wants to take
        self._drained: asyncio.Future[None] | None = None  # who wants to give; set while the buffer is full
        self._scheduled = False
        self._paused_at_s: float | None = None
        self._closing = False  # our close frame is out
        self._ending: asyncio.TimerHandle | None = None
        self._pong = b""
        self._held_pongs = 0
        self._late: asyncio.TimerHandle | None = None
        self._controls = 0
        self._window_s = 0.0
        self._thrown_away = 0

    def begin(self, max_message: int = MAX_MESSAGE, heard: Callable[[], None] = _nobody) -> None:
        """The handshake is over: what arrives is frames. `max_message` is in bytes."""
        self._reader.max_message = max_message
        self.heard = heard
        raw: socket.socket | None = self.transport.get_extra_info("socket")
        if raw is not None and raw.family != socket.AF_UNIX:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _PROBES:
                if hasattr(socket, name):
                    raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    async def take(self) -> Sequence[Piece] | End:
        """What it sent, a slice at most, or how it ended; waits for one of these. One taker at a time."""
        while not self._ready:
            if self._ended is not None:
                return self._ended
            self._waiting = self.loop.create_future()
            await self._waiting
        pieces, self._ready, self._ready_bytes = self._ready, [], 0
        self._pace()
        return pieces

    async def give(self, pieces: Sequence[Piece]) -> None:
        """Send it frames, and wait until it has taken most of what it was sent. ConnectionError if it has ended."""
        if self._closing or self.transport.is_closing():
            raise ConnectionResetError
        self.transport.write(encode(pieces, masked=self._client))
        if self._drained is not None:
            await asyncio.shield(self._drained)
            self.heard()

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake, if it has not begun; `wait_closed` for its end."""
        if not self._closing:
            self._say_close(close_payload(code, reason))
            self._end_within(self._close_timeout_s)

    async def wait_closed(self) -> None:
        """Until the connection is gone."""
        await asyncio.shield(self.lost)

    # What arrives

    def data_received(self, data: bytes) -> None:
        """Bytes. They are worked on at once, unless this side had its turn."""
        self.heard()
        if self._reader.over:
            self._throw_away(data)
            return
        self._reader.feed(data)
        if not self._scheduled:
            self._work()

    def _throw_away(self, data: bytes) -> None:
        before, self._thrown_away = self._thrown_away, self._thrown_away + len(data)
        if before <= MAX_THROWN_AWAY < self._thrown_away and not self.transport.is_closing():
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # asyncio's signature
        """The connection is gone. What came before that is still read to its end."""
        for timer in (self._ending, self._late):
            if timer is not None:
                timer.cancel()
        if not self.lost.done():
            self.lost.set_result(None)
        if not self._reader.behind:
            self._end(End(ABNORMAL))
        self.resume_writing()

    def _turn(self) -> None:
        self._scheduled = False
        self._work()

    def _work(self) -> None:
        """Read one slice."""
        reader = self._reader
        pieces = reader.read(SLICE_FRAMES - len(self._ready), SLICE_BYTES - self._ready_bytes)
        if pieces and self._ended is None and not self._closing:
            self._ready += pieces
            self._ready_bytes += sum(len(data) for _, data in pieces)
            self._wake()
        if reader.controls:
            self._heed(reader.controls)
        if reader.violation is not None:
            self._fail(reader.violation)
        elif self.lost.done() and not reader.behind:
            self._end(End(ABNORMAL))
        self._pace(worked=bool(pieces or reader.controls))

    def _pace(self, *, worked: bool = True) -> None:
        """Decide whether this side goes on with what is here, and whether more is read from its socket."""
        full = self._ended is None and (len(self._ready) >= SLICE_FRAMES or self._ready_bytes >= SLICE_BYTES)
        behind = self._reader.behind
        if behind and worked and not full and not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._turn)
        if (behind or full) is (self._paused_at_s is None) and not self.transport.is_closing():
            self._switch_reading()

    def _switch_reading(self) -> None:
        if self._paused_at_s is None:
            self._paused_at_s = self.loop.time()
            self.transport.pause_reading()
            return
        paused_s = self.loop.time() - self._paused_at_s
        if paused_s >= 1:  # what it sent meanwhile comes all at once
            self._window_s, self._controls = self.loop.time(), -int(MAX_CONTROLS * paused_s)
        self._paused_at_s = None
        self.transport.resume_reading()

    def _heed(self, controls: list[Piece]) -> None:
        now_s = self.loop.time()
        if now_s - self._window_s >= 1:
            self._window_s, self._controls = now_s, 0
        self._controls += len(controls)
        if self._controls > MAX_CONTROLS + MAX_LATE:
            self._fail(Violation(POLICY, "too many control frames"))
            return
        for first, data in controls:
            if first == FIN | CLOSE:
                self._closed_by_it(data)
                return
            if first == FIN | PING and not self._closing and not self.transport.is_closing():
                self._answer(data)

    def _answer(self, data: bytes) -> None:
        """A pong, or later one for all pings until then (section 5.5.3)."""
        if self._drained is None and self._controls <= MAX_CONTROLS:
            self.transport.write(encode([(FIN | PONG, data)], masked=self._client))
            return
        self._pong = data
        self._held_pongs += 1
        if self._held_pongs > MAX_CONTROLS:
            self._fail(Violation(POLICY, "the pongs are not read"))
        elif self._late is None:
            self._late = self.loop.call_at(self._window_s + 1, self._answer_late)

    def _answer_late(self) -> None:
        self._late = None
        if self._held_pongs and self._drained is None and not self._closing and not self.transport.is_closing():
            self._held_pongs = 0
            self.transport.write(encode([(FIN | PONG, self._pong)], masked=self._client))

    # The end

    def _closed_by_it(self, payload: bytes) -> None:
        if self._closing:
            self._leave()
            return
        try:
            end = end_of(payload)
        except Violation as violation:
            self._fail(violation)
            return
        self._end(end)
        self._say_close(payload[:2])
        self._leave()

    def _leave(self) -> None:
        """Both have said that they close. The server ends TCP first (section 7.1.1)."""
        self._end_within(_LINGER_S)
        if not self._client:
            self.transport.close()

    def _fail(self, violation: Violation) -> None:
        """It broke a rule (section 7.1.7): say so, and listen no more."""
        self._end(End(violation.code, violation.reason, broke=True))
        self._reader.stop()
        if not self._closing:
            self._say_close(close_payload(violation.code, violation.reason))
            if not self._client and self.transport.can_write_eof() and not self.transport.is_closing():
                self.transport.write_eof()
        self._end_within(_LINGER_S)

    def _say_close(self, payload: bytes) -> None:
        """Nothing leaves after this, and nothing that comes after this is passed on."""
        self._closing = True
        if not self.transport.is_closing():
            self.transport.write(encode([(FIN | CLOSE, payload)], masked=self._client))
        if self._ended is None:
            self._ready, self._ready_bytes = [], 0
        self._pace()

    def _end_within(self, seconds: float) -> None:
        if self._ending is not None:
            self._ending.cancel()
        if not self.lost.done():
            self._ending = self.loop.call_later(seconds, self.transport.abort)

    def _end(self, end: End) -> None:
        if self._ended is None:
            self._ended = end
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    # What leaves

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        if self._drained is None:
            self._drained = self.loop.create_future()

    def resume_writing(self) -> None:
        """The transport's buffer has drained, or nothing will ever drain it."""
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)
        if self._held_pongs and self._late is None:
            self._answer_late()
