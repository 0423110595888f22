"""Verified tokens are remembered, bounded, under their digest, and never longer than they are good."""

from __future__ import annotations

import tracemalloc
from hashlib import sha256

import pytest

from gateway.errors import GatewayError
from gateway.identity import verifier
from gateway.identity.remembered import Remembered
from gateway.identity.subjects import identity
from tests.identity.conftest import EC, NOW_S, OTHER_RSA, RSA, Clock, bearer, claims, close, sign


@pytest.fixture
def verifications(monkeypatch) -> list[int]:
    """Grows with every token whose signature was looked at."""
    seen: list[int] = []
    verified_by = verifier.SignedToken.verified_by

    def counted(self, keys):
        seen.append(1)
        return verified_by(self, keys)

    monkeypatch.setattr(verifier.SignedToken, "verified_by", counted)
    return seen


async def test_a_token_is_verified_once(make, verifications):
    identifier, token = make(), sign(claims())
    subjects = [await identifier.identify(bearer(token)) for _ in range(5)]
    assert len(verifications) == 1
    assert all(subject is subjects[0] for subject in subjects)
    await close(identifier)


async def test_two_tokens_of_one_subject_are_verified_each(make, verifications):
    identifier = make()
    await identifier.identify(bearer(sign(claims(jti="1"))))
    await identifier.identify(bearer(sign(claims(jti="2"))))
    assert len(verifications) == 2
    await close(identifier)


async def test_a_remembered_token_ends_when_it_expires(make, clock, monotonic):
    identifier, token = make(), sign(claims())
    await identifier.identify(bearer(token))
    for step_s in (329, 1):
        clock.now_s += step_s
        monotonic.now_s += step_s
        if step_s == 329:
            await identifier.identify(bearer(token))
    with pytest.raises(GatewayError, match="unauthenticated"):
        await identifier.identify(bearer(token))
    await close(identifier)


async def test_a_clock_set_back_revives_no_remembered_token(make, clock, monotonic):
    identifier, token = make(), sign(claims(iat=None))
    before = await identifier.identify(bearer(token))
    clock.now_s -= 3600
    monotonic.now_s += 331
    after = await identifier.identify(bearer(token))
    assert after is not before, "remembered no longer, so it was judged anew by what the clock says now"
    await close(identifier)


async def test_a_clock_set_forward_ends_a_remembered_token(make, clock):
    identifier, token = make(), sign(claims())
    await identifier.identify(bearer(token))
    clock.now_s += 3600
    with pytest.raises(GatewayError):
        await identifier.identify(bearer(token))
    await close(identifier)


async def test_other_keys_forget_what_the_old_ones_verified(make):
    identifier, token = make(RSA), sign(claims())
    await identifier.identify(bearer(token))
    identifier.source.use(OTHER_RSA)
    await identifier.identify(bearer(sign(claims(), key=OTHER_RSA)))
    with pytest.raises(GatewayError):
        await identifier.identify(bearer(token))
    await close(identifier)


async def test_the_same_keys_again_forget_nothing(make, verifications):
    identifier, token = make(RSA), sign(claims())
    await identifier.identify(bearer(token))
    identifier.source.use(RSA)
    assert await identifier.verifier.keys.look_up(lambda keys: False) is False
    await identifier.identify(bearer(token))
    assert len(verifications) == 1
    await close(identifier)


async def test_a_key_that_goes_takes_only_its_own_tokens_along(make, verifications):
    identifier = make(RSA, EC)
    kept, gone = sign(claims()), sign(claims(), "ES256")
    for token in (kept, gone):
        await identifier.identify(bearer(token))
    identifier.source.use(RSA, OTHER_RSA)
    await identifier.identify(bearer(sign(claims(), key=OTHER_RSA)))
    seen = len(verifications)
    await identifier.identify(bearer(kept))
    assert len(verifications) == seen
    with pytest.raises(GatewayError):
        await identifier.identify(bearer(gone))
    await close(identifier)


async def test_a_forged_token_takes_no_key_and_no_verified_token_along(make, verifications):
    """The issuer's nodes differ: whoever makes the gateway ask again must not choose which keys it knows."""
    identifier, token = make(RSA, EC), sign(claims(), "ES256")
    await identifier.identify(bearer(token))
    identifier.source.use(RSA, OTHER_RSA)
    with pytest.raises(GatewayError, match="unauthenticated"):
        await identifier.identify(bearer(sign(claims(), kid="unknown")))
    seen = len(verifications)
    await identifier.identify(bearer(token))
    assert len(verifications) == seen
    for known in (sign(claims(jti="2"), "ES256"), sign(claims(), key=OTHER_RSA)):
        assert (await identifier.identify(bearer(known))).id == "alice"
    await close(identifier)


async def test_refused_tokens_leave_nothing_behind(make):
    identifier = make()
    for number in range(50):
        with pytest.raises(GatewayError):
            await identifier.identify(bearer(sign(claims(), key=OTHER_RSA, kid="rsa-1", n=number)))
    assert len(identifier._remembered) == 0
    await close(identifier)


def test_the_least_recently_used_goes_first():
    remembered = Remembered(2 * 3000, clock=Clock(), monotonic=Clock())
    for name in "ab":
        remembered.put(name.encode(), identity(name), NOW_S + 9, b"{}")
    assert remembered.get(b"a").id == "a"
    remembered.put(b"c", identity("c"), NOW_S + 9, b"{}")
    assert remembered.get(b"b") is None
    assert {remembered.get(key).id for key in (b"a", b"c")} == {"a", "c"}
    assert len(remembered) == 2


def test_memory_is_bounded_in_bytes():
    remembered = Remembered(1_000_000, clock=Clock(), monotonic=Clock())
    for number in range(1000):
        remembered.put(str(number).encode(), identity("a"), NOW_S + 9, b"," * 200)
        assert remembered.held_bytes <= 1_000_000
    assert 10 < len(remembered) < 100
    remembered.put(b"999", identity("a"), NOW_S + 9, b"," * 200)
    remembered.keep(lambda proof: False)
    assert remembered.held_bytes == len(remembered) == 0


async def test_the_claims_of_a_token_hold_no_more_than_is_counted(make):
    """Measured with many short claims, a list of groups, one long text, lists within lists, and none."""
    identifier = make()
    kinds = [
        {f"c{n}": n for n in range(300)},
        {"groups": [f"group-{n}" for n in range(300)]},
        {"text": "x" * 5000},
        {"deep": [[[[[n]]]] for n in range(200)]},
        {},
    ]
    tokens = [sign(claims(jti=str(n), **kinds[n % 5])) for n in range(100)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for token in tokens:
        await identifier.identify(bearer(token))
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert held <= identifier._remembered.held_bytes * 1.25
    await close(identifier)


async def test_the_token_is_nowhere_in_memory(make):
    """Only its digest is kept: a core dump or a debugger page does not hold what others could use."""
    identifier, token = make(), sign(claims())
    await identifier.identify(bearer(token))
    assert list(identifier._remembered._entries) == [sha256(token).digest()]
    await close(identifier)
