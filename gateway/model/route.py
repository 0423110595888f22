"""What `routes.yaml` says of one path, compiled. Made only in `config`; nothing here is parsed or looked up later.

Every duration is in seconds (`_s`), every size in bytes. Mappings keyed by method hold every method that the route
allows, so that a request-time look-up cannot miss and no rule has to be searched.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.template import Template

# A route's page for people in browsers, taken apart at load.


@dataclass(frozen=True, slots=True)
class ErrorPage:
    """`parts` are text and the name of a placeholder by turns, beginning and ending with text.

    `policy`: the value of Content-Security-Policy that fits this page.
    """

    parts: tuple[str, ...]
    policy: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """`connect_s`: until connected (DNS and TLS included). `read_s`, `write_s`: the longest silence."""

    connect_s: float = 1.0
    read_s: float = 5.0
    write_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """`attempts` in all, so 1 means no retry. `backoff_s` doubles per attempt up to `backoff_max_s`, with jitter."""

    attempts: int = 1
    backoff_s: float = 0.1
    backoff_max_s: float = 10.0
    on: frozenset[int] = frozenset({502, 503, 504})
    max_body: int = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """When a circuit opens, and for how long. `failure_rate` is a fraction; None turns it off.

    `rate_is_set`: the configuration names a rate of its own. `probe_s`: how often the gateway tries by itself; 0 turns
    it off, None leaves it to whoever can tell how the dependency is.
    """

    failure_threshold: int = 5
    open_for_s: float = 30.0
    open_for_max_s: float = 30.0
    failure_rate: float | None = 0.9
    rate_is_set: bool = False
    window_s: float = 10.0
    min_calls: int = 20
    probe_s: float | None = None


class AccessKind(enum.StrEnum):
    """`public` looks at no credentials; `authenticated` needs a subject; `checks` needs IAM's permit for all checks."""

    PUBLIC = "public"
    AUTHENTICATED = "authenticated"
    CHECKS = "checks"


@dataclass(frozen=True, slots=True)
class CheckTemplate:
    """One check before its placeholders are filled in: trees of str → Template | number | bool | None | list | dict.

    `action` has the shape `{"name": Template, "properties"?: …}`, `resource` `{"type": …, "id": …, "properties"?: …}`.
    `source` is the check as written, for messages.
    """

    action: Mapping[str, Any]
    resource: Mapping[str, Any]
    context: Mapping[str, Any] | None
    source: str


@dataclass(frozen=True, slots=True)
class Access:
    """What a method of a route asks for. `checks` is non-empty exactly for CHECKS; all of them must be permitted."""

    kind: AccessKind
    checks: tuple[CheckTemplate, ...] = ()


class IamFailureMode(enum.StrEnum):
    """What a route does when IAM cannot answer."""

    FAIL_CLOSED = "fail_closed"
    STALE = "stale"
    LOCAL = "local"
    FALLBACK = "fallback"
    ALLOW = "allow"


STREAM_CONTENT_TYPES: Final = (
    "text/event-stream",
    "application/x-ndjson",
    "application/grpc-web*",
    "multipart/x-mixed-replace",
)
"""Media types of answers that go on for as long as there is something to tell. `*` at the end: whatever follows."""


ALWAYS_EXPOSED: Final = ("Retry-After", "X-Request-ID", "X-Gateway-Degraded")
"""What scripts of other origins may always read of an answer, so that they can tell an outage from a refusal."""


class UpstreamFailureMode(enum.StrEnum):
    """What a route does when its upstream fails."""

    ERROR = "error"
    STALE = "stale"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class FallbackResponse:
    """The route's own answer under `degrade: fallback`. `body` is JSON, encoded once at load."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IamFailureRule:
    """The rule for one method of one route when IAM cannot answer."""

    mode: IamFailureMode = IamFailureMode.FAIL_CLOSED
    max_stale_s: float = 0.0
    response: FallbackResponse | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamFailureRule:
    """The rule for one method of one route when its upstream fails."""

    mode: UpstreamFailureMode = UpstreamFailureMode.ERROR
    max_stale_s: float = 0.0
    response: FallbackResponse | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """The Fetch standard's CORS protocol, answered by the gateway. `origins` exact, lower-case, or `*` alone.

    `exposed`: the value of `Access-Control-Expose-Headers`.
    """

    origins: frozenset[str]
    max_age_s: float = 600.0
    credentials: bool = False
    exposed: bytes = ", ".join(ALWAYS_EXPOSED).encode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resilience:
    """How one (route, upstream) pair is called: what a resilience policy sets."""

    timeout: Timeouts = Timeouts()
    retry: RetryPolicy = RetryPolicy()
    breaker: BreakerPolicy = BreakerPolicy()
    failure_statuses: frozenset[int] = frozenset({502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyAction:
    """Forward to `upstream`. `strip_prefix`: literal path bytes to remove, e.g. `b"/inventory"`.

    `rewrite_redirects`: show the caller where the upstream's own places are by the gateway's paths.
    """

    upstream: str
    strip_prefix: bytes | None = None
    preserve_host: bool = False
    rewrite_redirects: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One system of an aggregate; its breaker is named `<route id>.<name>`.

    `json` is a tree like CheckTemplate's, sent as the body. `found_at`: the JSON pointer (RFC 6901) of what was asked
    for. `required` comes from `require: [names]`.
    """

    name: str
    upstream: str
    path: Template
    method: str = "GET"
    json: Any = None
    found_field: str | None = None
    found_at: str | None = None
    access: Access | None = None
    required: bool = False
    resilience: Resilience = Resilience()
    on_upstream_failure: UpstreamFailureRule = UpstreamFailureRule()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One field compared pairwise: `values` maps a system's name to the JSON pointer (RFC 6901) of its value."""

    field: str
    severity: str
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """`POST path` with many items, each answered as by the single route with `param` set to it.

    `items` is the JSON pointer of the list in the body. `segments` is `path` compiled as Route.segments is.
    """

    path: str
    segments: tuple[Segment, ...]
    items: str
    param: str
    max_items: int = 500
    concurrency: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregateAction:
    """Ask several systems and answer with what they said. `require` is the least number of answers.

    `unknown_as_false`: a `found_field` says False, not None, of a system that did not answer.
    """

    parts: tuple[Part, ...]
    require: int = 1
    compare: tuple[Comparison, ...] = ()
    include_data: bool = False
    unknown_as_false: bool = False
    bulk: Bulk | None = None
    echo: tuple[str, ...] = ()
    """Path parameters shown at the top of the answer, e.g. `("email",)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NavigationAction:
    """Fetch a document and mark each item with what IAM says. `items` is a pointer in which `*` matches all members."""

    upstream: str
    items: str
    check: CheckTemplate
    remove_denied: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissionsAction:
    """Answer the caller's own questions."""

    max_items: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthAction:
    """The health of all systems, as a route."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecideAction:
    """Decide for another proxy, which forwards: served by the decision listener alone."""


Action = ProxyAction | AggregateAction | NavigationAction | PermissionsAction | HealthAction | DecideAction


@dataclass(frozen=True, slots=True)
class Segment:
    """One path segment of a route: a literal, `{name}`, or the closing `*` (`rest`). Exactly one is set."""

    literal: str | None = None
    param: str | None = None
    rest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route. `path` is the template as written (`/inventory/*`): what spans, metrics and `{route.path}` show.

    `deadline_s` bounds queueing, identity, IAM, retries and the upstream's response head. `max_body` 0 = no limit.
    `location` is `FILE:LINE:COL` for messages. `access`, `on_iam_failure`, `on_upstream_failure` hold every method of
    `methods`. `fingerprint` changes when the checks change.
    """

    id: str
    path: str
    segments: tuple[Segment, ...]
    action: Action
    methods: frozenset[str]
    access: Mapping[str, Access]
    on_iam_failure: Mapping[str, IamFailureRule]
    on_upstream_failure: Mapping[str, UpstreamFailureRule]
    host: str | None = None
    policy: str = "fail-closed"
    deadline_s: float = 10.0
    resilience: Resilience = Resilience()
    max_body: int = 64 * 1024 * 1024
    max_concurrency: int = 1000
    cors: Cors | None = None
    error_page: ErrorPage | None = None
    recheck_s: float | None = None
    stream_idle_timeout_s: float = 300.0
    stream_content_types: tuple[str, ...] = STREAM_CONTENT_TYPES
    server_timing: bool = False
    forward_token: bool = False
    allow_encoded_slashes: bool = False
    allow_empty_segments: bool = False
    allow_path_parameters: bool = False
    location: str = ""
    fingerprint: str = ""


def bulk_of(route: Route) -> Bulk | None:
    """The bulk of an aggregate, if this is its second route: the one that takes many items."""
    action = route.action
    if isinstance(action, AggregateAction) and action.bulk is not None and action.bulk.path == route.path:
        return action.bulk
    return None
