"""A navigation document, each item marked with what this caller may do, in one answer that is there even without IAM.

Rules: the document is fetched from the route's upstream under the caller's own path; all its items are asked about at
once; the answer is the caller's alone and of now, so nobody may keep it. While IAM cannot answer it is still 200: what
is not known is disabled and says so, and the document says why and when to come back. What the upstream answers other
than 200 goes to the caller as it is.
"""

from __future__ import annotations

from typing import Any, Final

from gateway.checks import PreparedCheck
from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.forward.asking import IAM_PARTIAL, PARTIAL, Decide, Guarded, Outage, outage_of, refuse_void_credentials
from gateway.forward.json_text import read_systems, write
from gateway.forward.marks import mark_degraded_permit, respond_with
from gateway.forward.navigation_document import items_of, mark
from gateway.forward.pointer import Place, parse
from gateway.forward.relay import relay
from gateway.headers import HeaderRules, client_response_headers, upstream_request_headers
from gateway.model.permit import Permit
from gateway.model.question import Decision, Question
from gateway.model.request import Headers
from gateway.model.route import NavigationAction, Route
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import Observer
from gateway.template import RequestValues
from gateway.upstream.answer import Answer
from gateway.upstream.outgoing import Outgoing

MAX_DOCUMENT: Final = 8 * 1024 * 1024
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
"""What the upstream says of its document and is not true of ours."""
_OK: Final = 200


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
        observer: Observer,
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
        self._observer = observer

    async def __call__(self, permit: Permit, exchange: Exchange, deadline: Deadline) -> None:
        """Answer with the marked document."""
        degraded = mark_degraded_permit(permit, exchange)
        if permit.fallback is not None:
            await respond_with(exchange, permit.fallback)
            return
        answer = await self._upstream.exchange(
            self._outgoing(permit, degraded),
            deadline=deadline,
            span=exchange.span,
            replayable=True,
            record=exchange.record,
        )
        headers = client_response_headers(answer.headers, via=self._rules.via, request_id=permit.request.request_id)
        if answer.status != _OK:
            deadline.stop()
            await relay(answer, exchange, headers, None, 0)
            return
        document, outage = await self._marked(permit, exchange, deadline, await _document(answer))
        await self._respond(exchange, headers, document, outage)

    def _outgoing(self, permit: Permit, degraded: bytes | None) -> Outgoing:
        """The caller's request, for the whole document and readable here."""
        fields = upstream_request_headers(
            permit.request, rules=self._rules, host=self._authority, subject=permit.subject, degraded=degraded
        )
        headers = [field for field in fields if field[0] not in _NOT_FOR_DOCUMENTS]
        headers.append((b"accept-encoding", b"identity"))
        return Outgoing(b"GET", permit.request.target.raw, headers)

    async def _marked(
        self, permit: Permit, exchange: Exchange, deadline: Deadline, document: Any
    ) -> tuple[Any, Outage | None]:
        """The document with every item's answer in it, and why some are not known."""
        places = items_of(document, self._pattern)
        questions = [self._question(permit, place) for place in places]
        asked = [question for question in questions if question is not None]
        decisions: list[Decision] = []
        if asked:
            request_id = permit.request.request_id
            decisions = await self._decide(asked, deadline=deadline, request_id=request_id, span=exchange.span)
        refuse_void_credentials(decisions)
        answers = dict(zip(map(id, asked), decisions, strict=True))
        mark(places, [answers.get(id(question)) for question in questions], remove_denied=self._remove_denied)
        return document, outage_of(decisions)

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

    async def _respond(self, exchange: Exchange, upstreams: Headers, document: Any, outage: Outage | None) -> None:
        headers = [header for header in upstreams if header[0] not in _OF_THE_ORIGINAL]
        headers.append((b"cache-control", b"private, no-store"))
        if outage is not None:
            document.update(degraded=True, degraded_reason=outage.code, retry_after=outage.retry_after)
            headers.append(IAM_PARTIAL)
            exchange.record.degraded = PARTIAL
            self._observer.degraded(self._route.id, PARTIAL)
        await exchange.respond(_OK, headers, write(document))


async def _document(answer: Answer) -> Any:
    body = await answer.read(MAX_DOCUMENT)
    try:
        return read_systems(body)
    except ValueError as malformed:
        detail = "The navigation could not be read."
        raise GatewayError("upstream_protocol_error", detail, reason=str(malformed)[:200]) from None
