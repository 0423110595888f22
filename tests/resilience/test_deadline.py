"""A deadline ends what is inside it, once, and nothing else."""

from __future__ import annotations

import asyncio
import math

import pytest

from gateway.resilience.deadline import Deadline, DeadlineExceeded
from tests.support.jumping import on_jumping_clock


async def hang() -> None:
    await asyncio.Event().wait()


async def test_what_is_inside_is_cancelled_and_the_end_named():
    deadline = Deadline.after(0.01)
    with pytest.raises(DeadlineExceeded), deadline.enforced():
        await hang()
    assert deadline.expired
    assert deadline.remaining_s() == 0
    assert asyncio.current_task().cancelling() == 0


async def test_what_ends_in_time_is_left_alone():
    deadline = Deadline.after(0.01)
    with deadline.enforced():
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    assert not deadline.expired


async def test_once_stopped_it_does_not_end():
    deadline = Deadline.after(0.01)
    with deadline.enforced():
        deadline.stop()
        deadline.extend(0.0)
        await asyncio.sleep(0.05)
    assert not deadline.expired


async def test_paused_time_does_not_count():
    deadline = Deadline.after(0.1)
    with deadline.enforced():
        deadline.pause()
        assert deadline.at_s == math.inf
        await asyncio.sleep(0.2)
        assert 0 < deadline.remaining_s() <= 0.1
        deadline.extend(1.0)
        deadline.resume()
        assert 1.0 < deadline.remaining_s() <= 1.1


async def test_stopped_while_paused_it_stays_stopped():
    deadline = Deadline.after(0.01)
    with deadline.enforced():
        deadline.pause()
        deadline.stop()
        deadline.resume()
        await asyncio.sleep(0.05)


async def test_extended_it_ends_later():
    deadline = Deadline.after(0.01)
    with deadline.enforced():
        deadline.extend(5.0)
        await asyncio.sleep(0.05)
    assert deadline.granted_s == 0.01


async def test_what_was_inside_may_answer_for_the_end_itself():
    deadline = Deadline.after(0.01)
    with deadline.enforced():
        with pytest.raises(asyncio.CancelledError):
            await hang()
        assert deadline.expired
        deadline.stop()
        await asyncio.sleep(0)
    assert asyncio.current_task().cancelling() == 0


async def test_another_error_at_the_end_is_raised_as_it_is():
    async def serve() -> None:
        with Deadline.after(0.01).enforced():
            try:
                await hang()
            except asyncio.CancelledError:
                raise ValueError("mine") from None

    with pytest.raises(ValueError, match="mine"):
        await serve()


async def test_a_caller_who_leaves_is_cancelled_not_late():
    async def serve() -> None:
        with Deadline.after(5).enforced():
            await hang()

    task = asyncio.create_task(serve())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_caller_who_leaves_as_the_deadline_ends_is_still_cancelled():
    async def serve() -> None:
        deadline = Deadline.after(0.01)
        with deadline.enforced():
            try:
                await hang()
            finally:
                asyncio.current_task().cancel()

    task = asyncio.create_task(serve())
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_wait_that_ends_at_the_deadline_has_the_first_word():
    """It knows what it waited for. The loop is 8 ms late with both, wherever in a tick the deadline is."""

    async def wait():
        loop = asyncio.get_running_loop()

        def late():
            loop.now += 0.009

        for into_a_tick_s in range(20):
            await asyncio.sleep(0.001 * into_a_tick_s)
            deadline = Deadline.after(0.5)
            loop.call_at(deadline.at_s - 0.001, late)
            with deadline.enforced():
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout_at(deadline.at_s):
                        await hang()
                deadline.stop()

    on_jumping_clock(wait())


def test_once_expired_nothing_rearms_it():
    async def answer_late():
        deadline = Deadline.after(0.5)
        with deadline.enforced():
            with pytest.raises(asyncio.CancelledError):
                await hang()
            deadline.extend(0.5)
            await asyncio.sleep(5)
        assert deadline.expired

    on_jumping_clock(answer_late())
