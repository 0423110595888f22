"""What happens in one run: a part drawn from the seed, and a finale in which the dead must open and the well serve."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from tests.simulation.actors import FAULTS
from tests.simulation.loop import SimulatedLoop, run
from tests.simulation.world import (
    CHANGES,
    DEADLINE_S,
    GOOD_ROUTES,
    OPEN_S,
    PROBE_S,
    SLACK_S,
    THRESHOLD,
    World,
)

USERS = ("alice", "bob", "carol", "dave", "mallory", "trudy")
ROUTES = (*GOOD_ROUTES, "pair")
OWN = ("500", "hang", "end", "garbage", "cut", "item", "lie")
SPOILT = ("500", "hang", "end", "garbage", "cut", "stall", "429")
PAUSES_S = (0.0, 0.0, 0.01, 0.02, 0.1, 0.5, 1.5)
LEAVES_S = (None, None, None, 0.0, 0.01, 0.02, 0.03, 0.04, 0.3)


def play(seed: int, trace: list[str] | None = None) -> None:
    """One run of this seed. Raises `Broken`, or another AssertionError of the loop."""
    logger = logging.getLogger("gateway")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # thousands of lines; other tests of this process read theirs
    try:
        run(partial(_play, seed=seed, trace=trace), seed)
    finally:
        logger.setLevel(level)


async def _play(loop: SimulatedLoop, seed: int, trace: list[str] | None) -> None:
    world = World(loop, seed, trace)
    try:
        for _ in range(world.chance.randrange(5, 25)):
            await _step(world)
            world.check()
        await _finale(world)
        world.check()
    finally:
        world.gateway.begin_to_end()
        await world.gateway.aclose()


async def _step(world: World) -> None:
    chance = world.chance
    kind = chance.choices(
        ("crowd", "fault", "pair", "well", "revoke", "reload", "purge", "clock", "operator"),
        (12, 2, 1, 3, 1, 1, 1, 1, 1),
    )[0]
    world.log("---", kind)
    match kind:
        case "crowd":
            _crowd(world)
        case "fault":
            chance.choice((world.iam, world.good)).become(chance.choice((*FAULTS, "503")))
        case "pair":
            chance.choice(world.pair).become(chance.choice((*FAULTS, "503")))
        case "well":
            _heal(world)
        case "revoke":
            world.iam.revoked = {"mallory"} | ({"bob"} if chance.random() < 0.5 else set())
        case "reload":
            await world.reload(chance.choice(list(CHANGES)))
        case "purge":
            await world.gateway.purge_cache(chance.choice((None, "alice")))
        case "clock":
            world.loop.wall_s += chance.choice((-3600.0, 3600.0))
        case "operator":
            await world.operate(chance.choice(("iam", *ROUTES)), chance.choice(("auto", "open", "close", "try")))
    await asyncio.sleep(chance.choice(PAUSES_S))


def _heal(world: World) -> None:
    for server in (world.iam, world.good, *world.pair):
        server.become("")


def _crowd(world: World) -> None:
    """Some callers. mallory asks IAM, and trudy origins, what always fails: that counts against nobody else.

    In one world of ten two others ask IAM the same with her: then it may be taken for being at fault.
    """
    chance = world.chance
    poisoners = ("mallory", "bob", "carol") if world.seed % 10 == 1 else ("mallory",)
    for _ in range(chance.randrange(1, 7)):
        world.number += 1
        user, route = chance.choice(USERS), chance.choice(ROUTES)
        item = f"kept{chance.randrange(3)}" if route == "stale" else f"n{world.number}"
        if user in poisoners and chance.random() < 0.7:
            item = f"poison-{chance.choice(OWN)}-{world.number}"
        if user == "trudy" and chance.random() < 0.7:
            item = f"spoilt-{chance.choice(SPOILT)}-{world.number}"
        world.start(route, user, item, chance.choice(("GET", "GET", "POST")), chance.choice(LEAVES_S))


async def _finale(world: World) -> None:
    """Everybody has an outcome, the world is well again, then one dependency dies, and comes back."""
    _heal(world)
    world.iam.revoked = {"mallory"}
    await world.reload("usual")
    await asyncio.sleep(DEADLINE_S + SLACK_S)
    if any(not task.done() for task in world.tasks):
        world.wrong("nobody waits without an outcome", sum(not task.done() for task in world.tasks))
    for task in world.tasks:
        if task.done() and task.exception() is not None:
            raise task.exception() or AssertionError
    await _serves(world, "after all that")
    died = await _dies(world)
    _heal(world)
    if died == "iam":
        await asyncio.sleep(PROBE_S + SLACK_S)
        if world.state("iam") != "closed":
            await asyncio.sleep(PROBE_S + SLACK_S)
        if world.state("iam") != "closed":
            world.wrong("an IAM that is back is found by the probe", world.state("iam"))
    await _serves(world, "after it came back")
    await asyncio.sleep(DEADLINE_S)
    if taken := world.busy():
        world.wrong("nothing is left behind", *taken)


async def _serves(world: World, when: str) -> None:
    """Every route serves again, at the latest when every open time and set-aside is over."""
    for route in ROUTES:
        await _until(
            lambda route=route: _serves_now(world, route), 45.0, partial(world.wrong, "it serves", route, when)
        )


async def _serves_now(world: World, route: str) -> bool:
    world.number += 1
    answer = await world.start(route, "alice", f"n{world.number}", "GET", None)
    return answer is not None and answer.status == 200 and not answer.degraded


async def _until(holds: Callable[[], object], within_s: float, otherwise: Callable[[], None]) -> None:
    end_s = asyncio.get_running_loop().time() + within_s
    while not await holds():  # type: ignore[misc]
        if asyncio.get_running_loop().time() > end_s:
            otherwise()
            return
        await asyncio.sleep(0.5)


async def _dies(world: World) -> str:
    """A dead dependency's circuit opens after `failure_threshold` failures and at most a second more. Whose it was."""
    name = world.chance.choice(("iam", "closed"))
    server, fault = (world.iam if name == "iam" else world.good), world.chance.choice(FAULTS)
    world.log("--- dies", name, fault)
    server.become(fault)
    await asyncio.sleep(1.0)
    for number in range(THRESHOLD):
        world.number += 1
        await world.start("closed", USERS[number], f"n{world.number}", "GET", None)
    await asyncio.sleep(PROBE_S)
    if world.state(name) == "closed":
        world.wrong("a dead dependency's circuit opens", name, fault)
    heard, world.number = world.iam.heard, world.number + 1
    began_s = world.loop.now
    answer = await world.start("closed", "alice", f"n{world.number}", "GET", None)
    if name == "iam" and world.state(name) == "open" and world.iam.heard > heard + 1:
        world.wrong("while IAM's circuit is open no request causes a call", world.iam.heard - heard)
    if answer is not None and answer.status == 503 and world.loop.now - began_s > OPEN_S:
        world.wrong("an open circuit answers at once", world.loop.now - began_s)
    return name
