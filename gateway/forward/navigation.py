"""A navigation document. Each item is marked with what this caller may do. It is answered even without IAM."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from gateway.checks import PreparedCheck
from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.forward.asking import (
    IAM_PARTIAL,
    PARTIAL,
    Decide,
    Guarded,
    Outage,
    a_moment_before,
    outage_of,
    refuse_void_credentials,
)
from gateway.forward.body import relay
from gateway.forward.copies import CopyKey
from gateway.forward.heads import DEGRADED, mark_degraded_permit, respond_with, shown_headers, upstream_mark
from gateway.forward.json_text import Place, WrongShape, find_all, parse, read_systems, write
from gateway.forward.outage import OUTAGES, LastGood, is_outage
from gateway.headers import HeaderRules, upstream_request_headers
from gateway.model.permit import Decision, Outcome, Permit, Question
from gateway.model.request import Headers
from gateway.model.route import NavigationAction, Route, UpstreamFailureMode
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import Observer
from gateway.template import RequestValues
from gateway.upstream.outgoing import Outgoing
from gateway.witness import Witness, of_items, see_items

# The marked navigation document: every item gets IAM's answer, and everything else stays.
#
# Rules: `enabled` of an item is always written here, so what the upstream said of it never survives; an item that
# nothing could be asked about (a field is missing) is disabled and unknown; a denied one is removed or disabled;
# order, unknown fields and items elsewhere stay as they were. A document that is not built as the pattern says has no
# items that can be recognized, so it is refused, not shown.

MAX_ITEMS: Final = 10_000


def items_of(document: Any, pattern: tuple[str, ...]) -> list[Place]:
    """All items, in order. Raises `upstream_protocol_error` for a document of another shape, or too many items."""
    try:
        places = list(find_all(document, pattern))
    except WrongShape as wrong:
        raise _unusable(str(wrong)) from None
    if len(places) > MAX_ITEMS:
        raise _unusable(f"more than {MAX_ITEMS} items")
    if not isinstance(document, dict) or not all(isinstance(place.value, dict) for place in places):
        raise _unusable("an item is not an object")
    return places


def mark(places: Sequence[Place], decisions: Sequence[Decision | None], *, remove_denied: bool) -> None:
    """Write each item's answer into it; None: nothing could be asked about it."""
    for place, decision in reversed(list(zip(places, decisions, strict=True))):
        outcome = Outcome.UNKNOWN if decision is None else decision.outcome
        if outcome is Outcome.ALLOW:
            place.value["enabled"] = True
        elif outcome is Outcome.DENY and remove_denied:
            del place.container[place.key]
        else:
            place.value.update(enabled=False, access="denied" if outcome is Outcome.DENY else "unknown")


def _unusable(reason: str) -> GatewayError:
    return GatewayError("upstream_protocol_error", "The navigation could not be read.", reason=reason)


MAX_DOCUMENT: Final = 2 * 1024 * 1024
_ITEMS_IN_A_TURN: Final = 200
_NOT_FOR_DOCUMENTS: Final = frozenset(
    {
        b"accept-encoding",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"range",
    }
)
"""A copy that the caller has was marked for another moment: it is not confirmed or continued (RFC 9110 section 13)."""
_OF_THE_ORIGINAL: Final = frozenset(
    {
        b"accept-ranges",
        b"age",
        b"cache-control",
        b"content-digest",
        b"content-encoding",
        b"content-length",
        b"content-md5",
        b"digest",
        b"etag",
        b"expires",
        b"last-modified",
        b"pragma",
        b"repr-digest",
    }
)
"""Fields of the upstream's answer that are not true for the marked document."""
_OK: Final = 200


class _Fetched(NamedTuple):
    """The upstream's document, of now or its last good one, the items in it, and its header."""

    document: Any
    items: list[Place]
    headers: Headers


class NavigationEndpoint:
    """Serves one navigation route. `authority` is the upstream's own `Host`."""

    def __init__(
        self,
        route: Route,
        *,
        decide: Decide,
        upstream: Guarded,
        authority: bytes,
        rules: HeaderRules,
        last_good: LastGood,
        observer: Observer,
        witness: Witness | None = None,
    ) -> None:
        if not isinstance(route.action, NavigationAction):
            raise TypeError(f"route {route.id} is not a navigation")
        self._route = route
        self._pattern = parse(route.action.items)
        self._check = PreparedCheck(route.action.check)
        self._remove_denied = route.action.remove_denied
        self._decide = decide
        self._upstream = upstream
        self._authority = authority
        self._rules = rules
        self._last_good = last_good
        self._observer = observer
        self._witness = witness

    async def __call__(self, permit: Permit, exchange: Exchange, deadline: Deadline) -> None:
        """Answer with the marked document."""
        degraded = mark_degraded_permit(permit, exchange)
        outgoing = self._outgoing(permit, degraded)
        key = self._last_good.key(permit, outgoing, permit.request.host)
        try:
            fetched = await self._fetch(outgoing, exchange, deadline, key)
        except GatewayError as error:
            fetched = await self._without_upstream(error, outgoing, exchange, key)
        if fetched is None:
            return
        outage = await self._mark(permit, exchange, deadline, fetched.items)
        deadline.stop()
        await self._respond(exchange, fetched, outage)

    async def _fetch(
        self, outgoing: Outgoing, exchange: Exchange, deadline: Deadline, key: CopyKey | None
    ) -> _Fetched | None:
        """The document; None when the caller was given another answer of the upstream's as it was."""
        answer = await self._upstream.exchange(
            outgoing, deadline=deadline, span=exchange.span, replayable=True, record=exchange.record
        )
        if answer.status == _OK:
            body = await answer.read(MAX_DOCUMENT)
            fetched = self._read(body, answer.headers)
            self._last_good.learn(key, outgoing, answer, body)
            return fetched
        self._last_good.learn(key, outgoing, answer)
        try:
            if answer.status in OUTAGES:
                last = await self._stand_in(f"http_{answer.status}", outgoing, exchange, key)
                if last is not None or exchange.started:
                    return last
            deadline.stop()
            # Any answer other than 200 goes to the caller unchanged.
            await relay(answer, exchange, self._shown(answer.status, answer.headers, exchange), None, 0)
        finally:
            await answer.aclose()
        return None

    async def _without_upstream(
        self, error: GatewayError, outgoing: Outgoing, exchange: Exchange, key: CopyKey | None
    ) -> _Fetched | None:
        fetched = await self._stand_in(error.code, outgoing, exchange, key) if is_outage(error) else None
        if fetched is None and not exchange.started:
            raise error
        return fetched

    async def _stand_in(
        self, code: str, outgoing: Outgoing, exchange: Exchange, key: CopyKey | None
    ) -> _Fetched | None:
        """The last good document, to be marked like any; or None, with the route's own response if it has one."""
        kept = self._last_good.find(key, outgoing)
        if kept is not None:
            copy, age_s = kept
            self._degraded(exchange, "stale", code)
            exchange.extra.append((DEGRADED, upstream_mark("stale", age_s)))
            return self._read(copy.body, copy.headers)
        rule = self._route.on_upstream_failure.get(exchange.request.method)
        if rule is not None and rule.mode is UpstreamFailureMode.FALLBACK and rule.response is not None:
            self._degraded(exchange, "fallback", code)
            exchange.extra.append((DEGRADED, upstream_mark("fallback")))
            await respond_with(exchange, rule.response)
        return None

    def _outgoing(self, permit: Permit, degraded: bytes | None) -> Outgoing:
        """The caller's request, for the whole document and readable here."""
        fields = upstream_request_headers(
            permit.request, rules=self._rules, host=self._authority, subject=permit.subject, degraded=degraded
        )
        headers = [field for field in fields if field[0] not in _NOT_FOR_DOCUMENTS]
        headers.append((b"accept-encoding", b"identity"))
        return Outgoing(b"GET", permit.request.target.raw, headers, share_key=permit.share_key)

    def _read(self, body: bytes, headers: Headers) -> _Fetched:
        """Raises `upstream_protocol_error` for what is not a document of the route's shape."""
        try:
            document = read_systems(body)
        except ValueError as malformed:
            detail = "The navigation could not be read."
            raise GatewayError("upstream_protocol_error", detail, reason=str(malformed)[:200]) from None
        return _Fetched(document, items_of(document, self._pattern), headers)

    async def _mark(self, permit: Permit, exchange: Exchange, deadline: Deadline, places: list[Place]) -> Outage | None:
        """Write every item's answer into the document. Returns why some are not known."""
        questions = await self._questions(permit, places)
        asked = [question for question in questions if question is not None]
        decisions: list[Decision] = []
        if asked:
            request = permit.request
            decisions = await self._decide(
                asked,
                deadline=a_moment_before(deadline),
                request_id=request.request_id,
                span=exchange.span,
                client=request.client,
            )
        refuse_void_credentials(decisions)
        if self._witness is not None:
            items = [place.value for place, question in zip(places, questions, strict=True) if question is not None]
            checks = [self._check] * len(asked)
            trace_id = exchange.record.trace_id
            see_items(self._witness, of_items(permit, asked, decisions, trace_id, checks=checks, items=items))
        answers = iter(decisions)
        mark(
            places,
            [None if question is None else next(answers) for question in questions],
            remove_denied=self._remove_denied,
        )
        return outage_of(decisions)

    async def _questions(self, permit: Permit, places: list[Place]) -> list[Question | None]:
        """What is asked about each item. Other requests are served between parts of a long document."""
        questions: list[Question | None] = []
        for start in range(0, len(places), _ITEMS_IN_A_TURN):
            if start:
                await asyncio.sleep(0)
            questions += [self._question(permit, place) for place in places[start : start + _ITEMS_IN_A_TURN]]
        return questions

    def _question(self, permit: Permit, place: Place) -> Question | None:
        """What is asked about one item; None if a field that the check names is missing or no text."""
        subject = permit.subject
        if subject is None:
            return None
        route = self._route
        value = RequestValues(permit.request, route.id, route.path, subject, item=place.value)
        try:
            return Question(subject, self._check.fill(value))
        except GatewayError:
            return None

    async def _respond(self, exchange: Exchange, fetched: _Fetched, outage: Outage | None) -> None:
        shown = self._shown(_OK, fetched.headers, exchange)
        headers = [header for header in shown if header[0] not in _OF_THE_ORIGINAL]
        # Only for this caller and this moment, so nobody may keep it.
        headers.append((b"cache-control", b"private, no-store"))
        document = fetched.document
        # Still 200: unknown items are disabled, and the document says why and when to retry.
        if outage is not None:
            document.update(degraded=True, degraded_reason=outage.code, retry_after=outage.retry_after)
            headers.append(IAM_PARTIAL)
            self._degraded(exchange, PARTIAL, outage.code)
        await exchange.respond(_OK, headers, write(document))

    def _shown(self, status: int, headers: Headers, exchange: Exchange) -> Headers:
        return shown_headers(status, headers, exchange, route=self._route, via=self._rules.via)

    def _degraded(self, exchange: Exchange, mode: str, code: str) -> None:
        exchange.record.degraded = mode
        exchange.record.code = code
        exchange.span.event("degraded", mode=mode, code=code)
        self._observer.degraded(self._route.id, mode)
