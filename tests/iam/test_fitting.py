"""Decision points that take no batches, or smaller ones: learned without a failure, and not from a poison question."""

import json
import logging

import pytest

from gateway.iam.discovery import LOOK_AGAIN_S
from tests.iam.conftest import allowed, answer, codes, decided, question


def single_only(bench, missing):
    """A decision point with `/evaluation` alone; `bench.paths` are those asked."""
    bench.paths = []

    async def serve(request):
        bench.paths.append(request.url.path.rpartition("/")[2])
        if request.url.path.endswith("/evaluations"):
            return answer(missing, {})
        return answer(200, {"decision": json.loads(request.content)["resource"]["id"] != "no"})

    bench.transport.handle_async_request = serve


@pytest.mark.parametrize("missing", [404, 405])
async def test_without_a_batch_endpoint_questions_are_asked_one_by_one(bench, missing, caplog):
    single_only(bench, missing)
    with caplog.at_level(logging.WARNING, "gateway"):
        for _ in range(3):
            asked = [question("a"), question("b", "no"), question("c")]
            assert codes(await bench.decide(*asked)) == ["allow", "deny", "allow"]
    assert bench.paths.count("evaluations") == 1
    assert [record.message for record in caplog.records] == [
        f"[iam] IAM answered {missing}: asking one by one at POST /access/v1/evaluation"
    ]
    assert bench.breaker.snapshot()["consecutive_failures"] == 0
    bench.clock.now += LOOK_AGAIN_S
    assert allowed(await bench.decide(question()))
    assert bench.paths.count("evaluations") == 2


async def test_when_both_endpoints_are_missing_it_is_not_there(bench):
    bench.transport.reply = lambda items: answer(404, {})
    assert codes(await bench.decide(question())) == ["iam_invalid_response"]
    assert bench.breaker.snapshot()["consecutive_failures"] == 1


async def test_a_batch_path_of_null_asks_no_batches(make_bench):
    bench = make_bench(batch_path=None)
    single_only(bench, 404)
    assert codes(await bench.decide(question(), question("b", "no"))) == ["allow", "deny"]
    assert bench.paths == ["evaluation"] * 2


def takes(most, status):
    return lambda items: answer(status, {}) if len(items) > most else decided(items)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_smaller_limit_is_learned_and_forgotten(bench, status):
    bench.transport.reply = takes(10, status)
    for turn in range(4):
        assert allowed(await bench.decide(*(question("u", f"{turn}-{n}") for n in range(40))))
    bench.transport.batches.clear()
    assert allowed(await bench.decide(*(question("u", str(n)) for n in range(40))))
    assert {len(batch) for batch in bench.transport.batches} == {10}
    bench.clock.now += LOOK_AGAIN_S
    bench.transport.reply = decided
    bench.transport.batches.clear()
    assert allowed(await bench.decide(*(question("u", str(n)) for n in range(40))))
    assert [len(batch) for batch in bench.transport.batches] == [40]


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_one_poison_question_shrinks_nothing(bench, status):
    bench.transport.reply = lambda items: (
        answer(status, {}) if any(item["resource"]["id"] == "poison" for item in items) else decided(items)
    )
    await bench.decide(question("u", "poison"), *(question("u", str(n)) for n in range(19)))
    bench.transport.batches.clear()
    await bench.decide(*(question("u", str(n)) for n in range(20)))
    assert [len(batch) for batch in bench.transport.batches] == [20]
