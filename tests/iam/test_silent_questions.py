"""A question that IAM never answers delays nobody else for long, and the next of that subject nobody at all."""

import asyncio
import time

import pytest

from gateway.iam.suspects import MOST, Suspects
from gateway.model.settings import IamTimeouts
from tests.iam.conftest import allowed, codes, question, turns
from tests.iam.test_whose_failure import hanging

SLOW = IamTimeouts(connect_s=0.1, read_s=0.2, total_s=0.25)


def is_poison(content: bytes) -> bool:
    return b"poison" in content


async def of_one_batch(bench, count=6):
    """Tasks that ask together, the first one about poison."""
    bench.transport.gate.clear()
    asking = [bench.start(question("mallory", "poison"))]
    asking += [bench.start(question(f"user{number}", "x")) for number in range(count)]
    await turns()
    bench.transport.gate.set()
    return asking


async def test_the_others_of_its_batch_wait_half_of_the_time_that_iam_may_be_silent(make_bench):
    bench = make_bench(timeout=IamTimeouts(connect_s=1.0, read_s=2.0, total_s=2.5), max_concurrency=4)
    hanging(bench, is_poison)
    began_s = time.monotonic()
    poison, *others = await of_one_batch(bench)
    assert all(map(allowed, await asyncio.gather(*others)))
    assert time.monotonic() - began_s < 1.8
    assert not poison.done()
    poison.cancel()
    assert bench.breaker.snapshot()["consecutive_failures"] == 0


async def test_without_proof_that_iam_works_a_silent_batch_is_not_asked_apart(make_bench):
    bench = make_bench(timeout=SLOW)
    hanging(bench, lambda content: True)
    asking = await of_one_batch(bench)
    assert {code for task in asking for code in codes(await task)} == {"iam_timeout"}
    assert bench.breaker.snapshot()["consecutive_failures"] == 1


async def test_a_batch_that_is_only_slow_answers_for_all(make_bench):
    bench = make_bench(timeout=IamTimeouts(connect_s=1.0, read_s=0.4, total_s=5.0), max_concurrency=1)
    plain = bench.transport.handle_async_request

    async def slow(request):
        if b"gateway" not in request.content:
            await asyncio.sleep(0.3)
        return await plain(request)

    bench.transport.handle_async_request = slow
    asking = await of_one_batch(bench)
    assert all(map(allowed, await asyncio.gather(*asking)))
    assert len(bench.transport.batches) == 1, "no place was free to ask apart"


async def test_who_asked_in_vain_travels_alone(make_bench):
    bench = make_bench(timeout=SLOW)
    hanging(bench, is_poison)
    await asyncio.gather(*await of_one_batch(bench))
    bench.transport.batches.clear()
    began_s = time.monotonic()
    poison, *others = await of_one_batch(bench)
    assert all(map(allowed, await asyncio.gather(*others)))
    assert time.monotonic() - began_s < SLOW.read_s / 2
    assert [len(batch) for batch in bench.transport.batches] == [6]
    assert codes(await poison) == ["iam_timeout"]


async def test_subjects_that_ask_in_vain_share_half_of_the_places(make_bench):
    bench = make_bench(timeout=IamTimeouts(connect_s=1.0, read_s=30.0, total_s=30.0), max_concurrency=4)
    hanging(bench, is_poison)
    now_s = asyncio.get_running_loop().time()
    for number in range(4):
        bench.iam._suspects.add(f"identity:mallory{number}", now_s)
    asking = [bench.start(question(f"mallory{number}", "poison")) for number in range(4)]
    await turns()
    assert bench.iam.snapshot()["in_flight"] == 2
    assert allowed(await bench.decide(question("alice")))
    for task in asking:
        task.cancel()


@pytest.mark.parametrize("size", [1, MOST, MOST + 5])
def test_there_are_few_suspects_and_not_for_long(size):
    suspects = Suspects()
    for number in range(size):
        suspects.add(f"s{number}", float(number))
    assert len(suspects) == min(size, MOST)
    suspects.add("s0", 100.0)
    suspects.forget_before(100.0)
    assert [*suspects] == ["s0"]
