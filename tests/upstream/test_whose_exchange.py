"""Whoever stops waiting touches only its own exchange, wherever it is then; and nobody waits without an outcome.

The connections have a transport of the test's, so that answers, ends and leavers can be put into one and the same turn
of the event loop in any order.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.model.route import Timeouts
from gateway.resilience.deadline import Deadline
from gateway.upstream.connect import Origin
from gateway.upstream.outgoing import Outgoing
from gateway.upstream.pool import Pool
from tests.support.properties import examples

ORIGIN = Origin.parse("http://127.0.0.1:9")
PATIENT = Timeouts(connect_s=inf, read_s=inf, write_s=inf)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Line(asyncio.Transport):
    """A transport that keeps what is written; the test is the other side."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self._near, self._far = socket.socketpair()
        super().__init__({"socket": self._near})
        self.protocol = protocol
        self.written = b""
        self.closed = False
        self.paused = False
        protocol.connection_made(self)

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def writelines(self, parts: Any) -> None:
        self.written += b"".join(parts)

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def abort(self) -> None:
        self.end()

    def end(self) -> None:
        """The connection is over, for whatever reason."""
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self.protocol.connection_lost(None)
        self._near.close()
        self._far.close()

    def owed(self) -> bytes | None:
        """The number of the request that is written and not answered."""
        asked = re.findall(rb"GET /(\d+) HTTP/1.1\r\n|POST /(\d+) HTTP/1.1\r\n", self.written)
        return (asked[-1][0] or asked[-1][1]) if asked else None


class Stage:
    """A pool, callers, and the other side of every connection."""

    def __init__(self, max_connections: int) -> None:
        self.lines: list[Line] = []
        self.pool = Pool(
            ORIGIN, self._connect, max_connections=max_connections, max_pending=1000, idle_timeout_s=3600.0
        )
        self.callers: list[asyncio.Task[bytes]] = []
        self.left: set[int] = set()
        self.half: set[Line] = set()

    async def _connect(self, origin: Origin, factory: Any, within_s: float) -> Any:
        await asyncio.sleep(0)
        line = Line(factory())
        self.lines.append(line)
        return line.protocol

    async def call(self, number: int, *, upload: bool) -> bytes:
        async def body() -> Any:
            yield b"part"
            await asyncio.sleep(0)
            yield b"rest"

        method = b"POST" if upload else b"GET"
        outgoing = Outgoing(method, b"/%d" % number, [(b"host", b"h")], body() if upload else None)
        outgoing.share_key = f"caller {number % 3}"
        reply = await self.pool.exchange(outgoing, PATIENT, Deadline(inf))
        return await reply.read(1 << 20)

    def get(self, _: object = None) -> None:
        self.callers.append(asyncio.create_task(self.call(len(self.callers), upload=False)))

    def upload(self, _: object = None) -> None:
        self.callers.append(asyncio.create_task(self.call(len(self.callers), upload=True)))

    def leave(self, which: int) -> None:
        if self.callers:
            number = which % len(self.callers)
            if not self.callers[number].done():
                self.left.add(number)
                self.callers[number].cancel()

    def begin(self, which: int) -> None:
        """The head of an answer only."""
        self.answer(which, half=True)

    def answer(self, which: int, *, half: bool = False) -> int | None:
        """The number of the request that it was for."""
        waiting = [line for line in self.lines if not line.closed and line.owed() is not None]
        if not waiting:
            return None
        line = waiting[which % len(waiting)]
        number = line.owed() or b""
        if line not in self.half:
            line.protocol.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(number))
            self.half.add(line)
        if not half and not line.closed:
            self.half.discard(line)
            line.written = b""
            line.protocol.data_received(number)
        return int(number)

    def end(self, which: int) -> None:
        open_lines = [line for line in self.lines if not line.closed]
        if open_lines:
            open_lines[which % len(open_lines)].end()

    def answer_and_leave(self, which: int) -> None:
        answered = self.answer(which)
        if answered is not None:
            self.leave(answered)

    async def step(self, name: str, value: Any) -> None:
        if name == "turn":
            await turns(value)
        else:
            getattr(self, name)(value)

    async def settle(self) -> None:
        """The other side answers all that it is asked: then everybody has an outcome after so many turns."""
        for _ in range(40 * (len(self.callers) + 5)):
            self.answer(0)
            await asyncio.sleep(0)
            if all(caller.done() for caller in self.callers):
                return
        waiting = [number for number, caller in enumerate(self.callers) if not caller.done()]
        raise AssertionError(f"{waiting} wait without an outcome: {self.pool!r}")

    def check(self) -> None:
        for number, caller in enumerate(self.callers):
            if caller.cancelled():
                assert number in self.left
            elif (error := caller.exception()) is None:
                assert caller.result() == b"%d" % number
            else:
                assert isinstance(error, GatewayError)
        assert (self.pool.in_flight, self.pool.pending, self.pool.connecting) == (0, 0, 0)


NUMBER = st.integers(0, 7)
STEPS = st.one_of(
    st.tuples(st.just("get"), st.none()),
    st.tuples(st.just("upload"), st.none()),
    st.tuples(st.just("answer"), NUMBER),
    st.tuples(st.just("begin"), NUMBER),
    st.tuples(st.just("leave"), NUMBER),
    st.tuples(st.just("answer_and_leave"), NUMBER),
    st.tuples(st.just("turn"), st.integers(1, 2)),
)


async def play(steps: list[tuple[str, Any]], max_connections: int) -> Stage:
    stage = Stage(max_connections)
    for _ in range(max_connections):
        stage.get()
    await turns(8)  # until all are connected and have asked
    for name, value in steps:
        await stage.step(name, value)
    await stage.settle()
    await turns(5)
    stage.check()
    await stage.pool.aclose()
    return stage


@examples(80)
@given(st.lists(STEPS, min_size=15, max_size=60), st.integers(1, 3))
def test_leavers_harm_nobody_who_stays(steps: list[tuple[str, Any]], max_connections: int) -> None:
    stage = asyncio.run(play(steps, max_connections))
    for number, caller in enumerate(stage.callers):
        assert number in stage.left or caller.result() == b"%d" % number


@examples(60)
@given(st.lists(STEPS | st.tuples(st.just("end"), NUMBER), min_size=5, max_size=40), st.integers(1, 3))
def test_nobody_waits_without_an_outcome_when_connections_end_too(
    steps: list[tuple[str, Any]], max_connections: int
) -> None:
    asyncio.run(play(steps, max_connections))


@pytest.mark.parametrize("later", range(4))
async def test_who_leaves_when_its_answer_is_whole_leaves_the_connection_to_the_next(later: int) -> None:
    stage = Stage(max_connections=1)
    stage.get()
    await turns(8)
    stage.get()
    await asyncio.sleep(0)
    stage.answer(0)
    await turns(later)
    stage.leave(0)
    await stage.settle()
    stage.check()
    assert stage.callers[1].result() == b"1"
    assert len(stage.lines) == 1
    await stage.pool.aclose()


async def test_an_exchange_that_is_over_cannot_be_given_up() -> None:
    stage = Stage(max_connections=1)
    exchange = stage.pool.exchange(Outgoing(b"GET", b"/0", [(b"host", b"h")]), PATIENT, Deadline(inf))
    first = asyncio.create_task(exchange)
    await turns(8)
    stage.answer(0)
    reply = await first
    stage.callers.append(first)  # type: ignore[arg-type]  # so that numbers go on from 1
    stage.get()
    await asyncio.sleep(0)
    await reply.aclose()
    next(iter(stage.pool._open)).give_up(reply)
    stage.answer(0)
    assert await stage.callers[1] == b"1"
    await stage.pool.aclose()


async def test_an_abort_without_a_cause_still_tells_who_waits() -> None:
    stage = Stage(max_connections=1)
    stage.get()
    await turns(8)
    next(iter(stage.pool._open)).abort()
    async with asyncio.timeout(5):
        with contextlib.suppress(GatewayError):
            await stage.callers[0]
    assert isinstance(stage.callers[0].exception(), GatewayError)
    await stage.pool.aclose()
