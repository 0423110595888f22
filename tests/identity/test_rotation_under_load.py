"""Keys that rotate, and an issuer that goes away, seen over a real socket and under load."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.errors import GatewayError
from tests.identity.conftest import AUDIENCE, EC, ISSUER, OTHER_RSA, RSA, bearer, built, close, issuer_of, jwks, sign

pytestmark = pytest.mark.hazard


class Issuer:
    """A key server on loopback whose keys the test changes, and which can hang."""

    def __init__(self):
        self.keys = (RSA,)
        self.asked = 0
        self.hangs = False
        self.open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/jwks"
        return self

    async def __aexit__(self, *exc):
        self._server.close()
        for writer in self.open:
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        self.open.add(writer)
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            body = jwks(*self.keys)
            await asyncio.sleep(3600 if self.hangs else 0.02)
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self.open.discard(writer)


@pytest.fixture
async def issuer():
    async with Issuer() as made:
        yield made


@pytest.fixture
async def identifier(issuer, http):
    settings = issuer_of(algorithms=("RS256", "ES256"), jwks_url=issuer.url)
    made = built(settings, http)
    yield made
    await close(made)


def token(number: int, key, alg: str = "RS256") -> bytes:
    now = int(time.time())
    content = {"iss": ISSUER, "aud": AUDIENCE, "sub": f"user-{number}", "exp": now + 60, "iat": now}
    return sign(content, alg, key)


async def test_a_key_rotates_under_load_without_one_failed_request(identifier, issuer):
    failed: list[GatewayError] = []

    async def ask(number: int) -> None:
        key = issuer.keys[0]
        await asyncio.sleep(0)
        try:
            assert (await identifier.identify(bearer(token(number, key)))).id == f"user-{number}"
        except GatewayError as error:
            failed.append(error)

    served = 0
    for keys in ((RSA,), (OTHER_RSA, RSA), (RSA, OTHER_RSA), (OTHER_RSA, RSA, EC)):
        issuer.keys = keys
        for _ in range(4):
            await asyncio.gather(*(ask(served + number) for number in range(25)))
            served += 25
    assert failed == []
    assert served == 400
    assert issuer.asked == 2, "the first keys, and the first token of the new one"


async def test_an_issuer_that_hangs_is_waited_for_by_nobody_for_long(identifier, issuer):
    await identifier.identify(bearer(token(1, RSA)))
    issuer.hangs = True
    unknown = [asyncio.create_task(identifier.identify(bearer(token(n, OTHER_RSA)))) for n in range(20)]
    while issuer.asked < 2:  # noqa: ASYNC110 - the server of this test tells nobody
        await asyncio.sleep(0.001)
    begun_s = time.monotonic()
    for number in range(20):
        assert (await identifier.identify(bearer(token(100 + number, RSA)))).id == f"user-{100 + number}"
    assert time.monotonic() - begun_s < 2, "known keys do not wait for unknown ones"
    assert issuer.asked == 2
    for task in unknown:
        task.cancel()
    await asyncio.gather(*unknown, return_exceptions=True)


async def test_no_issuer_at_all_is_unavailable_at_once(http):
    async with Issuer() as gone:
        url = gone.url
    settings = issuer_of(algorithms=("RS256",), jwks_url=url)
    identifier = built(settings, http)
    begun_s = time.monotonic()
    answers = await asyncio.gather(
        *(identifier.identify(bearer(token(number, RSA))) for number in range(200)), return_exceptions=True
    )
    assert {answer.code for answer in answers} == {"identity_unavailable"}
    assert all(0 <= answer.retry_after_s <= 60 for answer in answers)
    assert time.monotonic() - begun_s < 10
    await close(identifier)


async def test_a_key_newer_than_the_fetch_under_way_is_fetched_for_its_token(identifier, issuer):
    """Two rotations in the time of one fetch: the second token waits for the first one's fetch, then makes its own."""
    await identifier.identify(bearer(token(1, RSA)))
    issuer.keys = (OTHER_RSA, RSA)
    first = asyncio.create_task(identifier.identify(bearer(token(2, OTHER_RSA))))
    while issuer.asked < 2:  # noqa: ASYNC110 - the server of this test tells nobody
        await asyncio.sleep(0.001)
    issuer.keys = (EC, OTHER_RSA)
    assert (await identifier.identify(bearer(token(3, EC, "ES256")))).id == "user-3"
    assert (await first).id == "user-2"
    assert issuer.asked == 3
