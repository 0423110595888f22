"""What a route answers while its upstream cannot: `on_upstream_failure`, and the last good answer that it may show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.errors import GatewayError, Source
from gateway.exchange import Exchange
from gateway.forward.body import Keep
from gateway.forward.copies import Copies, Copy, CopyKey, kept_under, sent_with, served_headers, storable
from gateway.forward.heads import DEGRADED, respond_with, upstream_mark
from gateway.model.permit import Permit
from gateway.model.request import Headers, Subject, name_of
from gateway.model.route import Route, UpstreamFailureMode, UpstreamFailureRule
from gateway.telemetry.observer import Observer
from gateway.upstream.answer import Answer
from gateway.upstream.outgoing import Outgoing

# The last good answer of one place (a route, or a part of one), where its rule keeps any: see `copies`.
#
# Rules: kept and served only for a subject, and only with a permit that IAM gave now. A stale answer with a stale
# permit is not allowed. Host and target are in the key, so one question's answer is never another's.


class LastGood:
    """Copies of one place's answers to GET. `place` names where the question goes, `upstream` included.

    `own`: the upstream is sent the gateway's own credentials.
    """

    __slots__ = ("_copies", "_max_stale_s", "_own", "_place")

    def __init__(self, copies: Copies, place: str, rule: UpstreamFailureRule | None, *, own: bool = False) -> None:
        self._own = own
        self._copies = copies
        self._place = place
        keeps = rule is not None and rule.mode is UpstreamFailureMode.STALE
        self._max_stale_s = rule.max_stale_s if rule is not None and keeps else None

    def key(self, permit: Permit, outgoing: Outgoing, host: str = "") -> CopyKey | None:
        """Where this answer is kept, None for nowhere."""
        if self._max_stale_s is None or permit.subject is None or permit.degraded is not None:
            return None
        if outgoing.method != b"GET":
            return None
        sent = sent_with(outgoing.headers, own=self._own)
        target, subject = kept_under(outgoing.target, permit.request), permit.subject
        return CopyKey(self._place, subject.key, host, target, sent, name_of(subject.id))

    def learn(self, key: CopyKey | None, outgoing: Outgoing, answer: Answer, body: bytes | None = None) -> None:
        """Learn from an answer: keep a good body, and forget the copies that it makes outdated."""
        if key is None:
            return
        if body is None:
            self._copies.learn(key, outgoing.method, answer.status)
        elif storable(outgoing.headers, answer.status, answer.headers):
            self._copies.keep(key, outgoing.headers, answer.headers, body)
        else:
            self._copies.evict(key)

    def find(self, key: CopyKey | None, outgoing: Outgoing) -> tuple[Copy, float] | None:
        """The last good answer to this question and its age in seconds."""
        if key is None or self._max_stale_s is None:
            return None
        copy = self._copies.find(key, outgoing.headers, self._max_stale_s)
        return None if copy is None else (copy, self._copies.age_s(copy))


# Rules: only 502, 503 and 504 are outages, the gateway's own about the upstream as well as the upstream's. `stale`
# serves the last good answer, younger than `max_stale`, to the same question of the same subject, and only with a
# permit that IAM gave now. `fallback` is the route's own response. If neither can answer, the error stays. Everything
# served here is marked, logged and counted. This file also keeps good answers to GET, and drops the copies that a newer
# answer makes outdated (see `copies`).

OUTAGES: Final = frozenset({502, 503, 504})
_NOT_MODIFIED: Final = 304
Shown = Callable[[int, Headers, Exchange], Headers]
"""Status and fields of an upstream's answer, live or kept → the fields that the caller gets."""


def is_outage(error: GatewayError) -> bool:
    """Whether an error of ours is about the upstream not answering."""
    return error.kind.source is Source.UPSTREAM and error.kind.status in OUTAGES


class OutageRules:
    """The rules of one route. `place` is where its questions go: see `place_of`.

    `shown` gives the fields of an answer as the caller gets them. `own`: the upstream is sent the gateway's own
    credentials.
    """

    def __init__(
        self, route: Route, place: str, copies: Copies, observer: Observer, *, shown: Shown, own: bool
    ) -> None:
        self._route = route
        self._shown = shown
        self._own = own
        self._place = place
        self._copies = copies
        self._observer = observer
        rules = route.on_upstream_failure
        self._rules = {method: rule for method, rule in rules.items() if rule.mode is not UpstreamFailureMode.ERROR}
        self._keeps = any(rule.mode is UpstreamFailureMode.STALE for rule in self._rules.values())

    async def stand_in(self, permit: Permit, exchange: Exchange, code: str, sent: Headers) -> bool:
        """Answer in the upstream's place, if the rule for this method can. `code` is why, for the log.

        `sent`: the fields that the upstream was sent, or would have been.
        """
        rule = self._rules.get(permit.request.method)
        if rule is None:
            return False
        if rule.mode is UpstreamFailureMode.STALE:
            return await self._serve_copy(permit, exchange, rule, code, sent)
        if rule.response is None:
            return False
        self._tell(exchange, "fallback", code)
        exchange.extra.append((DEGRADED, upstream_mark("fallback")))
        await respond_with(exchange, rule.response)
        return True

    def keeper(self, permit: Permit, status: int, headers: Headers, sent: Headers) -> Keep | None:
        """What to do with the body of this answer, None to do nothing. Also drops copies that it makes outdated."""
        if not self._keeps or permit.subject is None:
            return None
        key, method = self._key(permit, permit.subject, sent), permit.request.method
        if method == "GET" and status == _NOT_MODIFIED:
            self._copies.freshen(key, sent, headers)
            return None
        if method != "GET" or status != 200:  # the one answer that is kept
            self._copies.learn(key, method.encode("ascii"), status)
            return None
        if not storable(sent, status, headers):
            self._copies.evict(key)
            return None
        return lambda body: self._copies.keep(key, sent, headers, body)

    async def _serve_copy(
        self, permit: Permit, exchange: Exchange, rule: UpstreamFailureRule, code: str, sent: Headers
    ) -> bool:
        """For a route without a subject: it has no copies."""
        if permit.subject is None or permit.degraded is not None or permit.request.method not in ("GET", "HEAD"):
            return False
        copy = self._copies.find(self._key(permit, permit.subject, sent), sent, rule.max_stale_s)
        if copy is None:
            return False
        age_s = self._copies.age_s(copy)
        self._tell(exchange, "stale", code)
        exchange.extra.append((DEGRADED, upstream_mark("stale", age_s)))
        await exchange.respond(copy.status, self._shown(copy.status, served_headers(copy, age_s), exchange), copy.body)
        return True

    def _key(self, permit: Permit, subject: Subject, sent: Headers) -> CopyKey:
        request = permit.request
        target = kept_under(request.target.raw, request)
        return CopyKey(
            self._place, subject.key, request.host, target, sent_with(sent, own=self._own), name_of(subject.id)
        )

    def _tell(self, exchange: Exchange, mode: str, code: str) -> None:
        exchange.record.degraded = mode
        exchange.record.code = code
        exchange.span.event("degraded", mode=mode, code=code)
        self._observer.degraded(self._route.id, mode)
