"""Introspection (RFC 7662): `active` is JSON true or the token is none; an endpoint that fails is never a verdict."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from gateway.errors import GatewayError
from gateway.identity.credentials import Challenge, HeaderTokens
from gateway.identity.introspection import IntrospectionIdentifier
from gateway.model.settings import BasicAuth, ClaimRules, IntrospectionIdentity
from gateway.upstream.auth import build_credentials
from tests.identity.conftest import NOW_S, bearer

URL = "https://as.example/introspect?secret=s3cret"


class Endpoint(httpx.AsyncBaseTransport):
    """What the test lets it answer; counts the questions."""

    def __init__(self):
        self.asked: list[httpx.Request] = []
        self.answer: object = {"active": True, "sub": "alice"}
        self.status = 200
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        content = self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode()
        return httpx.Response(self.status, content=content)


@pytest.fixture
def endpoint():
    return Endpoint()


@pytest.fixture
async def make(endpoint, clock, monotonic):
    made = []

    def identifier(*, rules: dict | None = None, cache_s: float = 30.0, auth=None) -> IntrospectionIdentifier:
        settings = IntrospectionIdentity(url=URL, cache_s=cache_s, rules=ClaimRules(**(rules or {})))
        challenge = Challenge("edge")
        made.append(
            IntrospectionIdentifier(
                settings,
                http=httpx.AsyncClient(transport=endpoint, trust_env=False),
                credentials=None if auth is None else build_credentials(auth, http=None),
                tokens=HeaderTokens(challenge, 1000),
                challenge=challenge,
                clock=clock,
                monotonic=monotonic,
            )
        )
        return made[-1]

    yield identifier
    for each in made:
        await each.aclose()


async def refused(identifier, token: bytes = b"token") -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await identifier.identify(bearer(token))
    return caught.value


async def test_an_active_token_names_its_subject(make, endpoint):
    identifier = make(rules={"claims": ("tenant",)}, auth=BasicAuth("gateway", "pass"))
    endpoint.answer = {"active": True, "sub": "alice", "tenant": "acme", "exp": NOW_S + 60}
    subject = await identifier.identify(bearer(b"a.b~c+d/e="))
    assert subject.document == '{"type":"identity","id":"alice","properties":{"tenant":"acme"}}'
    assert subject.expires_at_s == NOW_S + 60
    assert subject.identified
    assert "a.b~c" not in repr(subject) + subject.key
    asked = endpoint.asked[0]
    assert asked.content == b"token=a.b~c%2Bd%2Fe%3D&token_type_hint=access_token"
    assert asked.headers["authorization"].startswith("Basic ")


@pytest.mark.parametrize("active", [False])
async def test_an_inactive_token_is_401(make, endpoint, active):
    endpoint.answer = {"active": active, "sub": "alice"}
    assert (await refused(make())).code == "unauthenticated"


@pytest.mark.parametrize(
    "answer",
    [{"active": "true"}, {"active": 1}, {"active": None}, {"sub": "alice"}, [], True, b"true", b"", b"<html>",
     b'{"active": true, "active": true, "sub": "alice"}', b'{"active": true, "sub": "a", "x": NaN}'],
)  # fmt: skip
async def test_what_is_no_answer_is_no_verdict(make, endpoint, answer):
    endpoint.answer = answer
    error = await refused(make())
    assert error.code == "identity_unavailable"
    assert "s3cret" not in error.reason + str(error)


@pytest.mark.parametrize("status", [204, 301, 400, 401, 403, 404, 429, 500, 503])
async def test_no_other_status_is_a_verdict(make, endpoint, status):
    endpoint.status = status
    assert (await refused(make())).code == "identity_unavailable"


async def test_a_good_token_is_asked_about_once_and_never_remembered_past_its_end(make, endpoint, clock, monotonic):
    identifier = make()
    endpoint.answer = {"active": True, "sub": "alice", "exp": NOW_S + 10}
    for step_s in (0, 9):
        clock.now_s += step_s
        monotonic.now_s += step_s
        await identifier.identify(bearer(b"token"))
    assert len(endpoint.asked) == 1
    clock.now_s += 1
    monotonic.now_s += 1
    assert (await refused(identifier)).code == "unauthenticated"
    assert len(endpoint.asked) == 2


async def test_after_the_cache_time_it_is_asked_about_again(make, endpoint, clock, monotonic):
    identifier = make()
    await identifier.identify(bearer(b"token"))
    endpoint.answer = {"active": False}
    clock.now_s += 30
    monotonic.now_s += 30
    assert (await refused(identifier)).code == "unauthenticated"


async def test_without_a_cache_every_request_asks(make, endpoint):
    identifier = make(cache_s=0.0)
    for _ in range(3):
        await identifier.identify(bearer(b"token"))
    assert len(endpoint.asked) == 3


async def test_one_bad_token_is_not_asked_about_without_end(make, endpoint, monotonic):
    identifier = make()
    endpoint.answer = {"active": False}
    for _ in range(10):
        await refused(identifier)
    assert len(endpoint.asked) == 1
    monotonic.now_s += 5
    await refused(identifier)
    assert len(endpoint.asked) == 2


async def test_concurrent_requests_share_a_question_and_a_leaver_ends_it_for_nobody(make, endpoint):
    identifier = make()
    endpoint.gate.clear()
    asking = [asyncio.create_task(identifier.identify(bearer(b"token"))) for _ in range(20)]
    await asyncio.sleep(0.01)
    asking.pop(0).cancel()
    endpoint.gate.set()
    assert {subject.id for subject in await asyncio.gather(*asking)} == {"alice"}
    assert len(endpoint.asked) == 1
    assert "introspection at https://as.example/introspect did not answer" in identifier.late().reason


async def test_one_client_leaves_room_for_the_others(make, endpoint):
    identifier = make()
    endpoint.gate.clear()
    asking = [asyncio.create_task(identifier.identify(bearer(b"token-%d" % number))) for number in range(300)]
    await asyncio.sleep(0.01)
    other = bearer(b"other")
    other.client = "10.0.0.7"
    asked = asyncio.create_task(identifier.identify(other))
    endpoint.gate.set()
    assert (await asked).id == "alice"
    answers = await asyncio.gather(*asking, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, GatewayError)]
    assert (len(refused), {error.code for error in refused}) == (50, {"identity_unavailable"})
    assert not identifier._clients


async def test_an_endpoint_that_is_down_is_unavailable_at_once_and_found_again(make, endpoint, monotonic):
    identifier = make()
    await identifier.identify(bearer(b"known"))
    endpoint.error = httpx.ConnectError("refused")
    for number in range(10):
        error = await refused(identifier, b"token-%d" % number)
        assert error.code == "identity_unavailable"
        assert "s3cret" not in error.reason
    assert len(endpoint.asked) == 1 + 3, "nobody waits for it after three failures in a row"
    assert (await identifier.identify(bearer(b"known"))).id == "alice"
    monotonic.now_s += 1
    endpoint.error = None
    assert (await identifier.identify(bearer(b"token-0"))).id == "alice"
    assert (await identifier.identify(bearer(b"token-1"))).id == "alice"


async def test_tokens_at_which_the_endpoint_fails_hold_back_their_client_alone(make, endpoint):
    identifier = make()
    endpoint.error = httpx.ReadError("")
    for number in range(5):
        assert (await refused(identifier, b"poison-%d" % number)).code == "identity_unavailable"
    assert len(endpoint.asked) == 3
    endpoint.error = None
    other = bearer(b"other")
    other.client = "10.0.0.7"
    assert (await identifier.identify(other)).id == "alice"


async def test_what_fails_while_others_are_answered_holds_back_nobody(make, endpoint):
    identifier, plain, gate = make(), endpoint.handle_async_request, asyncio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        if b"poison" not in await request.aread():
            return await plain(request)
        await gate.wait()
        raise httpx.ReadError("")

    endpoint.handle_async_request = answer
    poison = [asyncio.create_task(identifier.identify(bearer(b"poison-%d" % number))) for number in range(5)]
    await asyncio.sleep(0.01)
    assert (await identifier.identify(bearer(b"good"))).id == "alice"
    gate.set()
    ends = await asyncio.gather(*poison, return_exceptions=True)
    assert {end.code for end in ends if isinstance(end, GatewayError)} == {"identity_unavailable"}
    assert (await identifier.identify(bearer(b"good-too"))).id == "alice"


async def test_a_token_that_the_endpoint_does_not_like_takes_nobody_else_down(make, endpoint):
    identifier = make()
    endpoint.status = 400
    for number in range(10):
        await refused(identifier, b"odd-%d" % number)
    endpoint.status = 200
    assert (await identifier.identify(bearer(b"token"))).id == "alice"


@pytest.mark.parametrize("claims", [{"nbf": NOW_S + 60}, {"exp": NOW_S}, {"exp": "soon"}, {"sub": None}, {"sub": 7}])
async def test_what_an_active_token_says_is_judged_too(make, endpoint, claims):
    endpoint.answer = {"active": True, "sub": "alice", **claims}
    assert (await refused(make())).code == "unauthenticated"


async def test_what_is_required_is_asked_of_it_too(make, endpoint):
    endpoint.answer = {"active": True, "sub": "alice", "scope": "read"}
    assert (await refused(make(rules={"required": (("scope", ("write",)),)}))).code == "insufficient_scope"


@pytest.mark.parametrize(
    "said",
    [
        {"token_type": "DPoP"},
        {"token_type": "refresh_token"},
        {"token_type": 1},
        {"typ": "Refresh"},
        {"typ": "Offline"},
        {"token_use": "refresh_token"},
        {"token_use": "id_token"},
    ],
)
async def test_an_active_token_that_is_no_bearer_access_token_is_401(make, endpoint, said):
    """Endpoints call a refresh token active, too: whoever has one must not get through with it."""
    endpoint.answer = {"active": True, "sub": "alice", **said}
    error = await refused(make())
    assert (error.code, error.reason) == ("unauthenticated", "The token is not an access token.")


@pytest.mark.parametrize("said", [{"token_type": "bearer"}, {"token_type": "Bearer", "typ": "Bearer"}, {}])
async def test_a_bearer_access_token_is_taken_however_it_is_written(make, endpoint, said):
    endpoint.answer = {"active": True, "sub": "alice", **said}
    assert (await make().identify(bearer(b"opaque"))).id == "alice"
