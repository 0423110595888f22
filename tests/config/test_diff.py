"""What `gateway diff` calls weaker, and what not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.config import differences, weakened
from gateway.config.route_changes import moved
from tests.config.texts import JWT, whole
from tests.production.authority import Authority

IDP = "issuer: https://idp.example, jwks_url: https://idp.example/jwks"
GUARDED = '{id: inventory, path: /inventory/*, upstream: a, methods: [GET], authorize: ["read system:inventory"]}'
TWO = GUARDED.replace('["read', '["audit system:inventory", "read')
WRITES = GUARDED.replace("[GET]", "[GET, POST]")


def jwt(rest: str) -> str:
    return f"identity: {{jwt: {{{IDP}, {rest}}}}}"


def routes(*each: str) -> str:
    return "routes:\n" + "".join(f"  - {one}\n" for one in each)


def with_key(key: str, route: str = GUARDED) -> str:
    return f"{route[:-1]}, {key}}}"


@dataclass
class Case:
    """Two files, by the parts that differ, and whether the second is weaker than the first."""

    name: str
    before: dict[str, str]
    after: dict[str, str]
    weaker: bool
    says: str = ""


def route_case(name: str, before: tuple[str, ...], after: tuple[str, ...], says: str = "") -> Case:
    return Case(name, {"routes": routes(*before)}, {"routes": routes(*after)}, bool(says), says)


def part_case(name: str, part: str, before: str, after: str, says: str = "") -> Case:
    return Case(name, {part: before}, {part: after}, bool(says), says)


def stale(seconds: int) -> str:
    return with_key(f"on_iam_failure: {{degrade: stale, max_stale: {seconds}s}}")


OTHER = '{id: orders, path: /orders/*, upstream: a, methods: [GET], authorize: ["read system:orders"]}'
PUBLIC = "{id: open, path: /inventory/open/*, upstream: a, methods: [GET], authorize: public}"
TENANTS = "{id: tenants, path: '/{tenant}/admin', upstream: a, methods: [GET], authorize: [\"admin t:{path.tenant}\"]}"
ACME = "{id: acme, path: /acme/*, upstream: a, methods: [GET], authorize: authenticated}"
ALLOW = "on_iam_failure: {degrade: allow, acknowledge_fail_open: true}"
CORS = "cors: {origins: [https://app.example], credentials: true}"
WIDE_CORS = "cors: {origins: [https://app.example, https://other.example], credentials: true}"
PLAIN_CORS = "cors: {origins: [https://other.example]}"

TENANT = "{id: t, path: '/t/{tenant}/{doc}', upstream: a, methods: [GET], authorize: [\"read doc:{path.doc}\"]}"
NAMED = "{id: first, path: /named/*, upstream: a, methods: [GET], authorize: ['read route:{route.id}']}"
AUDIT = (
    '{id: audit, path: /audit, methods: [GET], authorize: ["audit a:b"], aggregate: {systems: '
    '{One: {upstream: a, path: "/one", authorize: ["see system:one"]}, Two: {upstream: a, path: "/two"}}}}'
)
MENU = (
    "{id: menu, path: /menu, methods: [GET], authorize: authenticated, navigation: "
    '{upstream: a, items: /menus/*, check: "{item.action} {item.resource}", on_denied: remove}}'
)
HALVES = "server: {trusted_proxies: [10.0.0.0/9, 10.128.0.0/9]}"
INTROSPECTION = "identity: {introspection: {url: https://idp.example/introspect}}"


def pinned(keys: str) -> str:
    return f"iam: {{url: https://iam{keys}}}"


NASTY = [
    # weaker, though little of the text says so
    route_case(
        "names of a path change places",
        (TENANT,),
        (TENANT.replace("{tenant}/{doc}", "{doc}/{tenant}"),),
        "no longer asks read doc:{path.doc}",
    ),
    route_case(
        "a check on the route's id under another id",
        (NAMED,),
        (NAMED.replace("id: first", "id: second"),),
        "no longer asks read route:{route.id}",
    ),
    route_case(
        "a renamed route asks less",
        (GUARDED,),
        (GUARDED.replace("id: inventory", "id: stock").replace("read", "look"),),
        "is gone, stock takes its path",
    ),
    route_case(
        "a loose route for one host of a guarded path",
        (GUARDED,),
        (GUARDED, ACME.replace("/acme/*", "/inventory/*").replace("id: acme", "id: acme, host: shop.example")),
        "acme: GET is authenticated",
    ),
    route_case(
        "a host is taken off a loose route",
        (GUARDED.replace("/inventory/*", "/*"), PUBLIC.replace("id: open", "id: open, host: shop.example")),
        (GUARDED.replace("/inventory/*", "/*"), PUBLIC),
        "takes targets of inventory: GET is public",
    ),
    route_case(
        "a loose path grows over a guarded one",
        (GUARDED.replace("/inventory/*", "'/inventory/{id}/notes'"), PUBLIC),
        (GUARDED.replace("/inventory/*", "'/inventory/{id}/notes'"), PUBLIC.replace("/open/*", "/5/*")),
        "takes targets of inventory",
    ),
    route_case(
        "one of several methods asks less",
        (WRITES,),
        (WRITES.replace('["read system:inventory"]', '{GET: ["read system:inventory"], POST: authenticated}'),),
        "POST is authenticated",
    ),
    route_case(
        "a part asks nothing under another name",
        (AUDIT,),
        (AUDIT.replace("One:", "Uno:").replace(', authorize: ["see system:one"]', ""),),
        "Uno no longer asks see system:one",
    ),
    route_case(
        "an aggregate with checks of its own becomes a proxy",
        (AUDIT,),
        ('{id: audit, path: /audit, methods: [GET], authorize: ["audit a:b"], upstream: a}',),
        "the checks of One are gone",
    ),
    route_case("items are looked for elsewhere", (MENU,), (MENU.replace("/menus/*", "/other/*"),), "/menus/*"),
    route_case("denied items are shown", (MENU,), (MENU.replace("remove", "disable"),), "denied items are shown"),
    route_case(
        "a navigation becomes a proxy",
        (MENU,),
        ("{id: menu, path: /menu, methods: [GET], authorize: authenticated, upstream: a}",),
        "items are no longer checked",
    ),
    part_case("keys from elsewhere", "identity", JWT, jwt("audience: x").replace("/jwks", "/k"), "another place"),
    part_case(
        "the subject is what users can edit",
        "identity",
        jwt("audience: x"),
        jwt("audience: x, subject: {type: identity, id: '{claim.email}'}"),
        "the subject is {claim.email}",
    ),
    part_case(
        "required is lost by a switch of kinds",
        "identity",
        jwt("audience: x, required: {scope: [orders]}"),
        INTROSPECTION,
        "scope need not hold orders",
    ),
    part_case("somebody else vouches for tokens", "identity", JWT, INTROSPECTION, "on the word of"),
    part_case(
        "another endpoint vouches for tokens",
        "identity",
        INTROSPECTION,
        INTROSPECTION.replace("idp.", "other."),
        "on the word of https://other.",
    ),
    part_case(
        "a token may stand in a query",
        "identity",
        jwt("audience: x"),
        "identity: {token: [header, {query: t}], " + jwt("audience: x").removeprefix("identity: {"),
        "also taken out of query t",
    ),
    Case(
        "a private authority is no longer asked for",
        {"iam": pinned(", tls: {ca_file: ca.pem}")},
        {"iam": pinned("")},
        weaker=True,
        says="IAM's certificate may be of any public authority",
    ),
    part_case(
        "permits on disk are not authenticated",
        "iam",
        pinned(", cache: {snapshot: {path: p, key: k}}"),
        pinned(", cache: {snapshot: {path: p}}"),
        "not authenticated any more",
    ),
    part_case(
        "a pattern of fields shrinks to a name",
        "server",
        "server: {strip_request_headers: [X-Internal-*]}",
        "server: {strip_request_headers: [X-Internal-A]}",
        "x-internal-* goes to upstreams",
    ),
    # not weaker, though much of the text says so
    part_case(
        "a name grows to a pattern of fields",
        "server",
        "server: {strip_request_headers: [X-Internal-A]}",
        "server: {strip_request_headers: [x-internal-*]}",
    ),
    part_case("two halves are one network", "server", HALVES, "server: {trusted_proxies: [10.0.0.0/8]}"),
    route_case(
        "names of a path are other ones",
        (TENANT,),
        (TENANT.replace("{doc}", "{paper}").replace("path.doc", "path.paper"),),
    ),
    route_case(
        "a route with a name in its path has another id",
        (TENANT,),
        (TENANT.replace("id: t,", "id: docs,").replace("doc}", "paper}"),),
    ),
    route_case("a part of an aggregate has another name", (AUDIT,), (AUDIT.replace("One:", "Uno:"),)),
    route_case("a part of an aggregate is gone", (AUDIT,), (AUDIT.replace(', Two: {upstream: a, path: "/two"}', ""),)),
    route_case("denied items are removed", (MENU.replace("remove", "disable"),), (MENU,)),
    route_case(
        "a loose path shrinks away from a guarded one",
        (GUARDED.replace("/inventory/*", "/*"), PUBLIC),
        (GUARDED.replace("/inventory/*", "/*"), PUBLIC.replace("/open/*", "/open/now")),
    ),
    part_case("tokens are verified here", "identity", "identity: {opaque: {}}", JWT),
    part_case("IAM is another one", "iam", "iam: {url: https://iam}", "iam: {url: https://other}"),
    part_case(
        "a second IAM is asked",
        "iam",
        "iam: {url: https://iam}",
        "iam: {url: https://iam}\niam_shadow: {url: https://b}",
    ),
]
CASES = [
    *NASTY,
    # weaker
    route_case("a check is gone", (TWO,), (GUARDED,), "no longer asks audit system:inventory"),
    route_case("a check is another", (GUARDED,), (GUARDED.replace("read", "look"),), "no longer asks read"),
    route_case("a route is public", (GUARDED,), (GUARDED.replace('["read system:inventory"]', "public"),), "public"),
    route_case(
        "a route needs no more than a subject",
        (GUARDED,),
        (GUARDED.replace('["read system:inventory"]', "authenticated"),),
        "GET is authenticated",
    ),
    route_case("a method more", (GUARDED,), (WRITES,), "POST is allowed"),
    route_case("a public route under a guarded path", (GUARDED,), (GUARDED, PUBLIC), "open: GET is public"),
    route_case("a route that meets a guarded one", (TENANTS,), (TENANTS, ACME), "acme: GET is authenticated"),
    route_case(
        "a strict route is gone",
        (GUARDED, PUBLIC.replace("public", '["admin a:b"]')),
        (GUARDED,),
        "open: is gone, inventory takes its path",
    ),
    route_case("stale instead of closed", (GUARDED,), (stale(60),), "GET is stale"),
    route_case("stale for longer", (stale(60),), (stale(120),), "stale for up to 2m"),
    route_case("open instead of stale", (stale(60),), (with_key(ALLOW),), "GET is allow"),
    route_case("an allow flag", (GUARDED,), (with_key("allow_encoded_slashes: true"),), "allow_encoded_slashes is on"),
    route_case("tokens go on", (GUARDED,), (with_key("forward_token: true"),), "forward_token is on"),
    route_case("streams are rechecked less", (with_key("recheck: 5s"),), (GUARDED,), "checked less often"),
    route_case("credentials for pages", (with_key(PLAIN_CORS),), (with_key(CORS),), "https://app.example may use"),
    route_case("more pages", (with_key(CORS),), (with_key(WIDE_CORS),), "https://other.example may use"),
    part_case("a raised ttl", "iam", "iam: {url: https://iam}", "iam: {url: https://iam, cache: {ttl: 5s}}", "5s"),
    part_case(
        "a raised max_stale",
        "iam",
        "iam: {url: https://iam}",
        "iam: {url: https://iam, cache: {max_stale: 1h}}",
        "up to 1h",
    ),
    part_case(
        "a certificate is not looked at",
        "iam",
        "iam: {url: https://iam}",
        "iam: {url: https://iam, tls: {verify: false}}",
        "certificate is not verified",
    ),
    part_case(
        "a network more is trusted",
        "server",
        "server: {trusted_proxies: [10.1.0.0/16]}",
        "server: {trusted_proxies: [10.0.0.0/8]}",
        "10.0.0.0/8 may say",
    ),
    Case(
        "a network more may name the subject",
        {"server": "server: {trusted_proxies: [10.0.0.0/8]}", "identity": "identity: {header: {name: X-User}}"},
        {
            "server": "server: {trusted_proxies: [10.0.0.0/8, 192.168.0.0/16]}",
            "identity": "identity: {header: {name: X-User}}",
        },
        weaker=True,
        says="192.168.0.0/16 may say",
    ),
    part_case(
        "another issuer",
        "identity",
        JWT,
        "identity: {jwt: [{issuer: https://idp.example, audience: x, jwks_url: https://idp.example/jwks},"
        " {issuer: https://b.example, audience: x, jwks_url: https://b.example/jwks}]}",
        "another issuer",
    ),
    part_case("another audience", "identity", jwt("audience: x"), jwt("audience: [x, y]"), "another audience"),
    part_case(
        "another algorithm",
        "identity",
        jwt("audience: x, algorithms: [RS256]"),
        jwt("audience: x, algorithms: [RS256, PS256]"),
        "PS256",
    ),
    part_case(
        "a claim is not needed",
        "identity",
        jwt("audience: x, required: {scope: [orders]}"),
        jwt("audience: x"),
        "scope need not hold orders",
    ),
    part_case("tokens are not verified", "identity", JWT, "identity: {opaque: {}}", "not verified here"),
    # not weaker
    route_case("an added guarded route", (GUARDED,), (GUARDED, OTHER)),
    route_case(
        "an added guarded route within another",
        (GUARDED,),
        (GUARDED, OTHER.replace("/orders/*", "/inventory/orders/*")),
    ),
    route_case("a check more", (GUARDED,), (TWO,)),
    route_case(
        "a check written in another way",
        (GUARDED,),
        (
            GUARDED.replace(
                '["read system:inventory"]', "[{action: {name: read}, resource: {type: system, id: inventory}}]"
            ),
        ),
    ),
    route_case(
        "checks in another order",
        (TWO,),
        (
            TWO.replace(
                '"audit system:inventory", "read system:inventory"', '"read system:inventory", "audit system:inventory"'
            ),
        ),
    ),
    route_case("a method less", (WRITES,), (GUARDED,)),
    route_case("a route less", (GUARDED, OTHER), (OTHER,)),
    route_case("routes in another order", (GUARDED, OTHER), (OTHER, GUARDED)),
    route_case("stale for a shorter time", (stale(60),), (stale(30),)),
    route_case("closed instead of stale", (stale(60),), (GUARDED,)),
    route_case("a deadline", (GUARDED,), (with_key("deadline: 9s"),)),
    route_case("a limit", (GUARDED,), (with_key("max_body: 1GiB"),)),
    route_case("pages without credentials", (GUARDED,), (with_key(PLAIN_CORS),)),
    part_case("a limit of all", "server", "server: {}", "server: {max_concurrency: 9000, max_connections: 9}"),
    part_case("IAM's timeout", "iam", "iam: {url: https://iam}", "iam: {url: https://iam, timeout: {read: 1s}}"),
    part_case(
        "fewer networks",
        "server",
        "server: {trusted_proxies: [10.0.0.0/8, 192.168.0.0/16]}",
        "server: {trusted_proxies: [10.1.0.0/16]}",
    ),
    part_case("an audience less", "identity", jwt("audience: [x, y]"), jwt("audience: x")),
    part_case(
        "denials kept longer", "iam", "iam: {url: https://iam}", "iam: {url: https://iam, cache: {negative_ttl: 5s}}"
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_each_change_is_judged_rightly(load_text, tmp_path: Path, case: Case) -> None:
    identity = {"identity": JWT}
    files = {"ca.pem": Authority(tmp_path).file.read_text()} if "ca.pem" in str(case.before) else {}
    old, new = (load_text(whole(**(identity | parts)), files) for parts in (case.before, case.after))
    changes = differences(old, new)
    weaker = [str(change) for change in changes if change.weaker]
    assert bool(weaker) == case.weaker, weaker
    assert not case.says or any(case.says in line for line in weaker), weaker
    assert [change.weaker for change in changes] == sorted((change.weaker for change in changes), reverse=True)
    same = ("checks written", "a check written", "checks in another order", "routes in another order")
    assert changes or case.name.startswith(same)
    assert weakened(old, new) == weaker


def test_the_table_is_of_thirty_pairs_at_least() -> None:
    assert len(CASES) >= 30
    assert len({case.name for case in CASES}) == len(CASES)


def test_a_secret_is_in_no_difference(load_text) -> None:
    texts = [f"iam: {{url: https://iam, token: s3cret-{number}}}" for number in (1, 2)]
    old, new = (load_text(whole(iam=text, server="server: {admin_token: s3cret-3}")) for text in texts)
    assert "s3cret" not in "".join(map(str, differences(old, new)))


PERMIT, FORBID = "permit(principal, action, resource);", 'forbid(principal, action, resource == System::"x");'


@pytest.mark.parametrize(
    ("before", "after", "says", "unjudged"),
    [
        (FORBID, PERMIT + FORBID, "this permit is new or changed", True),
        (PERMIT + FORBID, PERMIT, "this forbid is gone or changed", True),
        (PERMIT, PERMIT.replace("resource)", "resource) when { true }"), "this permit is new or changed", True),
        (PERMIT, PERMIT + FORBID, "this forbid is new or changed", False),
        (PERMIT + FORBID, FORBID, "this permit is gone or changed", False),
        (PERMIT + FORBID, FORBID + "\n// moved\n" + PERMIT, "", False),
    ],
)
def test_that_policies_have_changed_is_told_and_not_judged(
    load_text, before: str, after: str, says: str, unjudged: bool
) -> None:
    """They are not evaluated, so what may permit more is neither weaker nor harmless."""
    files = [{"policies/access/a.cedar": text} for text in (before, after)]
    old, new = (load_text(whole(iam="iam: {api: embedded}"), each) for each in files)
    told = [change for change in differences(old, new) if change.where == "policies"]
    assert bool(told) == bool(says)
    assert not says or any(says in change.text for change in told)
    assert any(change.unjudged for change in told) == unjudged
    assert not any(change.weaker for change in differences(old, new))
    assert bool(weakened(old, new)) == unjudged


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_targets_that_change_hands_are_found_at_every_depth(load_text, depth: int) -> None:
    """However deep the targets are that only a wide route had: each depth before is another route's."""
    deeper = [
        f'{{id: d{at}, path: "/a{"".join(f"/{{p{n}}}" for n in range(at))}", upstream: a, authorize: ["x y:z"]}}'
        for at in range(depth + 1)
    ]
    wide = "{id: wide, path: /a/*, upstream: a, authorize: KIND}"
    old = load_text(whole(routes=routes(*deeper, wide.replace("KIND", '["x y:z"]'))))
    new = load_text(whole(routes=routes(*deeper, wide.replace("KIND", "public").replace("wide", "wider"))))
    assert ("wide", "wider") in {(was.id, is_.id) for was, is_ in moved(old.routes, new.routes) if was and is_}
