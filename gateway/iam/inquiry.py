"""One url of IAM, and one call on its way from url to url: in order, or with a second one beside a slow first."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from gateway.iam.failure import Apart, CallFailure
from gateway.iam.http import Note
from gateway.iam.protocols import Api
from gateway.model.permit import Decision, Question
from gateway.telemetry.observer import Server as Peer
from gateway.upstream.origins import Standing

# One url of IAM: how it is asked, how it is, and what went wrong there last.


class Server:
    """`standing` outlives this object on a reload. `peer`: as spans and metrics call it."""

    __slots__ = ("_last_error", "api", "peer", "standing", "url")

    def __init__(self, url: str, api: Api, standing: Standing) -> None:
        self.url = url
        self.api = api
        self.standing = standing
        self.peer = _peer(url)
        self._last_error: dict[str, Any] | None = None

    def failed(self, failure: CallFailure) -> None:
        """For whoever looks at the status."""
        self._last_error = {"code": failure.code, "reason": failure.reason, "at_s": time.time()}

    def snapshot(self) -> dict[str, Any]:
        """For the status page. `at_s` in Unix time."""
        return {"url": self.url, "set_aside": self.standing.ill, "last_error": self._last_error}


def _peer(url: str) -> Peer:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Peer(parts.hostname or "", str(port), f"{parts.scheme}://{parts.hostname}:{port}")


# Rules: the first reply with a decision wins. A reply in which every item has an error of its own decided nothing:
# the next url may know better, and if none does that reply stands. What a url rejects ends the search, as soon as
# nothing else is under way. A hedge costs IAM a call, so it has a budget: one in EVERY calls, of which SAVED can be
# saved up.

EVERY: Final = 20
SAVED: Final = 3


class HedgeBudget:
    """How many calls may be sent twice. `after_s`: how long the first may be silent before. `tell`: how each ended."""

    __slots__ = ("_credit", "after_s", "tell")

    def __init__(self, after_s: float, tell: Callable[[str], None]) -> None:
        self.after_s = after_s
        self.tell = tell
        self._credit = SAVED * EVERY

    def call(self) -> None:
        """One more call."""
        self._credit = min(self._credit + 1, SAVED * EVERY)

    def take(self) -> bool:
        """Take one extra call if there is one."""
        if self._credit < EVERY:
            return False
        self._credit -= EVERY
        return True


class Failed(NamedTuple):
    """A url failed this call. `answers`, `setbacks`: of its standing when the attempt began."""

    server: Server
    failure: CallFailure
    answers: int
    setbacks: int


class Inquiry:
    """One call. `decided_by`: the url whose decision won; `failed`: those where it failed before."""

    __slots__ = (
        "_hedge",
        "_left",
        "_note",
        "_questions",
        "_rejected",
        "_share_s",
        "_undecided",
        "decided_by",
        "failed",
    )

    def __init__(
        self,
        servers: Sequence[Server],
        questions: Sequence[Question],
        note: Note,
        share_s: float,
        hedge: HedgeBudget | None,
    ) -> None:
        self._left = deque(servers)
        self._questions = questions
        self._note = note
        self._share_s = share_s
        self._hedge = hedge
        self._rejected: CallFailure | None = None
        self._undecided: list[Decision] | None = None
        self.decided_by: Server | None = None
        self.failed: list[Failed] = []

    async def run(self) -> list[Decision]:
        """The decisions. Raises CallFailure when no url gave any."""
        decisions = await (self._in_order() if self._hedge is None else self._hedged(self._hedge))
        if decisions is not None:
            return decisions
        if self._rejected is not None:
            raise self._rejected
        if self._undecided is not None:
            return self._undecided
        raise self._worst()

    async def _in_order(self) -> list[Decision] | None:
        while self._goes_on:
            decisions = await self._ask(self._left.popleft())
            if decisions is not None:
                return decisions
        return None

    async def _hedged(self, budget: HedgeBudget) -> list[Decision] | None:
        budget.call()
        loop = asyncio.get_running_loop()
        asking = {loop.create_task(self._ask(self._left.popleft()))}
        may_hedge, hedge, won = True, None, False
        try:
            while asking:
                patience_s = budget.after_s if may_hedge and self._goes_on else None
                over, asking = await asyncio.wait(asking, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                for task in over:
                    if (decisions := task.result()) is not None:
                        won = task is hedge
                        return decisions
                hedges = not over and budget.take()
                may_hedge = may_hedge and bool(over)
                if self._goes_on and (hedges or not asking):
                    asked = loop.create_task(self._ask(self._left.popleft()))
                    hedge = asked if hedges else hedge
                    asking.add(asked)
        finally:
            if hedge is not None:
                budget.tell("won" if won else "lost")
            for task in asking:
                task.cancel()
        return None

    @property
    def _goes_on(self) -> bool:
        return bool(self._left) and self._rejected is None

    async def _ask(self, server: Server) -> list[Decision] | None:
        """The decisions of one url; None if it gave none, and it is noted why."""
        answers, setbacks = server.standing.evidence.answers, server.standing.setbacks
        within_s = self._share_s if self._left else None
        try:
            async with asyncio.timeout(within_s):
                decisions = await server.api.ask(self._questions, self._note)
        except TimeoutError:
            failure = CallFailure("iam_timeout", f"no answer within {within_s:g}s", retryable=True, apart=Apart.SINGLY)
        except CallFailure as error:
            if not error.counts:
                self._rejected = error
                return None
            failure = error
        else:
            if any(decision.fault is None for decision in decisions):
                self.decided_by = self.decided_by or server
                return decisions
            self._undecided = self._undecided or decisions
            failure = CallFailure("iam_error", "every item has an error of its own")
        server.failed(failure)
        self.failed.append(Failed(server, failure, answers, setbacks))
        return None

    def _worst(self) -> CallFailure:
        """The failure that says most of the question: one that may be its own, else the last."""
        told = [each for each in self.failed if each.failure.apart is not Apart.NO] or self.failed
        server, failure = told[-1][:2]
        return CallFailure(
            failure.code,
            f"{server.url}: {failure.reason}",
            retryable=any(each.failure.retryable for each in self.failed),
            apart=failure.apart,
            retry_after_s=failure.retry_after_s,
            gone=failure.gone,
            too_many=failure.too_many,
        )
