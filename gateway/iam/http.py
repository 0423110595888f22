"""One HTTP exchange with IAM: a request out, at most 1 MiB of body back, or the failure it was.

httpx's exceptions end in this file. Deliberately absent: an end for the whole call (it is around it, with the retries).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Awaitable, Callable
from math import inf
from typing import Any, Final, NamedTuple

import httpx

from gateway.errors import GatewayError
from gateway.iam.failure import OK, UNAUTHORIZED, Apart, CallFailure, invalid, of_status
from gateway.model.request import Headers
from gateway.model.route import Timeouts
from gateway.model.settings import IamSettings
from gateway.resilience.deadline import Deadline
from gateway.resilience.retry import retry_after_s
from gateway.upstream.auth import Credentials, FixedCredentials
from gateway.upstream.outgoing import Outgoing
from gateway.upstream.transport import FRESH, HARMLESS, UpstreamTransport, cause_of, translated
from gateway.upstream.upstream import Upstream

MAX_REPLY: Final = 1024 * 1024
_SMALL: Final = 16 * 1024
_OWN_SHARE: Final = 0.9
"""Of the time for one url: whoever waits for a token that long can still say so."""
_FAILURES: Final = (
    (httpx.PoolTimeout, "iam_overloaded", False, Apart.NO),
    (httpx.ConnectTimeout, "iam_timeout", True, Apart.NO),
    (httpx.TimeoutException, "iam_timeout", True, Apart.SINGLY),
    (httpx.ConnectError, "iam_unreachable", True, Apart.NO),
    (httpx.LocalProtocolError, "iam_rejected", False, Apart.SINGLY),
    (httpx.UnsupportedProtocol, "iam_rejected", False, Apart.SINGLY),
)
"""The first row that fits an exception: its code, whether it is tried again, how a batch is asked apart."""


class Note(NamedTuple):
    """What goes along with a call: the first caller's request id, and the trace context of this call, if any.

    `fresh`: over a new connection.
    """

    request_id: str
    traceparent: bytes | None
    fresh: bool = False


class Target(NamedTuple):
    """A URL of IAM with the header fields that never change. `upstream`: who is asked without httpx, at `path`."""

    url: httpx.URL
    headers: tuple[tuple[bytes, bytes], ...]
    path: bytes
    upstream: Upstream | None


class Wire:
    """The HTTP of one url of IAM. `wall` is Unix time, for a `Retry-After` with a date."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        settings: IamSettings,
        base: str,
        credentials: Credentials | None = None,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._transport = transport
        self._base = base
        self._fixed = credentials.fixed if isinstance(credentials, FixedCredentials) else []
        self._renewed = None if isinstance(credentials, FixedCredentials) else credentials
        self._token_s = _OWN_SHARE * settings.timeout.total_s / max(1, len(settings.urls))
        self._more = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in settings.headers]
        self.deny_reasons = settings.deny_reasons
        self._retried = settings.retry.on
        self._wall = wall
        limits = settings.timeout
        timeout = {
            "connect": limits.connect_s,
            "read": limits.read_s,
            "write": limits.read_s,
            "pool": limits.connect_s,
        }
        self._extensions = {"timeout": timeout, HARMLESS: True}
        self._fresh = {**self._extensions, FRESH: True}
        self._timeouts = Timeouts(connect_s=limits.connect_s, read_s=limits.read_s, write_s=limits.read_s)

    @property
    def base(self) -> str:
        """IAM's base URL, without a trailing slash."""
        return self._base

    def target(self, path: str) -> Target:
        """What is asked at `path` (with its leading slash) below the base URL."""
        return self.target_at(self._base + path)

    def target_at(self, text: str) -> Target:
        """What is asked at a whole URL. Raises CallFailure if it is none."""
        try:
            url = httpx.URL(text)
        except httpx.InvalidURL:
            raise CallFailure("iam_invalid_response", "not a URL") from None
        headers = [
            (b"host", url.netloc),
            (b"content-type", b"application/json"),
            (b"accept", b"application/json"),
            # No compression is asked for, and none is accepted.
            (b"accept-encoding", b"identity"),
        ]
        headers += self._more
        headers += self._fixed
        http = self._transport
        # Our own upstream is asked without httpx, whose requests and answers cost more than the rest of the call.
        ours = http.upstream if isinstance(http, UpstreamTransport) and http.serves(url) else None
        return Target(url, tuple(headers), url.raw_path, ours)

    async def post(self, target: Target, body: str, note: Note) -> bytes:
        """The body of the 200 that answers `body`. Raises CallFailure."""
        try:
            content = body.encode()
        except UnicodeEncodeError:
            raise CallFailure("iam_rejected", "the question is not Unicode text", apart=Apart.SINGLY) from None
        return await self._send("POST", target, content, note)

    async def get(self, target: Target, note: Note) -> bytes:
        """The body of the 200 at `target`. Raises CallFailure."""
        return await self._send("GET", target, None, note)

    async def _send(self, method: str, target: Target, content: bytes | None, note: Note) -> bytes:
        headers = [*target.headers]
        if note.request_id.isascii() and note.request_id.isprintable():
            headers.append((b"x-request-id", note.request_id.encode()))
        if note.traceparent is not None:
            headers.append((b"traceparent", note.traceparent))
        if self._renewed is not None:
            return await self._with_token(self._renewed, method, target, headers, content, fresh=note.fresh)
        return await self._exchange(method, target, headers, content, fresh=note.fresh)

    async def _with_token(
        self,
        credentials: Credentials,
        method: str,
        target: Target,
        headers: Headers,
        content: bytes | None,
        *,
        fresh: bool,
    ) -> bytes:
        """With the token of a token server, and once more with a new one where IAM does not take it."""
        sent = await self._authorization(credentials.headers)
        try:
            return await self._exchange(method, target, headers + sent, content, fresh=fresh)
        except CallFailure as failure:
            if failure.status != UNAUTHORIZED:
                raise
            credentials.rejected()
            another = await self._authorization(credentials.renewed)
            if another == sent:
                raise failure
        return await self._exchange(method, target, headers + another, content, fresh=fresh)

    async def _authorization(self, ask: Callable[[Deadline], Awaitable[Headers]]) -> Headers:
        try:
            return await ask(Deadline.after(self._token_s))
        except GatewayError as error:
            raise CallFailure("iam_auth_error", error.reason or error.code) from None

    async def _exchange(
        self, method: str, target: Target, headers: Headers, content: bytes | None, *, fresh: bool
    ) -> bytes:
        if target.upstream is None:
            return await self._over_httpx(
                method, target.url, headers, content, self._fresh if fresh else self._extensions
            )
        outgoing = Outgoing(method.encode("ascii"), target.path, headers, content, None, True, False, fresh)
        try:
            reply = await target.upstream.exchange(outgoing, timeouts=self._timeouts, deadline=Deadline(inf))
            try:
                return await self._received(reply.status, dict(reply.headers), reply, reply.whole())
            finally:
                await reply.aclose()
        except GatewayError as error:
            failure = translated(error, None)
            failure.__cause__ = error
            raise _translated(failure) from None

    async def _over_httpx(
        self, method: str, url: httpx.URL, headers: Headers, content: bytes | None, extensions: dict[str, Any]
    ) -> bytes:
        if content is not None:
            headers.append((b"content-length", b"%d" % len(content)))
        sent = httpx.ByteStream(content or b"")
        request = httpx.Request(method, url, headers=headers, stream=sent, extensions=extensions)
        request.read()  # from memory: the transport sees a body that it can send again
        try:
            # A transport, not a client: a client keeps cookies, builds redirects and logs URLs.
            response = await self._transport.handle_async_request(request)
            stream = response.stream
            if not isinstance(stream, httpx.AsyncByteStream):
                raise invalid("the transport is not asynchronous")
            try:
                fields = {name.lower(): value for name, value in response.headers.raw}
                return await self._received(response.status_code, fields, stream, None)
            finally:
                await stream.aclose()
        except httpx.HTTPError as error:
            raise _translated(error) from None

    async def _received(
        self, status: int, fields: dict[bytes, bytes], body: AsyncIterable[bytes], whole: bytes | None
    ) -> bytes:
        """The body of a good answer. `whole`: it is here already, and `body` has no more."""
        # Only 200 is an answer; a redirect is a failure like others.
        if status != OK:
            await _drain_small(fields.get(b"content-length", b""), body)
            after_s = retry_after_s(fields.get(b"retry-after"), self._wall())
            raise of_status(status, after_s, self._retried)
        if fields.get(b"content-encoding", b"identity").lower() != b"identity":
            raise invalid("the reply is compressed")
        if whole is None:
            return await _all_of(body, MAX_REPLY)
        if len(whole) > MAX_REPLY:
            raise _too_large(MAX_REPLY)
        return whole


async def _all_of(body: AsyncIterable[bytes], limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in body:
        size += len(part)
        # What is too large is not read further.
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
    return b"".join(parts)


def _too_large(limit: int) -> CallFailure:
    return invalid(f"the reply is larger than {limit} bytes")


async def _drain_small(length: bytes, body: AsyncIterable[bytes]) -> None:
    """Read the short body of an error, so that the connection can be kept; what it says is of no interest."""
    if length.isdigit() and len(length) <= len(str(_SMALL)) and int(length) <= _SMALL:
        try:
            await _all_of(body, _SMALL)
        except (httpx.HTTPError, GatewayError, CallFailure):
            return


def _translated(error: httpx.HTTPError) -> CallFailure:
    if isinstance(error.__cause__, GatewayError) and error.__cause__.proxy_error == "http_protocol_error":
        return CallFailure("iam_invalid_response", "the reply is not HTTP", apart=Apart.SINGLY)
    for kind, code, retryable, apart in _FAILURES:
        if isinstance(error, kind):
            return CallFailure(code, cause_of(error), retryable=retryable, apart=apart)
    return CallFailure("iam_unreachable", cause_of(error), retryable=True, apart=Apart.SINGLY)
