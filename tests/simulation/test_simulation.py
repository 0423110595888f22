"""Whatever callers, IAM, origins and operators do, the promises hold. A seed that fails is printed.

Long runs (`scripts/soak`) draw fresh seeds; every other run plays the same ones, so that a red run says what changed.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.play import play
from tests.support.properties import HOW_MANY

ROOT = Path(__file__).parents[2]
FIRST = {"few": 5, "usual": 20, "many": 20}[HOW_MANY]
SEEDS = {"few": 20, "usual": 200, "many": 20_000}[HOW_MANY]
"""Of each of ten blocks: they spread over the processes that run tests. The first of them are in the fast tier."""


@pytest.mark.parametrize("block", range(10))
def test_every_promise_holds(block: int) -> None:
    hold(block * 1_000_000, FIRST)


@pytest.mark.hazard  # no sockets, but long
@pytest.mark.parametrize("block", range(10))
def test_every_promise_holds_for_long(block: int) -> None:
    if HOW_MANY == "many":
        hold(random.SystemRandom().randrange(10**9), SEEDS)
    else:
        hold(block * 1_000_000 + FIRST, SEEDS - FIRST)


def hold(first: int, seeds: int) -> None:
    for seed in range(first, first + seeds):
        try:
            play(seed)
        except AssertionError as error:
            pytest.fail(f"{error}\nreplay it with: python -m tests.simulation {seed}", pytrace=False)


@pytest.mark.parametrize("seed", [4, 74, 99, 408, 4_000_057, 175_509_675])
def test_what_was_found_once_holds(seed: int) -> None:
    play(seed)


@pytest.mark.hazard
def test_a_seed_is_the_same_run_in_every_process() -> None:
    def trace(hash_seed: str) -> bytes:
        command = [sys.executable, "-m", "tests.simulation", "7"]
        return subprocess.run(  # noqa: S603 - ourselves
            command, cwd=ROOT, env={"PYTHONHASHSEED": hash_seed}, stdout=subprocess.PIPE, check=True
        ).stdout

    first = trace("1")
    assert first.count(b"\n") > 100
    assert trace("2") == first
