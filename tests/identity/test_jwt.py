"""What a signed token must be, case by case. J01 to J12 are the hazards of JSON Web Tokens (RFC 8725)."""

from __future__ import annotations

import contextlib
import json
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwe
from joserfc.jwk import OctKey, RSAKey

from gateway.errors import GatewayError
from gateway.identity import strict_json
from gateway.identity.claims import TokenRefused
from gateway.identity.keys import KeysUnusable, algorithms_of, parse
from gateway.identity.verifier import Pinned, SignedToken
from tests.identity.conftest import (
    EC,
    ISSUER,
    NOW_S,
    OTHER_RSA,
    RSA,
    SECRET,
    b64,
    bearer,
    claims,
    close,
    jwks,
    sign,
    sign_raw,
)

SOURCE = f"identity:{sha256(ISSUER.encode()).hexdigest()[:32]}:"


async def refusal(identifier, token: bytes) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await identifier.identify(bearer(token))
    await close(identifier)
    return caught.value


async def assert_refused(identifier, token: bytes, description: str = "") -> None:
    error = await refusal(identifier, token)
    assert error.code == "unauthenticated"
    challenge = dict(error.headers)[b"www-authenticate"].decode()
    assert challenge.startswith('Bearer realm="edge", error="invalid_token", error_description="')
    assert description in challenge


@pytest.mark.parametrize("alg", ["RS256", "ES256", "EdDSA"])
async def test_a_good_token_names_its_subject(make, alg):
    identifier = make()
    subject = await identifier.identify(bearer(sign(claims(), alg)))
    assert (subject.type, subject.id, subject.identified) == ("identity", "alice", True)
    assert json.loads(subject.document) == {"type": "identity", "id": "alice"}
    assert subject.document == '{"type":"identity","id":"alice"}'
    assert subject.key == SOURCE + subject.document
    assert subject.expires_at_s == NOW_S + 300 + 30
    assert subject.claims["iss"] == "https://idp.example"
    await close(identifier)


async def test_properties_are_the_configured_claims_that_the_token_has(make):
    identifier = make(rules={"claims": ("groups", "dept")})
    subject = await identifier.identify(bearer(sign(claims(groups=["b", "a"], email="a@b.c"))))
    assert subject.document == '{"type":"identity","id":"alice","properties":{"groups":["b","a"]}}'
    assert subject.properties == {"groups": ["b", "a"]}
    await close(identifier)


async def test_the_same_properties_make_the_same_key_however_they_are_written(make):
    identifier = make(rules={"claims": ("a", "b")})
    one = await identifier.identify(bearer(sign(claims(a={"x": 1, "y": 2}, b=1))))
    two = await identifier.identify(bearer(sign(claims(b=1, a={"y": 2, "x": 1}, jti="2"))))
    assert one.key == two.key
    assert one.document == two.document
    await close(identifier)


async def test_a_key_does_not_grow_with_the_properties(make):
    identifier = make(rules={"claims": ("groups",)})
    subject = await identifier.identify(bearer(sign(claims(groups=["g" * 50] * 40))))
    assert subject.key == "identity:sha256:" + sha256((SOURCE[9:] + subject.document).encode()).hexdigest()
    await close(identifier)


@pytest.mark.parametrize("alg", ["none", "None", "nOnE", "NONE", "", None, 7, ["RS256"], {"RS256": 1}])
async def test_j01_a_token_without_a_signature_is_refused(make, alg):
    token = b64(json.dumps({"alg": alg}).encode()) + b"." + b64(json.dumps(claims()).encode()) + b"."
    await assert_refused(make(), token, "algorithm")


@pytest.mark.parametrize("pinned", [("RS256",), ("RS256", "HS256")])
@pytest.mark.parametrize("as_secret", ["pem", "der", "jwk", "n"])
async def test_j02_a_public_key_is_never_a_secret(make, pinned, as_secret):
    """HS256 signed with the public key, in every form in which an issuer may publish it, pinned or not."""
    secrets = {
        "pem": RSA.as_pem(private=False),
        "der": RSA.as_der(private=False),
        "jwk": json.dumps(RSA.as_dict(private=False)).encode(),
        "n": str(RSA.as_dict(private=False)["n"]).encode(),
    }
    forged = OctKey(secrets[as_secret], secrets[as_secret])
    header = json.dumps({"alg": "HS256", "kid": "rsa-1"}).encode()
    token = sign_raw(header, json.dumps(claims()).encode(), "HS256", forged)
    await assert_refused(make(RSA, algorithms=pinned), token)


async def test_j02_a_symmetric_key_is_ignored_unless_its_algorithm_is_configured(make):
    await assert_refused(make(RSA, SECRET), sign(claims(), "HS256"))
    identifier = make(SECRET, algorithms=("HS256",))
    assert (await identifier.identify(bearer(sign(claims(), "HS256")))).id == "alice"
    await close(identifier)


async def test_j02_a_key_serves_only_the_algorithm_that_it_names(make):
    named = RSAKey.import_key({**RSA.as_dict(private=True), "alg": "RS512"})
    with pytest.raises(KeysUnusable):
        make(named, algorithms=("RS256",))


@pytest.mark.parametrize(
    "kid", ["../../../../dev/null", "' OR 1=1 --", "https://evil.test/jwks", "", "rsa-1\u0000", "RSA-1", "x" * 4000]
)
async def test_j03_a_key_id_is_only_ever_compared(make, kid):
    await assert_refused(make(), sign(claims(), kid=kid), "No known key")


@pytest.mark.parametrize("kid", [1, None, ["rsa-1"], {"a": 1}, True])
async def test_j03_a_key_id_that_is_not_text_is_refused(make, kid):
    header = json.dumps({"alg": "RS256", "kid": kid}).encode()
    await assert_refused(make(), sign_raw(header, json.dumps(claims()).encode(), "RS256", RSA), "malformed")


@pytest.mark.parametrize("name", ["jku", "x5u"])
async def test_j03_keys_that_the_token_points_to_are_ignored(make, name, httpx_mock):
    forged = sign(claims(), key=OTHER_RSA, kid="rsa-1", **{name: "https://evil.test/jwks"})
    await assert_refused(make(), forged, "signature")
    assert httpx_mock.get_requests() == []


async def test_j03_a_key_inside_the_token_is_ignored(make):
    forged = sign(claims(), key=OTHER_RSA, kid="rsa-1", jwk=OTHER_RSA.as_dict(private=False))
    await assert_refused(make(), forged, "signature")


@pytest.mark.parametrize("crit", [["exp"], ["b64"], ["x-unknown"], [], "alg", None, 7])
async def test_j04_no_extension_is_understood(make, crit):
    header = json.dumps({"alg": "RS256", "kid": "rsa-1", "crit": crit, "x-unknown": 1}).encode()
    await assert_refused(make(), sign_raw(header, json.dumps(claims()).encode(), "RS256", RSA), "extension")


async def test_j04_unencoded_payloads_are_not_understood(make):
    header = json.dumps({"alg": "RS256", "kid": "rsa-1", "b64": False, "crit": ["b64"]}).encode()
    await assert_refused(make(), sign_raw(header, json.dumps(claims()).encode(), "RS256", RSA))


@pytest.mark.parametrize(
    "exp",
    [
        "null",
        '"1700000300"',
        "1700000300000",
        "-1",
        "1e999",
        "true",
        "[1700000300]",
        "{}",
        "9" * 5000,
        "1700000300.5e9",
        "253402300800",
        "9" * 400,
        "1e308",
    ],
)
async def test_j05_a_date_is_a_number_of_seconds(make, exp):
    payload = json.dumps(claims(exp=None))[:-1] + f', "exp": {exp}}}'
    header = json.dumps({"alg": "RS256", "kid": "rsa-1"}).encode()
    await assert_refused(make(), sign_raw(header, payload.encode(), "RS256", RSA))


@pytest.mark.parametrize("exp", ["253402300799", "253402300799.5", "100000000001", "1700000300.25"])
async def test_a_token_may_end_as_late_as_the_year_9999(make, exp):
    payload = json.dumps(claims(exp=None))[:-1] + f', "exp": {exp}}}'
    header = json.dumps({"alg": "RS256", "kid": "rsa-1"}).encode()
    identifier = make()
    for _ in range(2):
        subject = await identifier.identify(bearer(sign_raw(header, payload.encode(), "RS256", RSA)))
        assert subject.expires_at_s == float(exp) + 30
    await close(identifier)


async def test_j05_a_token_must_expire(make):
    await assert_refused(make(), sign(claims(exp=None)), "does not expire")


@pytest.mark.parametrize(("ago_s", "good"), [(29, True), (30, False), (31, False)])
async def test_j05_an_expired_token_is_refused_after_the_leeway(make, ago_s, good):
    identifier = make()
    token = sign(claims(exp=NOW_S - ago_s))
    if good:
        assert (await identifier.identify(bearer(token))).expires_at_s == NOW_S - ago_s + 30
        await close(identifier)
    else:
        await assert_refused(identifier, token, "expired")


@pytest.mark.parametrize("name", ["nbf", "iat"])
@pytest.mark.parametrize(("ahead_s", "good"), [(30, True), (31, False), (3600, False)])
async def test_j06_a_token_from_the_future_is_refused_beyond_the_leeway(make, name, ahead_s, good):
    identifier = make()
    token = sign(claims(**{name: NOW_S + ahead_s}))
    if good:
        await identifier.identify(bearer(token))
        await close(identifier)
    else:
        await assert_refused(identifier, token, "not valid yet")


@pytest.mark.parametrize("name", ["nbf", "iat"])
@pytest.mark.parametrize("value", ["1700000000", True, [], 1.7e12])
async def test_j06_dates_that_are_present_must_be_dates(make, name, value):
    await assert_refused(make(), sign(claims(**{name: value})), "date")


@pytest.mark.parametrize(
    ("aud", "good"),
    [
        ("platform", True),
        (["other", "platform"], True),
        (["platform", 7], False),
        ("other", False),
        ("platform2", False),
        ("plat", False),
        (["other"], False),
        ([], False),
        ({"platform": 1}, False),
        (None, False),
    ],
)
async def test_j07_the_audience_is_ours(make, aud, good):
    identifier = make()
    token = sign(claims(aud=aud))
    if good:
        await identifier.identify(bearer(token))
        await close(identifier)
    else:
        await assert_refused(identifier, token, "audience")


@pytest.mark.parametrize("iss", ["https://idp.example/", "https://evil.test", "", 7, ["https://idp.example"], None])
async def test_j07_the_issuer_is_the_configured_one(make, iss):
    await assert_refused(make(), sign(claims(iss=iss)), "issuer")


@pytest.mark.parametrize("sub", ["", 7, ["alice"], "a\nb", "a\u0000", "\u202eecila", "\ud800", None])
async def test_the_subject_is_a_name_that_can_be_shown(make, sub):
    await assert_refused(make(), sign(claims(sub=sub)), "subject")


@pytest.mark.parametrize(
    "payload",
    [
        '{"sub": "mallory", %s}',
        '{%s, "sub": "mallory"}',
        '{%s, "\\u0073ub": "mallory"}',
        '{%s, "x": {"a": 1, "a": 2}}',
    ],
)
async def test_j08_a_claim_that_stands_twice_is_refused(make, payload):
    text = payload % json.dumps(claims())[1:-1]
    header = json.dumps({"alg": "RS256", "kid": "rsa-1"}).encode()
    await assert_refused(make(), sign_raw(header, text.encode(), "RS256", RSA), "malformed")


async def test_j08_a_header_that_stands_twice_is_refused(make):
    header = b'{"alg": "none", "alg": "RS256", "kid": "rsa-1"}'
    await assert_refused(make(), sign_raw(header, json.dumps(claims()).encode(), "RS256", RSA), "malformed")


async def test_j09_a_token_over_the_limit_is_not_read(make):
    error = await refusal(make(max_token=8192), b"a" * 100_000)
    assert (error.code, error.kind.status) == ("headers_too_large", 431)


@pytest.mark.parametrize("header", [{"cty": "JWT"}, {"cty": "application/jwt"}])
async def test_j09_a_nested_token_is_refused(make, header):
    await assert_refused(make(), sign(claims(), **header), "not an access token")


async def test_j09_an_encrypted_token_is_refused_unread(make):
    bomb = jwe.encrypt_compact(
        {"alg": "RSA-OAEP", "enc": "A256GCM", "zip": "DEF"},
        b"0" * 200_000,
        RSA,
        algorithms=["RSA-OAEP", "A256GCM", "DEF"],
    )
    await assert_refused(make(), bomb.encode(), "malformed")


@pytest.mark.parametrize("document", ["[" * 6000 + "]" * 6000, '{"a":' * 3000 + "1" + "}" * 3000])
async def test_j09_nesting_is_refused_not_followed(make, document):
    header = json.dumps({"alg": "RS256", "kid": "rsa-1"}).encode()
    # Python 3.13 reads objects 3,000 deep, earlier ones do not: it is refused for what it lacks, or as malformed.
    await assert_refused(make(max_token=65_536), sign_raw(header, document.encode(), "RS256", RSA))


@pytest.mark.parametrize(
    "payload", ["NaN", '{"exp": NaN}', "[]", "7", '"x"', "null", "", "{} {}", "\ufeff{}", "{'a':1}"]
)
async def test_a_payload_that_is_not_one_strict_json_object_is_refused(make, payload):
    header = json.dumps({"alg": "RS256", "kid": "rsa-1"}).encode()
    await assert_refused(make(), sign_raw(header, payload.encode(), "RS256", RSA), "malformed")


@pytest.mark.parametrize("typ", ["id_token", "logout+jwt", "dpop+jwt", "secevent+jwt", "JOSE", "", 7, None, ["JWT"]])
async def test_j11_only_access_tokens_are_accepted_by_type(make, typ):
    header = json.dumps({"alg": "RS256", "kid": "rsa-1", "typ": typ}).encode()
    await assert_refused(make(), sign_raw(header, json.dumps(claims()).encode(), "RS256", RSA), "not an access token")


@pytest.mark.parametrize(
    "marks",
    [
        {"at_hash": "x"},
        {"c_hash": "x"},
        {"events": {}},
        {"typ": "ID"},
        {"typ": "Refresh"},
        {"token_use": "id"},
    ],
)
async def test_j11_an_id_token_is_not_an_access_token(make, marks):
    await assert_refused(make(), sign(claims(**marks)), "not an access token")


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "application/at+JWT"])
async def test_j11_access_tokens_of_both_spellings_are_accepted(make, typ):
    identifier = make()
    assert (await identifier.identify(bearer(sign(claims(typ="Bearer"), typ=typ)))).id == "alice"
    await close(identifier)


@pytest.mark.parametrize(
    "change",
    [
        lambda token: token.rpartition(b".")[0],
        lambda token: token.rpartition(b".")[0] + b".",
        lambda token: token + b"=",
        lambda token: token + b"==",
        lambda token: token + b".",
        lambda token: b"." + token,
        lambda token: token.replace(b".", b"=.", 1),
        lambda token: token.replace(b".", b"..", 1),
        lambda token: b" " + token,
        lambda token: token[:40] + b" " + token[40:],
        lambda token: token + b",Bearer x",
        lambda token: token + b"\x00",
        lambda token: token + b"\xff",
        lambda token: token[:-1] + bytes([token[-1] ^ 1]),
        lambda token: b"",
    ],
)
async def test_j12_a_token_has_exactly_one_spelling(make, change):
    """A variant of a remembered token is another token, and no variant is accepted."""
    identifier = make()
    token = sign(claims())
    await identifier.identify(bearer(token))
    error = await refusal(identifier, change(token))
    assert error.code == "unauthenticated"


async def test_a_changed_claim_breaks_the_signature(make):
    header, _, signature = sign(claims()).split(b".")
    forged = b".".join([header, b64(json.dumps(claims(sub="root")).encode()), signature])
    await assert_refused(make(), forged, "signature")


async def test_a_signature_of_another_key_with_a_known_id_is_refused(make):
    identifier = make()
    identifier.source.asked = 0
    await assert_refused(identifier, sign(claims(), key=OTHER_RSA, kid="rsa-1"), "signature")
    assert identifier.source.asked == 1


async def test_a_token_without_a_key_id_is_tried_with_the_keys_that_fit(make):
    identifier = make(OTHER_RSA, RSA, EC)
    assert (await identifier.identify(bearer(sign(claims(), kid=None)))).id == "alice"
    await close(identifier)


async def test_no_error_says_anything_of_the_token(make):
    token = sign(claims(sub="secret-name", aud="secret-audience"))
    error = await refusal(make(), token)
    text = f"{error} {error.detail} {error.headers} {error.reason}"
    assert "secret" not in text
    assert token.decode() not in text


async def test_a_subject_does_not_show_its_credentials(make):
    identifier = make()
    token = sign(claims(email="secret-address"))
    subject = await identifier.identify(bearer(token))
    await close(identifier)
    assert subject.claims["email"] == "secret-address"
    assert "secret" not in repr(subject)
    assert not any(part in repr(subject) for part in token.decode().split("."))


@pytest.mark.parametrize("names", [("none",), ("RS256", "XX"), ("rs256",)])
def test_an_algorithm_that_nobody_implements_is_a_mistake_at_load(names):
    with pytest.raises(ValueError, match="algorithms"):
        algorithms_of(names)


@pytest.mark.parametrize(
    "change",
    [{"use": "enc"}, {"key_ops": ["sign"]}, {"key_ops": []}, {"alg": "RS512"}, {"kid": 7}, {"n": "!"}, {"e": None}],
)
def test_a_key_that_is_not_for_verifying_is_left_out(change):
    entry = {**RSA.as_dict(private=False), **change}
    document = json.dumps({"keys": [entry, EC.as_dict(private=False)]}).encode()
    keys = parse(document, algorithms_of(["RS256", "ES256"]))
    assert keys.count == 1
    assert keys.find("rsa-1", "RS256") == ()


@pytest.mark.parametrize("entry", [None, 7, [], {}, {"kty": "XYZ"}, {"kty": 7}, {"kty": "EC"}, {"kty": "RSA", "n": 1}])
def test_what_is_not_understood_in_a_key_set_is_left_out(entry):
    document = json.dumps({"keys": [entry, EC.as_dict(private=False)]}).encode()
    assert parse(document, algorithms_of(["ES256"])).count == 1


def test_weak_keys_are_left_out():
    weak = {"kty": "oct", "k": b64(b"short").decode()}
    with pytest.raises(KeysUnusable):
        parse(json.dumps({"keys": [weak]}).encode(), algorithms_of(["HS256"]))
    small = '{"keys":[{"kty":"RSA","e":"AQAB","n":"' + b64(b"\xc1" * 127 + b"\x01").decode() + '"}]}'
    with pytest.raises(KeysUnusable):
        parse(small.encode(), algorithms_of(["RS256"]))


@pytest.mark.parametrize(
    "document",
    [b"", b"{}", b"[]", b'{"keys": {}}', b'{"keys": []}', b"<html>", b'{"keys": [], "keys": []}', b"\xff\xfe", b"["],
)
def test_what_is_not_a_key_set_is_said_so(document):
    with pytest.raises(KeysUnusable):
        parse(document, algorithms_of(["RS256"]))


def test_a_huge_key_set_is_refused():
    with pytest.raises(KeysUnusable, match="1 MiB"):
        parse(b" " * (1024 * 1024 + 1) + jwks(RSA), algorithms_of(["RS256"]))
    many = json.dumps({"keys": [EC.as_dict(private=False)] * 300}).encode()
    with pytest.raises(KeysUnusable, match="256"):
        parse(many, algorithms_of(["ES256"]))


@given(st.binary(max_size=300))
def test_strict_json_only_ever_raises_value_errors(data):
    with contextlib.suppress(ValueError):
        strict_json.loads(data)


@given(st.text(alphabet="abcABC019-_.=", max_size=200))
async def test_arbitrary_tokens_are_read_or_refused(text):
    with contextlib.suppress(TokenRefused):
        SignedToken(text.encode(), Pinned(algorithms_of(["RS256"])))
