"""What a resilience policy sets, and a route or a part of an aggregate overrides: how one upstream is called."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag

from gateway.config.keys.base import Keys, Maybe, by_shape, key, optional
from gateway.config.keys.types import (
    Count,
    Duration,
    DurationOrOff,
    DurationOrZero,
    Flag,
    HeaderName,
    Json,
    Share,
    SizeOrZero,
    Status,
    Text,
    Word,
)

ServerErrorStatus = Annotated[
    Annotated[Status, Tag("<status>")] | Annotated[Literal["5xx"], Word, Tag("<class>")],
    by_shape("an HTTP status like 503 is expected, or 5xx for all of them", status=int, **{"class": str}),
]


class TimeoutKeys(Keys):
    """How long one attempt may take, by phase."""

    connect: Duration = key("1s", "Until connected, DNS and TLS included.")
    read: Duration = key("5s", "The longest silence before and within a response.")
    write: Duration = key("5s", "The longest time in which the upstream takes no more of the request.")


class RetryKeys(Keys):
    """Repeating what failed, only while it is safe."""

    attempts: Annotated[Count, Field(le=20)] = key(1, "Attempts in all: 1 means no retry. At most 20.")
    backoff: DurationOrZero = key("100ms", "The wait before the second attempt; it doubles each time, with jitter.")
    backoff_max: DurationOrZero = key("10s", "The longest wait between two attempts.")
    on: list[ServerErrorStatus] = key([502, 503, 504], "Statuses that are retried: 5xx ones, or `5xx` for all.")
    max_body: SizeOrZero = key("64KiB", "The largest request body that is kept for a further attempt.")


class CircuitBreakerKeys(Keys):
    """When to stop calling what keeps failing, and for how long."""

    failure_threshold: Count = key(5, "Consecutive failures that open the circuit.")
    open_for: Duration = key("30s", "How long no call is made, until one trial.")
    open_for_max: Maybe[Duration] = optional(
        "Failed trials double the open time up to this. When left out: open_for, so that it does not grow."
    )
    failure_rate: Share = key(
        "90%", "Opens also when this share of the calls within `window` fails, for at least three subjects or for all."
    )
    window: Duration = key("10s", "The time over which failure_rate is measured.")
    min_calls: Count = key(20, "Calls within `window` below which failure_rate does not count.")
    probe: Maybe[DurationOrOff] = optional(
        "How often the gateway tries an open circuit by itself, or `off`. When left out: as often as the upstream's "
        "`health.path` is looked at, and off without one."
    )


class ResponseKeys(Keys):
    """The route's own answer, given instead of forwarding."""

    status: Status = key(200, "The status of the answer.")
    headers: dict[HeaderName, Text] = Field(default_factory=dict, description="Further header fields of the answer.")
    json_: Json = Field(default=None, alias="json", description="The body, any JSON value.")


Methods = list[Annotated[str, Word]]


class _Rule(Keys):
    methods: Maybe[Methods] = optional("The methods that the rule is for. When left out: GET and HEAD.")
    max_stale: Maybe[Duration] = optional("The greatest age under `stale`. When left out: iam.cache.max_stale.")
    response: Maybe[ResponseKeys] = optional("The answer under `fallback`.")


class IamRuleKeys(_Rule):
    """What a route does when IAM cannot answer."""

    degrade: Maybe[Annotated[Literal["stale", "local", "fallback", "allow"], Word]] = optional(
        "stale: forward what was permitted before · local: the embedded policies decide · fallback: the route's own "
        "response · allow: forward (fail open)."
    )
    acknowledge_fail_open: Flag = key(False, "Must be true beside `degrade: allow`.")


class UpstreamRuleKeys(_Rule):
    """What a route does when its upstream fails."""

    degrade: Maybe[Annotated[Literal["stale", "fallback"], Word]] = optional(
        "stale: the last good answer to the same GET · fallback: the route's own response."
    )


IamWord = Annotated[Literal["fail_closed"], Word]
UpstreamWord = Annotated[Literal["error", "stale"], Word]
_IAM_MESSAGE = "fail_closed or a mapping like {degrade: stale, max_stale: 60s} is expected"
_UPSTREAM_MESSAGE = "error, stale or a mapping like {degrade: stale, max_stale: 5m} is expected"
IamRule = Annotated[
    Annotated[IamWord, Tag("<word>")] | Annotated[IamRuleKeys, Tag("<rule>")],
    by_shape(_IAM_MESSAGE, word=str, rule=dict),
]
UpstreamRule = Annotated[
    Annotated[UpstreamWord, Tag("<word>")] | Annotated[UpstreamRuleKeys, Tag("<rule>")],
    by_shape(_UPSTREAM_MESSAGE, word=str, rule=dict),
]
IamRules = Annotated[
    Annotated[IamWord, Tag("<word>")]
    | Annotated[IamRuleKeys, Tag("<rule>")]
    | Annotated[Annotated[list[IamRule], Field(min_length=1)], Tag("<rules>")],
    by_shape(_IAM_MESSAGE + ", or a list of them", word=str, rule=dict, rules=list),
]
UpstreamRules = Annotated[
    Annotated[UpstreamWord, Tag("<word>")]
    | Annotated[UpstreamRuleKeys, Tag("<rule>")]
    | Annotated[Annotated[list[UpstreamRule], Field(min_length=1)], Tag("<rules>")],
    by_shape(_UPSTREAM_MESSAGE + ", or a list of them", word=str, rule=dict, rules=list),
]


class CallKeys(Keys):
    """How an upstream is called: what a part of an aggregate may override of its route."""

    timeout: Maybe[TimeoutKeys] = optional("How long one attempt may take, by phase.")
    retry: Maybe[RetryKeys] = optional("Repeating what failed, only while it is safe.")
    circuit_breaker: Maybe[CircuitBreakerKeys] = optional("When to stop calling what keeps failing.")
    failure_statuses: Maybe[list[ServerErrorStatus]] = optional(
        "Statuses that count as failures of the upstream, or `5xx` for all. When left out: 502, 503, 504."
    )
    on_upstream_failure: Maybe[UpstreamRules] = optional(
        "error, stale, or one rule or a list of rules of which the first with a matching method wins. "
        "When left out: error."
    )


class PolicyKeys(CallKeys):
    """A resilience policy: `policies/NAME.yaml`."""

    deadline: Maybe[Duration] = optional(
        "For queueing, identity, IAM, retries and the upstream's response head. When left out: server.deadline."
    )
    on_iam_failure: Maybe[IamRules] = optional(
        "fail_closed, or one rule or a list of rules of which the first with a matching method wins; what no rule "
        "matches fails closed. When left out: fail_closed."
    )
    max_body: Maybe[SizeOrZero] = optional("The largest request body, 0 for no limit. When left out: server.max_body.")
