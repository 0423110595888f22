"""Callers who leave at any moment leave nothing behind: no connection, no trial's place, no failure counted."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.model.route import BreakerPolicy, Resilience, RetryPolicy, Timeouts
from gateway.resilience.evidence import RECENT_S
from tests.forward.conftest import Client, Conversation, a_request, upstream_of

pytestmark = pytest.mark.hazard

MOODS = ("answer", "late", "drip", "cut", "silent", "error")


async def moody(talk: Conversation) -> None:
    await talk.body()
    mood = talk.line.split(b"?")[-1].split(b" ")[0].decode()
    if mood == "late":
        await asyncio.sleep(0.02)
    elif mood == "drip":
        await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        for letter in b"drips":
            await talk.send(bytes([letter]))
            await asyncio.sleep(0.005)
        return
    elif mood == "cut":
        talk.cut()
        return
    elif mood == "silent":
        await talk.reader.read(1)
        return
    await talk.answer(503 if mood == "error" else 200)


async def one(subject: Any, chance: random.Random) -> None:
    target = b"/inventory/7?" + chance.choice(MOODS).encode()
    upload = chance.random() < 0.3
    request = a_request("PUT" if upload else "GET", target, [(b"transfer-encoding", b"chunked")] if upload else [])
    client = Client(request, [b"x" * 1000] * 3 if upload else [b""])
    task = asyncio.create_task(subject.call(client))
    await asyncio.sleep(chance.choice((0, 0.001, 0.005, 0.02, 0.1)))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_after_a_thousand_who_left_everything_is_as_before(bench: Any) -> None:
    chance = random.Random(7)  # noqa: S311 - the same every time
    async with upstream_of(moody) as upstream:
        resilience = Resilience(
            timeout=Timeouts(read_s=0.2),
            retry=RetryPolicy(attempts=2, backoff_s=0.001),
            breaker=BreakerPolicy(failure_threshold=10_000),
        )
        subject = bench(upstream.port, resilience=resilience, deadline_s=2.0)
        for _ in range(50):
            await asyncio.gather(*(one(subject, chance) for _ in range(20)))
        clients = await asyncio.gather(*(subject.get(b"/inventory/7?answer") for _ in range(10)))
        assert [client.status for client in clients] == [200] * 10
        (origin,) = subject.upstream.snapshot()["origins"]
        assert (origin["in_flight"], origin["connecting"], origin["pending"]) == (0, 0, 0)
        circuit = subject.breaker.snapshot()
        assert (circuit["state"], circuit["trial"], circuit["consecutive_failures"]) == ("closed", False, 0)
        assert upstream.open_connections == origin["idle"]


async def test_a_trial_whose_caller_left_is_followed_by_another(bench: Any) -> None:
    async with upstream_of(moody) as upstream:
        resilience = Resilience(
            timeout=Timeouts(read_s=0.05), breaker=BreakerPolicy(failure_threshold=1, open_for_s=0.05)
        )
        subject = bench(upstream.port, resilience=resilience)
        for _ in range(3):
            await asyncio.gather(subject.get(b"/inventory/7?cut"), return_exceptions=True)
            assert subject.breaker.state == "open"
            await asyncio.sleep(0.06)
            trial = asyncio.create_task(subject.get(b"/inventory/7?late"))
            await asyncio.sleep(0.001)
            others = await asyncio.gather(*(subject.get() for _ in range(5)), return_exceptions=True)
            assert all(isinstance(other, GatewayError) and other.code == "upstream_circuit_open" for other in others)
            trial.cancel()
            await asyncio.gather(trial, return_exceptions=True)
            assert (await subject.get(b"/inventory/7?answer")).status == 200
            await asyncio.sleep(RECENT_S)  # what answered this recently is not down
            assert subject.breaker.state == "closed"
