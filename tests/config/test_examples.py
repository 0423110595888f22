"""The documented examples load and mean what their comments say."""

from __future__ import annotations

from gateway.config.matrix import failure_matrix
from gateway.model.route import (
    AccessKind,
    AggregateAction,
    IamFailureMode,
    NavigationAction,
    PermissionsAction,
    UpstreamFailureMode,
)
from gateway.model.settings import IamSettings, JwtIdentity, ServerSettings

EXAMPLE = """\
# yaml-language-server: $schema=./routes.schema.json
version: 1

server:
  listen: 127.0.0.1:8080
  admin: 127.0.0.1:9901            # health, metrics, status page; never on the public listener
  name: edge                       # in Via and Proxy-Status
  deadline: 10s                    # default for routes
  trusted_proxies: []              # CIDRs whose X-Forwarded-*, X-Request-ID and traceparent are believed
  max_concurrency: 2000            # requests in flight; more: 503 overloaded
  max_body: 64MiB                  # 0 = no limit; a route may set its own
  max_header_bytes: 32KiB
  header_timeout: 10s              # from accept, and from the first byte of each later request head
  idle_timeout: 75s                # keep-alive connections between requests
  drain_timeout: 15s

iam:
  api: authzen                     # authzen | json | opa | embedded
  url: http://127.0.0.1:8181
  token: ${IAM_TOKEN:-}            # bearer sent to IAM, if any
  timeout: {connect: 1s, read: 2s, total: 2500ms}    # total: one question with its retries, queueing aside
  retry: {attempts: 2, backoff: 50ms}                # attempts in all
  circuit_breaker: {failure_threshold: 5, open_for: 5s, open_for_max: 60s}
  batch: {max_size: 50}            # evaluations in one call; concurrent requests share calls
  max_concurrency: 8               # calls in flight to IAM
  max_queue: 10000                 # checks waiting for a call; more: 503 iam_overloaded
  cache: {ttl: 0s, negative_ttl: 0s, max_stale: 5m, max_entries: 100000}

identity:                          # exactly one of:
  jwt: {issuer: https://idp.example, audience: platform, algorithms: [RS256, ES256, EdDSA], jwks_url: https://idp.example/jwks}   # or jwks_file
  # opaque: {}
  # header: {name: X-User}

upstreams:
  inventory:  {url: http://127.0.0.1:9001}
  monitoring: {url: http://127.0.0.1:9002}     # urls: [a, b, c] balances over several
%s
routes:
  - id: inventory
    path: /inventory/*             # /inventory and everything below it
    upstream: inventory
    policy: fail-closed
    authorize:                     # all must be permitted; one IAM call asks them all
      GET: ["read system:inventory"]
      "*": ["write system:inventory", "{method} route:{route.path}"]
    deadline: 3s

  - id: monitoring
    path: /monitoring/*
    methods: [GET, HEAD, POST]
    upstream: monitoring
    authorize: ["read system:monitoring"]
    deadline: 3s
    timeout: {connect: 500ms, read: 2s}
    retry: {attempts: 3, backoff: 100ms}
    circuit_breaker: {failure_threshold: 5, open_for: 30s}
    on_iam_failure:
      - {methods: [GET, HEAD], degrade: stale, max_stale: 60s}
      - fail_closed
    on_upstream_failure: {degrade: stale, max_stale: 5m}

  - id: status-page
    path: /public/*
    upstream: monitoring
    authorize: public              # public | authenticated | checks | checks by method; never left out
"""  # noqa: E501 - as it is documented

MORE_UPSTREAMS = """\
  workday:    {url: http://127.0.0.1:9004}
  ad:         {url: http://127.0.0.1:9005}
  entra:      {url: http://127.0.0.1:9006}
  registry:   {url: http://127.0.0.1:9003}
"""
MORE_ROUTES = """
  - id: user-audit
    path: /audit/users/{email}
    policy: audit
    authorize: ["audit user:{path.email}"]
    aggregate:
      require: 1                               # a number, or the systems that must answer; fewer: 503
      systems:
        Workday:         {upstream: workday, path: "/staffing/v6/workers?email={path.email}", found_field: workday_found}
        ActiveDirectory: {upstream: ad,      path: "/users/{path.email}",                     found_field: ad_found}
        Entra:           {upstream: entra,   path: "/v1.0/users/{path.email}",                found_field: entra_found}
      compare:
        - {field: job_title, severity: medium, values: {Workday: /jobTitle, ActiveDirectory: /title, Entra: /jobTitle}}
      bulk: {path: /audit/users, items: /emails, param: email, max_items: 500, concurrency: 8}

  - id: navigation
    path: /registry/navigation
    authorize: authenticated
    navigation: {upstream: registry, items: /systems/*/menus/*, check: "{item.action} {item.resource}", on_denied: remove}   # or disable
  - id: permissions
    path: /permissions
    methods: [POST]
    authorize: authenticated
    permissions: {max_items: 100}
"""  # noqa: E501 - as it is documented
WIRE = """\
version: 1
server: {listen: 127.0.0.1:18080, admin: 127.0.0.1:18081}
iam: {api: authzen, url: http://127.0.0.1:18082, cache: {ttl: 0s, negative_ttl: 0s}}
identity: {opaque: {}}
upstreams: {sentinel: {url: http://127.0.0.1:18083}}
routes:
  - {id: inventory, path: /inventory/*, upstream: sentinel, deadline: 3s, authorize: ["access system:inventory"]}
  - {id: monitoring, path: /monitoring/*, upstream: sentinel, authorize: ["access system:monitoring"]}
  - {id: open, path: /open/*, upstream: sentinel, authorize: public}
"""
SMALL = """\
version: 1
iam: {url: "http://127.0.0.1:8181"}
identity: {opaque: {}}
upstreams: {inventory: {url: "http://127.0.0.1:9001"}}
routes: [{id: r, path: /, upstream: inventory, authorize: public}]
"""


def test_the_example_loads_with_one_warning_about_public_writing(load_text) -> None:
    configuration = load_text(EXAMPLE % "")
    assert [line.rpartition("warning")[2].split("]")[0] for line in configuration.warnings] == ["[public-writes"]
    assert isinstance(configuration.identity, JwtIdentity)
    assert configuration.identity.issuers[0].algorithms == ("RS256", "ES256", "EdDSA")


def test_the_values_shown_under_server_and_iam_are_the_defaults(load_text) -> None:
    shown, bare = load_text(EXAMPLE % ""), load_text(SMALL)
    assert shown.server == bare.server == ServerSettings()
    assert shown.iam == bare.iam == IamSettings(urls=("http://127.0.0.1:8181",))


def test_the_example_s_routes_mean_what_they_say(load_text) -> None:
    inventory, monitoring, status = load_text(EXAMPLE % "").routes
    assert [check.source for check in inventory.access["GET"].checks] == ["read system:inventory"]
    assert inventory.access["HEAD"] == inventory.access["GET"]
    assert [check.source for check in inventory.access["DELETE"].checks] == [
        "write system:inventory",
        "{method} route:{route.path}",
    ]
    assert inventory.deadline_s == 3
    assert monitoring.methods == {"GET", "HEAD", "POST"}
    assert monitoring.on_iam_failure["GET"].mode is IamFailureMode.STALE
    assert monitoring.on_iam_failure["GET"].max_stale_s == 60
    assert monitoring.on_iam_failure["POST"].mode is IamFailureMode.FAIL_CLOSED
    assert monitoring.on_upstream_failure["GET"].mode is UpstreamFailureMode.STALE
    assert monitoring.on_upstream_failure["POST"].mode is UpstreamFailureMode.ERROR
    assert monitoring.resilience.timeout.connect_s == 0.5
    assert monitoring.resilience.timeout.write_s == 5
    assert {access.kind for access in status.access.values()} == {AccessKind.PUBLIC}


def test_the_example_with_every_kind_of_route_loads(load_text) -> None:
    configuration = load_text(EXAMPLE % MORE_UPSTREAMS + MORE_ROUTES)
    routes = {route.id: route for route in configuration.routes}
    audit, bulk = routes["user-audit"], routes["user-audit.bulk"]
    assert isinstance(audit.action, AggregateAction)
    assert audit.action is bulk.action
    assert audit.action.echo == ("email",)
    assert (audit.methods, bulk.methods) == ({"GET", "HEAD"}, {"POST"})
    assert bulk.path == "/audit/users"
    assert audit.deadline_s == 30
    assert audit.action.parts[0].resilience.retry.attempts == 3
    assert isinstance(routes["navigation"].action, NavigationAction)
    assert isinstance(routes["permissions"].action, PermissionsAction)
    assert failure_matrix(configuration).summary == (
        "if IAM is down: 2 routes answer 503, 1 serves stale up to 60s, 2 show access as unknown, 1 is unaffected"
    )


def test_the_configuration_of_the_wire_cases_loads(load_text) -> None:
    configuration = load_text(WIRE)
    assert str(configuration.server.listen) == "127.0.0.1:18080"
    assert [route.id for route in configuration.routes] == ["inventory", "monitoring", "open"]
