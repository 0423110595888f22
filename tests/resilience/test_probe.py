"""The task that tries by itself."""

import asyncio
import contextlib

import pytest

from gateway.model.route import BreakerPolicy
from gateway.resilience.breaker import CLOSED, OPEN, Breaker
from gateway.resilience.probe import probe_loop


@pytest.fixture
def breaker(clock, memory):
    breaker = Breaker("iam", "iam", BreakerPolicy(failure_threshold=1), observer=memory, clock=clock)
    breaker.admit().failure("iam_timeout")
    return breaker


@contextlib.asynccontextmanager
async def probing(breaker, attempt):
    task = asyncio.create_task(probe_loop(breaker, attempt, 0.0))
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def turns(count=10):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_tries_until_it_succeeds_and_then_rests(breaker):
    answers = ["iam_timeout", "iam_error", ""]
    asked = []

    async def attempt():
        asked.append(breaker.state)
        return answers.pop(0)

    async with probing(breaker, attempt):
        await turns(30)
    assert breaker.state == CLOSED
    assert asked == [OPEN] * 3


async def test_a_cancelled_probe_frees_the_place(breaker, clock):
    async def attempt():
        await asyncio.Event().wait()

    async with probing(breaker, attempt):
        await turns()
        assert breaker.snapshot()["trial"]
    assert not breaker.snapshot()["trial"]
    clock.pass_s(30)
    breaker.admit().success()
    assert breaker.state == CLOSED
