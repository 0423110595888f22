"""`iam`: its keys, and `IamSettings` made of them: which keys go with which `api`, and limits that contradict."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from gateway.config.compile_context import CompileContext
from gateway.config.keys import (
    Count,
    Duration,
    DurationOrOff,
    DurationOrZero,
    FilePath,
    Flag,
    HeaderName,
    Keys,
    Maybe,
    RequiredSecret,
    Secret,
    Share,
    Text,
    Word,
    group,
    key,
    optional,
    required,
)
from gateway.config.tree import Step
from gateway.config.upstreams import AuthKeys, ClientTlsKeys, compile_auth, compile_tls, compile_urls, warn_plain_http
from gateway.config.validate import Section
from gateway.config.values import Url, parse_base
from gateway.model.route import BreakerPolicy, RetryPolicy
from gateway.model.settings import (
    BearerAuth,
    CacheSettings,
    IamApi,
    IamSettings,
    IamTimeouts,
    ShadowSettings,
    SnapshotSettings,
    UpstreamAuth,
)

# `iam`: the policy decision point and how it is asked.


class IamTimeoutKeys(Keys):
    """Time limits of a question to IAM."""

    connect: Duration = key("1s", "The time to connect, with DNS and TLS.")
    read: Duration = key("2s", "The longest time without a byte, before and within a reply.")
    total: Duration = key("2500ms", "One question with its retries, without the time in the queue.")


class IamRetryKeys(Keys):
    """How often a failed question is repeated. A question changes nothing, so repeating it is always safe."""

    attempts: Annotated[Count, Field(le=20)] = key(2, "Attempts in all: 1 means no retry. At most 20.")
    backoff: DurationOrZero = key("50ms", "The wait before the second attempt; it doubles each time, with jitter.")
    backoff_max: DurationOrZero = key("10s", "The longest wait between two attempts.")


class IamCircuitBreakerKeys(Keys):
    """When the gateway stops asking IAM, and for how long."""

    failure_threshold: Count = key(5, "Consecutive failures that open the circuit.")
    open_for: Duration = key("5s", "How long the gateway makes no call. Then one call is the trial.")
    open_for_max: Duration = key("60s", "Each failed trial doubles the open time, up to this.")
    failure_rate: Share = key(
        "90%",
        "The circuit also opens when this share of the calls within `window` fails, for at least three subjects or "
        "for all.",
    )
    window: Duration = key("10s", "The time over which failure_rate is measured.")
    min_calls: Count = key(20, "With fewer calls within `window`, failure_rate does not count.")
    probe: DurationOrOff = key(
        "1s", "How often the gateway itself tries an open circuit. `off`: only requests of callers are trials."
    )


class BatchKeys(Keys):
    """How questions share calls."""

    max_size: Count = key(50, "The most evaluations in one call.")


class SnapshotKeys(Keys):
    """A file with the permits. They survive a restart, and workers share them."""

    path: FilePath = required("The file. Its folder must exist, and the gateway must be able to write there.")
    every: Duration = key("10s", "How often the file is written. It is also written at a stop.")
    key: Maybe[RequiredSecret] = optional(
        "The key hides the questions and authenticates the file (HMAC). When left out: plain hashes, and only damage "
        "is detected."
    )


class CacheKeys(Keys):
    """How long decisions are remembered. A decision is used only for exactly the same question."""

    ttl: DurationOrZero = key(
        "0s", "How long a permit is used without asking again. A revoked right still works for this time."
    )
    negative_ttl: DurationOrZero = key("0s", "How long a denial is used without asking again.")
    max_stale: DurationOrZero = key(
        "5m", "How long a permit is remembered for `degrade: stale`. It does not depend on ttl."
    )
    max_entries: Count = key(100000, "The most permits that are remembered. The oldest ones are dropped first.")
    snapshot: Maybe[SnapshotKeys] = optional("Keeps permits in a file. When left out: a restart forgets them.")


class IamKeys(Keys):
    """The policy decision point, and how the gateway asks it."""

    api: Annotated[Literal["authzen", "json", "opa", "embedded"], Word] = key(
        "authzen",
        "authzen: OpenID AuthZEN 1.0 · json: a plain batch of checks · opa: OPA's data API · embedded: the policies in "
        "policies/access, without a server.",
    )
    url: Maybe[Text] = optional(
        "The address of IAM. It may end in a path. `url` or `urls` is required, except with `api: embedded`."
    )
    urls: Maybe[Annotated[list[Text], Field(min_length=1, max_length=16)]] = optional(
        "Several addresses of one IAM, in order of preference. When one fails, the gateway asks the next one. `url` "
        "is the short form for one address."
    )
    hedge: DurationOrOff = key(
        "off",
        "For several urls. If one has not replied after this time, the gateway asks the next one too, and uses the "
        "first reply. At most one call in 20 is hedged.",
    )
    token: Maybe[Secret] = optional(
        "The short form of `auth: {bearer: …}`: the bearer token for IAM. When left out or empty: none."
    )
    auth: Maybe[AuthKeys] = optional("The gateway's credentials at IAM, with the keys of an upstream's `auth`.")
    timeout: IamTimeoutKeys = group(IamTimeoutKeys, "Time limits of a question to IAM.")
    retry: IamRetryKeys = group(IamRetryKeys, "How often a failed question is repeated.")
    circuit_breaker: IamCircuitBreakerKeys = group(IamCircuitBreakerKeys, "When the gateway stops asking IAM.")
    batch: BatchKeys = group(BatchKeys, "How questions share calls.")
    max_concurrency: Count = key(8, "The most calls to IAM in flight.")
    max_queue: Count = key(10000, "The most checks that wait for a call. Further requests get 503 iam_overloaded.")
    cache: CacheKeys = group(CacheKeys, "How long decisions are remembered.")
    tls: ClientTlsKeys = group(ClientTlsKeys, "TLS, for an https:// url.")
    discovery: Flag = key(False, "authzen: use /.well-known/authzen-configuration.")
    batch_path: Text | None = optional(
        "authzen, json: the path for many checks. null: they are asked one by one. When left out: "
        "/access/v1/evaluations, json: /iam/authorize/batch."
    )
    single_path: Maybe[Text] = optional(
        "authzen, json: the path for one check. When left out: /access/v1/evaluation, json: /iam/authorize."
    )
    headers: dict[HeaderName, Text] = Field(
        default_factory=dict,
        description="More header fields of every call, like X-Tenant. The token is set with `token`.",
    )
    deny_reasons: Flag = key(
        False, "authzen: show the caller context.reason_user of a denial. reason_admin is never shown."
    )
    path: Maybe[Text] = optional("opa: the document to ask for, as in /v1/data/{path}. Required with `api: opa`.")


class IamShadowKeys(IamKeys):
    """A second IAM, asked the same questions after the answer was sent. It has every key of `iam`, and `sample`."""

    sample: Share = key("100%", "The share of decisions that it is asked about.")


# `iam` → IamSettings: which keys go with which `api`, and limits that contradict one another.

_ONLY_FOR: Final = {
    "discovery": ("authzen",),
    "deny_reasons": ("authzen",),
    "batch_path": ("authzen", "json"),
    "single_path": ("authzen", "json"),
    "path": ("opa",),
}
_NOT_YOURS: Final = frozenset(
    {
        "host",
        "authorization",
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "traceparent",
        "x-request-id",
    }
)
_SAME_NAME: Final = ("max_concurrency", "max_queue", "discovery")


def compile_iam(section: Section[IamKeys], world: CompileContext) -> IamSettings:
    """How IAM is asked; what is wrong is noted."""
    keys = section.keys
    api = IamApi(keys.api)
    urls = _urls(section, world, api)
    _check_paths(section, world)
    _check_limits(section, world)
    cache = keys.cache
    return IamSettings(
        api=api,
        urls=() if api is IamApi.EMBEDDED else tuple(url.text for url in urls),
        hedge_s=_hedge_s(section, world),
        auth=_auth(section, world, urls),
        timeout=IamTimeouts(connect_s=keys.timeout.connect, read_s=keys.timeout.read, total_s=keys.timeout.total),
        retry=_retry(keys.retry),
        breaker=_breaker(keys.circuit_breaker),
        batch_max_size=keys.batch.max_size,
        cache=CacheSettings(
            ttl_s=cache.ttl,
            negative_ttl_s=cache.negative_ttl,
            max_stale_s=cache.max_stale,
            max_entries=cache.max_entries,
            snapshot=_snapshot(cache.snapshot, world),
        ),
        tls=compile_tls(section, keys.tls, world, https=not urls or any(url.scheme == "https" for url in urls)),
        batch_path=keys.batch_path if section.has("batch_path") else "",
        single_path=keys.single_path or "",
        headers=_headers(section, world),
        deny_reasons=keys.deny_reasons,
        opa_path=(keys.path or "").strip("/"),
        **{name: getattr(keys, name) for name in _SAME_NAME},
    )


def compile_shadow(section: Section[IamShadowKeys], world: CompileContext) -> ShadowSettings:
    """The second IAM; what is wrong is noted."""
    for name in ("cache", "deny_reasons"):
        if section.has(name):
            message = f"{name} has no effect: a second IAM answers nobody"
            world.problems.warning(section.key(name), "unused-key", message)
    as_iam: Section[IamKeys] = Section(section.node, section.keys, section.broken, section.home)
    return ShadowSettings(compile_iam(as_iam, world), section.keys.sample)


def _headers(section: Section[IamKeys], world: CompileContext) -> tuple[tuple[str, str], ...]:
    headers = section.keys.headers
    if section.sound("headers"):
        for name, value in headers.items():
            if name in _NOT_YOURS:
                world.problems.error(section.at("headers"), "bad-header-name", f"{name} is the gateway's own to send")
            if not value.isascii():
                world.problems.error(section.at("headers"), "bad-value", f"{name}: a value is printable ASCII")
    return tuple(sorted(headers.items()))


def _snapshot(keys: SnapshotKeys | None, world: CompileContext) -> SnapshotSettings | None:
    if keys is None:
        return None
    return SnapshotSettings(path=world.files.resolve(keys.path), every_s=keys.every, key=keys.key)


def _retry(keys: IamRetryKeys) -> RetryPolicy:
    return RetryPolicy(attempts=keys.attempts, backoff_s=keys.backoff, backoff_max_s=keys.backoff_max)


def _breaker(keys: IamCircuitBreakerKeys) -> BreakerPolicy:
    return BreakerPolicy(
        failure_threshold=keys.failure_threshold,
        open_for_s=keys.open_for,
        open_for_max_s=keys.open_for_max,
        failure_rate=keys.failure_rate,
        rate_is_set="failure_rate" in keys.model_fields_set,
        window_s=keys.window,
        min_calls=keys.min_calls,
        probe_s=keys.probe or None,
    )


def _urls(section: Section[IamKeys], world: CompileContext, api: IamApi) -> list[Url]:
    missing = None
    if section.sound("api") and api is IamApi.EMBEDDED:
        _check_embedded(section, world)
    elif section.sound("api"):
        missing = ("missing-key", f'the key "url" is missing: api: {api} asks a server')
    urls = compile_urls(section, world, parse_base, section.keys.urls, missing)
    for url in urls:
        warn_plain_http(section, world, url, "questions and tokens go", "urls" if section.has("urls") else "url")
    return urls


def _hedge_s(section: Section[IamKeys], world: CompileContext) -> float | None:
    hedge_s = section.keys.hedge or None
    if hedge_s is not None and section.sound("urls") and len(section.keys.urls or ()) < 2:  # two
        world.problems.error(section.at("hedge"), "hedge-alone", "hedge asks another url, and there is only one")
    return hedge_s


def _auth(section: Section[IamKeys], world: CompileContext, urls: list[Url]) -> UpstreamAuth | None:
    """`token` is short for `auth: {bearer: …}`; an empty one is none."""
    token = section.keys.token
    if section.has("token") and section.has("auth"):
        message = "token is short for auth: {bearer: …}; only one of token and auth can be there"
        world.problems.error(section.key("token"), "one-auth", message)
    elif token:
        return BearerAuth(token)
    return compile_auth(section, section.keys.auth, world, urls) if section.sound("auth") else None


def _check_embedded(section: Section[IamKeys], world: CompileContext) -> None:
    if not world.access_policies:
        message = "api: embedded needs policies/access/*.cedar, and there are none"
        world.problems.error(section.at("api"), "no-access-policies", message)
    for name in ("url", "urls", "hedge", "auth"):
        if section.has(name):
            message = f"{name} has no effect: api: embedded asks no server"
            world.problems.warning(section.key(name), "unused-key", message)


def _check_paths(section: Section[IamKeys], world: CompileContext) -> None:
    api = section.keys.api
    if not section.sound("api"):
        return
    for name, only in _ONLY_FOR.items():
        if section.has(name) and api not in only:
            message = f"{name} has no effect: it is only for api: {' or '.join(only)}, not {api}"
            world.problems.warning(section.key(name), "unused-key", message)
    if api == "opa" and not section.has("path"):
        message = 'the key "path" is missing: api: opa asks for /v1/data/{path}'
        world.problems.error(section.at(), "missing-key", message)
    for name in ("batch_path", "single_path"):
        _check_path(section, world, name)


def _check_path(section: Section[IamKeys], world: CompileContext, name: str) -> None:
    value = getattr(section.keys, name)
    if value is not None and not (
        value.startswith("/") and value.isascii() and value.isprintable() and " " not in value
    ):
        world.problems.error(section.at(name), "bad-path", "a path starts with / and is printable ASCII")


def _check_limits(section: Section[IamKeys], world: CompileContext) -> None:
    timeout, breaker = section.keys.timeout, section.keys.circuit_breaker
    if section.has("timeout", "total") and section.sound("timeout") and timeout.total < timeout.connect:
        _warn(section, world, "total ends before connect can", "timeout", "total")
    if section.sound("circuit_breaker") and breaker.open_for_max < breaker.open_for:
        path = ("circuit_breaker", "open_for_max" if section.has("circuit_breaker", "open_for_max") else "open_for")
        world.problems.error(section.at(*path), "open-for-max", "open_for_max is less than open_for")
    cache = section.keys.cache
    if section.sound("cache") and max(cache.ttl, cache.negative_ttl) > cache.max_stale > 0:
        _warn(section, world, "decisions are used longer than max_stale remembers them", "cache")


def _warn(section: Section[IamKeys], world: CompileContext, message: str, *path: Step) -> None:
    world.problems.warning(section.at(*path), "contradiction", message)
