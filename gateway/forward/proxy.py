"""A permit, carried out: the request to the route's upstream, and its response back to the caller.

permit ─► outgoing head ─► guarded upstream ─► response head ─► body, part by part
              ▲                   │
        upload (pulled)        outage? ─► last good answer, fallback, or the error
"""

from __future__ import annotations

from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.forward.body import break_off, end_well, relay, upload
from gateway.forward.copies import Copies, place_of
from gateway.forward.heads import OutgoingHead, Redirects, mark_degraded_permit, shown_headers
from gateway.forward.outage import OUTAGES, OutageRules, is_outage
from gateway.forward.streams import Streams
from gateway.headers import HeaderRules
from gateway.model.permit import Permit
from gateway.model.request import Headers
from gateway.model.route import ProxyAction, Route
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import Observer
from gateway.upstream.answer import EVENT_STREAM, Answer
from gateway.upstream.guarded import GuardedUpstream
from gateway.upstream.outgoing import IDEMPOTENT, Outgoing


class ProxyEndpoint:
    """Forwards to one upstream. `authority` is the `Host` to send, `rules` those of the configuration.

    `redirects` None: what the upstream says of where its things are is passed on. `place`: see `place_of`.
    """

    def __init__(
        self,
        route: Route,
        action: ProxyAction,
        upstream: GuardedUpstream,
        *,
        authority: bytes,
        rules: HeaderRules,
        copies: Copies,
        streams: Streams,
        observer: Observer,
        redirects: Redirects | None = None,
        place: str = "",
    ) -> None:
        self._route = route
        self._upstream = upstream
        self._head = OutgoingHead(action, authority, rules)
        self._via = rules.via
        self._streams = streams
        self._max_kept = copies.max_copy
        self._redirects = redirects
        place = place_of(route.id, action.upstream, place, action.strip_prefix or b"")
        self._outage = OutageRules(route, place, copies, observer, shown=self._shown, own=upstream.auth is not None)
        retry = upstream.resilience.retry
        self._hold = retry.max_body
        self._holds_all = upstream.auth is not None
        self._holds_idempotent = retry.attempts > 1

    async def __call__(self, permit: Permit, exchange: Exchange, deadline: Deadline) -> None:
        """Forward the permitted request and answer with its response. Raises GatewayError while nothing was sent."""
        degraded = mark_degraded_permit(permit, exchange)
        headers = self._head.headers(permit, degraded, exchange.span.traceparent)
        try:
            answer = await self._ask(permit, exchange, deadline, headers)
        except GatewayError as error:
            if is_outage(error) and await self._outage.stand_in(permit, exchange, error.code, headers):
                return
            raise error
        # The deadline ends with the response head. After it `timeout.read` limits the time without a byte.
        deadline.stop()
        try:
            if answer.status in OUTAGES and await self._outage.stand_in(
                permit, exchange, f"http_{answer.status}", headers
            ):
                return
            await self._pass_on(answer, permit, exchange, headers)
        finally:
            # If this ends early (the caller left, a bug), the upstream's connection is closed.
            if not (answer.arrived and exchange.finished):
                await answer.aclose()

    async def _ask(self, permit: Permit, exchange: Exchange, deadline: Deadline, headers: Headers) -> Answer:
        request = permit.request
        method = request.method.encode("ascii")
        hold = self._hold if self._holds_all or (self._holds_idempotent and method in IDEMPOTENT) else 0
        if hold:
            self._upstream.refuse_if_open(permit.share_key)
        body = await upload(exchange, deadline, max_body=self._route.max_body, hold=hold)
        outgoing = Outgoing(
            method,
            # As it was decided, byte for byte, less a literal `strip_prefix`.
            self._head.target(request.target),
            headers,
            body.body,
            body.length,
            traced=True,
            share_key=permit.share_key,
        )
        return await self._upstream.exchange(
            outgoing,
            deadline=deadline,
            span=exchange.span,
            replayable=outgoing.replayable,
            record=exchange.record,
        )

    async def _pass_on(self, answer: Answer, permit: Permit, exchange: Exchange, sent: Headers) -> None:
        headers = self._shown(answer.status, answer.headers, exchange)
        if not answer.arrived and self._upstream.streams.matches(answer.headers):
            await self._pass_stream_on(answer, permit, exchange, headers)
            return
        keep = self._outage.keeper(permit, answer.status, answer.headers, sent)
        await relay(answer, exchange, headers, keep, self._max_kept)

    def _shown(self, status: int, headers: Headers, exchange: Exchange) -> Headers:
        """The fields of an answer, live or kept, as the caller gets them."""
        shown = shown_headers(status, headers, exchange, route=self._route, via=self._via)
        return self._redirects.rewritten(shown, exchange.request) if self._redirects else shown

    async def _pass_stream_on(self, answer: Answer, permit: Permit, exchange: Exchange, headers: Headers) -> None:
        # It releases its place among the requests and takes a stream's place.
        exchange.become_stream(permit.share_key)
        answer.allow_silence(self._route.stream_idle_timeout_s)
        ended = await self._streams.serve(permit, relay(answer, exchange, headers, None, 0))
        if ended is None:
            return
        if ended.code == "draining" and _may_end_anywhere(headers):
            await end_well(exchange, ended)
        else:
            break_off(exchange, ended)


def _may_end_anywhere(headers: Headers) -> bool:
    """Whether the end of a stream means no more than that it ended: other kinds would look complete."""
    return EVENT_STREAM.matches(headers) and not any(name == b"content-length" for name, _ in headers)
