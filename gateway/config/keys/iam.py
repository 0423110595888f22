"""`iam`: the policy decision point and how it is asked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.config.keys.base import Keys, Maybe, group, key, optional, required
from gateway.config.keys.types import (
    Count,
    Duration,
    DurationOrOff,
    DurationOrZero,
    FilePath,
    Flag,
    HeaderName,
    RequiredSecret,
    Secret,
    Share,
    Text,
    Word,
)
from gateway.config.keys.upstreams import AuthKeys, ClientTlsKeys


class IamTimeoutKeys(Keys):
    """How long asking may take."""

    connect: Duration = key("1s", "Until connected, DNS and TLS included.")
    read: Duration = key("2s", "The longest silence before and within a reply.")
    total: Duration = key("2500ms", "One question with its retries, queueing aside.")


class IamRetryKeys(Keys):
    """Repeating a question that failed; a question changes nothing, so that is always safe."""

    attempts: Annotated[Count, Field(le=20)] = key(2, "Attempts in all: 1 means no retry. At most 20.")
    backoff: DurationOrZero = key("50ms", "The wait before the second attempt; it doubles each time, with jitter.")
    backoff_max: DurationOrZero = key("10s", "The longest wait between two attempts.")


class IamCircuitBreakerKeys(Keys):
    """When to stop asking IAM, and for how long."""

    failure_threshold: Count = key(5, "Consecutive failures that open the circuit.")
    open_for: Duration = key("5s", "How long no call is made, until one trial.")
    open_for_max: Duration = key("60s", "Failed trials double the open time up to this.")
    failure_rate: Share = key(
        "90%", "Opens also when this share of the calls within `window` fails, for at least three subjects or for all."
    )
    window: Duration = key("10s", "The time over which failure_rate is measured.")
    min_calls: Count = key(20, "Calls within `window` below which failure_rate does not count.")
    probe: DurationOrOff = key("1s", "How often the gateway tries an open circuit by itself; `off`: only callers do.")


class BatchKeys(Keys):
    """Sharing calls."""

    max_size: Count = key(50, "Evaluations in one call.")


class SnapshotKeys(Keys):
    """Permits kept in a file: over a restart, and shared by workers."""

    path: FilePath = required("The file; its folder must be there and be the gateway's to write in.")
    every: Duration = key("10s", "How often it is written; also at a stop.")
    key: Maybe[RequiredSecret] = optional(
        "Hides what was asked and authenticates the file (HMAC). When left out: plain hashes, and damage alone is seen."
    )


class CacheKeys(Keys):
    """Remembering decisions, by the whole question."""

    ttl: DurationOrZero = key(
        "0s", "How long a permit is used without asking again: a right that was taken away still works that long."
    )
    negative_ttl: DurationOrZero = key("0s", "How long a denial is used without asking again.")
    max_stale: DurationOrZero = key("5m", "How long a permit is remembered for `degrade: stale`, whatever the ttl.")
    max_entries: Count = key(100000, "Permits remembered; the oldest go first.")
    snapshot: Maybe[SnapshotKeys] = optional("Keep permits in a file. When left out: a restart forgets them.")


class IamKeys(Keys):
    """The policy decision point and how it is asked."""

    api: Annotated[Literal["authzen", "json", "opa", "embedded"], Word] = key(
        "authzen",
        "authzen: OpenID AuthZEN 1.0 · json: a plain batch of checks · opa: OPA's data API · embedded: the policies in "
        "policies/access, without a server.",
    )
    url: Maybe[Text] = optional("Where IAM is; it may end in a path. `url` or `urls` is required but for embedded.")
    urls: Maybe[Annotated[list[Text], Field(min_length=1, max_length=16)]] = optional(
        "Several addresses of one IAM, in order of preference: when one fails, the next is asked. `url` is short for "
        "one."
    )
    hedge: DurationOrOff = key(
        "off",
        "With several urls: when one has not replied after this time, the next is asked too, and the first reply wins. "
        "At most one call in 20.",
    )
    token: Maybe[Secret] = optional(
        "Short for `auth: {bearer: …}`: the bearer token sent to IAM. None when left out or empty."
    )
    auth: Maybe[AuthKeys] = optional("The gateway's credentials at IAM, as those of an upstream.")
    timeout: IamTimeoutKeys = group(IamTimeoutKeys, "How long asking may take.")
    retry: IamRetryKeys = group(IamRetryKeys, "Repeating a question that failed.")
    circuit_breaker: IamCircuitBreakerKeys = group(IamCircuitBreakerKeys, "When to stop asking.")
    batch: BatchKeys = group(BatchKeys, "Sharing calls.")
    max_concurrency: Count = key(8, "Calls in flight to IAM.")
    max_queue: Count = key(10000, "Checks waiting for a call; more are answered 503 iam_overloaded.")
    cache: CacheKeys = group(CacheKeys, "Remembering decisions.")
    tls: ClientTlsKeys = group(ClientTlsKeys, "TLS, for an https:// url.")
    discovery: Flag = key(False, "authzen: use /.well-known/authzen-configuration.")
    batch_path: Text | None = optional(
        "authzen, json: where many checks are asked; null asks them one by one. When left out: /access/v1/evaluations, "
        "json: /iam/authorize/batch."
    )
    single_path: Maybe[Text] = optional(
        "authzen, json: where one check is asked. When left out: /access/v1/evaluation, json: /iam/authorize."
    )
    headers: dict[HeaderName, Text] = Field(
        default_factory=dict, description="Further header fields of every call, like X-Tenant. `token` is apart."
    )
    deny_reasons: Flag = key(
        False, "authzen: a denial's context.reason_user is shown to the caller; its reason_admin never is."
    )
    path: Maybe[Text] = optional("opa: the document asked for, as in /v1/data/{path}. Required with `api: opa`.")


class IamShadowKeys(IamKeys):
    """A second IAM, asked beside the first and after the answer: every key of `iam`, and how often."""

    sample: Share = key("100%", "The share of decisions that it is asked about.")
