"""Is it the question, or is it IAM? What a failed call is judged by, where the answers to others do not say it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Final

from gateway.resilience.breaker import OPEN, Breaker
from gateway.resilience.evidence import Blame
from gateway.resilience.trial import Ticket

WORD_S: Final = 1.0
_NEVER: Final = -1


class Proof:
    """Judges the failures of one IAM. `probe` asks the harmless question: the failure's code, or an empty string."""

    def __init__(self, breaker: Breaker, probe: Callable[[], Awaitable[str]]) -> None:
        self._breaker = breaker
        self._probe = probe
        self._asking: asyncio.Task[None] | None = None
        self._said_s = -inf
        self._works = False
        self._said_at = _NEVER
        self._contradicted = _NEVER

    @property
    def believed(self) -> bool:
        """Whether a good answer to the probe proves anything."""
        return self._contradicted != self._breaker.evidence.answers

    async def blame(
        self, ticket: Ticket, groups: Sequence[Sequence[str]], *, answered: bool, began_s: float, until_s: float
    ) -> Blame:
        """Whose failure it is that nothing was decided of a call. `groups`: the subjects of its questions (Silence).

        `answered`: the reply was well-formed, with an error of its own for each question. `began_s` and `until_s`, in
        the loop's time: how long the call was, and may be, open.
        """
        evidence = self._breaker.evidence
        # A question decided meanwhile proves that IAM works.
        if evidence.blame(ticket.answers) is Blame.REQUEST:
            return Blame.REQUEST
        evidence.unanswered(groups)
        # So many questions of three subjects failed that IAM is at fault, whatever the probe says.
        if self._silence_proves(answered=answered):
            return Blame.DEPENDENCY
        if answered:
            return Blame.REQUEST
        # While the circuit is open nothing is asked here.
        if self._breaker.state == OPEN or not await self._answers(began_s, until_s):
            return evidence.blame(ticket.answers)
        return Blame.DEPENDENCY if self._silence_proves(answered=True) else Blame.REQUEST

    async def works(self, ticket: Ticket, began_s: float, until_s: float) -> bool:
        """Whether somebody else, or the probe, is answered: for a call that goes on."""
        if self._breaker.evidence.blame(ticket.answers) is Blame.REQUEST:
            return True
        return self._breaker.state != OPEN and self.believed and await self._answers(began_s, until_s)

    def prepare(self, ticket: Ticket) -> None:
        """A call has been silent for long: ask now, so that the word is there when it fails."""
        if self._breaker.state != OPEN and self._breaker.evidence.answers == ticket.answers:
            self._ask_unless_known(asyncio.get_running_loop().time() - WORD_S)

    async def aclose(self) -> None:
        """End what is under way."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _silence_proves(self, *, answered: bool) -> bool:
        """`answered`: IAM says something, and decides nothing."""
        evidence = self._breaker.evidence
        if not evidence.silence.proves(self._breaker.policy.failure_threshold):
            return False
        if answered or (self._works and self._said_at == evidence.answers):
            # A decision point whose store is down may deny the probe from memory: its word counts for nothing until a
            # real question is decided.
            self._contradicted = evidence.answers
        return True

    async def _answers(self, began_s: float, until_s: float) -> bool:
        """Whether the probe was answered since `began_s`, or within the last second, or is by `until_s`."""
        loop = asyncio.get_running_loop()
        # An answer to the probe counts for WORD_S, and for every call that was open when it came.
        since_s = min(began_s, loop.time() - WORD_S) if self._works else loop.time() - WORD_S
        asking = self._ask_unless_known(since_s)
        if asking is None:
            return self._works
        await asyncio.wait((asking,), timeout=max(0.0, until_s - loop.time()))
        return asking.done() and self._works

    def _ask_unless_known(self, since_s: float) -> asyncio.Task[None] | None:
        # That IAM failed is no news any more once somebody was answered.
        if self._said_s > since_s and (self._works or self._said_at == self._breaker.evidence.answers):
            return None
        # At most one probe at a time.
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask())
        return self._asking

    async def _ask(self) -> None:
        try:
            code = await self._probe()
            self._works, self._said_s = not code, asyncio.get_running_loop().time()
            self._said_at = self._breaker.evidence.answers
        finally:
            self._asking = None
