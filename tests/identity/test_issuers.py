"""Several issuers: the token's `iss` chooses, and nothing of another one ever makes a token good."""

from __future__ import annotations

import pytest
from joserfc.jwk import RSAKey

from gateway.errors import GatewayError
from gateway.identity.credentials import Challenge, HeaderTokens
from gateway.identity.jwt import JwtIdentifier
from gateway.identity.key_ring import KeyRing
from gateway.identity.verifier import Verifier
from gateway.model.settings import ClaimRules
from gateway.template import Placeholder, RequestValues, parse
from tests.identity.conftest import EC, RSA, FixedKeys, bearer, claims, close, issuer_of, sign

OTHER = "https://other.example"
SAME_KID = RSAKey.generate_key(2048, {"kid": RSA.kid})


@pytest.fixture
async def both(clock, monotonic):
    """The usual issuer with RSA, another with a key of the same id and ES256."""
    issuers = [
        issuer_of(algorithms=("RS256",)),
        issuer_of(issuer=OTHER, audience=("mobile", "web"), algorithms=("RS256", "ES256"), leeway_s=0.0),
    ]
    sources = [FixedKeys(RSA, algorithms=("RS256",)), FixedKeys(SAME_KID, EC, algorithms=("RS256", "ES256"))]
    verifiers = [Verifier(KeyRing(source, refresh_s=600, clock=monotonic)) for source in sources]
    challenge = Challenge("edge")
    identifier = JwtIdentifier(
        issuers,
        verifiers,
        tokens=HeaderTokens(challenge, 8192),
        challenge=challenge,
        clock=clock,
        monotonic=monotonic,
    )
    yield identifier
    await identifier.aclose()
    for verifier in verifiers:
        await verifier.aclose()


async def refused(identifier, token: bytes) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await identifier.identify(bearer(token))
    return caught.value


async def test_each_token_is_verified_by_its_own_issuer(both):
    one = await both.identify(bearer(sign(claims())))
    two = await both.identify(bearer(sign(claims(iss=OTHER, aud="web"), key=SAME_KID)))
    assert one.id == two.id == "alice"
    assert one.document == two.document
    assert one.key != two.key, "the same name of two issuers shares no permit, no copy and no share"


@pytest.mark.parametrize(
    ("content", "alg", "key"),
    [
        ({"iss": OTHER, "aud": "web"}, "RS256", RSA),
        ({}, "RS256", SAME_KID),
        ({}, "ES256", EC),
        ({"aud": "web"}, "RS256", RSA),
        ({"iss": OTHER}, "RS256", SAME_KID),
        ({"iss": "https://third.example"}, "RS256", RSA),
        ({"iss": None}, "RS256", RSA),
        ({"iss": ["https://idp.example", OTHER]}, "RS256", RSA),
        ({"iss": "https://idp.example/"}, "RS256", RSA),
        ({"iss": OTHER, "aud": "web", "exp": 1_700_000_000}, "RS256", SAME_KID),
    ],
)
async def test_nothing_of_another_issuer_counts(both, content, alg, key):
    error = await refused(both, sign(claims(**content), alg, key))
    assert error.code == "unauthenticated"


async def test_one_of_several_audiences_is_enough(both):
    for aud in ("mobile", "web", ["x", "mobile"]):
        token = sign(claims(iss=OTHER, aud=aud, jti=str(aud)), "ES256")
        assert (await both.identify(bearer(token))).id == "alice"
    for aud in ("platform", ["x"], [], ["mobile", 7]):
        assert (await refused(both, sign(claims(iss=OTHER, aud=aud), "ES256"))).code == "unauthenticated"


async def test_keys_that_change_take_along_no_token_of_the_other_issuer(both):
    kept = await both.identify(bearer(sign(claims())))
    two = both._issuers[OTHER].verifier
    two.keys._replace(FixedKeys(EC, algorithms=("ES256",)).current)
    assert await both.identify(bearer(sign(claims()))) is kept


async def test_the_subject_is_made_of_claims(make):
    rules = {"subject_type": parse("{claim.kind}"), "subject_id": parse("{claim.org.name}/{claim.uid}")}
    identifier = make(rules=rules)
    subject = await identifier.identify(bearer(sign(claims(kind="user", org={"name": "acme"}, uid=7, sub=None))))
    assert (subject.type, subject.id) == ("user", "acme/7")
    assert subject.document == '{"type":"user","id":"acme/7"}'
    for bad in ({"uid": True}, {"uid": ""}, {"uid": ["a"]}, {"uid": "a\nb"}, {"uid": 1.5}, {"org": "acme"}):
        content = {"kind": "user", "org": {"name": "acme"}, "uid": "7", **bad}
        assert (await refused(identifier, sign(claims(**content)))).code == "unauthenticated"
    await close(identifier)


async def test_a_claim_of_exactly_the_name_goes_before_the_path(make):
    identifier = make(rules={"claims": ("realm_access.roles", "a.b", "c.d", "none.such")})
    content = {
        "realm_access": {"roles": ["x", {"y": [1]}]},
        "a.b": "exact",
        "a": {"b": "path"},
        "c": {"d": {"e": None}},
    }
    subject = await identifier.identify(bearer(sign(claims(**content))))
    assert subject.properties == {"realm_access.roles": ["x", {"y": [1]}], "a.b": "exact", "c.d": {"e": None}}
    await close(identifier)


async def test_claims_become_headers_that_cannot_be_read_otherwise(make):
    headers = tuple(
        (f"x-auth-{name}".encode(), name) for name in ("email", "groups", "n", "flag", "obj", "gone", "odd")
    )
    identifier = make(rules={"headers": headers})
    content = {"email": "ä@b.c", "groups": ["a,b", "c d"], "n": 7, "flag": False, "obj": {"k": "ü"}, "odd": "a\r\nX: 1"}
    subject = await identifier.identify(bearer(sign(claims(**content))))
    assert dict(subject.headers) == {
        b"x-auth-email": b"%C3%A4@b.c",
        b"x-auth-groups": b"a%2Cb,c%20d",
        b"x-auth-n": b"7",
        b"x-auth-flag": b"false",
        b"x-auth-obj": b'{"k":"%C3%BC"}',
        b"x-auth-odd": b"a%0D%0AX:%201",
    }
    assert (await refused(identifier, sign(claims(email="x" * 5000)))).code == "unauthenticated"
    await close(identifier)


@pytest.mark.parametrize(
    ("content", "good"),
    [
        ({"scope": "orders read"}, True),
        ({"scope": "read orders extra"}, True),
        ({"scope": ["orders", "read"]}, True),
        ({"scope": "orders"}, False),
        ({"scope": "orders-read"}, False),
        ({"scope": ["orders read"]}, False),
        ({"scope": {"orders": 1, "read": 1}}, False),
        ({"scope": None}, False),
        ({}, False),
    ],
)
async def test_what_is_required_must_be_held(make, content, good):
    identifier = make(rules={"required": (("scope", ("orders", "read")),)})
    token = sign(claims(**content))
    for _ in range(2):
        if good:
            assert (await identifier.identify(bearer(token))).id == "alice"
        else:
            error = await refused(identifier, token)
            assert (error.code, error.kind.status) == ("insufficient_scope", 403)
            shown = dict(error.headers)[b"www-authenticate"]
            assert shown == b'Bearer realm="edge", error="insufficient_scope", scope="orders read"'
    await close(identifier)


async def test_what_is_required_tells_nothing_to_whoever_has_no_good_token(make):
    identifier = make(rules={"required": (("scope", ("orders",)),)})
    assert (await refused(identifier, sign(claims(), key=SAME_KID))).code == "unauthenticated"
    await close(identifier)


async def test_another_configuration_judges_anew_without_verifying_anew(clock, monotonic, monkeypatch):
    """As after a reload: keys and signatures are kept, audience, leeway, required and subject are not."""
    verifier = Verifier(KeyRing(FixedKeys(RSA), refresh_s=600, clock=monotonic))
    challenge = Challenge("edge")

    def identifier(**changes):
        issuer = issuer_of(**changes)
        tokens = HeaderTokens(challenge, 8192)
        return JwtIdentifier([issuer], [verifier], tokens=tokens, challenge=challenge, clock=clock, monotonic=monotonic)

    token = sign(claims(scope="orders", exp=int(clock.now_s) - 10))
    first = identifier()
    assert (await first.identify(bearer(token))).id == "alice"
    monkeypatch.setattr("gateway.identity.verifier.SignedToken.verified_by", None)
    for changes in ({"audience": ("x",)}, {"leeway_s": 5.0}, {"rules": ClaimRules(required=(("scope", ("pay",)),))}):
        changed = identifier(**changes)
        await refused(changed, token)
        await changed.aclose()
    renamed = identifier(rules=ClaimRules(claims=("scope",)))
    assert (await renamed.identify(bearer(token))).properties == {"scope": "orders"}
    for each in (first, renamed):
        await each.aclose()
    assert not verifier._listeners
    await verifier.aclose()


@pytest.mark.parametrize(
    ("name", "value"), [("a.b", "exact"), ("org.name", "acme"), ("sub", "alice"), ("org.none", None), ("org", None)]
)
async def test_a_placeholder_of_a_check_names_a_claim_in_the_same_way(make, name, value):
    identifier = make()
    asked = bearer(sign(claims(**{"a.b": "exact", "a": {"b": "path"}, "org": {"name": "acme"}})))
    values = RequestValues(asked, "r", "/r", await identifier.identify(asked))
    if value is None:
        with pytest.raises(GatewayError, match="bad_request"):
            values(Placeholder("claim", name))
    else:
        assert values(Placeholder("claim", name)) == value
    await close(identifier)
