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
    """What is to be done."""

    name: Text = required("The action's name; placeholders are filled in.")
    properties: Maybe[JsonObject] = optional("Further properties; placeholders in their texts are filled in.")


class CheckResourceKeys(Keys):
    """To what it is to be done."""

    type: Text = required("The resource's type; placeholders are filled in.")
    id: Text = required("The resource's id; placeholders are filled in.")
    properties: Maybe[JsonObject] = optional("Further properties; placeholders in their texts are filled in.")


class CheckKeys(Keys):
    """A check as AuthZEN names its parts."""

    action: CheckActionKeys = required("What is to be done.")
    resource: CheckResourceKeys = required("To what it is to be done.")
    context: Maybe[JsonObject] = optional("Circumstances; placeholders in their texts are filled in.")


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
    """Cross-origin requests, answered by the gateway."""

    origins: Annotated[list[Text], Field(min_length=1)] = required("Origins like https://app.example, or `*` alone.")
    max_age: DurationOrZero = key("10m", "How long a browser may remember a preflight.")
    credentials: Flag = key(False, "Whether credentials may be sent; not with `*`.")
    expose: list[HeaderName] = listing(
        "Response fields that scripts may read, beside Retry-After, X-Request-ID and X-Gateway-Degraded."
    )


class PartKeys(CallKeys):
    """One system of an aggregate, with its own instance of the route's timeouts, retries and breaker."""

    upstream: Name = required("The upstream that is asked.")
    path: Text = required("Path and query; placeholders are filled in, percent-encoded.")
    method: Annotated[Literal["GET", "POST"], Word] = key("GET", "GET, or POST with `json`.")
    json_: Json = Field(default=None, alias="json", description="The body of a POST; placeholders are filled in.")
    found_field: Maybe[Text] = optional(
        "The name of the answer's member that says whether it was found: true, false, or null where the system could "
        "not be asked."
    )
    found_at: Maybe[Text] = optional(
        "For systems that answer 200 also when they found nothing (GraphQL, searches): the JSON pointer (RFC 6901) of "
        "what was asked for. Null, false, an empty list or mapping there is not found. When left out: a 2xx is found."
    )
    authorize: Maybe[Checks] = optional("Further checks for this system alone, asked in the same call.")


class CompareKeys(Keys):
    """One field compared pairwise over the systems that answered and found."""

    field: Text = required("The field's name in the answer.")
    severity: Text = key("medium", "How much a difference matters.")
    values: Annotated[dict[str, Text], Field(min_length=2)] = required(
        "For each system the JSON pointer (RFC 6901) of the value in its answer."
    )


class BulkKeys(Keys):
    """Many items in one request."""

    path: Text = required("Where they are posted.")
    items: Text = required("The JSON pointer of the list in the body.")
    param: Text = required("The path parameter that each item stands for.")
    max_items: Count = key(500, "Items in one request.")
    concurrency: Count = key(8, "Items asked at the same time.")


Require = Annotated[
    Annotated[Count, Tag("<number>")] | Annotated[Annotated[list[Text], Field(min_length=1)], Tag("<names>")],
    by_shape("a number or a list of systems is expected", number=(int, str), names=list),
]


class AggregateKeys(Keys):
    """One answer from several systems, partial when some fail."""

    systems: Annotated[dict[str, PartKeys], Field(min_length=1, max_length=100)] = required(
        "The systems by name; all are asked at the same time."
    )
    require: Require = key(1, "How many must answer, or a list of those that must; otherwise 503.")
    compare: list[CompareKeys] = listing("Fields compared between the systems.")
    unknown_as_false: Flag = key(
        False,
        "Say false in the `found_field` of a system that failed or was not asked. When left out it is null: nobody "
        "knows whether it is there.",
    )
    include: Maybe[Annotated[Literal["data"], Word]] = optional("`data` adds the systems' bodies to the answer.")
    bulk: Maybe[BulkKeys] = optional("Many items in one request.")


class NavigationKeys(Keys):
    """A document of the upstream, each item marked with what IAM says."""

    upstream: Name = required("The upstream that has the document, under the same path.")
    items: Text = required("A JSON pointer to the items, in which `*` stands for all members.")
    check: Check = required("Asked for each item; `{item.NAME}` is a member of the item.")
    on_denied: Annotated[Literal["remove", "disable"], Word] = key("remove", "What becomes of a denied item.")


class PermissionsKeys(Keys):
    """Answers the caller's own questions."""

    max_items: Count = key(100, "Questions in one request.")


class ErrorPageKeys(Keys):
    """A page for people: sent instead of problem+json to who asks for `text/html` by name. `error_page: {}`: ours."""

    html: Maybe[FilePath] = optional(
        "A page of your own, UTF-8, at most 256 KiB. `{status}`, `{title}`, `{detail}`, `{retry_after}`, "
        "`{request_id}` and `{refresh}` are filled in. When left out: a plain page."
    )


class HealthKeys(Keys):
    """The health of all systems: `health: {}`."""


class RouteKeys(PolicyKeys):
    """One route. Exactly one of `upstream`, `aggregate`, `navigation`, `permissions` and `health`."""

    id: Name = required("The route's name in logs, metrics and error bodies; unique.")
    host: Maybe[Text] = optional("Only for this Host. When left out: for any.")
    path: Text = required("Literal segments, {name} for one segment, a closing /* for everything below.")
    methods: Maybe[Annotated[Methods, Field(min_length=1)]] = optional(
        "What is allowed; HEAD is where GET is. When left out: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS; "
        "of `permissions` POST; of the other kinds GET and HEAD."
    )
    authorize: Authorize = required(
        "public, authenticated, a list of checks that all must be permitted, or one of these by method (for HEAD also "
        "GET's, `*` for the rest)."
    )
    upstream: Maybe[Name] = optional("Forward to this upstream.")
    aggregate: Maybe[AggregateKeys] = optional("One answer from several systems.")
    navigation: Maybe[NavigationKeys] = optional("A document whose items are marked with what IAM says.")
    permissions: Maybe[PermissionsKeys] = optional("Answers the caller's own questions.")
    health: Maybe[HealthKeys] = optional("The health of all systems: `health: {}`.")
    strip_prefix: Maybe[Text] = optional("A literal beginning of the path that is removed before forwarding.")
    preserve_host: Flag = key(False, "Send the caller's Host instead of the upstream's own.")
    rewrite_redirects: Flag = key(
        True,
        "Show `Location`, `Content-Location` and the `Path` of cookies as paths of the gateway where they name the "
        "upstream's own origin, with what `strip_prefix` removed (nginx: `proxy_redirect default`).",
    )
    policy: Name = key("fail-closed", "A resilience policy: one of policies/, or a built-in one.")
    max_concurrency: Maybe[Count] = optional("Requests in flight on this route. When left out: half of the server's.")
    cors: Maybe[CorsKeys] = optional("Answer cross-origin requests here. When left out OPTIONS is a request like any.")
    error_page: Maybe[ErrorPageKeys] = optional(
        "Show people in browsers a page when the gateway refuses or fails. When left out: problem+json for everybody."
    )
    recheck: Maybe[Duration] = optional("How often open streams are checked again. When left out: never.")
    stream_idle_timeout: Duration = key("5m", "The longest silence of a WebSocket or of an answer that is a stream.")
    stream_content_types: list[MediaType] = key(
        list(STREAM_CONTENT_TYPES),
        "Answers of these media types are streams: `stream_idle_timeout` counts instead of `timeout.read`, and "
        "`max_streams` instead of `max_concurrency`. A closing `*` stands for whatever follows.",
    )
    server_timing: Flag = key(False, "Tell the caller the times of IAM and upstream in Server-Timing.")
    forward_token: Flag = key(
        False, "Send the upstream the token too where it came in a cookie or in the query (see `identity.token`)."
    )
    allow_encoded_slashes: Flag = key(False, "Admit %2F and %5C in the target; the bytes go on unchanged.")
    allow_empty_segments: Flag = key(False, "Admit // in the target; the bytes go on unchanged.")
    allow_path_parameters: Flag = key(False, "Admit ; in the target; the bytes go on unchanged.")


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
    """routes.yaml: together with the folder policies/ beside it, all of the gateway's configuration."""

    version: Version = required(_VERSION)
    server: ServerKeys = group(ServerKeys, "The listeners and the limits of everything that goes through them.")
    iam: IamKeys = required("The policy decision point and how it is asked.")
    iam_shadow: Maybe[IamShadowKeys] = optional(
        "A second IAM, asked beside the first and after the answer (docs/evidence.md). It has the keys of `iam`, and "
        "`sample`, like 10%: the share of decisions that it is asked about."
    )
    identity: IdentityKeys = required("How the gateway learns who asks.")
    upstreams: dict[str, UpstreamKeys] = Field(
        default_factory=dict, description="The systems behind the gateway, by name."
    )
    routes: Annotated[list[RouteKeys], Field(min_length=1)] = required("Paths, what they need and where they go.")
