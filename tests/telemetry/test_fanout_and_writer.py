"""Whoever watches decides nothing: hooks that raise, readers that hang."""

from __future__ import annotations

import inspect
import os
import time

import pytest

from gateway.telemetry.fanout import Fanout
from gateway.telemetry.observer import NO_SPAN, Observer, Span
from gateway.telemetry.writer import LineWriter
from tests.telemetry.conftest import record, request, until


class Seeing(Observer):
    def __init__(self, span: Span = NO_SPAN):
        self.seen: list = []
        self.span = span

    def request_started(self, request, record):
        self.seen.append("started")
        return self.span

    def retry(self, target, attempt, attempts, code):
        self.seen.append((target, attempt, attempts, code))


class Broken(Observer):
    def request_started(self, request, record):
        raise RuntimeError("bug in a hook")

    def retry(self, target, attempt, attempts, code):
        raise RuntimeError("bug in a hook")


def test_all_hear_and_the_first_span_counts():
    span = Span(b"x")
    first, second, third = Seeing(), Seeing(span), Seeing(Span())
    both = Fanout([first, second, third])
    assert both.request_started(request(), record()) is span
    both.retry("iam", 2, 3, "x")
    assert first.seen == second.seen == third.seen == ["started", ("iam", 2, 3, "x")]


def test_a_hook_that_raises_harms_nobody_and_is_told_once(caplog):
    after = Seeing(Span(b"x"))
    both = Fanout([Broken(), after])
    for _ in range(100):
        assert both.request_started(request(), record()) is after.span
        both.retry("iam", 2, 3, "x")
    assert len(after.seen) == 200
    assert [entry.getMessage() for entry in caplog.records] == [
        "[telemetry] The hook request_started failed; said once",
        "[telemetry] The hook retry failed; said once",
    ]


@pytest.mark.parametrize("name", [name for name in vars(Observer) if not name.startswith("_")])
def test_every_hook_is_passed_on(name):
    heard = []
    watching = type("Watching", (Observer,), {name: lambda self, *args: heard.append(args)})()
    arguments = [None] * (len(inspect.signature(getattr(Observer, name)).parameters) - 1)
    getattr(Fanout([watching]), name)(*arguments)
    assert heard == [tuple(arguments)]
    getattr(Fanout([Observer()]), name)(*arguments)


def test_lines_arrive_whole_and_in_order():
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb", buffering=0) as stream:
        writer = LineWriter(stream, lambda count: None)
        for number in range(5000):
            writer.write(f"line {number} →")
        received = b""
        while received.count(b"\n") < 5000:
            received += os.read(reading, 65_536)
        assert received.decode().splitlines() == [f"line {number} →" for number in range(5000)]
        writer.close(5)
    os.close(reading)


@pytest.mark.hazard
def test_lines_of_several_workers_do_not_mix():
    reading, writing = os.pipe()
    writers = [LineWriter(os.fdopen(os.dup(writing), "wb", buffering=0), lambda count: None) for _ in range(4)]
    for _ in range(500):
        for name, writer in enumerate(writers):
            writer.write(str(name) * 300)
    received = b""
    while received.count(b"\n") < 2000:
        received += os.read(reading, 65_536)
    assert {line[:1] * 300 for line in received.splitlines()} == set(received.splitlines())
    for writer in writers:
        writer.close(5)
        writer._stream.close()
    os.close(reading)
    os.close(writing)


def test_a_stream_that_takes_nothing_now_is_asked_again():
    answers, written = [None, 2, None], bytearray()

    class Busy:
        def write(self, data):
            taken = answers.pop(0) if answers else len(data)
            written.extend(data[: taken or 0])
            return taken

    writer = LineWriter(Busy(), lambda count: None)
    writer.write("hello")
    writer.close(5)
    assert written == b"hello\n"


@pytest.mark.hazard
def test_a_reader_that_hangs_costs_lines_never_time():
    dropped: list[int] = []
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb", buffering=0) as stream:
        writer = LineWriter(stream, dropped.append, max_lines=100)
        for _ in range(5000):
            writer.write("x" * 1000)
        until(lambda: sum(dropped) > 4000)
        assert len(writer._lines) <= 100
        writer.close(0.05)
        os.close(reading)
        writer._thread.join(5)
        assert not writer._thread.is_alive()


@pytest.mark.hazard
def test_a_reader_that_hangs_costs_a_bounded_number_of_bytes():
    """Also of what the thread has taken and cannot write."""
    dropped: list[int] = []
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb", buffering=0) as stream:
        writer = LineWriter(stream, dropped.append, max_bytes=300_000)
        for _ in range(3):
            for _ in range(500):
                writer.write("x" * 10_000)
            time.sleep(0.05)
        assert writer._bytes_put - writer._bytes_taken <= 300_000 + 10_100
        assert sum(map(len, writer._lines)) <= 310_000
        assert sum(dropped) + len(writer._lines) + 12 >= 1500
        os.close(reading)
        writer.close(5)


def test_a_reader_that_is_gone_is_no_error():
    dropped: list[int] = []
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as stream:
        writer = LineWriter(stream, dropped.append)
        writer.write("x")
        until(lambda: dropped == [1])
        writer.close(5)


def test_closing_writes_what_is_left():
    written = bytearray()

    class Slow:
        def write(self, data):
            written.extend(data[:3])
            return 3

    writer = LineWriter(Slow(), lambda count: None)
    for number in range(100):
        writer.write(str(number))
    writer.close(5)
    assert written.decode().split() == [str(number) for number in range(100)]
