"""`timeout`, `retry`, `circuit_breaker`, `failure_statuses` → Resilience."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, TypeVar

from gateway.config.compile.world import World
from gateway.config.keys.resilience import CallKeys, CircuitBreakerKeys, RetryKeys, TimeoutKeys
from gateway.config.units import format_duration
from gateway.config.validate import Section
from gateway.model.route import BreakerPolicy, Resilience, RetryPolicy, Timeouts

C = TypeVar("C", bound=CallKeys)
_SERVER_ERRORS: Final = range(500, 600)
_CLIENT_ERRORS: Final = range(400, 500)
_DEFAULTS: Final = Resilience()


def compile_resilience(section: Section[C], world: World) -> Resilience:
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


def _check_statuses(section: Section[C], world: World) -> None:
    for index, status in enumerate(section.keys.failure_statuses or ()):
        if status != "5xx" and status not in _SERVER_ERRORS and status not in _CLIENT_ERRORS:
            message = f"{status} is not the status of a failure: 400 to 599, or 5xx"
            world.problems.error(section.at("failure_statuses", index), "out-of-range", message)
    for index, status in enumerate(section.keys.retry.on if section.keys.retry else ()):
        if status != "5xx" and status not in _SERVER_ERRORS:
            hint = "4xx is never retried" if status in _CLIENT_ERRORS else "500 to 599, or 5xx"
            world.problems.error(section.at("retry", "on", index), "out-of-range", f"{status} can't be retried: {hint}")


def _retry(section: Section[C], keys: RetryKeys, world: World) -> RetryPolicy:
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


def _breaker(section: Section[C], keys: CircuitBreakerKeys, world: World) -> BreakerPolicy:
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
