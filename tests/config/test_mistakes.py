"""Every class of mistake in server, iam, identity and upstreams: found, at its place, in words that help."""

from __future__ import annotations

import pytest

from tests.config.texts import JWT, MARK, PARTS, whole

SERVER = [
    ("{lisen‸: 1}", "unknown-key", 'did you mean "listen"?'),
    ("{‸zzz: 1}", "unknown-key", 'unknown key "zzz"'),
    ("{listen: ‸8080}", "wrong-type", 'text is expected, not 8080; write HOST:PORT, like "127.0.0.1:8080"'),
    ("{listen: ‸nonsense}", "bad-address", "an address is HOST:PORT"),
    ('{listen: ‸":8080"}', "bad-address", "0.0.0.0:8080 listens on every address"),
    ('{listen: ‸"localhost:70000"}', "bad-address", "a port is at most 65535"),
    ('{listen: ‸"[::1:80"}', "bad-address", "an address is HOST:PORT"),
    ('{listen: ‸"[zz]:80"}', "bad-address", "not an IPv6 address"),
    ('{listen: ‸"0x7f.1:80"}', "bad-address", "can be read as different addresses"),
    ('{admin: ‸"0.0.0.0:9901"}', "admin-token-needed", "it needs server.admin_token"),
    ('{admin: ‸"[::]:9901", admin_token: ""}', "admin-token-needed", "it needs server.admin_token"),
    ('{listen: "127.0.0.1:80", admin: ‸"127.0.0.1:80"}', "same-address", "both listeners can't be on 127.0.0.1:80"),
    ("{deadline: ‸5}", "bad-duration", 'a duration needs its unit: "5s" or "5ms"'),
    ("{deadline: ‸0s}", "bad-duration", "more than zero"),
    ("{deadline: ‸soon}", "bad-duration", "write it like 250ms"),
    ("{deadline: ‸true}", "bad-duration", "a duration is expected"),
    ("{deadline: ‸[1s]}", "bad-duration", "a duration is expected"),
    ("{deadline: ‸}", "bad-duration", "a duration is expected"),
    ("{max_body: ‸64}", "bad-size", 'a size needs its unit: "64B"'),
    ("{max_body: ‸64MB}", "bad-size", 'did you mean "64MiB"?'),
    ("{max_uri: ‸0}", "bad-size", "more than zero"),
    ("{max_headers: ‸0}", "out-of-range", "at least 1"),
    ("{max_headers: ‸-1}", "out-of-range", "at least 1"),
    ("{max_headers: ‸9999999999}", "out-of-range", "at most 1000000000"),
    ('{max_headers: ‸"100"}', "wrong-type", 'a whole number is expected, not the text "100"'),
    ("{max_headers: ‸017}", "wrong-type", 'a whole number is expected, not the text "017"'),
    ("{max_headers: ‸1:30}", "wrong-type", 'a whole number is expected, not the text "1:30"'),
    ("{max_headers: ‸1_000}", "wrong-type", 'a whole number is expected, not the text "1_000"'),
    ("{max_headers: ‸1.5}", "wrong-type", "a whole number is expected, not 1.5"),
    ("{max_headers: ‸true}", "wrong-type", "a whole number is expected, not true"),
    ("{access_log: ‸jsn}", "bad-value", 'did you mean "json"?'),
    ("{access_log: ‸off1}", "bad-value", 'did you mean "off"?'),
    ("{access_log: ‸false}", "wrong-type", "is expected, not false"),
    ("{access_log: ‸}", "empty-value", "give one or remove the key"),
    ("{name: ‸a b}", "bad-name", "letters, digits"),
    ('{name: ‸""}', "bad-name", "letters, digits"),
    ("{trusted_proxies: ‸10.0.0.0/8}", "wrong-type", 'a list is expected, not the text "10.0.0.0/8"'),
    ("{trusted_proxies: [‸10.0.0.1/8]}", "bad-network", "did you mean 10.0.0.0/8?"),
    ("{trusted_proxies: [10.0.0.0/8, ‸ten]}", "bad-network", "like 10.0.0.0/8"),
    ('{strip_request_headers: [‸"a b"]}', "bad-header-name", "not a header name"),
    ('{admin_token: ‸"a b"}', "bad-secret", "visible ASCII"),
    ("{admin_hosts: [‸a/b]}", "bad-host", "not a host name"),
    ("{tls: ‸{cert_file: c.pem}}", "missing-key", 'the key "key_file" is missing'),
    ("{tls: ‸true}", "wrong-type", "a mapping is expected, not true"),
]
OAUTH = "oauth2_client_credentials: {token_url: https://idp/t, client_id: c"
IAM = [
    ("‸{}", "missing-key", 'the key "url" is missing: api: authzen asks a server'),
    ("{url: ‸ftp://iam}", "bad-url", "http:// or https://"),
    ("{url: http://127.0.0.1, urls‸: [http://127.0.0.1]}", "one-url", "exactly one of url and urls"),
    ("{urls: ‸[]}", "empty-value", "must not be empty"),
    ("{urls: [http://127.0.0.1, ‸http://127.0.0.1/]}", "same-url", "is there twice"),
    ("{urls: [http://127.0.0.1, ‸iam:8181]}", "bad-url", "http:// or https://"),
    ("{url: http://127.0.0.1, hedge: ‸100ms}", "hedge-alone", "there is only one"),
    ("{urls: [http://127.0.0.1], hedge: ‸100ms}", "hedge-alone", "there is only one"),
    ("{url: http://127.0.0.1, ‸token: x, auth: {bearer: y}}", "one-auth", "only one of token and auth"),
    ("{url: http://127.0.0.1, ‸auth: {}}", "one-auth", "exactly one of bearer, basic and oauth2_client_credentials"),
    (
        "{url: http://127.0.0.1, auth: {‸oauth2_client_credentials: {token_url: https://idp/t, client_id: c}}}",
        "missing-key",
        'the key "client_secret" is missing: client_auth: basic needs it',
    ),
    (
        f"{{url: http://127.0.0.1, auth: {{‸{OAUTH}, client_auth: private_key_jwt}}}}}}",
        "missing-key",
        'the key "key_file" is missing',
    ),
    (
        f"{{url: http://127.0.0.1, auth: {{{OAUTH}, client_auth: ‸jwt}}}}}}",
        "bad-value",
        'is not "basic", "post" or "private_key_jwt"',
    ),
    ("{url: ‸iam:8181}", "bad-url", "http:// or https://"),
    ("{url: ‸http://}", "bad-url", "has no host"),
    ("{url: ‸http://u:p@iam}", "bad-url", "credentials"),
    ("{url: ‸http://iam?x=1}", "bad-url", "can't have a query"),
    ("{url: ‸http://iam/#x}", "bad-url", "fragment"),
    ("{url: ‸http://iam/a/../b}", "bad-url", "dot segments"),
    ("{url: ‸http://iam:0}", "bad-url", "a port is one of 1 to 65535"),
    ("{url: ‸http://iam:99999}", "bad-url", "a port is one of"),
    ("{url: ‸http://169.254.169.254/latest}", "bad-url", "metadata"),
    ("{url: http://127.0.0.1, api: ‸authzn}", "bad-value", 'did you mean "authzen"?'),
    ("{url: http://127.0.0.1, api: ‸oauth}", "bad-value", 'is not "authzen", "json", "opa" or "embedded"'),
    ("‸{url: http://127.0.0.1, api: opa}", "missing-key", 'the key "path" is missing'),
    ("{api: ‸embedded}", "no-access-policies", "policies/access/*.cedar, and there are none"),
    ("{url: http://127.0.0.1, batch: {max_size: ‸0}}", "out-of-range", "at least 1"),
    ("{url: http://127.0.0.1, batch: {max_sise‸: 5}}", "unknown-key", 'did you mean "max_size"?'),
    ("{url: http://127.0.0.1, retry: {attempts: ‸21}}", "out-of-range", "at most 20"),
    ("{url: http://127.0.0.1, retry: {attempts: ‸0}}", "out-of-range", "at least 1"),
    ("{url: http://127.0.0.1, circuit_breaker: {failure_rate: ‸0.5}}", "bad-share", "write it like 50%"),
    (
        "{url: http://127.0.0.1, circuit_breaker: {open_for: 10s, open_for_max: ‸5s}}",
        "open-for-max",
        "less than open_for",
    ),
    ("{url: http://127.0.0.1, circuit_breaker: {open_for: ‸2m}}", "open-for-max", "less than open_for"),
    ("{url: http://127.0.0.1, api: json, batch_path: ‸batch}", "bad-path", "starts with /"),
    ("{url: http://127.0.0.1, headers: ‸{Authorization: x}}", "bad-header-name", "gateway's own"),
    ("{url: http://127.0.0.1, headers: ‸{X-Tenant: ü}}", "bad-value", "ASCII"),
    ("{url: http://127.0.0.1, api: json, single_path: ‸null}", "empty-value", "no value"),
    ("{url: http://127.0.0.1, token: ‸{a: b}}", "wrong-type", "text is expected, not a mapping"),
    ("{url: http://127.0.0.1, cache: ‸5s}", "wrong-type", 'a mapping is expected, not the text "5s"'),
    ("{url: http://127.0.0.1, tls: {ca_file: ‸missing.pem}}", "unreadable-file", "missing.pem: there is no such file"),
]
IDENTITY = [
    ("‸{}", "one-identity", "exactly one of jwt, introspection, opaque and header"),
    ("{opaque: {}, header‸: {name: X}}", "one-identity", "here are opaque and header"),
    ("{opaqe‸: {}}", "unknown-key", 'did you mean "opaque"?'),
    ("{opaque: {a‸: 1}}", "unknown-key", 'unknown key "a"'),
    ("{opaque: ‸true}", "wrong-type", "a mapping is expected"),
    ("{opaque: ‸}", "empty-value", "give one or remove the key"),
    ("{header‸: {name: X-User}}", "trusted-proxies-needed", "server.trusted_proxies, which is empty"),
    ("{jwt: ‸{audience: a, jwks_url: https://i}}", "missing-key", 'the key "issuer" is missing'),
    ("{jwt: {issuer: ‸i, audience: a}}", "one-key-source", "by OpenID discovery at the issuer"),
    ("{jwt: {issuer: ‸'https://i?a=b', audience: a}}", "bad-url", "has no query"),
    ("{jwt: {issuer: i, audience: a, jwks_url: https://i, jwks_file‸: f}}", "one-key-source", "at most one"),
    ("{jwt: {issuer: i, audience: a, jwks_url: ‸file:///etc/keys}}", "bad-url", "http:// or https://"),
    ("{jwt: {issuer: i, audience: a, jwks_file: ‸keys.json}}", "unreadable-file", "there is no such file"),
    ("{jwt: {issuer: i, audience: a, jwks_url: https://i, algorithms: ‸[]}}", "empty-value", "must not be empty"),
    ("{jwt: {issuer: i, audience: a, jwks_url: https://i, algorithms: [‸HS256]}}", "bad-algorithm", "is refused"),
    ("{jwt: {issuer: i, audience: a, jwks_url: https://i, algorithms: [‸none]}}", "bad-algorithm", "is refused"),
    ("{jwt: {issuer: i, audience: a, jwks_url: https://i, algorithms: [‸RS265]}}", "bad-algorithm", 'mean "RS256"?'),
    ("{jwt: {issuer: ‸1, audience: a, jwks_url: https://i}}", "wrong-type", 'quote it: "1"'),
    ("{jwt: {issuer: i, audience: a, jwks_url: https://i, leeway: ‸-1s}}", "bad-duration", "not a duration"),
    ("{jwt: ‸[]}", "empty-value", "must not be empty"),
    ("{jwt: ‸x}", "wrong-type", "a mapping, or a list of them, is expected"),
    (
        "{jwt: [{issuer: 'https://i', audience: a}, {issuer: ‸'https://i', audience: b}]}",
        "same-issuer",
        "is there twice",
    ),
    ("{jwt: [{issuer: 'https://i', audience: a}, ‸{issuer: 'https://j'}]}", "missing-key", '"audience" is missing'),
    ("{jwt: {issuer: 'https://i', audience: ‸[]}}", "empty-value", "must not be empty"),
    ("{jwt: {issuer: 'https://i', audience: a, subject: {id: ‸alice}}}", "same-subject", "the same for every caller"),
    ("{jwt: {issuer: 'https://i', audience: a, subject: {id: ‸'{query.a}'}}}", "bad-placeholder", "made of claims"),
    ("{jwt: {issuer: 'https://i', audience: a, subject: {type: ‸'{claim}'}}}", "bad-placeholder", "known here"),
    ("{jwt: {issuer: 'https://i', audience: a, headers: {X-Mail‸: email}}}", "bad-header-name", "begins with X-Auth-"),
    ("{jwt: {issuer: 'https://i', audience: a, headers: {x-auth-Subject‸: s}}}", "bad-header-name", "gateway's own"),
    ("{jwt: {issuer: 'https://i', audience: a, required: {scope: ‸['a b\"']}}}", "bad-value", "visible ASCII"),
    ("{jwt: {issuer: 'https://i', audience: a, required: {scope: ‸[]}}}", "empty-value", "must not be empty"),
    ("{jwt: {issuer: 'https://i', audience: a, tls: {ca_file: ‸ca.pem}}}", "unreadable-file", "no such file"),
    ("{introspection: ‸{}}", "missing-key", 'the key "url" is missing'),
    ("{introspection: {url: ‸'ftp://i'}}", "bad-url", "http:// or https://"),
    ("{introspection: {url: 'https://i', auth‸: {}}}", "one-auth", "exactly one of bearer, basic"),
    ("{introspection: {url: 'https://i', cache: ‸-1s}}", "bad-duration", "not a duration"),
    ("{opaque: {}, token: ‸[]}", "empty-value", "must not be empty"),
    ("{opaque: {}, token: [‸body]}", "bad-value", "is not"),
    ("{opaque: {}, token: [header, ‸header]}", "same-place", "is there twice"),
    ("{opaque: {}, token: [‸{}]}", "one-place", "exactly one of cookie and query"),
    ("{opaque: {}, token: [‸{cookie: a, query: b}]}", "one-place", "exactly one of cookie and query"),
    ("{opaque: {}, token: [{query: ‸a=b}]}", "bad-name", "without spaces"),
]
UPSTREAMS = [
    ("{a: ‸{}}", "one-url", "exactly one of url and urls"),
    ("{a: {url: http://127.0.0.1, urls‸: [http://127.0.0.1]}}", "one-url", "exactly one of url and urls"),
    ("{a: {urls: ‸[]}}", "empty-value", "must not be empty"),
    ("{a: {urls: [http://127.0.0.1, ‸http://127.0.0.1/]}}", "same-url", "is there twice"),
    ("{a: {urls: [http://127.0.0.1, ‸ftp://x]}}", "bad-url", "http:// or https://"),
    ("{a: {url: ‸http://127.0.0.1/api}}", "bad-url", "ends after the port; a path belongs to the route"),
    ("{a: {url: ‸http://127.0.0.1?}}", "bad-url", "ends after the port"),
    ("{a: {url: ‸http://u@127.0.0.1}}", "bad-url", "credentials"),
    ('{a: {url: ‸"http://127.0.0.1:"}}', "bad-url", "a port is one of"),
    ("{a: {url: ‸http://127.0.0.1:x}}", "bad-url", "port"),
    ("{a: {url: ‸127.0.0.1:9001}}", "bad-url", "starts with http://"),
    ("{a: {url: ‸'file:///etc/passwd'}}", "bad-url", "starts with http://"),
    ("{a: {url: ‸'http:127.0.0.1'}}", "bad-url", "starts with http://"),
    ("{a: {url: ‸'http://a b'}}", "bad-url", "spaces"),
    ("{a: {url: ‸http://exämple}}", "bad-url", "beyond ASCII"),
    ("{a: {url: ‸http://169.254.169.254}}", "bad-url", "metadata"),
    ("{a: {url: ‸'http://[::ffff:169.254.169.254]'}}", "bad-url", "metadata"),
    ("{a: {url: ‸http://metadata.google.internal}}", "bad-url", "metadata"),
    ("{a: {url: ‸http://METADATA.google.internal.}}", "bad-url", "metadata"),
    ("{a: {url: ‸http://2852039166}}", "bad-url", "different addresses"),
    ("{a: {url: ‸http://0xa9fea9fe}}", "bad-url", "different addresses"),
    ("{a: {url: ‸http://169.254.43518}}", "bad-url", "different addresses"),
    ("{a: {url: ‸http://0251.0376.0251.0376}}", "bad-url", "different addresses"),
    ("{a: {url: ‸'http://[fe80::1%25eth0]'}}", "bad-url", ""),
    ("{a: {url: ‸http://-bad-}}", "bad-url", "not a host name"),
    ("{a: {url: http://127.0.0.1}, ‸iam: {url: http://127.0.0.1}}", "same-name", "IAM itself"),
    ("{a: {url: http://127.0.0.1}, ‸'b c': {url: http://127.0.0.1}}", "bad-name", "letters, digits"),
    ("{a: {url: http://127.0.0.1, tls: {cert_file: ‸c.pem, key_file: k.pem}}}", "unreadable-file", "no such file"),
    ("{a: {url: http://127.0.0.1, tls: {verify: ‸no}}}", "wrong-type", 'true or false is expected, not the text "no"'),
    ("{a: {url: http://127.0.0.1, auth‸: {}}}", "one-auth", "exactly one of bearer, basic"),
    ("{a: {url: http://127.0.0.1, auth: {bearer: ‸''}}}", "empty-value", "must not be empty"),
    ("{a: {url: http://127.0.0.1, auth: {bearer: ‸12}}}", "wrong-type", "a token or {token: …} is expected"),
    ("{a: {url: http://127.0.0.1, auth: {basic: ‸{username: u}}}}", "missing-key", '"password" is missing'),
    ("{a: {url: http://127.0.0.1, auth: {basic: {username: ‸'u:v', password: p}}}}", "bad-value", "colon"),
    ("{a: {url: http://127.0.0.1, health: {path: ‸health}}}", "bad-path", "starts with /"),
    ("{a: ‸http://127.0.0.1}", "wrong-type", "a mapping is expected"),
]


def _cases() -> list[tuple[str, str, str]]:
    """Each case as a whole file with one marker."""
    tables = {"server": SERVER, "iam": IAM, "identity": IDENTITY, "upstreams": UPSTREAMS}
    return [(_marked(name, text), id_, words) for name, table in tables.items() for text, id_, words in table]


def _marked(name: str, text: str) -> str:
    """A marker behind a key stands for the place of that key: easier to read in a table of flow mappings."""
    before, _, after = text.partition(MARK)
    if after.startswith(":"):
        start = max(before.rfind("{"), before.rfind(" ")) + 1
        text = before[:start] + MARK + before[start:] + after
    return whole(**{name: f"{name}: {text}"})


@pytest.mark.parametrize(("text", "id_", "words"), _cases())
def test_a_mistake_is_found_at_its_place(assert_mistake, text, id_, words) -> None:
    assert_mistake(text, id_, words, {"k.pem": ""})


TOP = [
    (whole(version=""), "missing-key", 'the key "version" is missing'),
    (whole(version="version: ‸2"), "wrong-type", ""),
    (whole(version="version: ‸1.0"), "wrong-type", "the number 1 is expected"),
    (whole(version="version: ‸true"), "wrong-type", "the number 1 is expected"),
    (whole(version='version: ‸"1"'), "wrong-type", "the number 1 is expected"),
    (whole(iam=""), "missing-key", 'the key "iam" is missing'),
    (whole(identity=""), "missing-key", 'the key "identity" is missing'),
    (whole(routes=""), "missing-key", 'the key "routes" is missing'),
    (whole(routes="routes: ‸[]"), "empty-value", "must not be empty"),
    (whole(routes="routes: ‸{}"), "wrong-type", "a list is expected, not a mapping"),
    (whole(routes="routes:\n  - ‸text"), "wrong-type", "a mapping is expected"),
    (whole(server="‸sever: {}"), "unknown-key", 'did you mean "server"?'),
    (whole(server="‸<<: {}"), "unknown-key", "merge keys are not YAML 1.2"),
    (whole(server="server: ‸text"), "wrong-type", "a mapping is expected"),
    (whole(server="server: {‸deadline:5s}"), "unknown-key", 'a space belongs behind the colon: "deadline: 5s"'),
    (whole(server='server:\n  ‸"deadline:5s": 1'), "unknown-key", 'a space belongs behind the colon: "deadline: 5s"'),
    (whole(server="server: {deadline: 5s", iam="iam‸: {}"), "yaml-syntax", "starts in line 2"),
]


@pytest.mark.parametrize(("text", "id_", "words"), TOP)
def test_a_mistake_at_the_top_is_found_at_its_place(assert_mistake, text, id_, words) -> None:
    assert_mistake(text if MARK in text else MARK + text, id_, words)


def test_every_mistake_is_told_at_once(mistakes) -> None:
    text = """\
version: 2
server: {deadline: 5, max_body: 1MB, zzz: 1}
iam: {url: ftp://x, api: authzn, retry: {attempts: 0}}
identity: {jwt: {issuer: i, jwks_url: x}}
upstreams: {a: {url: x, nope: 1}, b: {}}
routes:
  - {id: one, path: inventory, upstream: c, authorize: [], policy: nope}
  - {id: one, path: /b, upstream: b, deadline: 0s, authorize: ["read"], methods: [GTE]}
  - {path: /c/{d}, zzz: 1}
"""
    found = mistakes(text.replace("/c/{d}", '"/c/{d}"'))
    assert [(each.line, each.id) for each in found] == [
        (1, "wrong-type"),
        (2, "bad-duration"),
        (2, "bad-size"),
        (2, "unknown-key"),
        (3, "bad-url"),
        (3, "bad-value"),
        (3, "out-of-range"),
        (4, "missing-key"),
        (5, "bad-url"),
        (5, "unknown-key"),
        (5, "one-url"),
        (7, "bad-path"),
        (7, "unknown-upstream"),
        (7, "empty-value"),
        (7, "unknown-policy"),
        (8, "duplicate-id"),
        (8, "bad-duration"),
        (8, "bad-check"),
        (8, "unknown-method"),
        (9, "missing-key"),
        (9, "missing-key"),
        (9, "one-kind"),
        (9, "unknown-key"),
    ]


def test_the_text_of_a_mistake_is_the_form_that_editors_read(mistakes) -> None:
    found = mistakes(whole(server="server: {deadline: 5}"))
    assert str(found[0]).endswith('routes.yaml:2:20: error[bad-duration]: a duration needs its unit: "5s" or "5ms"')
    assert found[0].as_json()["line"] == 2


def test_header_identity_is_read_with_trusted_proxies(load_text) -> None:
    text = whole(server="server: {trusted_proxies: [10.0.0.0/8]}", identity="identity: {header: {name: X-User}}")
    assert load_text(text).identity.name == b"x-user"


@pytest.mark.parametrize("name", ["Authorization", "cookie", "Host"])
def test_a_header_that_means_something_else_can_t_name_the_subject(assert_mistake, name) -> None:
    identity = f"identity: {{header: {{name: ‸{name}}}}}"
    assert_mistake(whole(server="server: {trusted_proxies: [10.0.0.0/8]}", identity=identity), "bad-header-name")


def test_a_key_set_is_looked_at(assert_mistake, load_text) -> None:
    identity = "identity: {jwt: {issuer: i, audience: a, jwks_file: ‸keys.json}}"
    assert_mistake(whole(identity=identity), "bad-key-set", "JSON Web Key Set", {"keys.json": "[]"})
    configuration = load_text(whole(identity=identity.replace(MARK, "")), {"keys.json": '{"keys": []}'})
    assert configuration.identity.issuers[0].jwks_file in configuration.files


def test_certificates_are_looked_at(assert_mistake) -> None:
    files = {"c.pem": "no", "k.pem": "no"}
    assert_mistake(whole(server="server: {‸tls: {cert_file: c.pem, key_file: k.pem}}"), "bad-certificate", "PEM", files)
    upstreams = "upstreams: {a: {url: https://127.0.0.1, tls: {ca_file: ‸c.pem}}}"
    assert_mistake(whole(upstreams=upstreams), "bad-certificate", "c.pem holds no PEM certificates", files)
    client = "{token_url: https://idp/t, client_id: c, client_auth: private_key_jwt, key_file: ‸k.pem}"
    iam = f"iam: {{url: https://127.0.0.1, auth: {{oauth2_client_credentials: {client}}}}}"
    assert_mistake(whole(iam=iam), "bad-key", "k.pem: it is no PEM private key without a passphrase", files)
    upstreams = "upstreams: {a: {url: https://127.0.0.1, ‸tls: {cert_file: c.pem}}}"
    assert_mistake(whole(upstreams=upstreams), "tls-pair", "belong together", files)


WARNINGS = [
    (whole(iam="iam: {url: ‸http://iam.example}"), "plain-http"),
    (whole(iam="iam: {url: https://iam, tls: {‸verify: false}}"), "tls-unverified"),
    (whole(iam="iam: {url: http://127.0.0.1, ‸tls: {server_name: x}}"), "unused-key"),
    (whole(iam="iam: {url: http://127.0.0.1, api: opa, path: p, ‸batch_path: /x}"), "unused-key"),
    (whole(iam="iam: {url: http://127.0.0.1, ‸path: x}"), "unused-key"),
    (
        whole(iam="iam: {urls: ‸[https://a.example, http://b.example]}"),
        "plain-http",
    ),
    (
        whole(
            iam="iam: {url: http://127.0.0.1, auth: {oauth2_client_credentials: "
            "{token_url: https://idp/t, client_id: c, client_secret: s, ‸key_id: k}}}"
        ),
        "unused-key",
    ),
    (whole(iam="iam: {url: http://127.0.0.1, timeout: {connect: 2s, total: ‸1s}}"), "contradiction"),
    (whole(iam="iam: {url: http://127.0.0.1, cache: ‸{ttl: 10m}}"), "contradiction"),
    (whole(server="server: {trusted_proxies: [‸0.0.0.0/0]}"), "trusts-everybody"),
    (whole(identity=JWT.replace("https://idp.example/jwks", "‸http://idp.example/jwks")), "plain-http"),
    (whole(upstreams="upstreams: {a: {url: http://127.0.0.1}, ‸b: {url: http://127.0.0.1}}"), "unused-upstream"),
    (whole(upstreams="upstreams: {a: {url: http://a.example, auth: ‸{bearer: x}}}"), "plain-http"),
]


@pytest.mark.parametrize(("marked", "id_"), WARNINGS)
def test_what_serves_but_should_be_known_is_a_warning(load_text, marked, id_) -> None:
    line = marked[: marked.index(MARK)].count("\n") + 1
    col = marked.index(MARK) - marked.rfind("\n", 0, marked.index(MARK))
    configuration = load_text(marked.replace(MARK, ""))
    assert len(configuration.warnings) == 1
    assert f":{line}:{col}: warning[{id_}]: " in configuration.warnings[0]


def test_the_usual_file_has_no_warnings(load_text) -> None:
    assert load_text(whole()).warnings == ()
    assert PARTS["version"] in whole()
