"""The hooks by which rooms say what happened. This base class does nothing, so that nothing costs when nobody looks.

Rules: a hook never raises, never waits and is never asked for a decision. Label values come from the configuration
only (route ids, upstream and breaker names, codes of the table). Tokens and raw paths are never passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from gateway.model.request import AccessRecord, Request


class Server(NamedTuple):
    """Who is asked, as spans and metrics call it: host name or address, port in digits, `scheme://host:port`."""

    address: str
    port: str
    url: str


NO_SERVER = Server("", "", "")
"""Nobody was chosen yet."""


class Span:
    """A span that nobody records. `traceparent` is what to send on (W3C Trace Context), None for nothing.

    `sampled`: somebody records it, so a log line or a metric may point to it.
    """

    __slots__ = ("traceparent",)

    sampled = False

    def __init__(self, traceparent: bytes | None = None) -> None:
        self.traceparent = traceparent

    def set(self, name: str, value: str | float) -> None:
        """Set an attribute."""

    def event(self, name: str, **attributes: Any) -> None:
        """Add an event (`circuit`, `degraded`, `retry`)."""

    def end(self, *, error: str = "") -> None:
        """End the span; `error` is a code of the table, empty for success."""


NO_SPAN = Span()


class Observer:
    """Hooks for logs, metrics and spans. Durations in seconds."""

    def request_started(self, request: Request, record: AccessRecord) -> Span:
        """A request's head was accepted: the SERVER span. Fills `record.trace_id` and `record.span_id`."""
        return NO_SPAN

    def request_ended(self, record: AccessRecord, span: Span) -> None:
        """A request is over, for whatever reason: access log, `http.server.request.duration`, end of the span."""

    def authorize_started(self, parent: Span) -> Span:
        """The INTERNAL span `authorize`."""
        return NO_SPAN

    def decided(self, route: str, outcome: str, code: str, source: str, duration_s: float) -> None:
        """One request was decided (`gateway.authz.decisions`, `gateway.authz.duration`)."""

    def cache(self, result: str) -> None:
        """The decision cache was asked: hit | miss | stale."""

    def iam_call_started(
        self, size: int, links: Sequence[Span], operation: str = "POST /access/v1/evaluations"
    ) -> Span:
        """One call to IAM with `size` questions begins, on behalf of `links`. `operation`: its method and path."""
        return NO_SPAN

    def iam_call_ended(
        self, span: Span, size: int, code: str, duration_s: float, status: int = 0, server: Server = NO_SERVER
    ) -> None:
        """It ended; `code` is empty for success (`gateway.iam.batch.size`, `http.client.request.duration`).

        `status`: of IAM's answer, 0 where there was none.
        """

    def iam_queue(self, waiting: int) -> None:
        """How many questions wait for a call (`gateway.iam.queue`)."""

    def iam_hedged(self, result: str) -> None:
        """A call that went to a second url of IAM is over: the second answered first (won), or did not (lost)."""

    def attempt_started(self, parent: Span, upstream: str, method: str, attempt: int) -> Span:
        """One attempt at an upstream begins: a CLIENT span."""
        return NO_SPAN

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
        """It ended, with a status or with a code. `server`: the origin that was asked."""

    def retry(self, target: str, attempt: int, attempts: int, code: str) -> None:
        """Attempt number `attempt` of `attempts` begins because the one before failed with `code`."""

    def breaker_added(self, name: str, kind: str, state: str) -> None:
        """There is a breaker of this name, in this state; said again after a reload changes nothing."""

    def breaker_removed(self, name: str, kind: str) -> None:
        """There is no breaker of this name any more."""

    def circuit(self, name: str, kind: str, before: str, after: str, reason: str) -> None:
        """A breaker changed state. `kind`: iam | upstream; states: closed | open | half_open."""

    def degraded(self, route: str, mode: str) -> None:
        """An answer was degraded: stale | local | fallback | allow | partial."""

    def config_reload(self, result: str, detail: str) -> None:
        """A reload ended: success | failure | unchanged."""

    def connection_refused(self, reason: str) -> None:
        """A connection was closed as it came. `reason`: max_connections | max_connections_per_client | open_files."""

    def config_serves(self, digest: str, problems: int) -> None:
        """The configuration of this hash serves; so many mistakes has the file that was refused since, 0 for none."""

    def shadow(self, route: str, agreement: str, said: str = "") -> None:
        """A second IAM was asked about a decision: same | different | unknown (`gateway.shadow`).

        `said`: of a difference, what it does with which check.
        """

    def lines_dropped(self, signal: str, count: int) -> None:
        """So many lines of this log were given up. May be told by another thread."""

    def bug(self, where: str, error: BaseException) -> None:
        """Something raised that should not have: log it in full."""
