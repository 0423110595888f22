"""One HTTP exchange with IAM: a request out, at most 1 MiB of body back, or the failure it was.

Rules: only 200 is an answer; redirects are never followed; no compression is asked for and none is accepted; a body
that is larger than the limit or broken off is not read further. It speaks to an httpx transport and not to a client: a
client keeps cookies, builds redirects and logs URLs, none of which may happen here, and costs ten times as much.
httpx's exceptions end in this file. Deliberately absent: an end for the whole call (it is around it, with the retries).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import httpx

from gateway.errors import GatewayError
from gateway.iam.failure import OK, UNAUTHORIZED, Apart, CallFailure, invalid, of_status
from gateway.model.request import Headers
from gateway.model.settings import IamSettings
from gateway.resilience.deadline import Deadline
from gateway.resilience.retry import retry_after_s
from gateway.upstream.auth import Credentials, FixedCredentials
from gateway.upstream.transport import FRESH, HARMLESS, cause_of

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
    """A URL of IAM with the header fields that never change."""

    url: httpx.URL
    headers: tuple[tuple[bytes, bytes], ...]


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
        self._more = [(name.encode("ascii"), value.encode("latin-1")) for name, value in settings.headers]
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
            (b"accept-encoding", b"identity"),
        ]
        headers += self._more
        headers += self._fixed
        return Target(url, tuple(headers))

    async def post(self, target: Target, body: str, note: Note) -> bytes:
        """The body of the 200 that answers `body`. Raises CallFailure."""
        try:
            content = body.encode()
        except UnicodeEncodeError:
            raise CallFailure("iam_rejected", "the question is not Unicode text", apart=Apart.SINGLY) from None
        headers = [*target.headers, (b"content-length", b"%d" % len(content))]
        return await self._send("POST", target.url, headers, content, note)

    async def get(self, target: Target, note: Note) -> bytes:
        """The body of the 200 at `target`. Raises CallFailure."""
        return await self._send("GET", target.url, list(target.headers), b"", note)

    async def _send(
        self, method: str, url: httpx.URL, headers: list[tuple[bytes, bytes]], content: bytes, note: Note
    ) -> bytes:
        if note.request_id.isascii() and note.request_id.isprintable():
            headers.append((b"x-request-id", note.request_id.encode()))
        if note.traceparent is not None:
            headers.append((b"traceparent", note.traceparent))
        extensions = self._fresh if note.fresh else self._extensions
        if self._renewed is not None:
            return await self._with_token(self._renewed, method, url, headers, content, extensions)
        return await self._exchange(method, url, headers, content, extensions)

    async def _with_token(
        self,
        credentials: Credentials,
        method: str,
        url: httpx.URL,
        headers: Headers,
        content: bytes,
        extensions: dict[str, Any],
    ) -> bytes:
        """With the token of a token server, and once more with a new one where IAM does not take it."""
        sent = await self._authorization(credentials)
        try:
            return await self._exchange(method, url, headers + sent, content, extensions)
        except CallFailure as failure:
            if failure.status != UNAUTHORIZED:
                raise
            credentials.rejected()
            another = await self._authorization(credentials)
            if another == sent:
                raise failure
        return await self._exchange(method, url, headers + another, content, extensions)

    async def _authorization(self, credentials: Credentials) -> Headers:
        try:
            return await credentials.headers(Deadline.after(self._token_s))
        except GatewayError as error:
            raise CallFailure("iam_auth_error", error.reason or error.code) from None

    async def _exchange(
        self, method: str, url: httpx.URL, headers: Headers, content: bytes, extensions: dict[str, Any]
    ) -> bytes:
        request = httpx.Request(method, url, headers=headers, stream=httpx.ByteStream(content), extensions=extensions)
        request.read()  # from memory: the transport sees a body that it can send again
        try:
            response = await self._transport.handle_async_request(request)
            stream = response.stream
            if not isinstance(stream, httpx.AsyncByteStream):
                raise invalid("the transport is not asynchronous")
            try:
                return await self._received(response, stream)
            finally:
                await stream.aclose()
        except httpx.HTTPError as error:
            raise _translated(error) from None

    async def _received(self, response: httpx.Response, stream: httpx.AsyncByteStream) -> bytes:
        fields = {name.lower(): value for name, value in response.headers.raw}
        if response.status_code != OK:
            await _drain_small(fields.get(b"content-length", b""), stream)
            after_s = retry_after_s(fields.get(b"retry-after"), self._wall())
            raise of_status(response.status_code, after_s, self._retried)
        if fields.get(b"content-encoding", b"identity").lower() != b"identity":
            raise invalid("the reply is compressed")
        return await _body(stream, MAX_REPLY)


async def _body(stream: httpx.AsyncByteStream, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in stream:
        size += len(part)
        if size > limit:
            raise invalid(f"the reply is larger than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


async def _drain_small(length: bytes, stream: httpx.AsyncByteStream) -> None:
    """Read the short body of an error, so that the connection can be kept; what it says is of no interest."""
    if length.isdigit() and len(length) <= len(str(_SMALL)) and int(length) <= _SMALL:
        try:
            await _body(stream, _SMALL)
        except (httpx.HTTPError, CallFailure):
            return


def _translated(error: httpx.HTTPError) -> CallFailure:
    if isinstance(error.__cause__, GatewayError) and error.__cause__.proxy_error == "http_protocol_error":
        return CallFailure("iam_invalid_response", "the reply is not HTTP", apart=Apart.SINGLY)
    for kind, code, retryable, apart in _FAILURES:
        if isinstance(error, kind):
            return CallFailure(code, cause_of(error), retryable=retryable, apart=apart)
    return CallFailure("iam_unreachable", cause_of(error), retryable=True, apart=Apart.SINGLY)
