"""What comes back from an upstream, as those who read it see it; and the answer whose body still has to be judged.

Rules: the head is there at once, the body in parts as it comes; a body that broke off raises, it never just ends;
whoever does not read to the end calls `aclose`, also when cancelled.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from gateway.errors import GatewayError, Source
from gateway.model.request import Headers
from gateway.resilience.ticket import Ticket


class Answer(Protocol):
    """What an attempt brings: the wire's Reply, or what else speaks like it."""

    @property
    def status(self) -> int:
        """The final status, 200 to 599; 101 for an upgrade that was asked for."""

    @property
    def headers(self) -> Headers:
        """Lower-case names, all of them, hop-by-hop ones included."""

    @property
    def content_length(self) -> int | None:
        """The length of the body, if the upstream said it."""

    @property
    def arrived(self) -> bool:
        """Whether the whole body is here already, so that nothing can break any more."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The body in parts; GatewayError when it breaks off."""

    def whole(self) -> bytes | None:
        """What is left of the body if all of it is here already, else None."""

    def allow_silence(self, seconds: float) -> None:
        """From now on this body may be silent for `seconds`."""

    async def read(self, limit: int) -> bytes:
        """The whole body; `upstream_protocol_error` if it is larger than `limit` bytes."""

    async def aclose(self) -> None:
        """Let go of it; what has not been read is lost."""


def is_event_stream(headers: Headers) -> bool:
    """Whether a response is `text/event-stream`, which has no end to wait for."""
    return any(name == b"content-type" and value[:17].lower() == b"text/event-stream" for name, value in headers)


class Judged:
    """An answer whose body decides how the request is counted."""

    __slots__ = ("_answer", "_ticket", "headers", "status")

    def __init__(self, answer: Answer, ticket: Ticket) -> None:
        self._answer = answer
        self._ticket = ticket
        self.status = answer.status
        self.headers = answer.headers

    @property
    def content_length(self) -> int | None:
        """See Answer."""
        return self._answer.content_length

    @property
    def arrived(self) -> bool:
        """See Answer."""
        return self._answer.arrived

    def whole(self) -> bytes | None:
        """See Answer."""
        body = self._answer.whole()
        if body is not None:
            self._ticket.success()
        return body

    def allow_silence(self, seconds: float) -> None:
        """See Answer."""
        self._answer.allow_silence(seconds)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """See Answer."""
        try:
            async for chunk in self._answer:
                yield chunk
        except GatewayError as error:
            self._broken(error)
            raise
        self._ticket.success()

    async def read(self, limit: int) -> bytes:
        """See Answer."""
        try:
            body = await self._answer.read(limit)
        except GatewayError as error:
            self._broken(error)
            raise
        self._ticket.success()
        return body

    async def aclose(self) -> None:
        """See Answer. Closed before its end, it has told nothing."""
        self._ticket.neutral()
        await self._answer.aclose()

    def _broken(self, error: GatewayError) -> None:
        """Count what ended the body; a request body that its client did not finish says nothing of the upstream."""
        if error.kind.source is Source.UPSTREAM:
            self._ticket.failure(error.code)
        else:
            self._ticket.neutral()
