"""How one upstream is called, and what its failure means: keys of a policy, a route or a part, and `Resilience`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final, Literal, TypeVar

from pydantic import Field, Tag

from gateway.config.compile_context import CompileContext
from gateway.config.keys import (
    Count,
    Duration,
    DurationOrOff,
    DurationOrZero,
    Flag,
    HeaderName,
    Json,
    Keys,
    Maybe,
    Share,
    SizeOrZero,
    Status,
    Text,
    Word,
    by_shape,
    key,
    optional,
)
from gateway.config.validate import Section
from gateway.config.values import format_duration
from gateway.model.route import BreakerPolicy, Resilience, RetryPolicy, Timeouts

# What a resilience policy sets, and a route or a part of an aggregate overrides: how one upstream is called.

ServerErrorStatus = Annotated[
    Annotated[Status, Tag("<status>")] | Annotated[Literal["5xx"], Word, Tag("<class>")],
    by_shape("an HTTP status like 503 is expected, or 5xx for all of them", status=int, **{"class": str}),
]


class TimeoutKeys(Keys):
    """How long one attempt may take, by phase."""

    connect: Duration = key("1s", "The time to connect, with DNS and TLS.")
    read: Duration = key("5s", "The longest time without a byte, before and within a response.")
    write: Duration = key("5s", "The longest time in which the upstream accepts no byte of the request.")


class RetryKeys(Keys):
    """How failed requests are repeated. Only requests that can be repeated safely are."""

    attempts: Annotated[Count, Field(le=20)] = key(1, "Attempts in all: 1 means no retry. At most 20.")
    backoff: DurationOrZero = key("100ms", "The wait before the second attempt; it doubles each time, with jitter.")
    backoff_max: DurationOrZero = key("10s", "The longest wait between two attempts.")
    on: list[ServerErrorStatus] = key([502, 503, 504], "Statuses that are retried: 5xx ones, or `5xx` for all.")
    max_body: SizeOrZero = key("64KiB", "The largest request body that is kept for another attempt.")


class CircuitBreakerKeys(Keys):
    """When the gateway stops calling a failing upstream, and for how long."""

    failure_threshold: Count = key(5, "Consecutive failures that open the circuit.")
    open_for: Duration = key("30s", "How long the gateway makes no call. Then one call is the trial.")
    open_for_max: Maybe[Duration] = optional(
        "Each failed trial doubles the open time, up to this. When left out: open_for, so the time does not grow."
    )
    failure_rate: Share = key(
        "90%",
        "The circuit also opens when this share of the calls within `window` fails, for at least three subjects or "
        "for all.",
    )
    window: Duration = key("10s", "The time over which failure_rate is measured.")
    min_calls: Count = key(20, "With fewer calls within `window`, failure_rate does not count.")
    probe: Maybe[DurationOrOff] = optional(
        "How often the gateway itself tries an open circuit, or `off`. When left out: as often as the upstream's "
        "`health.path` is checked, and off without one."
    )


class ResponseKeys(Keys):
    """The route's own answer. It is sent instead of forwarding the request."""

    status: Status = key(200, "The status of the answer.")
    headers: dict[HeaderName, Text] = Field(default_factory=dict, description="More header fields of the answer.")
    json_: Json = Field(default=None, alias="json", description="The body, any JSON value.")


Methods = list[Annotated[str, Word]]


class _Rule(Keys):
    methods: Maybe[Methods] = optional("The methods of the rule. When left out: GET and HEAD.")
    max_stale: Maybe[Duration] = optional("The greatest age with `stale`. When left out: iam.cache.max_stale.")
    response: Maybe[ResponseKeys] = optional("The answer with `fallback`.")


class IamRuleKeys(_Rule):
    """What a route does when IAM cannot answer."""

    degrade: Maybe[Annotated[Literal["stale", "local", "fallback", "allow"], Word]] = optional(
        "stale: forward if the same question was permitted before · local: the embedded policies decide · fallback: "
        "the route's own response · allow: forward (fail open)."
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
    retry: Maybe[RetryKeys] = optional(
        "How failed requests are repeated. Only requests that can be repeated safely are."
    )
    circuit_breaker: Maybe[CircuitBreakerKeys] = optional("When the gateway stops calling a failing upstream.")
    failure_statuses: Maybe[list[ServerErrorStatus]] = optional(
        "Statuses that count as failures of the upstream, or `5xx` for all. When left out: 502, 503, 504."
    )
    on_upstream_failure: Maybe[UpstreamRules] = optional(
        "error, stale, one rule, or a list of rules. The first rule with a matching method is used. When left out: "
        "error."
    )


class PolicyKeys(CallKeys):
    """A resilience policy: `policies/NAME.yaml`."""

    deadline: Maybe[Duration] = optional(
        "The time for queueing, identity, IAM, retries and the upstream's response head. When left out: "
        "server.deadline."
    )
    on_iam_failure: Maybe[IamRules] = optional(
        "fail_closed, one rule, or a list of rules. The first rule with a matching method is used. Requests that "
        "match no rule fail closed. When left out: fail_closed."
    )
    max_body: Maybe[SizeOrZero] = optional(
        "The largest request body. 0 means no limit. When left out: server.max_body."
    )


# `timeout`, `retry`, `circuit_breaker`, `failure_statuses` → Resilience.

C = TypeVar("C", bound=CallKeys)
_SERVER_ERRORS: Final = range(500, 600)
_CLIENT_ERRORS: Final = range(400, 500)
_DEFAULTS: Final = Resilience()


def compile_resilience(section: Section[C], world: CompileContext) -> Resilience:
    """How one (route, upstream) pair is called; what is wrong is noted."""
    keys = section.keys
    timeout = keys.timeout or TimeoutKeys()
    statuses = keys.failure_statuses
    _check_statuses(section, world)
    return Resilience(
        timeout=Timeouts(connect_s=timeout.connect, read_s=timeout.read, write_s=timeout.write),
        retry=_retry(section, keys.retry or RetryKeys(), world),
        breaker=_breaker(section, keys.circuit_breaker or CircuitBreakerKeys(), world),
        failure_statuses=_DEFAULTS.failure_statuses if statuses is None else _expanded(statuses),
    )


def _expanded(statuses: Iterable[int | Literal["5xx"]]) -> frozenset[int]:
    found: set[int] = set()
    for status in statuses:
        found.update(_SERVER_ERRORS if status == "5xx" else (int(status),))
    return frozenset(found)


def _check_statuses(section: Section[C], world: CompileContext) -> None:
    for index, status in enumerate(section.keys.failure_statuses or ()):
        if status != "5xx" and status not in _SERVER_ERRORS and status not in _CLIENT_ERRORS:
            message = f"{status} is not the status of a failure: 400 to 599, or 5xx"
            world.problems.error(section.at("failure_statuses", index), "out-of-range", message)
    for index, status in enumerate(section.keys.retry.on if section.keys.retry else ()):
        if status != "5xx" and status not in _SERVER_ERRORS:
            hint = "4xx is never retried" if status in _CLIENT_ERRORS else "500 to 599, or 5xx"
            world.problems.error(section.at("retry", "on", index), "out-of-range", f"{status} can't be retried: {hint}")


def _retry(section: Section[C], keys: RetryKeys, world: CompileContext) -> RetryPolicy:
    written = section.has("retry", "backoff_max")
    if written and section.sound("retry") and keys.backoff_max < keys.backoff:
        message = f"backoff_max is less than backoff ({format_duration(keys.backoff)})"
        world.problems.error(section.at("retry", "backoff_max"), "backoff-max", message)
    return RetryPolicy(
        attempts=keys.attempts,
        backoff_s=keys.backoff,
        backoff_max_s=keys.backoff_max if written else max(keys.backoff_max, keys.backoff),
        on=_expanded(keys.on),
        max_body=keys.max_body,
    )


def _breaker(section: Section[C], keys: CircuitBreakerKeys, world: CompileContext) -> BreakerPolicy:
    longest = keys.open_for if keys.open_for_max is None else keys.open_for_max
    if longest < keys.open_for and section.sound("circuit_breaker"):
        message = f"open_for_max is less than open_for ({format_duration(keys.open_for)})"
        world.problems.error(section.at("circuit_breaker", "open_for_max"), "open-for-max", message)
    return BreakerPolicy(
        failure_threshold=keys.failure_threshold,
        open_for_s=keys.open_for,
        open_for_max_s=longest,
        failure_rate=keys.failure_rate,
        rate_is_set="failure_rate" in keys.model_fields_set,
        window_s=keys.window,
        min_calls=keys.min_calls,
        probe_s=keys.probe,
    )
