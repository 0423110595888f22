"""Real sockets, real bytes: whatever IAM does on the wire, it permits nobody, and the breaker counts what it is.

Each fault is asked by a client over the gateway's own wire; the limits are short and the bounds generous.
"""

import asyncio
import gzip
import json
import socket
import struct
import time

import httpx
import pytest

from gateway.iam.build import build_iam
from gateway.model.route import RetryPolicy
from gateway.model.settings import IamSettings, IamTimeouts, UpstreamSettings
from gateway.resilience.breaker import Breaker
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import NO_SPAN
from gateway.upstream.transport import UpstreamTransport
from gateway.upstream.upstream import Upstream
from tests.iam.conftest import Clock, Memory, codes, question

pytestmark = pytest.mark.hazard

TOTAL_S = 1.0
ALLOW = b'{"evaluations":[{"decision":true}]}'
DENY = b'{"evaluations":[{"decision":false}]}'
DRIP_S = 0.05


def http(status=b"200 OK", body=ALLOW, *headers, length=None):
    lines = [b"HTTP/1.1 " + status, *headers, b"Content-Length: %d" % (len(body) if length is None else length)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Iam:
    """Plays `script` for every request: bytes are sent, numbers waited, `fin`, `rst` and `hang` end it."""

    def __init__(self, script):
        self.script = script
        self.requests = []
        self.connections = 0

    async def serve(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                self.requests.append((head, await reader.readexactly(length)))
                for step in self.script(len(self.requests)) if callable(self.script) else self.script:
                    if await self.play(step, writer):
                        return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def play(self, step, writer):
        match step:
            case bytes():
                writer.write(step)
                await writer.drain()
            case float():
                await asyncio.sleep(step)
            case "hang":
                await asyncio.sleep(60)
            case "rst":
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
        return step in ("fin", "rst")


@pytest.fixture
async def start():
    """Start an IAM that plays a script, and a client of it; returns both."""
    closing = []

    async def start(script, *, port=None, **settings):
        played = Iam(script)
        if port is None:
            server = await asyncio.start_server(played.serve, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            closing.append(server)
        made = IamSettings(
            urls=(f"http://127.0.0.1:{port}",),
            timeout=IamTimeouts(connect_s=0.5, read_s=0.4, total_s=TOTAL_S),
            **({"retry": RetryPolicy(attempts=1)} | settings),
        )
        transport = UpstreamTransport(Upstream(UpstreamSettings(name="iam", urls=made.urls)))
        breaker = Breaker("iam", "iam", made.breaker, observer=Memory(), clock=Clock())
        client = build_iam(made, http=[transport], breaker=breaker, observer=Memory())
        closing.extend([client, transport])
        played.breaker, played.client = breaker, client
        return played

    yield start
    for thing in reversed(closing):
        if isinstance(thing, asyncio.Server):
            thing.close()
        else:
            await thing.aclose()


async def decide(iam, *questions):
    deadline = Deadline.after(5)
    return await iam.client.decide(questions or [question()], deadline=deadline, request_id="r", span=NO_SPAN)


FAILURES = {
    "empty body": [http(body=b"")],
    "null": [http(body=b"null")],
    "two documents": [http(body=ALLOW + ALLOW)],
    "truncated document": [http(body=ALLOW[:-2])],
    "deep nesting": [http(body=b"[" * 100_000)],
    "201 with a permit": [http(b"201 Created")],
    "204": [b"HTTP/1.1 204 No Content\r\n\r\n"],
    "redirect": [http(b"307 Temporary Redirect", ALLOW, b"Location: http://evil.test/")],
    "401": [http(b"401 Unauthorized")],
    "403": [http(b"403 Forbidden")],
    "404": [http(b"404 Not Found")],
    "408": [http(b"408 Request Timeout")],
    "429": [http(b"429 Too Many Requests", ALLOW, b"Retry-After: 7")],
    "502": [http(b"502 Bad Gateway", b"<html>")],
    "end before any byte": ["fin"],
    "reset before any byte": ["rst"],
    "end in the head": [b"HTTP/1.1 200 OK\r\nContent-", "fin"],
    "reset in the body": [http(length=500), "rst"],
    "hang before any byte": ["hang"],
    "hang in the head": [b"HTTP/1.1 200 OK\r\n", "hang"],
    "hang in the body": [http(length=500), "hang"],
    "error that hangs in the body": [http(b"500 Oops", b"{", length=100), "hang"],
    "slow drip in the body": [http(body=b"", length=1000), *[b" ", DRIP_S] * 100],
    "slow drip in the head": [b"HTTP/1.1 200 OK\r\n", *[b"X: a\r\n", DRIP_S] * 100],
    "endless early hints": [b"HTTP/1.1 103 Early Hints\r\n\r\n", DRIP_S] * 100,
    "truncated": [http(length=500), "fin"],
    "more than announced": [http() + b"surplus", "hang"],
    "compressed": [http(b"200 OK", gzip.compress(ALLOW), b"Content-Encoding: gzip")],
    "said to be compressed": [http(b"200 OK", ALLOW, b"Content-Encoding: gzip")],
    "gzip bomb": [http(b"200 OK", gzip.compress(b"0" * 30_000_000), b"Content-Encoding: gzip")],
    "2 MiB announced": [http(body=b" " * 2 * 1024 * 1024)],
    "endless chunks": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        *[b"8000\r\n" + b" " * 0x8000 + b"\r\n"] * 64,
    ],
    "bad chunk": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "hang"],
    "HTTP/0.9": [b"garbage", "fin"],
    "two lengths": [b"HTTP/1.1 200 OK\r\nContent-Length: 35\r\nContent-Length: 36\r\n\r\n" + ALLOW, "hang"],
    "length and chunked": [
        b"HTTP/1.1 200 OK\r\nContent-Length: 35\r\nTransfer-Encoding: chunked\r\n\r\n" + ALLOW,
        "hang",
    ],
}
REJECTIONS = {
    "400": [http(b"400 Bad Request")],
    "409": [http(b"409 Conflict")],
    "413": [http(b"413 Content Too Large")],
    "413 before the body was read": [http(b"413 Content Too Large", b"{}"), "fin"],
    "422": [http(b"422 Unprocessable Content")],
}
SURPLUS = {"more than announced"}
"""What may be taken for its well-formed beginning, as long as nothing of the rest reaches the next user."""


@pytest.mark.parametrize("name", FAILURES)
async def test_a_failure_permits_nobody_is_counted_once_and_ends_in_time(start, name):
    iam = await start(FAILURES[name])
    started = time.monotonic()
    (decision,) = await decide(iam)
    assert time.monotonic() - started < TOTAL_S + 1
    if name in SURPLUS and decision.fault is None:
        return
    assert decision.fault is not None
    assert decision.fault.kind.degrades
    assert decision.fault.kind.status == 503
    assert iam.breaker.snapshot()["consecutive_failures"] == 1
    assert iam.client.snapshot()["last_error"]["code"] == decision.fault.code


@pytest.mark.parametrize("name", REJECTIONS)
async def test_a_rejection_permits_nobody_and_is_not_counted(start, name):
    iam = await start(REJECTIONS[name])
    assert codes(await decide(iam)) == ["iam_rejected"]
    assert iam.breaker.snapshot()["consecutive_failures"] == 0


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (["hang"], "iam_timeout"),
        (FAILURES["hang in the body"], "iam_timeout"),
        (FAILURES["slow drip in the body"], "iam_timeout"),
        (FAILURES["slow drip in the head"], "iam_timeout"),
        (FAILURES["endless early hints"], "iam_timeout"),
        (["fin"], "iam_unreachable"),
        (["rst"], "iam_unreachable"),
        (FAILURES["truncated"], "iam_unreachable"),
        (FAILURES["HTTP/0.9"], "iam_invalid_response"),
        (FAILURES["gzip bomb"], "iam_invalid_response"),
        (FAILURES["2 MiB announced"], "iam_invalid_response"),
        (FAILURES["401"], "iam_auth_error"),
        (FAILURES["429"], "iam_error"),
        (FAILURES["error that hangs in the body"], "iam_error"),
    ],
)
async def test_what_a_fault_is_called(start, script, code):
    assert codes(await decide(await start(script))) == [code]


async def test_nobody_there_is_unreachable(start):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        iam = await start([], port=free.getsockname()[1])
        assert codes(await decide(iam)) == ["iam_unreachable"]
    assert iam.breaker.snapshot()["consecutive_failures"] == 1


async def test_a_well_formed_permit_permits_and_the_connection_is_kept(start):
    iam = await start([http()])
    for _ in range(5):
        assert codes(await decide(iam)) == ["allow"]
    assert iam.connections == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"evaluations":[{"decision":"false"}]}',
        b'{"evaluations":[{"decision":"true"}]}',
        b'{"evaluations":[{"decision":1}]}',
        b'{"evaluations":[{"decision":null}]}',
        b'{"evaluations":[{}]}',
        b'{"evaluations":[{"decision":false,"decision":true}]}',
        b'{"evaluations":[{"decision":true},{"decision":true}]}',
    ],
)
async def test_only_the_literal_true_permits(start, body):
    assert codes(await decide(await start([http(body=body)]))) == ["iam_invalid_response"]


async def test_a_kept_connection_found_dead_is_replaced_once_and_not_counted(start):
    """IAM closes after each answer, as a busy keep-alive does just when we send."""
    iam = await start([http(), "fin"])
    for _ in range(3):
        assert codes(await decide(iam)) == ["allow"]
        await asyncio.sleep(0.02)
    assert iam.breaker.snapshot()["consecutive_failures"] == 0


async def test_a_kept_connection_that_dies_as_it_is_asked_is_replaced_once_and_not_counted(start):
    """The question was sent, and is sent again: it changes nothing, though it is a POST."""
    iam = await start(lambda count: ["fin"] if count == 2 else [http()])
    assert codes(await decide(iam) + await decide(iam)) == ["allow", "allow"]
    assert iam.connections == 2
    assert iam.breaker.snapshot()["consecutive_failures"] == 0


async def test_a_second_reply_never_answers_the_next_user(start):
    """The first is denied; what was sent behind that answer must not permit the second."""
    iam = await start(lambda count: [http(body=DENY) + http(body=ALLOW)] if count == 1 else [http(body=DENY)])
    first = await decide(iam, question("first"))
    second = await decide(iam, question("second"))
    assert "allow" not in codes(first) + codes(second)


async def test_a_hundred_failed_calls_leak_no_place_and_no_connection(start):
    iam = await start([b"HTTP/1.1 200 OK\r\n", "rst"], max_concurrency=2)
    iam.breaker.force_close()
    for n in range(50):
        await decide(iam, *(question(f"u{n}-{i}") for i in range(2)))
    iam.script = [http(body=json.dumps({"evaluations": [{"decision": True}] * 2}).encode())]
    assert codes(await decide(iam, question("a"), question("b"))) == ["allow", "allow"]
    assert iam.client.snapshot()["in_flight"] <= 1


async def test_callers_who_leave_in_a_storm_leak_nothing(start):
    iam = await start([0.01, http()], batch_max_size=1)

    async def ask_and_leave(n):
        task = asyncio.create_task(decide(iam, question(f"u{n}")))
        await asyncio.sleep(n % 7 * 0.004)
        task.cancel()

    await asyncio.gather(*(ask_and_leave(n) for n in range(200)))
    assert codes(await decide(iam, question("stays"))) == ["allow"]
    assert iam.breaker.state == "closed"
    assert iam.client.snapshot()["queue"] == 0


async def test_without_our_own_wire_the_rules_are_the_same():
    """The client depends on httpx's interface only."""
    iam = Iam([http(length=500), "fin"])
    server = await asyncio.start_server(iam.serve, "127.0.0.1", 0)
    made = IamSettings(urls=(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",), retry=RetryPolicy(attempts=1))
    breaker = Breaker("iam", "iam", made.breaker, observer=Memory(), clock=Clock())
    async with httpx.AsyncHTTPTransport() as transport:
        iam.client = build_iam(made, http=[transport], breaker=breaker, observer=Memory())
        assert codes(await decide(iam)) == ["iam_unreachable"]
        await iam.client.aclose()
    server.close()
