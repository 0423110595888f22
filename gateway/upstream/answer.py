"""What comes back from an upstream, as those who read it see it; and the answer whose body still has to be judged.

Rules: the head is there at once, the body in parts as it comes; a body that broke off raises, it never just ends;
whoever does not read to the end calls `aclose`, also when cancelled.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final, Protocol

from gateway.errors import GatewayError
from gateway.model.request import Headers
from gateway.model.route import STREAM_CONTENT_TYPES


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
        """This is a stream: it may be silent for `seconds`, and takes up no place of `max_connections`."""

    async def read(self, limit: int) -> bytes:
        """The whole body; `upstream_protocol_error` if it is larger than `limit` bytes."""

    async def aclose(self) -> None:
        """Let go of it; what has not been read is lost."""


class StreamTypes:
    """Tells the answers that have no end to wait for, by their media type. Compiled once a route.

    `patterns`: `type/subtype` in any case, or the beginning of one before a closing `*`. A parameter such as `charset`
    makes no difference (RFC 9110 section 8.3.1).
    """

    __slots__ = ("_beginnings", "_whole")

    def __init__(self, patterns: Iterable[str]) -> None:
        types = [pattern.lower().encode("ascii") for pattern in patterns]
        self._whole = frozenset(each for each in types if not each.endswith(b"*"))
        self._beginnings = tuple(each[:-1] for each in types if each.endswith(b"*"))

    def matches(self, headers: Headers) -> bool:
        """Whether an answer with these fields is a stream."""
        for name, value in headers:
            if name == b"content-type":
                media_type = value.partition(b";")[0].strip().lower()
                return media_type in self._whole or media_type.startswith(self._beginnings)
        return False


STREAMS: Final = StreamTypes(STREAM_CONTENT_TYPES)
"""What is a stream where the route says nothing else."""

EVENT_STREAM: Final = StreamTypes(("text/event-stream",))
"""The one kind of stream that may end anywhere: its client comes back and names the last event that it has."""


class Verdict(Protocol):
    """What is made of a request whose answer has begun. Called once at least; only the first counts."""

    def well(self) -> None:
        """The body came whole."""

    def broken(self, error: GatewayError, unread_s: float) -> None:
        """The body broke off; for `unread_s` seconds it was the caller who did not read."""

    def given_up(self) -> None:
        """Nobody waits for the rest."""


class Judged:
    """An answer whose body decides how the request is counted. `clock` is monotonic seconds."""

    __slots__ = ("_answer", "_clock", "_verdict", "headers", "status")

    def __init__(self, answer: Answer, verdict: Verdict, clock: Callable[[], float]) -> None:
        self._answer = answer
        self._verdict = verdict
        self._clock = clock
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
            self._verdict.well()
        return body

    def allow_silence(self, seconds: float) -> None:
        """See Answer."""
        self._answer.allow_silence(seconds)

    def __aiter__(self) -> AsyncIterator[bytes]:
        """See Answer."""
        return JudgedParts(self._answer, self._verdict, self._clock)

    async def read(self, limit: int) -> bytes:
        """See Answer."""
        try:
            body = await self._answer.read(limit)
        except GatewayError as error:
            self._verdict.broken(error, 0.0)
            raise
        self._verdict.well()
        return body

    async def aclose(self) -> None:
        """See Answer. Closed before its end, it has told nothing."""
        self._verdict.given_up()
        await self._answer.aclose()


class JudgedParts:
    """The parts of such an answer. No generator: the compiler knows none that is asynchronous."""

    __slots__ = ("_clock", "_given_s", "_parts", "_unread_s", "_verdict")

    def __init__(self, answer: Answer, verdict: Verdict, clock: Callable[[], float]) -> None:
        self._parts = aiter(answer)
        self._verdict = verdict
        self._clock = clock
        self._unread_s = 0.0
        self._given_s = -1.0  # no part was given yet

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Itself: it is read once."""
        return self

    async def __anext__(self) -> bytes:
        """The next part. Between two of them it is the caller who takes time."""
        if self._given_s >= 0:
            self._unread_s += self._clock() - self._given_s
        try:
            part = await anext(self._parts)
        except StopAsyncIteration:
            self._verdict.well()
            raise
        except GatewayError as error:
            self._verdict.broken(error, self._unread_s)
            raise
        self._given_s = self._clock()
        return part
