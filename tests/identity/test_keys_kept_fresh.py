"""Keys are fetched once for everybody, kept fresh, kept while the issuer is down, and asked for again with measure."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from joserfc.jwk import RSAKey

from gateway.errors import GatewayError
from gateway.identity.key_ring import KeyRing
from gateway.identity.keys import FileSource, KeysUnusable, UrlSource, algorithms_of, parse
from tests.identity.conftest import EC, OTHER_RSA, RSA, FixedKeys, bearer, claims, close, jwks, sign

URL = "https://idp.example/jwks"
SAME_ID = RSAKey.generate_key(2048, {"kid": "rsa-1"})


class Issuer:
    """A source under the test's control: it answers when told, and can be down."""

    name = "issuer"
    initial = None

    def __init__(self, *keys):
        self.keys = keys
        self.asked = 0
        self.down = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self):
        self.asked += 1
        await self.gate.wait()
        if self.down:
            raise KeysUnusable("down")
        return parse(jwks(*self.keys), algorithms_of(["RS256", "ES256"]))


class Sleeps:
    """A sleep that only the test ends; remembers how long each was to be."""

    def __init__(self):
        self.asked_s: list[float] = []
        self._wake = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.asked_s.append(seconds)
        await self._wake.wait()
        self._wake.clear()

    async def end(self) -> None:
        self._wake.set()
        await settle()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def issuer():
    return Issuer(RSA)


@pytest.fixture
def sleeps():
    return Sleeps()


@pytest.fixture
async def ring(issuer, monotonic, sleeps):
    made = KeyRing(issuer, refresh_s=600, clock=monotonic, sleep=sleeps, jitter=lambda: 0)
    yield made
    await made.aclose()


async def unavailable(ring: KeyRing) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await ring.find("rsa-1", "RS256")
    assert caught.value.code == "identity_unavailable"
    return caught.value


async def test_keys_are_there_before_the_first_request(ring, issuer):
    ring.start()
    await settle()
    assert issuer.asked == 1
    assert len(await ring.find("rsa-1", "RS256")) == 1
    assert issuer.asked == 1


async def test_a_hundred_first_requests_make_one_fetch(ring, issuer):
    issuer.gate.clear()
    waiting = [asyncio.create_task(ring.find("rsa-1", "RS256")) for _ in range(100)]
    await settle()
    issuer.gate.set()
    assert all(await asyncio.gather(*waiting))
    assert issuer.asked == 1


async def test_a_request_that_leaves_cancels_nobody_elses_wait(ring, issuer):
    issuer.gate.clear()
    waiting = [asyncio.create_task(ring.find("rsa-1", "RS256")) for _ in range(3)]
    await settle()
    waiting[0].cancel()
    await settle()
    issuer.gate.set()
    assert all(await asyncio.gather(*waiting[1:]))
    assert issuer.asked == 1


async def test_without_any_keys_the_answer_is_unavailable_with_the_time_of_the_next_try(ring, issuer, monotonic):
    issuer.down = True
    assert (await unavailable(ring)).retry_after_s == pytest.approx(1)
    for _ in range(50):
        await unavailable(ring)
    assert issuer.asked == 1, "nobody waits for an issuer that has just failed"
    monotonic.now_s += 1
    assert (await unavailable(ring)).retry_after_s == pytest.approx(2)
    issuer.down = False
    monotonic.now_s += 2
    assert len(await ring.find("rsa-1", "RS256")) == 1


async def test_failed_fetches_come_slower_and_at_most_a_minute_apart(ring, issuer, monotonic, sleeps):
    issuer.down = True
    ring.start()
    for _ in range(9):
        await settle()
        monotonic.now_s += sleeps.asked_s[-1]
        await sleeps.end()
    assert sleeps.asked_s[:8] == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60])


async def test_keys_are_refreshed_in_the_background(ring, issuer, monotonic, sleeps):
    ring.start()
    await settle()
    assert sleeps.asked_s == [600]
    issuer.keys = (RSA, OTHER_RSA)
    monotonic.now_s += 600
    await sleeps.end()
    assert issuer.asked == 2
    assert len(await ring.find("rsa-2", "RS256")) == 1


async def test_another_refresh_time_counts_from_now_on(ring, issuer, monotonic, sleeps):
    ring.start()
    await settle()
    assert sleeps.asked_s == [600]
    ring.update(600)
    ring.update(60)
    await settle()
    assert sleeps.asked_s == [600, 60]
    monotonic.now_s += 60
    await sleeps.end()
    assert issuer.asked == 2


async def test_old_keys_are_kept_while_the_issuer_is_down(ring, issuer, monotonic, sleeps):
    ring.start()
    await settle()
    issuer.down = True
    for _ in range(10):
        monotonic.now_s += 600
        await sleeps.end()
    assert issuer.asked > 5
    assert len(await ring.find("rsa-1", "RS256")) == 1


async def test_a_key_that_was_withdrawn_is_gone_after_the_refresh(ring, issuer, monotonic, sleeps):
    ring.start()
    await settle()
    issuer.keys = (EC,)
    monotonic.now_s += 600
    await sleeps.end()
    assert await ring.find("rsa-1", "RS256") == ()


async def test_j10_a_new_key_is_found_by_one_fetch_that_all_requests_share(make):
    source = FixedKeys(RSA)
    identifier = make(source=source)
    source.asked = 0
    source.use(RSA, OTHER_RSA)
    token = sign(claims(), key=OTHER_RSA)
    subjects = await asyncio.gather(*(identifier.identify(bearer(token)) for _ in range(100)))
    assert {subject.id for subject in subjects} == {"alice"}
    assert source.asked == 1
    await close(identifier)


async def test_j10_forged_key_ids_make_one_fetch_in_ten_seconds(make, monotonic):
    source = FixedKeys(RSA)
    identifier = make(source=source)
    source.asked = 0
    for number in range(100):
        with pytest.raises(GatewayError, match="unauthenticated"):
            await identifier.identify(bearer(sign(claims(), kid=f"forged-{number}")))
    assert source.asked == 1
    monotonic.now_s += 10
    forged = [identifier.identify(bearer(sign(claims(), kid=f"forged-{number}"))) for number in range(100)]
    await asyncio.gather(*forged, return_exceptions=True)
    assert source.asked == 2
    await close(identifier)


async def test_nodes_that_differ_are_asked_twice_at_most_for_an_unknown_key(make):
    source = FixedKeys(RSA)
    identifier = make(source=source)

    async def load():
        source.asked += 1
        source.use(RSA, EC if source.asked % 2 else OTHER_RSA)
        return source.current

    source.load = load
    for number in range(5):
        with pytest.raises(GatewayError, match="unauthenticated"):
            await identifier.identify(bearer(sign(claims(), kid=f"forged-{number}")))
    assert source.asked == 2
    await close(identifier)


async def test_a_new_key_under_the_same_id_is_looked_up_once(make):
    source = FixedKeys(RSA)
    identifier = make(source=source)
    source.asked = 0
    source.use(SAME_ID)
    assert (await identifier.identify(bearer(sign(claims(), key=SAME_ID)))).id == "alice"
    assert source.asked == 1
    for number in range(20):
        with pytest.raises(GatewayError, match="unauthenticated"):
            await identifier.identify(bearer(sign(claims(jti=str(number)), key=OTHER_RSA, kid="rsa-1")))
    assert source.asked == 2
    await close(identifier)


async def test_forged_tokens_and_an_issuer_that_hangs_hold_a_limited_number_of_places(ring, issuer):
    await ring.find("rsa-1", "RS256")
    issuer.gate.clear()
    waiting = [asyncio.create_task(ring.look_up(lambda keys: False)) for _ in range(600)]
    await settle()
    refused = [task for task in waiting if task.done()]
    assert len(refused) == 100
    assert {task.exception().code for task in refused} == {"identity_unavailable"}
    issuer.gate.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await ring.look_up(lambda keys: False) is False


async def test_whoever_waits_beyond_the_deadline_is_told_of_the_keys(ring, issuer):
    issuer.gate.clear()
    waiting = asyncio.create_task(ring.find("rsa-1", "RS256"))
    await settle()
    late = ring.late()
    assert late.code == "identity_unavailable"
    assert late.reason == "keys from issuer did not come within the deadline"
    waiting.cancel()


async def test_j10_one_rotation_does_not_delay_the_next(make):
    source = FixedKeys(RSA)
    identifier = make(source=source)
    for key in (OTHER_RSA, RSA, OTHER_RSA):
        source.use(key)
        assert (await identifier.identify(bearer(sign(claims(), key=key)))).id == "alice"
    await close(identifier)


async def test_a_rotation_of_keys_without_ids_is_noticed_too(make):
    source = FixedKeys(RSA)
    identifier = make(source=source)
    source.use(OTHER_RSA)
    assert (await identifier.identify(bearer(sign(claims(), key=OTHER_RSA, kid=None)))).id == "alice"
    await close(identifier)


async def test_an_unknown_key_waits_for_the_fetch_under_way_and_then_makes_its_own(ring, issuer, monotonic, sleeps):
    """The fetch under way may have begun before the issuer had its new key."""
    ring.start()
    await settle()
    issuer.gate.clear()
    monotonic.now_s += 600
    await sleeps.end()
    assert issuer.asked == 2
    asked = [asyncio.create_task(ring.look_up(lambda keys: False)) for _ in range(20)]
    await settle()
    issuer.gate.set()
    assert await asyncio.gather(*asked) == [False] * 20
    assert issuer.asked == 3


async def test_without_keys_bad_tokens_are_still_401(make):
    source = Issuer()
    source.down = True
    identifier = make(source=source)
    for bad in (b"garbage", sign(claims(exp=1)), sign(claims(aud="x"))):
        with pytest.raises(GatewayError, match="unauthenticated"):
            await identifier.identify(bearer(bad))
    with pytest.raises(GatewayError, match="identity_unavailable"):
        await identifier.identify(bearer(sign(claims())))
    await close(identifier)


async def test_closing_ends_the_background_work(issuer, monotonic):
    ring = KeyRing(issuer, refresh_s=600, clock=monotonic)
    ring.start()
    issuer.gate.clear()
    await settle()
    await ring.aclose()
    assert ring._refresher.done()
    assert ring._fetch.done()


def source(http: httpx.AsyncClient, url: str = URL) -> UrlSource:
    return UrlSource(url, ("RS256",), http)


async def test_a_key_set_is_fetched(http, httpx_mock):
    httpx_mock.add_response(url=URL, content=jwks(RSA))
    assert (await source(http).load()).count == 1
    (sent,) = httpx_mock.get_requests()
    assert sent.method == "GET"
    assert sent.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "answer",
    [
        {"status_code": 302, "headers": {"location": "https://evil.test/"}},
        {"status_code": 201, "content": jwks(RSA)},
        {"status_code": 404},
        {"status_code": 500, "content": jwks(RSA)},
        {"content": b""},
        {"content": b"<html>"},
        {"content": b"\xff\xfe{}"},
        {"content": jwks(EC)},
        {"content": b" " * 2_000_000},
        {"content": jwks(RSA)[:-1]},
        {"content": jwks(RSA), "headers": {"content-encoding": "br"}},
    ],
)
async def test_anything_but_a_key_set_is_unusable(http, httpx_mock, answer):
    httpx_mock.add_response(url=URL, **answer)
    with pytest.raises(KeysUnusable):
        await source(http).load()


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("garbage"),
        httpx.InvalidURL("x"),
        OSError("x"),
        UnicodeError("x"),
    ],
)
async def test_every_failure_to_fetch_is_unusable(http, httpx_mock, error):
    httpx_mock.add_exception(error)
    with pytest.raises(KeysUnusable):
        await source(http).load()


async def test_a_url_with_a_secret_is_not_shown(http):
    assert source(http, "https://user:secret@idp.example/jwks?key=secret").name == "https://idp.example/jwks"


def replace(file, content: bytes) -> None:
    """As Kubernetes and careful people do it: a new file in the place of the old one."""
    fresh = file.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(file)


@pytest.fixture
def key_file(tmp_path):
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(RSA))
    return file


async def test_a_key_file_is_read_again_when_a_token_names_an_unknown_key(make, key_file):
    identifier = make(source=FileSource(key_file, ("RS256",)))
    await identifier.identify(bearer(sign(claims())))
    replace(key_file, jwks(RSA, OTHER_RSA))
    await identifier.identify(bearer(sign(claims(), key=OTHER_RSA)))
    await close(identifier)


async def test_a_key_file_that_became_unusable_changes_nothing(make, key_file):
    identifier = make(source=FileSource(key_file, ("RS256",)))
    for content in (b"", b'{"keys": [', b"{}"):
        replace(key_file, content)
        with pytest.raises(GatewayError, match="unauthenticated"):
            await identifier.identify(bearer(sign(claims(), key=OTHER_RSA)))
        await identifier.identify(bearer(sign(claims())))
    key_file.unlink()
    await identifier.identify(bearer(sign(claims(jti="x"))))
    await close(identifier)


async def test_a_key_file_that_is_the_same_is_not_read_again(key_file, monkeypatch):
    loaded = FileSource(key_file, ("RS256",))
    before = await loaded.load()
    monkeypatch.setattr("gateway.identity.keys.parse", None)
    assert await loaded.load() is before
