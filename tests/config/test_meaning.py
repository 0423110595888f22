"""What a configuration means: the failure matrix, the masked view, what a change weakens."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gateway.config import masked, weakened
from gateway.config.matrix import failure_matrix
from gateway.model.settings import IamApi
from tests.config.texts import JWT, route, whole

SIX = """\
routes:
  - {id: closed, path: /closed, upstream: a, authorize: ["read a:b"]}
  - {id: closed-too, path: /closed-too, upstream: a, authorize: ["read a:b"], methods: [POST]}
  - {id: third, path: /third, upstream: a, authorize: ["read a:b"], policy: fail-closed}
  - {id: stale, path: /stale, upstream: a, authorize: ["read a:b"], on_iam_failure: {degrade: stale, max_stale: 60s}}
  - {id: stale-too, path: /stale-too, upstream: a, authorize: ["read a:b"], on_iam_failure: {degrade: stale, max_stale: 9s}}
  - {id: open, path: /open, upstream: a, authorize: ["read a:b"], on_iam_failure: {degrade: allow, acknowledge_fail_open: true}}
"""  # noqa: E501 - one route a line


def test_the_summary_is_the_documented_sentence(load_text) -> None:
    matrix = failure_matrix(load_text(whole(identity=JWT, routes=SIX)))
    assert matrix.summary == "if IAM is down: 3 routes answer 503, 2 serve stale up to 60s, 1 fails open (GET, HEAD)"
    assert matrix.counts == {"fail_closed": 3, "stale": 2, "allow": 1}
    assert matrix.as_text().splitlines()[0] == matrix.summary
    assert "  open        /open        GET, HEAD" in matrix.as_text()


def test_the_rows_say_it_by_method(load_text) -> None:
    document = failure_matrix(load_text(whole(identity=JWT, routes=SIX))).as_json()
    rows = {(row["route"], row["outcome"]): row["methods"] for row in document["routes"]}
    assert rows["open", "allow"] == ["GET", "HEAD"]
    assert rows["open", "fail_closed"] == ["DELETE", "OPTIONS", "PATCH", "POST", "PUT"]
    assert json.loads(json.dumps(document)) == document


def test_one_of_each_is_singular(load_text) -> None:
    keys = 'authorize: {GET: ["a b:c"], "*": public}\non_iam_failure: {degrade: fallback, response: {json: 1}}'
    matrix = failure_matrix(load_text(route(keys)))
    assert matrix.summary == "if IAM is down: 1 route answers with its own response"


def test_embedded_policies_and_routes_without_checks(load_text) -> None:
    routes = """\
routes:
  - {id: x, path: /x, upstream: a, authorize: ["a b:c"], on_iam_failure: {degrade: local}}
  - {id: y, path: /y, upstream: a, authorize: authenticated}
  - {id: z, path: /z, authorize: authenticated, permissions: {}}
"""
    configuration = load_text(whole(identity=JWT, routes=routes), {"policies/access/a.cedar": ""})
    assert failure_matrix(configuration).summary == (
        "if IAM is down: 1 route asks the embedded policies, 1 shows access as unknown, 1 is unaffected"
    )


def test_parts_with_checks_follow_the_route_s_rule(load_text) -> None:
    keys = """\
authorize: authenticated
aggregate:
  systems:
    One: {upstream: a, path: /x, authorize: ["a b:c"]}"""
    assert failure_matrix(load_text(route(keys, identity=JWT))).summary == "if IAM is down: 1 route answers 503"


SECRETS = """\
upstreams:
  a: {url: http://127.0.0.1, auth: {bearer: SECRET-1}}
  b: {url: http://127.0.0.1, auth: {basic: {username: user, password: SECRET-2}}}
  c:
    url: http://127.0.0.1
    auth: {oauth2_client_credentials: {token_url: https://idp/token, client_id: id, client_secret: SECRET-3}}"""
PARTS = """\
path: "/x/{id}"
aggregate:
  systems:
    One: {upstream: a, path: "/one/{path.id}?key=SECRET-4", method: POST, json: {key: SECRET-5}}
    Two: {upstream: b, path: /two}
    Three: {upstream: c, path: /three}"""


def test_queries_of_urls_are_masked(load_text) -> None:
    oauth = "{oauth2_client_credentials: {token_url: 'https://idp.example/t?key=S3', client_id: c, client_secret: s}}"
    text = whole(
        identity="identity: {jwt: {issuer: 'https://i.example', audience: a, jwks_url: 'https://i.example/k?key=S3'}}",
        upstreams=f"upstreams: {{a: {{url: 'http://127.0.0.1:9001', auth: {oauth}}}}}",
    )
    view = json.dumps(masked(load_text(text)))
    assert "S3" not in view
    assert "https://i.example/k?***" in view
    assert "https://idp.example/t?***" in view


def test_secrets_are_masked(load_text) -> None:
    text = route(
        PARTS,
        upstreams=SECRETS,
        server="server: {admin_token: SECRET-6}",
        iam="iam: {url: http://127.0.0.1, token: SECRET-7}",
    )
    configuration = load_text(text)
    view = masked(configuration)
    assert "SECRET" not in json.dumps(view)
    assert "SECRET" not in repr(configuration.iam) + repr(configuration.server) + repr(configuration.upstreams)
    assert view["iam"]["auth"] == "***"
    assert view["upstreams"]["b"]["auth"] == {"username": "user", "password": "***"}
    assert view["routes"][0]["action"]["parts"][0]["path"] == "/one/{path.id}?***"


def test_the_view_is_json_that_reads_like_the_file(load_text) -> None:
    view = masked(load_text(whole(server="server: {trusted_proxies: [10.0.0.0/8], strip_request_headers: [X-A]}")))
    assert json.loads(json.dumps(view)) == view
    assert view["server"]["trusted_proxies"] == ["10.0.0.0/8"]
    assert view["server"]["strip_request_headers"] == ["x-a"]
    assert view["server"]["listen"] == "127.0.0.1:8080"
    assert view["server"]["admin_token"] is None
    assert view["routes"][0]["access"]["GET"] == {"kind": "checks", "checks": ["read system:r"]}


CHANGES = [
    ("deadline: 5s", "deadline: 6s", []),
    ('authorize: ["a b:c", "d e:f"]', 'authorize: ["a b:c"]', ["GET no longer asks d e:f"]),
    ('authorize: ["a b:c"]', 'authorize: ["a b:c", "d e:f"]', []),
    ('authorize: ["a b:c"]', "authorize: public", ["GET is public, was checks"]),
    ('authorize: ["a b:c"]', "authorize: authenticated", ["GET is authenticated, was checks"]),
    ("authorize: authenticated", "authorize: public", ["GET is public, was authenticated"]),
    ("authorize: public", 'authorize: ["a b:c"]', []),
    ("policy: fail-closed", "policy: degrade-stale", ["GET is stale while IAM can't answer, was fail_closed"]),
    (
        "on_iam_failure: {degrade: stale, max_stale: 10s}",
        "on_iam_failure: {degrade: stale, max_stale: 20s}",
        ["GET is stale for up to 20s, was 10s"],
    ),
    ("policy: degrade-stale", "policy: fail-closed", []),
    ("recheck: 5s", "recheck: 6s", ["open streams are checked less often"]),
    ("recheck: 5s", "deadline: 1s", ["open streams are checked less often"]),
    ("deadline: 1s", "allow_encoded_slashes: true", ["allow_encoded_slashes is on"]),
]


@pytest.mark.parametrize(("before", "after", "lines"), CHANGES)
def test_a_change_that_weakens_a_route_names_it(load_text, before, after, lines) -> None:
    old = load_text(route(f"methods: [GET]\n{before}", identity=JWT))
    new = load_text(route(f"methods: [GET]\n{after}", identity=JWT))
    found = [line for line in weakened(old, new) if "HEAD" not in line]
    assert found == [f"r: {line}" for line in lines]


def test_a_method_that_is_newly_allowed_is_named(load_text) -> None:
    assert weakened(load_text(route("methods: [GET]")), load_text(route("methods: [GET, POST]"))) == [
        "r: POST is allowed"
    ]


STRICT = '{id: strict, path: /a/admin/*, upstream: a, authorize: ["admin a:b"], methods: [POST]}'
WIDE = '{id: wide, path: /a/*, upstream: a, authorize: ["read a:b"], methods: [POST]}'
LOOSE = "{id: loose, path: '/a/admin/{x}', upstream: a, authorize: public, methods: [POST]}"


def test_a_strict_route_that_goes_leaves_its_path_to_a_looser_one(load_text) -> None:
    old = load_text(whole(routes=f"routes:\n  - {STRICT}\n  - {WIDE}"))
    new = load_text(whole(routes=f"routes:\n  - {WIDE}"))
    assert weakened(old, new) == ["strict: is gone, wide takes its path: POST no longer asks admin a:b"]


def test_a_loose_route_within_a_strict_one_is_named(load_text) -> None:
    old = load_text(whole(routes=f"routes:\n  - {STRICT}\n  - {WIDE}"))
    new = load_text(whole(routes=f"routes:\n  - {STRICT}\n  - {WIDE}\n  - {LOOSE}"))
    assert weakened(old, new) == ["loose: POST is public, was checks"]


def test_a_new_path_of_its_own_weakens_nothing(load_text) -> None:
    old = load_text(whole(routes=f"routes:\n  - {STRICT}"))
    assert weakened(old, load_text(whole(routes=f"routes:\n  - {STRICT}\n  - {WIDE}"))) == []


IDENTITIES = [
    (JWT, JWT.replace("audience: x", "audience: y"), "tokens of another audience are accepted"),
    (JWT, JWT.replace("audience: x", "audience: x, leeway: 1h"), "expired tokens are accepted for 1h"),
    (
        JWT,
        JWT.replace("audience: x", "audience: x, algorithms: [RS256, PS256]"),
        "tokens signed with PS256 are accepted",
    ),
    (JWT, "identity: {header: {name: X-User}}", "the subject comes from a header now"),
]


@pytest.mark.parametrize(("before", "after", "line"), IDENTITIES)
def test_a_weaker_identity_weakens_every_route(load_text, before, after, line) -> None:
    server = "server: {trusted_proxies: [10.0.0.0/8]}"
    old, new = (load_text(whole(identity=identity, server=server)) for identity in (before, after))
    assert weakened(old, new) == [f"every route: {line}"]


def test_a_weaker_iam_weakens_every_route(load_text) -> None:
    old = load_text(whole(iam="iam: {url: https://iam}"))
    new = load_text(whole(iam="iam: {url: https://iam, tls: {verify: false}, cache: {ttl: 5s}}"))
    assert weakened(old, new) == [
        "every route: IAM's certificate is not verified",
        "every route: permits are used for 5s without asking again",
    ]


def test_a_part_that_asks_less_is_named(load_text) -> None:
    keys = 'path: "/x"\naggregate: {systems: {One: {upstream: a, path: /x, authorize: ["a b:c"]}}}'
    old = load_text(route(keys))
    new = load_text(route(keys.replace(', authorize: ["a b:c"]', "")))
    assert weakened(old, new) == ["r: One no longer asks a b:c"]


MAY = 'permit (principal, action == Action::"read", resource);'
MAY_NOT = '@id("no")\nforbid (principal, action, resource == System::"secret");'
POLICIES = [
    ({"a.cedar": MAY + MAY_NOT}, {"a.cedar": MAY, "b.cedar": f"// moved\n{MAY_NOT}"}, []),
    ({"a.cedar": MAY}, {"a.cedar": MAY + MAY_NOT}, []),
    ({"a.cedar": MAY + MAY_NOT}, {"a.cedar": MAY_NOT}, []),
    ({"a.cedar": f"{MAY}\n{MAY_NOT}"}, {"a.cedar": MAY}, ["policies/access/a.cedar:2: this forbid is gone or changed"]),
    (
        {"a.cedar": MAY_NOT},
        {"a.cedar": MAY_NOT, "b.cedar": f"\n{MAY}"},
        ["policies/access/b.cedar:2: this permit is new or changed"],
    ),
    (
        {"a.cedar": MAY, "entities.json": "[]"},
        {"a.cedar": MAY, "entities.json": "[ ]"},
        ["policies/access/entities.json: the entities have changed, so policies may permit more"],
    ),
]


@pytest.mark.parametrize(("before", "after", "lines"), POLICIES)
@pytest.mark.parametrize("decide", [True, False])
def test_policies_that_may_permit_more_are_named_where_they_decide(load_text, before, after, lines, *, decide) -> None:
    base = load_text(whole())
    if decide:
        base = replace(base, iam=replace(base.iam, api=IamApi.EMBEDDED))
    old, new = (
        replace(base, access_texts=tuple((name, text.encode()) for name, text in files.items()))
        for files in (before, after)
    )
    assert weakened(old, new) == (lines if decide else [])
