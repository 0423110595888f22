"""What a route compiles to: methods, access, actions, limits."""

from __future__ import annotations

import pytest

from gateway.model.route import (
    STREAM_CONTENT_TYPES,
    AccessKind,
    AggregateAction,
    HealthAction,
    IamFailureMode,
    NavigationAction,
    ProxyAction,
    Segment,
    UpstreamFailureMode,
)
from gateway.model.settings import BearerAuth
from gateway.template import Placeholder, Template
from tests.config.texts import JWT, route, whole

USUAL = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


def test_the_usual_methods_are_allowed(load_text) -> None:
    (only,) = load_text(whole()).routes
    assert only.methods == USUAL == set(only.access) == set(only.on_iam_failure) == set(only.on_upstream_failure)


@pytest.mark.parametrize(
    ("named", "allowed"),
    [
        ("[GET]", {"GET", "HEAD"}),
        ("[POST]", {"POST"}),
        ("[HEAD]", {"HEAD"}),
        ("[PROPFIND, GET]", {"PROPFIND", "GET", "HEAD"}),
    ],
)
def test_head_is_allowed_where_get_is(load_text, named, allowed) -> None:
    (only,) = load_text(route(f"methods: {named}")).routes
    assert only.methods == allowed


def test_one_key_of_authorize_applies_to_a_method(load_text) -> None:
    keys = 'authorize:\n  GET: ["a x:get"]\n  POST: ["a x:post"]\n  "*": ["a x:any"]'
    (only,) = load_text(route(keys)).routes
    asked = {method: [check.source for check in access.checks] for method, access in only.access.items()}
    assert asked["GET"] == asked["HEAD"] == ["a x:get"]
    assert asked["POST"] == ["a x:post"]
    assert asked["PUT"] == asked["OPTIONS"] == ["a x:any"]


def test_head_may_have_a_key_of_its_own(load_text) -> None:
    (only,) = load_text(route('authorize: {GET: ["a x:get"], HEAD: public, "*": ["a x:any"]}')).routes
    assert only.access["HEAD"].kind is AccessKind.PUBLIC


def test_a_check_is_taken_apart_before_it_is_filled_in(load_text) -> None:
    keys = 'path: "/r/{id}"\nauthorize: ["{method}:x type-{path.id}:{path.id}:y/{query.q}"]'
    (check,) = load_text(route(keys)).routes[0].access["GET"].checks
    assert check.action == {"name": Template((Placeholder("method"), ":x"))}
    assert check.resource["type"] == Template(("type-", Placeholder("path", "id")))
    assert check.resource["id"] == Template((Placeholder("path", "id"), ":y/", Placeholder("query", "q")))
    assert check.context is None


def test_a_check_as_mappings_keeps_its_shape(load_text) -> None:
    keys = """\
authorize:
  - action: {name: read, properties: {soft: true}}
    resource: {type: doc, id: "{header.X-Doc}", properties: {n: 1, tags: [a, "{method}"], none: null}}
    context: {ip: "1"}"""
    (check,) = load_text(route(keys)).routes[0].access["GET"].checks
    assert check.action == {"name": Template(("read",)), "properties": {"soft": True}}
    assert check.resource["id"] == Template((Placeholder("header", "x-doc"),))
    tags = [Template(("a",)), Template((Placeholder("method"),))]
    assert check.resource["properties"] == {"n": 1, "tags": tags, "none": None}
    assert check.context == {"ip": Template(("1",))}


def test_a_claim_s_name_may_hold_a_colon(load_text) -> None:
    keys = 'authorize: ["read x:{claim.https://idp.example/role}"]'
    (check,) = load_text(route(keys, identity=JWT)).routes[0].access["GET"].checks
    assert check.resource["id"] == Template((Placeholder("claim", "https://idp.example/role"),))


def test_the_same_check_twice_is_asked_once(load_text) -> None:
    (only,) = load_text(route('authorize: ["a x:y", "a x:y"]')).routes
    assert len(only.access["GET"].checks) == 1


def test_checks_that_differ_by_a_null_are_two(load_text) -> None:
    check = "{action: {name: a}, resource: {type: t, id: i, properties: {%s}}}"
    (only,) = load_text(route(f"authorize: [{check % 'x: null'}, {check % ''}]")).routes
    assert len(only.access["GET"].checks) == 2


def test_a_path_compiles_to_segments(load_text) -> None:
    (only,) = load_text(route('path: "/a/{b}/*"')).routes
    assert only.path == "/a/{b}/*"
    assert only.segments == (Segment(literal="a"), Segment(param="b"), Segment(rest=True))


@pytest.mark.parametrize(("path", "count"), [("/", 0), ("/a/", 1), ("/a", 1), ("/*", 1), ("/ä b", 1)])
def test_a_trailing_slash_means_nothing(load_text, path, count) -> None:
    assert len(load_text(route(f'path: "{path}"')).routes[0].segments) == count


def test_forwarding_keys(load_text) -> None:
    keys = "strip_prefix: /r\npreserve_host: true\nhost: App.Example\nrecheck: 30s\nserver_timing: true"
    (only,) = load_text(route(keys)).routes
    assert only.action == ProxyAction(upstream="a", strip_prefix=b"/r", preserve_host=True)
    assert (only.host, only.recheck_s, only.stream_idle_timeout_s, only.server_timing) == ("app.example", 30, 300, True)


def test_what_scripts_may_read_is_added_to_what_they_always_may(load_text) -> None:
    (only,) = load_text(route("cors: {origins: ['*'], expose: [X-Total, retry-after, X-Total]}")).routes
    assert only.cors is not None
    assert only.cors.exposed == b"Retry-After, X-Request-ID, X-Gateway-Degraded, x-total"


def test_what_is_a_stream_is_said_by_media_type(load_text) -> None:
    assert load_text(whole()).routes[0].stream_content_types == STREAM_CONTENT_TYPES
    (only,) = load_text(route("stream_content_types: [Application/JSON-Seq, video/*]")).routes
    assert only.stream_content_types == ("application/json-seq", "video/*")
    assert load_text(route("stream_content_types: []")).routes[0].stream_content_types == ()


def test_a_route_gets_half_of_the_server_s_concurrency(load_text) -> None:
    assert load_text(whole()).routes[0].max_concurrency == 1000
    assert load_text(whole(server="server: {max_concurrency: 1}")).routes[0].max_concurrency == 1
    assert load_text(route("max_concurrency: 7")).routes[0].max_concurrency == 7


def test_max_body_zero_is_no_limit_not_the_server_s(load_text) -> None:
    assert load_text(route("max_body: 0")).routes[0].max_body == 0


def test_cors_with_options_among_the_methods(load_text) -> None:
    keys = "cors: {origins: ['https://App.example', 'http://localhost:3000'], max_age: 1m, credentials: true}"
    cors = load_text(route(keys)).routes[0].cors
    assert cors.origins == {"https://app.example", "http://localhost:3000"}
    assert (cors.max_age_s, cors.credentials) == (60, True)


def test_cors_does_not_make_options_a_method_of_the_route(load_text) -> None:
    """Preflights are answered before the method is looked at."""
    (only,) = load_text(route("methods: [GET]\ncors: {origins: ['*']}")).routes
    assert only.methods == {"GET", "HEAD"} == set(only.access)


def test_the_first_matching_rule_wins_and_the_rest_fails_closed(load_text) -> None:
    keys = """\
on_iam_failure:
  - {methods: [POST], degrade: stale, max_stale: 10s}
  - {degrade: fallback, response: {json: null}}"""
    rules = load_text(route(keys)).routes[0].on_iam_failure
    assert rules["POST"].mode is IamFailureMode.STALE
    assert rules["POST"].max_stale_s == 10
    assert rules["GET"].mode is rules["HEAD"].mode is IamFailureMode.FALLBACK
    assert rules["GET"].response.body == b"null"
    assert rules["PUT"].mode is IamFailureMode.FAIL_CLOSED


def test_failing_open_means_get_and_head(load_text) -> None:
    keys = "on_iam_failure: {degrade: allow, acknowledge_fail_open: true}"
    rules = load_text(route(keys, identity=JWT)).routes[0].on_iam_failure
    assert {method for method, rule in rules.items() if rule.mode is IamFailureMode.ALLOW} == {"GET", "HEAD"}


AGGREGATE = """\
path: "/audit/{kind}/{email}"
authorize: {GET: ["audit user:{path.email}"], POST: ["audit users:all"]}
on_upstream_failure: {degrade: stale, max_stale: 1m}
retry: {attempts: 2}
aggregate:
  require: [Two]
  include: data
  systems:
    One: {upstream: a, path: "/one?e={path.email}", retry: {backoff: 1s}, on_upstream_failure: error}
    Two:
      upstream: a
      path: /graphql
      method: POST
      json: {query: "query { user(email: $e) { id } }", variables: {e: "{path.email}", n: 1}}
      authorize: ["read two:{path.kind}"]
  compare:
    - {field: x, values: {One: /a, Two: /b~1c}}
  bulk: {path: "/audit/{kind}", items: /emails, param: email, max_items: 5}"""


def test_an_aggregate(load_text) -> None:
    single, bulk = load_text(route(AGGREGATE, identity=JWT)).routes
    action = single.action
    assert isinstance(action, AggregateAction)
    one, two = action.parts
    assert (action.require, one.required, two.required, action.include_data) == (1, False, True, True)
    assert action.echo == ("kind", "email")
    assert (one.resilience.retry.attempts, one.resilience.retry.backoff_s) == (2, 1)
    assert one.on_upstream_failure.mode is UpstreamFailureMode.ERROR
    assert two.on_upstream_failure.mode is UpstreamFailureMode.STALE
    assert two.on_upstream_failure.max_stale_s == 60
    assert two.json["variables"] == {"e": Template((Placeholder("path", "email"),)), "n": 1}
    assert two.json["query"] == Template(("query { user(email: $e) { id } }",))
    assert two.access is not None
    assert action.compare[0].severity == "medium"
    assert action.bulk.max_items == 5
    assert (bulk.id, bulk.path, bulk.methods) == ("r.bulk", "/audit/{kind}", {"POST"})
    assert [check.source for check in bulk.access["POST"].checks] == ["audit users:all"]
    assert bulk.location == single.location


def test_a_bulk_path_asks_what_the_single_one_does_where_authorize_says_nothing_else(load_text) -> None:
    keys = AGGREGATE.replace(', POST: ["audit users:all"]', "")
    bulk = load_text(route(keys, identity=JWT)).routes[1]
    assert [check.source for check in bulk.access["POST"].checks] == ["audit user:{path.email}"]


def test_a_bulk_path_has_the_route_s_cors(load_text) -> None:
    bulk = load_text(route(AGGREGATE + "\ncors: {origins: ['*']}", identity=JWT)).routes[1]
    assert bulk.methods == {"POST"}
    assert bulk.cors.origins == {"*"}


def test_navigation(load_text) -> None:
    keys = (
        'authorize: authenticated\nnavigation: {upstream: a, items: /s/*, check: "see x:{item.id}", on_denied: disable}'
    )
    (only,) = load_text(route(keys, identity=JWT)).routes
    assert isinstance(only.action, NavigationAction)
    assert not only.action.remove_denied
    assert only.methods == {"GET", "HEAD"}
    assert only.action.check.resource["id"] == Template((Placeholder("item", "id"),))


def test_permissions_answer_post_by_default(load_text) -> None:
    assert load_text(route('permissions: {}\nauthorize: ["a b:c"]')).routes[0].methods == {"POST"}


def test_health_as_a_route(load_text) -> None:
    (only,) = load_text(route("authorize: public\nhealth: {}")).routes
    assert isinstance(only.action, HealthAction)


def test_the_fingerprint_changes_with_what_is_asked_only(load_text) -> None:
    def of(keys: str) -> str:
        return load_text(route(keys)).routes[0].fingerprint

    assert of("deadline: 1s") == of("deadline: 2s")
    assert of("deadline: 1s") != of('authorize: ["write system:r"]')
    assert of("deadline: 1s") != of("authorize: {GET: public, '*': ['read system:r']}")


def test_several_origins_and_credentials_of_an_upstream(load_text) -> None:
    upstreams = """\
upstreams:
  a:
    urls: ["http://127.0.0.1:1", "HTTPS://Example.com:8443/", "http://[::1]:2"]
    max_connections: 3
    health: {path: /health?deep=1, interval: 1s, timeout: 500ms}
    auth: {oauth2_client_credentials: {token_url: https://idp/t?x=1, client_id: c, client_secret: "${S}", scope: s}}"""
    upstream = load_text(whole(upstreams=upstreams), S="secret").upstreams["a"]
    assert upstream.urls == ("http://127.0.0.1:1", "https://example.com:8443", "http://[::1]:2")
    assert upstream.health.path == "/health?deep=1"
    assert upstream.auth.token_url == "https://idp/t?x=1"
    assert upstream.auth.client_secret == "secret"


@pytest.mark.parametrize("auth", ["{bearer: tok}", "{bearer: {token: tok}}"])
def test_a_bearer_token_is_written_short_or_long(load_text, auth) -> None:
    upstreams = f"upstreams: {{a: {{url: http://127.0.0.1, auth: {auth}}}}}"
    assert load_text(whole(upstreams=upstreams)).upstreams["a"].auth.token == "tok"


def test_basic_credentials(load_text) -> None:
    upstreams = "upstreams: {a: {url: http://127.0.0.1, auth: {basic: {username: u, password: 'p:w'}}}}"
    auth = load_text(whole(upstreams=upstreams)).upstreams["a"].auth
    assert (auth.username, auth.password) == ("u", "p:w")


def test_iam_s_urls_hedge_and_credentials(load_text) -> None:
    client = "{token_url: https://idp/t, client_id: c, client_secret: s, audience: a, resource: r, client_auth: post}"
    iam = f"urls: [https://b.io/x/, https://a.io], hedge: 100ms, auth: {{oauth2_client_credentials: {client}}}"
    settings = load_text(whole(iam=f"iam: {{{iam}}}")).iam
    assert (settings.urls, settings.hedge_s) == (("https://b.io/x", "https://a.io"), 0.1)
    assert (settings.auth.audience, settings.auth.resource, settings.auth.client_auth) == ("a", "r", "post")
    assert "secret" not in repr(settings)


def test_a_token_of_iam_is_short_for_bearer_and_an_empty_one_is_none(load_text) -> None:
    short, long, none = (
        load_text(whole(iam=f"iam: {{url: http://127.0.0.1, {keys}}}"), T="").iam.auth
        for keys in ("token: x", "auth: {bearer: x}", 'token: "${T}"')
    )
    assert short == long == BearerAuth("x")
    assert none is None


def test_iam_s_keys(load_text) -> None:
    iam = """\
iam:
  api: json
  url: http://127.0.0.1:8181/base/
  batch_path: null
  single_path: /ask
  circuit_breaker: {failure_rate: 50%, window: 20s, min_calls: 5, probe: 1s}
  batch: {max_size: 7}"""
    settings = load_text(whole(iam=iam)).iam
    assert (settings.urls, settings.batch_path, settings.single_path) == (("http://127.0.0.1:8181/base",), None, "/ask")
    assert (settings.breaker.failure_rate, settings.breaker.window_s, settings.breaker.probe_s) == (0.5, 20, 1)
    assert settings.batch_max_size == 7


def test_an_opa_path_is_without_slashes_at_its_ends(load_text) -> None:
    assert (
        load_text(whole(iam="iam: {api: opa, url: http://127.0.0.1, path: /authz/allow/}")).iam.opa_path
        == "authz/allow"
    )
