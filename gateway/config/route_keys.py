"""The keys of `routes`, of checks, and of the top of the file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Tag

from gateway.config.iam import IamKeys, IamShadowKeys
from gateway.config.identity import IdentityKeys
from gateway.config.keys import (
    Count,
    Duration,
    DurationOrZero,
    FilePath,
    Flag,
    HeaderName,
    Json,
    JsonObject,
    Keys,
    Maybe,
    MediaType,
    Name,
    Text,
    Word,
    by_shape,
    group,
    key,
    listing,
    mistake,
    optional,
    required,
)
from gateway.config.problems import quoted
from gateway.config.resilience import CallKeys, Methods, PolicyKeys
from gateway.config.server import ServerKeys
from gateway.config.upstreams import UpstreamKeys
from gateway.model.route import STREAM_CONTENT_TYPES

# Checks as they are written: `"<action> <type>:<id>"` or the same as mappings.


class CheckActionKeys(Keys):
    """What the caller wants to do."""

    name: Text = required("The action's name. Placeholders are filled in.")
    properties: Maybe[JsonObject] = optional("More properties. Placeholders in their texts are filled in.")


class CheckResourceKeys(Keys):
    """The object of the action."""

    type: Text = required("The resource's type. Placeholders are filled in.")
    id: Text = required("The resource's id. Placeholders are filled in.")
    properties: Maybe[JsonObject] = optional("More properties. Placeholders in their texts are filled in.")


class CheckKeys(Keys):
    """A check as AuthZEN names its parts."""

    action: CheckActionKeys = required("What the caller wants to do.")
    resource: CheckResourceKeys = required("The object of the action.")
    context: Maybe[JsonObject] = optional("More facts for the decision. Placeholders in their texts are filled in.")


Check = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[CheckKeys, Tag("<keys>")],
    by_shape(
        'a check is text like "read system:inventory" (quoted where it starts with a brace), or a mapping of action '
        "and resource",
        text=str,
        keys=dict,
    ),
]
Checks = Annotated[list[Check], Field(min_length=1, max_length=1000)]
AccessWord = Annotated[Literal["public", "authenticated"], Word]
_MESSAGE = 'public, authenticated or a list of checks like ["read system:inventory"] is expected'
MethodAccess = Annotated[
    Annotated[AccessWord, Tag("<word>")] | Annotated[Checks, Tag("<checks>")], by_shape(_MESSAGE, word=str, checks=list)
]
Authorize = Annotated[
    Annotated[AccessWord, Tag("<word>")]
    | Annotated[Checks, Tag("<checks>")]
    | Annotated[Annotated[dict[str, MethodAccess], Field(min_length=1)], Tag("<methods>")],
    by_shape(_MESSAGE + ", or a mapping of methods to these", word=str, checks=list, methods=dict),
]


# `routes`: paths, what they need and where they go; and the top of the file.


class CorsKeys(Keys):
    """Cross-origin requests that the gateway answers."""

    origins: Annotated[list[Text], Field(min_length=1)] = required("Origins like https://app.example, or `*` alone.")
    max_age: DurationOrZero = key("10m", "How long a browser may remember a preflight.")
    credentials: Flag = key(False, "Whether credentials may be sent. Not possible with `*`.")
    expose: list[HeaderName] = listing(
        "Response fields that scripts may read. They can always read Retry-After, X-Request-ID and X-Gateway-Degraded."
    )


class PartKeys(CallKeys):
    """One system of an aggregate, with its own instance of the route's timeouts, retries and breaker."""

    upstream: Name = required("The upstream that is asked.")
    path: Text = required("Path and query. Placeholders are filled in, percent-encoded.")
    method: Annotated[Literal["GET", "POST"], Word] = key("GET", "GET, or POST with `json`.")
    json_: Json = Field(default=None, alias="json", description="The body of a POST. Placeholders are filled in.")
    found_field: Maybe[Text] = optional(
        "The name of the member in the answer that says whether the system found it: true, false, or null if the "
        "system could not be asked."
    )
    found_at: Maybe[Text] = optional(
        "For systems that answer 200 also when they found nothing (GraphQL, searches): the JSON pointer (RFC 6901) of "
        "the result. Null, false, an empty list or an empty mapping there means not found. When left out: every 2xx "
        "means found."
    )
    authorize: Maybe[Checks] = optional("More checks, for this system only. They are asked in the same call.")


class CompareKeys(Keys):
    """One field, compared between every two systems that found something."""

    field: Text = required("The field's name in the answer.")
    severity: Text = key("medium", "How much a difference matters.")
    values: Annotated[dict[str, Text], Field(min_length=2)] = required(
        "For each system, the JSON pointer (RFC 6901) of the value in its answer."
    )


class BulkKeys(Keys):
    """Many items in one request."""

    path: Text = required("The path to which they are posted.")
    items: Text = required("The JSON pointer of the list in the body.")
    param: Text = required("The path parameter that takes the value of each item.")
    max_items: Count = key(500, "The most items in one request.")
    concurrency: Count = key(8, "The most items that are asked at the same time.")


Require = Annotated[
    Annotated[Count, Tag("<number>")] | Annotated[Annotated[list[Text], Field(min_length=1)], Tag("<names>")],
    by_shape("a number or a list of systems is expected", number=(int, str), names=list),
]


class AggregateKeys(Keys):
    """One answer from several systems, partial when some fail."""

    systems: Annotated[dict[str, PartKeys], Field(min_length=1, max_length=100)] = required(
        "The systems by name. All are asked at the same time."
    )
    require: Require = key(1, "How many systems must answer, or a list of those that must. Otherwise 503.")
    compare: list[CompareKeys] = listing("Fields compared between the systems.")
    unknown_as_false: Flag = key(
        False,
        "Write false in the `found_field` of a system that failed or was not asked. When left out it is null, because "
        "the answer is not known.",
    )
    include: Maybe[Annotated[Literal["data"], Word]] = optional("`data` adds the systems' bodies to the answer.")
    bulk: Maybe[BulkKeys] = optional("Many items in one request.")


class NavigationKeys(Keys):
    """A document of the upstream. Each item is marked with IAM's decision."""

    upstream: Name = required("The upstream that serves the document, at the same path.")
    items: Text = required("A JSON pointer to the items. `*` in it means all members.")
    check: Check = required("The check for each item. `{item.NAME}` is a member of the item.")
    on_denied: Annotated[Literal["remove", "disable"], Word] = key("remove", "What happens to a denied item.")


class PermissionsKeys(Keys):
    """Answers the caller's own questions."""

    max_items: Count = key(100, "The most questions in one request.")


class ErrorPageKeys(Keys):
    """A page for people, instead of problem+json, if Accept names `text/html`. `error_page: {}`: the built-in one."""

    html: Maybe[FilePath] = optional(
        "Your own page, UTF-8, at most 256 KiB. `{status}`, `{title}`, `{detail}`, `{retry_after}`, `{request_id}` "
        "and `{refresh}` are filled in. When left out: a plain page."
    )


class HealthKeys(Keys):
    """The health of all systems: `health: {}`."""


class RouteKeys(PolicyKeys):
    """One route. Exactly one of `upstream`, `aggregate`, `navigation`, `permissions` and `health`."""

    id: Name = required("The route's name in logs, metrics and error bodies; unique.")
    host: Maybe[Text] = optional("Only for this Host. When left out: for any.")
    path: Text = required("Literal segments, {name} for one segment, /* at the end for everything below.")
    methods: Maybe[Annotated[Methods, Field(min_length=1)]] = optional(
        "The allowed methods. GET includes HEAD. When left out: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS; for "
        "`permissions` POST; for the other kinds GET and HEAD."
    )
    authorize: Authorize = required(
        "public, authenticated, a list of checks that must all be permitted, or one of these by method (HEAD uses "
        "GET's too, `*` is for the other methods)."
    )
    upstream: Maybe[Name] = optional("Forward to this upstream.")
    aggregate: Maybe[AggregateKeys] = optional("One answer from several systems.")
    navigation: Maybe[NavigationKeys] = optional("A document whose items are marked with IAM's decisions.")
    permissions: Maybe[PermissionsKeys] = optional("Answers the caller's own questions.")
    health: Maybe[HealthKeys] = optional("The health of all systems: `health: {}`.")
    strip_prefix: Maybe[Text] = optional("A literal beginning of the path. It is removed before forwarding.")
    preserve_host: Flag = key(False, "Send the caller's Host instead of the upstream's own.")
    rewrite_redirects: Flag = key(
        True,
        "Rewrite `Location`, `Content-Location` and the `Path` of cookies to paths of the gateway if they name the "
        "upstream's own origin. What `strip_prefix` removed is added again (nginx: `proxy_redirect default`).",
    )
    policy: Name = key("fail-closed", "A resilience policy: a file of policies/, or a built-in policy.")
    max_concurrency: Maybe[Count] = optional(
        "The most requests in flight on this route. When left out: half of the server's limit."
    )
    cors: Maybe[CorsKeys] = optional(
        "The gateway answers cross-origin requests. When left out: OPTIONS is handled like any request."
    )
    error_page: Maybe[ErrorPageKeys] = optional(
        "A page for people in browsers, shown when the gateway refuses or fails. When left out: problem+json for "
        "everybody."
    )
    recheck: Maybe[Duration] = optional("How often open streams are checked again. When left out: never.")
    stream_idle_timeout: Duration = key(
        "5m", "The longest time without a byte on a WebSocket, or in an answer that is a stream."
    )
    stream_content_types: list[MediaType] = key(
        list(STREAM_CONTENT_TYPES),
        "Answers of these media types are streams: `stream_idle_timeout` counts instead of `timeout.read`, and "
        "`max_streams` instead of `max_concurrency`. `*` at the end matches any text.",
    )
    server_timing: Flag = key(False, "Show the caller the times of IAM and the upstream in Server-Timing.")
    forward_token: Flag = key(
        False, "Also send the token to the upstream if it came in a cookie or in the query (see `identity.token`)."
    )
    allow_encoded_slashes: Flag = key(False, "Accept %2F and %5C in the target. The target is sent on unchanged.")
    allow_empty_segments: Flag = key(False, "Accept // in the target. The target is sent on unchanged.")
    allow_path_parameters: Flag = key(False, "Accept ; in the target. The target is sent on unchanged.")


_VERSION = "The version of the file's format: 1."


def _number(value: Any) -> Any:
    """Only the whole number: `true` and `1.0` equal it in Python."""
    if type(value) is not int:
        raise mistake("wrong-type", f"the number 1 is expected, not {quoted(value)}")
    return value


Version = Annotated[Literal[1], BeforeValidator(_number)]


class Outline(Keys):
    """The top of the file, its sections unread: each is validated by itself, so that every mistake is found."""

    version: Version = required(_VERSION)
    server: dict[str, Any] = Field(default_factory=dict)
    iam: dict[str, Any]
    iam_shadow: Maybe[dict[str, Any]] = None
    identity: dict[str, Any]
    upstreams: dict[str, Any] = Field(default_factory=dict)
    routes: Annotated[list[Any], Field(min_length=1)]


class RoutesFile(Keys):
    """routes.yaml and the folder policies/ beside it are the gateway's whole configuration."""

    version: Version = required(_VERSION)
    server: ServerKeys = group(ServerKeys, "The listeners and their limits.")
    iam: IamKeys = required("The policy decision point, and how the gateway asks it.")
    iam_shadow: Maybe[IamShadowKeys] = optional(
        "A second IAM, asked the same questions after the answer was sent (docs/evidence.md). It has the keys of "
        "`iam`, and `sample`: the share of decisions that it is asked about, like 10%."
    )
    identity: IdentityKeys = required("How the gateway finds out who the caller is.")
    upstreams: dict[str, UpstreamKeys] = Field(
        default_factory=dict, description="The systems behind the gateway. The key is the name."
    )
    routes: Annotated[list[RouteKeys], Field(min_length=1)] = required(
        "The paths, which checks they need, and where they are forwarded."
    )
