"""Every class of mistake in a route: found, at its place, in words that help."""

from __future__ import annotations

import pytest

from tests.config.texts import JWT, MARK, route, whole

PATHS = [
    ("path: ‸inventory", "bad-path", "a path starts with /"),
    ("path: ‸/a//b", "bad-path", "empty and dot segments"),
    ("path: ‸/a/../b", "bad-path", "empty and dot segments"),
    ("path: ‸/a/*/b", "bad-path", "only at the end of a path"),
    ("path: ‸/a*", "bad-path", "whole segments"),
    ("path: ‸/a/{b}c", "bad-path", "whole segments"),
    ("path: ‸/a/{b c}", "bad-path", "whole segments"),
    ("path: ‸/a/{}", "bad-path", "whole segments"),
    ("path: ‸/{a}/{a}", "bad-path", "is there twice"),
    ("path: ‸/a?b=c", "bad-path", "no query"),
    ('path: ‸"/a#b"', "bad-path", "no fragment"),
    ("path: ‸/a%20b", "bad-path", "without percent-encoding"),
    ("path: ‸/a\\b", "bad-path", "backslash"),
    ('path: ‸""', "empty-value", "must not be empty"),
    ("path: ‸7", "wrong-type", "text is expected"),
    ("host: ‸a/b", "bad-host", "not a host name"),
    ("host: ‸'app.example:80'", "bad-host", "not a host name"),
    ("host: ‸ä.example", "bad-host", "xn--"),
    ("id: ‸a b", "bad-name", "letters, digits"),
    ("id: ‸iam", "same-name", "IAM's breaker"),
    ("strip_prefix: ‸/other", "bad-prefix", "does not start with this prefix"),
    ("strip_prefix: ‸/r/", "bad-prefix", "without a trailing slash"),
    ("strip_prefix: ‸/", "bad-prefix", "literal segments"),
    ("strip_prefix: ‸/r/x", "bad-prefix", "does not start with this prefix"),
    ("strip_prefix: ‸r", "bad-prefix", "starts with /"),
]
STREAMS = [
    (f"stream_content_types: [text/event-stream, ‸{wrong}]", "bad-media-type", "a media type is expected")
    for wrong in ("text", '"text/html; charset=utf-8"', '"*/*"', "a/b*c")
]
METHODS = [
    ("methods: [GET, ‸GTE]", "unknown-method", 'did you mean "GET"?'),
    ("methods: [‸get]", "unknown-method", 'did you mean "GET"?'),
    ("methods: [‸TRACE]", "unknown-method", "TRACE is never allowed"),
    ("methods: [‸CONNECT]", "unknown-method", "CONNECT is never allowed"),
    ("methods: [‸XYZZY]", "unknown-method", '"XYZZY" is not a method'),
    ("methods: ‸[]", "empty-value", "must not be empty"),
    ("methods: ‸GET", "wrong-type", "a list is expected"),
    ("methods: [‸1]", "wrong-type", "text is expected"),
    ("authorize: ‸[]", "empty-value", "must not be empty"),
    ("authorize: ‸{}", "empty-value", "must not be empty"),
    ("authorize: ‸true", "wrong-type", "public, authenticated or a list of checks"),
    ("authorize: ‸pubic", "bad-value", 'did you mean "public"?'),
    ("authorize: ‸read system:r", "bad-value", 'is not "public" or "authenticated"'),
    ("authorize: {GET: ‸[]}", "empty-value", "must not be empty"),
    ("authorize: {GET: ‸}", "wrong-type", "public, authenticated or a list of checks"),
    ('‸authorize: {GET: ["read system:r"]}', "method-without-access", "no key for DELETE, OPTIONS, PATCH, POST, PUT"),
    ('methods: [GET, POST]\n‸authorize: {GET: ["read system:r"]}', "method-without-access", "no key for POST"),
    ('authorize: {"*": public, ‸Get: public}', "unknown-method", 'did you mean "GET"?'),
    ('authorize: {"*": public, ‸"**": public}', "unknown-method", "is not a method"),
]
CHECKS = [
    ("authorize: [‸read]", "bad-check", '"<action> <type>:<id>", like "read system:inventory"'),
    ('authorize: ["read system:r", ‸"read system"]', "bad-check", "<action>"),
    ('authorize: [‸"read system:a b"]', "bad-check", "<action>"),
    ('authorize: [‸"read a:{header.b}{header.c}"]', "bad-check", "put text between two placeholders"),
    ('authorize: [‸"read :a"]', "bad-check", "<action>"),
    ('authorize: [‸"read system:"]', "bad-check", "<action>"),
    ('authorize: [‸""]', "empty-value", "must not be empty"),
    ("authorize: [‸1]", "wrong-type", "a check is text"),
    ('authorize: [‸"read {path.id}:x"]', "bad-placeholder", "the path has no parameter {id}"),
    ('authorize: [‸"read {patth.id}:x"]', "bad-placeholder", "unknown placeholder {patth.id}"),
    ('authorize: [‸"read x:{metod}"]', "bad-placeholder", 'did you mean "method"?'),
    ('authorize: [‸"read x:{route.ids}"]', "bad-placeholder", 'did you mean "route.id"?'),
    ('authorize: [‸"read x:{item.a}"]', "bad-placeholder", "navigation items only"),
    ('authorize: [‸"read x:{claim.role}"]', "bad-placeholder", "only tokens of identity.jwt"),
    ('authorize: [‸"read x:{subject.id}"]', "bad-placeholder", "the token itself"),
    ('authorize: [‸"read x:{header.Authorization}"]', "bad-placeholder", "holds credentials"),
    ('authorize: [‸"read x:{header.cookie}"]', "bad-placeholder", "holds credentials"),
    ('authorize: [‸"read x:{header.a b}"]', "bad-placeholder", "not a header name"),
    ('authorize: [‸"read x:a}b"]', "bad-check", "<action>"),
    ("authorize: [‸{action: {name: a}}]", "missing-key", 'the key "resource" is missing'),
    ("authorize: [{action: ‸read, resource: {type: a, id: b}}]", "wrong-type", "a mapping is expected"),
    ("authorize: [{action: {name: a}, resource: {type: a, id: ‸7}}]", "wrong-type", 'quote it: "7"'),
    ("authorize: [{action: {name: a}, resource: {type: a, id: b}, ‸subject: x}]", "unknown-key", '"subject"'),
    ('authorize: [‸{action: {name: "{nope}"}, resource: {type: a, id: b}}]', "bad-placeholder", "{nope}"),
    ('authorize: [‸{action: {name: a}, resource: {type: a, id: b}, context: {x: ["{nope}"]}}]', "bad-placeholder", ""),
    ("authorize: [{action: {name: a}, resource: {type: a, id: b}, context: ‸[]}]", "wrong-type", "a mapping"),
]
OTHERS = [
    ("upstream: ‸b", "unknown-upstream", "known: a"),
    ("upstream: ‸aa", "unknown-upstream", 'did you mean "a"?'),
    ("policy: ‸fail-close", "unknown-policy", 'did you mean "fail-closed"?'),
    ("policy: ‸zzz", "unknown-policy", "known: audit, degrade-stale, fail-closed, navigation"),
    ("‸health: {}", "one-kind", "here are upstream and health"),
    ("upstream: a\n‸permissions: {}", "one-kind", "here are upstream and permissions"),
    ("timeout: {read: ‸0s}", "bad-duration", "more than zero"),
    ("timeout: {‸total: 1s}", "unknown-key", '"total"'),
    ("timeout: ‸5s", "wrong-type", "a mapping is expected"),
    ("retry: {on: [‸429]}", "out-of-range", "4xx is never retried"),
    ("retry: {on: [‸200]}", "out-of-range", "500 to 599"),
    ("retry: {on: [‸4xx]}", "bad-value", 'did you mean "5xx"?'),
    ("retry: {on: ‸503}", "wrong-type", "a list is expected"),
    ("retry: {backoff: 2s, backoff_max: ‸1s}", "backoff-max", "less than backoff (2s)"),
    ("failure_statuses: [‸200]", "out-of-range", "400 to 599"),
    ("failure_statuses: [‸99]", "out-of-range", "at least 200"),
    ("circuit_breaker: {open_for: 10s, open_for_max: ‸5s}", "open-for-max", "less than open_for (10s)"),
    ("circuit_breaker: {failure_threshold: ‸0}", "out-of-range", "at least 1"),
    ("max_body: ‸1k", "bad-size", 'did you mean "1KiB"?'),
    ("max_concurrency: ‸0", "out-of-range", "at least 1"),
    ("server_timing: ‸yes", "wrong-type", 'true or false is expected, not the text "yes"'),
    ("allow_encoded_slashes: ‸1", "wrong-type", "true or false is expected, not 1"),
    ("cors: ‸{}", "missing-key", '"origins" is missing'),
    ("cors: {origins: ‸[]}", "empty-value", "must not be empty"),
    ("cors: {origins: [‸app.example]}", "bad-origin", "scheme://host"),
    ("cors: {origins: [‸'https://app.example/']}", "bad-origin", "without a slash at its end"),
    ("cors: {origins: [‸'null']}", "bad-origin", "scheme://host"),
    ("cors: {origins: ['https://a.example', ‸'*']}", "bad-origin", "only origin"),
    ("cors: {origins: ['*'], credentials: ‸true}", "cors-credentials", "name them"),
    ("authorize: public\nmethods: [GET]\n‸recheck: 30s", "misplaced-key", "recheck has no effect"),
    ("recheck: ‸30", "bad-duration", '"30s"'),
]


@pytest.mark.parametrize(("keys", "id_", "words"), [*PATHS, *STREAMS, *METHODS, *CHECKS, *OTHERS])
def test_a_mistake_is_found_at_its_place(assert_mistake, keys, id_, words) -> None:
    assert_mistake(route(keys), id_, words)


IDENTIFIED = [
    ("authorize: public\n‸recheck: 30s\nmethods: [GET]", "misplaced-key", "recheck has no effect"),
    ("authorize: public\nmethods: [GET]\non_upstream_failure: ‸stale", "public-route", "GET, HEAD is public"),
    ("authorize: ‸public\npermissions: {}", "public-route", "nobody is identified"),
    ("authorize: authenticated\npermissions: {max_items: ‸0}", "out-of-range", "at least 1"),
    (
        "authorize: authenticated\npermissions: {}\nmethods: [POST, ‸GET]",
        "misplaced-method",
        "permissions answers POST",
    ),
    ("authorize: authenticated\npermissions: {}\n‸timeout: {}", "misplaced-key", "not with permissions"),
    ("authorize: public\nhealth: {}\n‸strip_prefix: /r", "misplaced-key", "not with health"),
    ("authorize: public\nhealth: {}\nmethods: [‸DELETE]", "misplaced-method", "health answers GET and HEAD only"),
    ("authorize: authenticated\nnavigation: ‸{upstream: a, items: /a}", "missing-key", '"check" is missing'),
    (
        'authorize: ‸public\nnavigation: {upstream: a, items: /a, check: "a b:c"}',
        "public-route",
        "nobody is identified",
    ),
    ('authorize: authenticated\nnavigation: {upstream: ‸b, items: /a, check: "a b:c"}', "unknown-upstream", ""),
    (
        'authorize: authenticated\nnavigation: {upstream: a, items: ‸a, check: "a b:c"}',
        "bad-pointer",
        'starts with "/"',
    ),
    ('authorize: authenticated\nnavigation: {upstream: a, items: ‸/a~b, check: "a b:c"}', "bad-pointer", "~0"),
    ("authorize: authenticated\nnavigation: {upstream: a, items: /a, check: ‸nope}", "bad-check", "<action>"),
    (
        'authorize: authenticated\nnavigation: {upstream: a, items: /a, check: "a b:c", on_denied: ‸hide}',
        "bad-value",
        '"remove" or "disable"',
    ),
    ('path: "/r/{x}"\nauthorize: [‸"read system:{path.y}"]', "bad-placeholder", "the path has no parameter {y}"),
]


@pytest.mark.parametrize(("keys", "id_", "words"), IDENTIFIED)
def test_a_mistake_with_an_identified_caller_is_found_at_its_place(assert_mistake, keys, id_, words) -> None:
    assert_mistake(route(keys, identity=JWT), id_, words)


RULES = [
    ("on_iam_failure: ‸fail_clsoed", "bad-value", 'did you mean "fail_closed"?'),
    ("on_iam_failure: ‸true", "wrong-type", "fail_closed or a mapping"),
    ("on_iam_failure: ‸[]", "empty-value", "must not be empty"),
    ("on_iam_failure: [fail_closed, ‸7]", "wrong-type", "fail_closed or a mapping"),
    ("on_iam_failure: {degrade: ‸stail}", "bad-value", 'did you mean "stale"?'),
    ("on_iam_failure: ‸{max_stale: 60s}", "missing-key", '"degrade" is missing'),
    ("on_iam_failure: {degrade: stale, max_stale: ‸60}", "bad-duration", '"60s"'),
    ("on_iam_failure: {degrade: stale, max_stale: ‸10m}", "max-stale", "more than iam.cache.max_stale (5m)"),
    ("on_iam_failure: {degrade: stale, methods: ‸[]}", "empty-value", "never apply"),
    ("on_iam_failure: {degrade: stale, methods: [‸GTE]}", "unknown-method", 'did you mean "GET"?'),
    ("on_iam_failure: {degrade: ‸allow}", "fail-open", "acknowledge_fail_open: true"),
    ("on_iam_failure: {degrade: ‸allow, acknowledge_fail_open: false}", "fail-open", "acknowledge_fail_open: true"),
    (
        "on_iam_failure: {degrade: allow, acknowledge_fail_open: true, methods: ‸[GET, POST]}",
        "fail-open-methods",
        "only for GET and HEAD",
    ),
    ("on_iam_failure: {degrade: stale, ‸acknowledge_fail_open: true}", "misplaced-key", "only for degrade: allow"),
    ("on_iam_failure: {degrade: ‸local}", "no-access-policies", "policies/access/*.cedar"),
    ("on_iam_failure: {degrade: ‸fallback}", "missing-key", '"response" is missing'),
    ("on_iam_failure: {degrade: stale, ‸response: {json: {}}}", "misplaced-key", "only for degrade: fallback"),
    ("on_iam_failure: {degrade: fallback, response: {status: ‸99}}", "out-of-range", "at least 200"),
    ("on_iam_failure: {degrade: fallback, response: ‸{status: 204, json: {}}}", "bad-value", "has no body"),
    ("on_iam_failure: {degrade: fallback, response: {headers: {‸'a b': x}}}", "bad-header-name", "not a header name"),
    (
        "on_iam_failure: {degrade: fallback, response: ‸{headers: {Content-Length: '1'}}}",
        "bad-header-name",
        "connection",
    ),
    ("on_iam_failure: {degrade: fallback, response: {json: 1}, ‸max_stale: 5s}", "misplaced-key", "degrade: stale"),
    ("on_upstream_failure: ‸fallback", "bad-value", 'is not "error" or "stale"'),
    ("on_upstream_failure: {degrade: ‸local}", "bad-value", '"stale" or "fallback"'),
    ("on_upstream_failure: {degrade: stale, methods: ‸[GET, POST]}", "stale-methods", "GET and HEAD"),
    ("on_upstream_failure: {degrade: stale, acknowledge_fail_open‸: true}", "unknown-key", "known here"),
]


@pytest.mark.parametrize(("keys", "id_", "words"), RULES)
def test_a_mistake_in_a_failure_rule_is_found_at_its_place(assert_mistake, keys, id_, words) -> None:
    before, _, after = keys.partition(MARK)
    if after.startswith(": "):
        keys = before[: before.rfind(" ") + 1] + MARK + before[before.rfind(" ") + 1 :] + after
    assert_mistake(route(keys, identity=JWT), id_, words)


OPAQUE = [
    ("authorize: ‸authenticated", "identity is opaque"),
    ("authorize: {GET: ‸authenticated, '*': public}", "identity is opaque"),
    ("on_iam_failure: {degrade: ‸allow, acknowledge_fail_open: true}", "identity is opaque"),
    ("on_iam_failure: [{degrade: ‸local}, fail_closed]", "identity is opaque"),
]


@pytest.mark.parametrize(("keys", "words"), OPAQUE)
def test_what_needs_a_known_caller_is_a_mistake_with_opaque_identity(mistakes, keys, words) -> None:
    """`degrade: local` also lacks its policies here, so the id is looked for among what was found."""
    text = route(keys.replace(MARK, ""))
    assert any(each.id == "opaque-identity" and words in each.message for each in mistakes(text))


def test_routes_that_tie_are_named_with_their_lines(mistakes) -> None:
    text = whole(
        routes="""routes:
  - {id: one, path: "/a/{x}", upstream: a, authorize: ["read a:b"], methods: [GET]}
  - {id: two, path: "/a/{y}/", upstream: a, authorize: ["read a:b"], methods: [POST]}
"""
    )
    (found,) = mistakes(text)
    assert (found.line, found.col, found.id) == (8, 21, "tie")
    assert 'routes "one" (line 7) and "two" (line 8) tie: /a/{x} and /a/{y}/' in found.message


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("path: /a", "path: /a/*"),
        ("path: /a/b", "path: '/a/{x}'"),
        ("path: '/a/{x}'", "path: /a/*"),
        ("path: /a, host: a.example", "path: /a"),
        ("path: /a, host: a.example", "path: /a, host: b.example"),
        ("path: /a", "path: /A"),
    ],
)
def test_a_more_specific_path_or_another_host_is_no_tie(load_text, first, second) -> None:
    rest = 'upstream: a, authorize: ["read a:b"]'
    assert (
        len(load_text(whole(routes=f"routes:\n  - {{id: x, {first}, {rest}}}\n  - {{id: y, {second}, {rest}}}")).routes)
        == 2
    )


def test_hosts_tie_in_any_case(mistakes) -> None:
    rest = 'path: /a, upstream: a, authorize: ["read a:b"]'
    text = f"routes:\n  - {{id: x, host: A.example, {rest}}}\n  - {{id: y, host: a.EXAMPLE, {rest}}}"
    assert [each.id for each in mistakes(whole(routes=text))] == ["tie"]


def test_ids_are_unique(mistakes) -> None:
    rest = 'upstream: a, authorize: ["read a:b"]'
    (found,) = mistakes(whole(routes=f"routes:\n  - {{id: x, path: /a, {rest}}}\n  - {{id: x, path: /b, {rest}}}"))
    assert (found.line, found.col, found.id) == (8, 10, "duplicate-id")
    assert "line 7" in found.message


AGGREGATE = """\
path: "/audit/{email}"
authorize: ["audit user:{path.email}"]
aggregate:
  systems:
    One: {upstream: a, path: "/one/{path.email}", found_field: one_found}
    Two: {upstream: a, path: "/two?email={path.email}", found_field: two_found}
"""
PARTS = [
    ("  require: ‸3", "out-of-range", "3 answers can't come from 2 systems"),
    ("  require: ‸0", "out-of-range", "at least 1"),
    ("  require: ‸all", "wrong-type", "a whole number is expected"),
    ("  require: [One, ‸Tow]", "unknown-system", 'did you mean "Two"?'),
    ("  require: ‸[]", "empty-value", "must not be empty"),
    ("  include: ‸dat", "bad-value", 'did you mean "data"?'),
    ("  compare: [{field: x, values: {One: /a, ‸Tow: /b}}]", "unknown-system", 'did you mean "Two"?'),
    ("  compare: [{field: x, values: ‸{One: /a}}]", "out-of-range", "at least 2"),
    ("  compare: [{field: x, values: {One: /a, Two: ‸b}}]", "bad-pointer", 'starts with "/"'),
    ("  compare: [‸{values: {One: /a, Two: /b}}]", "missing-key", '"field" is missing'),
    ("  bulk: ‸{path: /audit, items: /emails}", "missing-key", '"param" is missing'),
    ("  bulk: {path: /audit, items: /emails, param: ‸mail}", "unknown-param", 'did you mean "email"?'),
    ("  bulk: {path: /audit, items: ‸emails, param: email}", "bad-pointer", 'starts with "/"'),
    ("  bulk: {path: ‸audit, items: /emails, param: email}", "bad-path", "starts with /"),
    ('  bulk: {path: ‸"/bulk/{email}", items: /emails, param: email}', "unknown-param", "comes from the items"),
    ("    Three: {upstream: a, path: /x, found_at: ‸data}", "bad-pointer", 'starts with "/"'),
    ("methods: [GET, ‸POST]", "misplaced-method", "aggregate answers GET and HEAD only"),
    ("‸recheck: 5s", "misplaced-key", "not with aggregate"),
]


@pytest.mark.parametrize(("more", "id_", "words"), PARTS)
def test_a_mistake_in_an_aggregate_is_found_at_its_place(assert_mistake, more, id_, words) -> None:
    assert_mistake(route(AGGREGATE + more, identity=JWT), id_, words)


SYSTEMS = [
    ("{upstream: ‸b, path: /x}", "unknown-upstream", "known: a"),
    ("‸{upstream: a}", "missing-key", '"path" is missing'),
    ("{upstream: a, path: ‸x}", "bad-path", "starts with /"),
    ("{upstream: a, path: ‸//x}", "bad-path", "starts with /"),
    ("{upstream: a, path: ‸/a/../b}", "bad-path", "dot segments"),
    ('{upstream: a, path: ‸"/a b"}', "bad-path", "without spaces"),
    ('{upstream: a, path: ‸"/a#b"}', "bad-path", "#"),
    ('{upstream: a, path: ‸"/{path.mail}"}', "bad-placeholder", "the path has no parameter {mail}"),
    ("{upstream: a, path: /x, method: ‸PUT}", "bad-value", '"GET" or "POST"'),
    ("{upstream: a, path: /x, ‸json: {}}", "misplaced-key", "json is sent by POST"),
    ("{upstream: a, path: /x, found_field: ‸one_found}", "same-name", "One has the same found_field"),
    ("{upstream: a, path: /x, found_field: ‸complete}", "same-name", "a member of this name already"),
    ("{upstream: a, path: /x, found_field: ‸email}", "same-name", "a member of this name already"),
    ("{upstream: a, path: /x, authorize: ‸[]}", "empty-value", "must not be empty"),
    ("{upstream: a, path: /x, authorize: [‸nope]}", "bad-check", "<action>"),
    ("{upstream: a, path: /x, authorize: ‸public}", "wrong-type", "a list is expected"),
    ("{upstream: a, path: /x, timeout: {read: ‸5}}", "bad-duration", '"5s"'),
    ("{upstream: a, path: /x, retry: {on: [‸404]}}", "out-of-range", "4xx is never retried"),
    ("{upstream: a, path: /x, circuit_breaker: {open_for_max: ‸1s}}", "open-for-max", "less than open_for"),
    (
        "{upstream: a, path: /x, on_upstream_failure: ‸{degrade: fallback, response: {json: 1}}}",
        "misplaced-key",
        "the route can",
    ),
    ("{upstream: a, path: /x, on_upstream_failure: {degrade: stale, max_stale: ‸1}}", "bad-duration", '"1s"'),
]


@pytest.mark.parametrize(("system", "id_", "words"), SYSTEMS)
def test_a_mistake_in_a_system_is_found_at_its_place(assert_mistake, system, id_, words) -> None:
    assert_mistake(route(f"{AGGREGATE}    Three: {system}", identity=JWT), id_, words)


def test_a_system_s_name_can_t_hold_a_dot(assert_mistake) -> None:
    assert_mistake(route(AGGREGATE + "    ‸a.b: {upstream: a, path: /x}", identity=JWT), "bad-name", "a system's name")


def test_a_part_of_a_public_route_can_t_ask(assert_mistake) -> None:
    keys = AGGREGATE.replace('["audit user:{path.email}"]', "public")
    more = "    Three: {upstream: a, path: /x, ‸authorize: ['a b:c']}"
    assert_mistake(route(keys + more, identity=JWT), "public-route", "no subject")


def test_names_of_breakers_do_not_collide(mistakes) -> None:
    other = '\n  - {id: r.One, path: /other, upstream: a, authorize: ["read a:b"]}'
    (found,) = mistakes(route(AGGREGATE.rstrip(), identity=JWT) + other.lstrip("\n") + "\n")
    assert (found.id, found.message) == (
        "same-name",
        'the route "r.One" would be called "r.One", like the system "One" of "r"',
    )


def test_a_bulk_path_ties_like_any_other(mistakes) -> None:
    more = "  bulk: {path: /audit, items: /emails, param: email}"
    other = '  - {id: other, path: /audit/, upstream: a, authorize: ["read a:b"]}\n'
    (found,) = mistakes(route(AGGREGATE + more, identity=JWT) + other)
    assert (found.id, found.line) == ("tie", 15)


def test_a_wrong_path_does_not_hide_what_is_wrong_beside_it(mistakes) -> None:
    keys = 'path: nope\nupstream: b\nauthorize: ["read x:{path.y}", "bad"]\npolicy: c'
    assert [each.id for each in mistakes(route(keys))] == [
        "bad-path",
        "unknown-upstream",
        "bad-check",
        "unknown-policy",
    ]


PUBLIC = [
    ("authorize: ‸public", "public-writes", "anybody may DELETE, PATCH, POST, PUT"),
    ("on_iam_failure: ‸{degrade: allow, acknowledge_fail_open: true}", "fails-open", "every identified caller may GET"),
    ("deadline: 5s\ntimeout: {read: ‸6s}", "contradiction", "longer than the deadline (5s)"),
    ("on_iam_failure: [fail_closed, ‸{degrade: stale}]", "unreachable-rule", "never reached"),
    ('authorize: {"*": ["a b:c"], ‸PURGE: public}', "unused-key", "PURGE is not among the route's methods"),
]


@pytest.mark.parametrize(("marked", "id_", "words"), PUBLIC)
def test_what_serves_but_should_be_known_is_a_warning(load_text, marked, id_, words) -> None:
    text = route(marked, identity=JWT)
    line = text[: text.index(MARK)].count("\n") + 1
    col = text.index(MARK) - text.rfind("\n", 0, text.index(MARK))
    (warning,) = load_text(text.replace(MARK, "")).warnings
    assert f":{line}:{col}: warning[{id_}]: " in warning
    assert words in warning


PAGES = [
    ("<h1>Sorry</h1><script src=x></script>", "<script> does not work here"),
    ('<link rel="stylesheet" href="https://x/y.css">', "<link> does not work here"),
    ("<style>p::after { content: '{status}' }</style>", "inside <style>"),
    (" \n", "the page is empty"),
    ("x" * (256 * 1024 + 1), "at most 262144 are sent"),
]


@pytest.mark.parametrize(("page", "words"), PAGES, ids=[words for _, words in PAGES])
def test_a_page_that_would_not_work_is_found_at_load(assert_mistake, page, words) -> None:
    assert_mistake(route("error_page: {html: ‸sorry.html}"), "bad-page", words, files={"sorry.html": page})


def test_a_page_that_is_not_there_is_found_at_load(assert_mistake) -> None:
    assert_mistake(route("error_page: {html: ‸sorry.html}"), "unreadable-file", "there is no such file")
