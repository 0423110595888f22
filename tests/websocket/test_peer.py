"""One side of a WebSocket by itself: turns, backpressure, pings, closing; on a transport and a clock of the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from gateway.websocket import End, Peer, Piece
from gateway.websocket.frames import BINARY, CLOSE, FIN, PING, PONG, SLICE_FRAMES
from gateway.websocket.peer import MAX_CONTROLS, MAX_LATE

pytestmark = pytest.mark.hazard
MESSAGE = (FIN | BINARY, b"xx")


class FakeLoop:
    """What is called soon or later is called when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.soon: list[Callable[[], None]] = []
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now_s

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    def call_soon(self, call: Callable[[], None]) -> None:
        self.soon.append(call)

    def call_at(self, at_s: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(at_s, call))
        return self.timers[-1]

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        return self.call_at(self.now_s + seconds, call)

    def turn(self) -> bool:
        """One turn; False if nothing was due."""
        calls, self.soon = self.soon, []
        for call in calls:
            call()
        return bool(calls)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        due = [timer for timer in self.timers if timer.at_s <= self.now_s and not timer.cancelled]
        self.timers = [timer for timer in self.timers if timer.at_s > self.now_s]
        for timer in due:
            timer.call()


class Timer:
    def __init__(self, at_s: float, call: Callable[[], None]) -> None:
        self.at_s = at_s
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeTransport:
    def __init__(self) -> None:
        self.written = b""
        self.reading = True
        self.ended = ""

    def get_extra_info(self, name: str) -> None:
        return None

    def is_closing(self) -> bool:
        return self.ended in {"closed", "aborted"}

    def write(self, data: bytes) -> None:
        assert not self.ended
        self.written += data

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = "eof"

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"


class Side:
    """A peer that is our client, unless `client` says that we are its."""

    def __init__(self, *, client: bool = False, max_message: int = 1 << 24) -> None:
        self.loop = FakeLoop()
        self.transport = FakeTransport()
        self.peer = Peer(self.loop, client=client, close_timeout_s=5)  # type: ignore[arg-type]
        self.peer.transport = self.transport  # type: ignore[assignment]
        self.client = client
        self.lives = 0
        self.peer.begin(max_message, self.live)

    def live(self) -> None:
        self.lives += 1

    def wire(self, *pieces: Piece) -> bytes:
        return b"".join(
            Frame(Opcode(first & 15), data, bool(first & FIN)).serialize(mask=not self.client) for first, data in pieces
        )

    def says(self, *pieces: Piece) -> None:
        self.peer.data_received(self.wire(*pieces))

    def turns(self) -> int:
        count = 0
        while self.loop.turn():
            count += 1
        return count

    async def take(self) -> Any:
        return await asyncio.wait_for(self.peer.take(), 1)

    def heard(self) -> list[Piece]:
        """The frames written to it, when we are the server."""
        frames, data = [], self.transport.written
        while data:
            size = data[1]
            frames.append((data[0], data[2 : 2 + size]))
            data = data[2 + size :]
        return frames

    def close_code(self) -> int:
        first, payload = self.heard()[-1]
        assert first == FIN | CLOSE
        return int.from_bytes(payload[:2])


async def test_a_side_that_sends_much_has_one_slice_a_turn_and_is_not_read_meanwhile() -> None:
    side = Side()
    side.says(*[MESSAGE] * 1000)
    assert not side.transport.reading
    taken = 0
    for _ in range(1000 // SLICE_FRAMES + 1):
        assert side.turns() <= 1
        pieces = await side.take()
        assert len(pieces) <= SLICE_FRAMES
        taken += len(pieces)
    assert taken == 1000
    assert side.turns() == 0
    assert side.transport.reading


async def test_what_nobody_takes_is_not_read_either() -> None:
    side = Side()
    for _ in range(50):
        if side.transport.reading:
            side.says((FIN | BINARY, b"x" * 60_000))
        side.turns()
    assert side.peer._ready_bytes + len(side.peer._reader._buffer) < 300_000
    assert not side.transport.reading
    count = 0
    while not side.transport.reading:
        count += len(await side.take())
        side.turns()
    assert 1 <= count <= 5


async def test_a_wait_for_the_other_side_costs_no_turns() -> None:
    side = Side()
    side.says(*[(FIN | BINARY, b"x" * 40_000)] * 5)
    assert side.turns() <= 1
    assert side.turns() == 0


async def test_a_ping_is_answered_though_nobody_takes_the_messages_before_it() -> None:
    side = Side()
    side.says(MESSAGE, (FIN | PING, b"a"), MESSAGE)
    assert side.heard() == [(FIN | PONG, b"a")]


async def test_who_pings_faster_than_is_answered_is_slowed_down() -> None:
    side = Side()
    for number in range(MAX_CONTROLS):
        side.says((FIN | PING, b"%d" % number))
    assert len(side.heard()) == MAX_CONTROLS
    side.says((FIN | PING, b"one"))
    side.says((FIN | PING, b"more"))
    assert len(side.heard()) == MAX_CONTROLS
    side.loop.sleep(1)
    assert side.heard()[MAX_CONTROLS:] == [(FIN | PONG, b"more")]


@pytest.mark.parametrize("opcode", [PING, PONG])
async def test_a_flood_of_control_frames_is_closed_with_1008(opcode: int) -> None:
    side = Side()
    side.says(*[(FIN | opcode, b"")] * (MAX_CONTROLS + MAX_LATE + 1))
    side.turns()
    assert side.close_code() == 1008
    assert await side.take() == End(1008, "too many control frames", broke=True)
    assert len(side.heard()) <= MAX_CONTROLS + 1


async def test_a_hundred_a_second_are_no_flood() -> None:
    side = Side()
    for _ in range(10):
        side.says(*[(FIN | PONG, b"")] * MAX_CONTROLS)
        side.turns()
        side.loop.sleep(1)
    assert side.heard() == []


async def test_pings_that_waited_with_their_sender_are_no_flood() -> None:
    side = Side()
    side.says(*[(FIN | BINARY, b"x" * 40_000)] * 2)
    assert not side.transport.reading
    side.loop.sleep(60)
    while not side.transport.reading:
        await side.take()
        side.turns()
    side.says(*[(FIN | PING, b"")] * 240)
    side.turns()
    assert CLOSE not in {first & 15 for first, _ in side.heard()}


async def test_pongs_that_are_not_read_are_one_and_too_many_pings_for_them_close() -> None:
    side = Side()
    side.peer.pause_writing()
    for number in range(MAX_CONTROLS):
        side.says((FIN | PING, b"%d" % number))
        side.loop.sleep(1)
    assert side.heard() == []
    side.peer.resume_writing()
    assert side.heard() == [(FIN | PONG, b"99")]
    side.peer.pause_writing()
    for _ in range(MAX_CONTROLS + 1):
        side.says((FIN | PING, b""))
        side.loop.sleep(1)
    assert side.close_code() == 1008


async def test_giving_waits_for_a_slow_side_and_its_progress_is_life() -> None:
    side = Side()
    side.peer.pause_writing()
    giving = asyncio.ensure_future(side.peer.give([MESSAGE]))
    await asyncio.sleep(0)
    assert not giving.done()
    before = side.lives
    side.peer.resume_writing()
    await giving
    assert side.lives == before + 1
    assert side.heard() == [MESSAGE]


async def test_any_byte_is_life() -> None:
    side = Side()
    for data in (side.wire((FIN | PING, b"")), side.wire((BINARY, b"a")), side.wire((FIN, b"abc"))[:3]):
        before = side.lives
        side.peer.data_received(data)
        assert side.lives == before + 1


async def test_what_it_said_before_it_closed_is_taken_before_the_end() -> None:
    side = Side()
    side.says(MESSAGE, (FIN | CLOSE, b"\x0f\xa0bye"), MESSAGE)
    assert await side.take() == [MESSAGE]
    assert await side.take() == End(4000, "bye")
    assert side.heard() == [(FIN | CLOSE, b"\x0f\xa0")]
    assert side.transport.ended == "closed"


async def test_what_it_said_before_the_connection_was_lost_is_taken_before_the_end() -> None:
    side = Side()
    side.says(*[MESSAGE] * 1000)
    side.peer.connection_lost(None)
    side.transport.ended = "closed"
    count = 0
    while not isinstance(taken := await side.take(), End):
        count += len(taken)
        side.turns()
    assert count == 1000
    assert taken == End(1006)


async def test_a_side_that_breaks_a_rule_is_told_and_then_not_listened_to() -> None:
    side = Side(max_message=10)
    side.says(MESSAGE, (FIN | BINARY, b"x" * 11))
    assert await side.take() == [MESSAGE]
    assert await side.take() == End(1009, "message too big", broke=True)
    assert side.close_code() == 1009
    assert side.transport.ended == "eof"
    side.says(MESSAGE)
    assert await side.take() == End(1009, "message too big", broke=True)
    side.loop.sleep(2)
    assert side.transport.ended == "aborted"


async def test_who_is_told_to_stop_and_sends_on_without_end_is_not_read_any_more() -> None:
    side = Side(max_message=10)
    side.says((FIN | BINARY, b"x" * 11))
    for _ in range(16):
        assert side.transport.reading
        side.peer.data_received(b"x" * 65_537)
    assert not side.transport.reading
    side.peer.data_received(b"TLS may deliver a little more")
    assert await side.take() == End(1009, "message too big", broke=True)
    assert not side.transport.reading
    side.loop.sleep(2)
    assert side.transport.ended == "aborted"


async def test_a_close_that_is_not_answered_ends_in_time_and_nothing_comes_or_goes_meanwhile() -> None:
    side = Side()
    side.says(*[MESSAGE] * 1000)
    side.peer.close(1001, "going away")
    side.peer.close(1000)
    assert side.heard() == [(FIN | CLOSE, b"\x03\xe9going away")]
    side.turns()
    assert side.transport.reading
    with pytest.raises(ConnectionError):
        await side.peer.give([MESSAGE])
    side.loop.sleep(4.9)
    assert side.transport.ended == ""
    side.loop.sleep(0.2)
    assert side.transport.ended == "aborted"


async def test_a_close_that_is_answered_ends_the_connection() -> None:
    side = Side()
    side.peer.close(1000)
    side.says(MESSAGE, (FIN | CLOSE, b"\x03\xe8"))
    assert side.transport.ended == "closed"


async def test_as_a_client_we_mask_and_leave_the_end_of_tcp_to_the_server() -> None:
    side = Side(client=True)
    await side.peer.give([(FIN | BINARY, b"abcd")])
    assert side.transport.written[:2] == b"\x82\x84"
    assert len(side.transport.written) == 10
    side.says((FIN | CLOSE, b"\x03\xe8"))
    assert side.transport.ended == ""
    side.loop.sleep(2)
    assert side.transport.ended == "aborted"


async def test_the_end_of_the_connection_wakes_whoever_waits() -> None:
    side = Side()
    taking = asyncio.ensure_future(side.peer.take())
    side.peer.pause_writing()
    giving = asyncio.ensure_future(side.peer.give([MESSAGE]))
    await asyncio.sleep(0)
    side.peer.connection_lost(None)
    assert await asyncio.wait_for(taking, 1) == End(1006)
    await asyncio.wait_for(giving, 1)
    await asyncio.wait_for(side.peer.wait_closed(), 1)
