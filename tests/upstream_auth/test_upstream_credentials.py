"""Credentials of ours towards upstreams: fixed ones, and a token that is fetched once, shared and renewed in time."""

from __future__ import annotations

import asyncio
import base64
import logging
from urllib.parse import parse_qs

import httpx
import pytest

from gateway.errors import GatewayError
from gateway.model.settings import BasicAuth, BearerAuth, OAuth2ClientCredentials
from gateway.resilience.deadline import Deadline
from gateway.upstream.auth import build_credentials

SETTINGS = OAuth2ClientCredentials(
    token_url="https://idp.example/token", client_id="gw:1", client_secret="s3cret/ +", scope="audit read"
)


class Clock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class TokenServer:
    """Answers with token-1, token-2, …; can be down, slow or wrong."""

    def __init__(self):
        self.requests: list[httpx.Request] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.answer: httpx.Response | None = None
        self.expires_in: object = 100

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        number = len(self.requests)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        if self.answer is not None:
            return self.answer
        body = {"access_token": f"token-{number}", "token_type": "Bearer", "expires_in": self.expires_in}
        return httpx.Response(200, json=body)

    @property
    def asked(self) -> int:
        return len(self.requests)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def server():
    return TokenServer()


@pytest.fixture
async def credentials(server, clock):
    async with httpx.AsyncClient(transport=httpx.MockTransport(server)) as http:
        made = build_credentials(SETTINGS, http=http, clock=clock)
        yield made
        await made.aclose()


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def sent(credentials) -> bytes:
    ((name, value),) = await credentials.headers(Deadline.after(5))
    assert name == b"authorization"
    return value


async def refusal(credentials, seconds: float = 5) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await credentials.headers(Deadline.after(seconds))
    assert caught.value.sent is False
    return caught.value


async def test_a_fixed_token_is_sent_as_it_is():
    made = build_credentials(BearerAuth("tok"), http=None)
    assert await sent(made) == b"Bearer tok"
    made.rejected()
    assert await sent(made) == b"Bearer tok"
    await made.aclose()


async def test_basic_credentials_are_utf_8():
    made = build_credentials(BasicAuth("zoë", "p:w"), http=None)
    assert await sent(made) == b"Basic " + base64.b64encode("zoë:p:w".encode())


@pytest.mark.parametrize("auth", [BearerAuth("a\r\nX: y"), BearerAuth(""), BearerAuth("ä"), BasicAuth("a:b", "c")])
def test_what_cannot_stand_in_a_header_is_a_mistake_at_load(auth):
    with pytest.raises(ValueError, match=r"auth\."):
        build_credentials(auth, http=None)


async def test_the_token_is_asked_for_as_the_standard_says(credentials, server):
    assert await sent(credentials) == b"Bearer token-1"
    (request,) = server.requests
    assert request.method == "POST"
    assert parse_qs(request.content.decode()) == {"grant_type": ["client_credentials"], "scope": ["audit read"]}
    pair = base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()
    assert pair == "gw%3A1:s3cret%2F+%2B"


async def test_a_hundred_requests_share_one_token(credentials, server):
    server.gate.clear()
    waiting = [asyncio.create_task(sent(credentials)) for _ in range(100)]
    await settle()
    server.gate.set()
    assert set(await asyncio.gather(*waiting)) == {b"Bearer token-1"}
    assert await sent(credentials) == b"Bearer token-1"
    assert server.asked == 1


async def test_a_request_that_leaves_cancels_nobody_elses_token(credentials, server):
    server.gate.clear()
    waiting = [asyncio.create_task(sent(credentials)) for _ in range(3)]
    await settle()
    waiting[0].cancel()
    await settle()
    server.gate.set()
    assert await asyncio.gather(*waiting[1:]) == [b"Bearer token-1"] * 2
    assert server.asked == 1


async def test_it_is_renewed_in_the_background_and_nobody_waits(credentials, server, clock):
    await sent(credentials)
    clock.now_s += 79
    assert await sent(credentials) == b"Bearer token-1"
    await settle()
    assert server.asked == 1
    clock.now_s += 1
    server.gate.clear()
    assert [await sent(credentials) for _ in range(50)] == [b"Bearer token-1"] * 50
    await settle()
    assert server.asked == 2
    server.gate.set()
    await settle()
    assert await sent(credentials) == b"Bearer token-2"


async def test_an_expired_token_is_never_sent(credentials, server, clock):
    await sent(credentials)
    clock.now_s += 100
    assert await sent(credentials) == b"Bearer token-2"


async def test_a_token_is_used_while_it_cannot_be_renewed(credentials, server, clock):
    await sent(credentials)
    server.error = httpx.ConnectError("down")
    for _ in range(19):
        clock.now_s += 5
        assert await sent(credentials) == b"Bearer token-1"
        await settle()
    assert server.asked <= 5, "failed renewals back off"
    clock.now_s += 5
    assert (await refusal(credentials)).code == "upstream_unreachable"


async def test_a_401_renews_once(credentials, server, clock):
    await sent(credentials)
    for _ in range(100):
        credentials.rejected()
    assert await credentials.renewed(Deadline.after(5)) == [(b"authorization", b"Bearer token-2")]
    assert await sent(credentials) == b"Bearer token-2"
    for _ in range(100):
        credentials.rejected()
        assert await sent(credentials) == b"Bearer token-2"
    assert server.asked == 2, "requests that were sent with the old token, and an upstream that refuses every token"
    clock.now_s += 10
    credentials.rejected()
    await settle()
    assert await sent(credentials) == b"Bearer token-3"


async def test_a_401_to_one_request_takes_the_token_from_nobody_else(credentials, server, clock):
    """It may be that request's own. Whoever got it waits for the new token, or learns that there is none."""
    await sent(credentials)
    server.error = httpx.ConnectError("down")
    for _ in range(5):
        credentials.rejected()
        with pytest.raises(GatewayError):
            await credentials.renewed(Deadline.after(5))
        assert await sent(credentials) == b"Bearer token-1"
    assert server.asked == 2, "the next fetch is a second away"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (httpx.ConnectError("refused"), "upstream_unreachable"),
        (httpx.RemoteProtocolError("garbage"), "upstream_unreachable"),
        (httpx.ConnectTimeout("slow"), "upstream_timeout"),
        (httpx.ReadTimeout("slow"), "upstream_timeout"),
        (OSError("x"), "upstream_unreachable"),
    ],
)
async def test_a_token_server_that_fails_is_one_refusal_per_request_and_few_calls(credentials, server, error, code):
    server.error = error
    for _ in range(50):
        assert (await refusal(credentials)).code == code
    assert server.asked == 1


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (httpx.Response(401, json={"error": "invalid_client"}), "upstream_unreachable"),
        (httpx.Response(302, headers={"location": "https://evil.test/"}), "upstream_unreachable"),
        (httpx.Response(503), "upstream_unreachable"),
        (httpx.Response(200, content=b"<html>"), "upstream_protocol_error"),
        (httpx.Response(200, content=b"[" * 50_000), "upstream_protocol_error"),
        (httpx.Response(200, json=[]), "upstream_protocol_error"),
        (httpx.Response(200, json={}), "upstream_protocol_error"),
        (httpx.Response(200, json={"access_token": 7}), "upstream_protocol_error"),
        (httpx.Response(200, json={"access_token": "a\r\nX: y"}), "upstream_protocol_error"),
        (httpx.Response(200, json={"access_token": "a", "token_type": "mac"}), "upstream_protocol_error"),
        (httpx.Response(200, content=b" " * 100_000), "upstream_protocol_error"),
    ],
)
async def test_only_a_bearer_token_is_an_answer(credentials, server, answer, code):
    server.answer = answer
    assert (await refusal(credentials)).code == code


async def test_failed_fetches_come_slower(credentials, server, clock):
    server.error = httpx.ConnectError("down")
    for _ in range(120):
        await refusal(credentials)
        clock.now_s += 1
    assert server.asked == 7, "at 0, 1, 3, 7, 15, 31 and 63 seconds"
    server.error = None
    clock.now_s += 60
    assert await sent(credentials) == b"Bearer token-8"


async def test_a_token_server_that_hangs_costs_a_request_no_more_than_its_deadline(credentials, server):
    server.gate.clear()
    assert (await refusal(credentials, 0.01)).code == "upstream_timeout"
    server.gate.set()
    assert await sent(credentials) == b"Bearer token-1"
    assert server.asked == 1


@pytest.mark.parametrize(
    ("expires_in", "renewed_after_s"), [(10, 8), ("10", 8), (None, 240), ("soon", 240), (0, 0.8), (1e300, 69_120)]
)
async def test_lifetimes_of_all_kinds(credentials, server, clock, expires_in, renewed_after_s):
    server.expires_in = expires_in
    await sent(credentials)
    clock.now_s += renewed_after_s - 0.01
    await sent(credentials)
    await settle()
    assert server.asked == 1
    clock.now_s += 0.02
    await sent(credentials)
    await settle()
    assert server.asked == 2


async def test_no_secret_is_shown(credentials, server, caplog):
    with caplog.at_level(logging.DEBUG, "gateway"):
        server.answer = httpx.Response(400, json={"error": "s3cret/ + token-1"})
        error = await refusal(credentials)
    shown = caplog.text + repr(error) + str(error) + repr(SETTINGS) + repr(vars(credentials))
    assert "[auth] No token from https://idp.example/token: answered 400" in caplog.text
    assert "s3cret" not in shown
    assert "token-1" not in shown


async def test_closing_ends_a_fetch_under_way(server, clock):
    async with httpx.AsyncClient(transport=httpx.MockTransport(server)) as http:
        made = build_credentials(SETTINGS, http=http, clock=clock)
        server.gate.clear()
        waiting = asyncio.create_task(made.headers(Deadline.after(5)))
        await settle()
        await made.aclose()
        with pytest.raises(GatewayError, match="draining"):
            await waiting
