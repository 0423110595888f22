"""Counts what happens. Nothing is looked up by name: every hook knows its instrument."""

from __future__ import annotations

import time
from typing import Final

from gateway.model.request import AccessRecord
from gateway.telemetry import instruments
from gateway.telemetry.observer import NO_SERVER, Observer, Server, Span
from gateway.telemetry.store import Store

KNOWN_METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY"}
)
"""Others are counted as `_OTHER` (semantic conventions), so that a client cannot make up series."""
CIRCUIT_STATES: Final = ("closed", "open", "half_open")
RELOAD_RESULTS: Final = ("success", "failure", "unchanged")
CLIENT_LEFT: Final = 499
"""The status of a request whose caller left before any answer, as in nginx's logs. Nobody is sent it."""
_ERRORS_FROM: Final = 500
_STATUSES: Final = tuple(str(status) for status in range(1000))


class MetricsObserver(Observer):
    """Writes to the store."""

    def __init__(self, store: Store) -> None:
        self._requests = store.distribution(instruments.REQUEST_DURATION)
        self._calls = store.distribution(instruments.CALL_DURATION)
        self._decisions = store.values(instruments.DECISIONS)
        self._decision_times = store.distribution(instruments.DECISION_DURATION)
        self._batch_sizes = store.distribution(instruments.BATCH_SIZE)
        self._queue = store.values(instruments.IAM_QUEUE)
        self._hedges = store.values(instruments.IAM_HEDGES)
        self._cache = store.values(instruments.CACHE)
        self._circuits = store.values(instruments.CIRCUIT_STATE)
        self._transitions = store.values(instruments.CIRCUIT_TRANSITIONS)
        self._degraded = store.values(instruments.DEGRADED)
        self._retries = store.values(instruments.RETRIES)
        self._reloads = store.values(instruments.RELOADS)
        self._refused = store.values(instruments.CONNECTIONS_REFUSED)
        self._reloaded = store.values(instruments.RELOADED)
        self._config = store.values(instruments.CONFIG)
        self._shadow = store.values(instruments.SHADOW)
        self._dropped = store.values(instruments.DROPPED)
        for result in RELOAD_RESULTS:  # a counter that begins at one hides its first event from `increase`
            self._reloads.add((result,), 0)

    def request_ended(self, record: AccessRecord, span: Span) -> None:
        """See Observer."""
        status = status_of(record)
        labels = (
            record.method if record.method in KNOWN_METHODS else "_OTHER",
            record.scheme,
            record.path_template,
            _STATUSES[status],
            error_type(record, status),
        )
        duration_s = time.monotonic() - record.started_s
        if span.sampled:
            self._requests.record_of_trace(labels, duration_s, record.trace_id, record.span_id)
        else:
            self._requests.record(labels, duration_s)

    def decided(self, route: str, outcome: str, code: str, source: str, duration_s: float) -> None:
        """See Observer."""
        self._decisions.add((route, outcome, code))
        self._decision_times.record((route, outcome), duration_s)

    def cache(self, result: str) -> None:
        """See Observer."""
        self._cache.add((result,))

    def iam_call_ended(
        self, span: Span, size: int, code: str, duration_s: float, status: int = 0, server: Server = NO_SERVER
    ) -> None:
        """See Observer."""
        self._batch_sizes.record((), size)
        labels = ("POST", "iam", _STATUSES[status] if status else "", code, server.address, server.port)
        self._calls.record(labels, duration_s)

    def iam_queue(self, waiting: int) -> None:
        """See Observer."""
        self._queue.set((), waiting)

    def iam_hedged(self, result: str) -> None:
        """See Observer."""
        self._hedges.add((result,))

    def attempt_ended(
        self,
        span: Span,
        upstream: str,
        method: str,
        status: int,
        code: str,
        duration_s: float,
        server: Server = NO_SERVER,
    ) -> None:
        """See Observer."""
        known = method if method in KNOWN_METHODS else "_OTHER"
        labels = (known, upstream, _STATUSES[status] if status else "", code, server.address, server.port)
        self._calls.record(labels, duration_s)

    def retry(self, target: str, attempt: int, attempts: int, code: str) -> None:
        """See Observer."""
        self._retries.add((target,))

    def breaker_added(self, name: str, kind: str, state: str) -> None:
        """See Observer."""
        for other in CIRCUIT_STATES:
            self._circuits.set((name, kind, other), int(other == state))

    def breaker_removed(self, name: str, kind: str) -> None:
        """See Observer."""
        for state in CIRCUIT_STATES:
            self._circuits.forget((name, kind, state))

    def circuit(self, name: str, kind: str, before: str, after: str, reason: str) -> None:
        """See Observer."""
        self.breaker_added(name, kind, after)
        self._transitions.add((name, before, after))

    def degraded(self, route: str, mode: str) -> None:
        """See Observer."""
        self._degraded.add((route, mode))

    def config_reload(self, result: str, detail: str) -> None:
        """See Observer."""
        self._reloads.add((result,))

    def connection_refused(self, reason: str) -> None:
        """See Observer."""
        self._refused.add((reason,))

    def shadow(self, route: str, agreement: str, said: str = "") -> None:
        """See Observer."""
        self._shadow.add((route, agreement))

    def lines_dropped(self, signal: str, count: int) -> None:
        """See Observer."""
        self._dropped.add((signal,), count)

    def config_serves(self, digest: str, problems: int) -> None:
        """See Observer."""
        self._reloaded.set((), int(not problems))
        for labels in list(self._config.cells):
            self._config.forget(labels)
        self._config.set((digest,), 1)


def status_of(record: AccessRecord) -> int:
    """The status of a request that is over: 499 where the caller left before there was one."""
    return record.status or (CLIENT_LEFT if record.client_left else 0)


def error_type(record: AccessRecord, status: int) -> str:
    """`error.type`: the code of ours, or the status of a failed answer; "" for what is no error of the server."""
    if status < _ERRORS_FROM:
        return ""
    return record.code or _STATUSES[status]
