"""Breaker and retries around calls: what is counted, what is tried again, what an open circuit costs."""

import asyncio

import httpx
import pytest

from gateway.model.route import BreakerPolicy, RetryPolicy
from gateway.model.settings import IamTimeouts
from tests.iam.conftest import allowed, answer, codes, decided, question, turns


def failing(bench, make=lambda: answer(500, {})):
    bench.transport.reply = lambda items: make()


async def open_circuit(bench):
    failing(bench)
    for n in range(bench.settings.breaker.failure_threshold):
        await bench.decide(question(f"u{n}"))
    assert bench.breaker.state == "open"
    bench.transport.batches.clear()


async def test_five_failed_calls_open_the_circuit_and_it_says_why(bench):
    failing(bench)
    for n in range(5):
        assert codes(await bench.decide(question())) == ["iam_error"], n
    assert bench.memory.circuits == [("closed", "open", "5 consecutive failures, last: iam_error")]


async def test_the_call_that_trips_keeps_its_own_class_of_error(bench):
    failing(bench)
    decisions = [(await bench.decide(question()))[0] for _ in range(5)]
    assert [decision.fault.code for decision in decisions] == ["iam_error"] * 5
    assert decisions[-1].fault.retry_after_s == pytest.approx(5)


async def test_while_open_every_question_is_answered_at_once_without_a_call(bench):
    await open_circuit(bench)
    bench.clock.now += 1.5
    for _ in range(100):
        (decision,) = await bench.decide(question(), deadline_s=0.0)
        assert decision.fault.code == "iam_circuit_open"
        assert decision.fault.retry_after_s == pytest.approx(3.5)
    assert bench.transport.batches == []


async def test_half_open_makes_exactly_one_trial_call(bench):
    await open_circuit(bench)
    bench.transport.reply = decided
    bench.transport.gate.clear()
    bench.clock.now += 5
    trial = bench.start(question("first"))
    await turns()
    others = [await bench.decide(question(f"u{n}")) for n in range(50)]
    assert all(codes(decisions) == ["iam_circuit_open"] for decisions in others)
    assert all(decisions[0].fault.retry_after_s >= 1 for decisions in others)
    assert len(bench.transport.batches) == 1
    bench.transport.gate.set()
    assert allowed(await trial)
    assert bench.breaker.state == "closed"
    assert allowed(await bench.decide(question()))


async def test_a_failed_trial_opens_again_for_longer(bench):
    await open_circuit(bench)
    bench.clock.now += 5
    (decision,) = await bench.decide(question())
    assert decision.fault.code == "iam_error"
    assert 10 <= bench.breaker.remaining_s() <= 11
    assert decision.fault.retry_after_s == pytest.approx(bench.breaker.remaining_s())


async def test_a_trial_is_one_attempt(bench):
    await open_circuit(bench)
    bench.clock.now += 5
    failing(bench, lambda: answer(503, {}))
    await asyncio.gather(*(bench.start(question(f"u{n}")) for n in range(9)))
    assert len(bench.transport.batches) == 1


async def test_a_trial_with_a_poison_question_in_it_still_closes_the_circuit(bench):
    await open_circuit(bench)
    bench.clock.now += 5
    bench.transport.reply = lambda items: (
        answer(400, {}) if any(item["subject"]["id"] == "poison" for item in items) else decided(items)
    )
    tasks = [bench.start(question(name)) for name in ("poison", "a", "b")]
    assert [codes(decisions)[0] for decisions in await asyncio.gather(*tasks)] == ["iam_rejected", "allow", "allow"]
    assert bench.breaker.state == "closed"


async def test_a_trial_whose_callers_left_frees_its_place(bench):
    await open_circuit(bench)
    bench.transport.reply = decided
    bench.clock.now += 5
    bench.transport.gate.clear()
    trial = bench.start(question())
    await turns()
    trial.cancel()
    await turns()
    assert bench.breaker.state == "half_open"
    bench.transport.gate.set()
    assert allowed(await bench.decide(question()))
    assert bench.breaker.state == "closed"


async def test_a_trial_cancelled_before_its_first_step_frees_its_place(bench):
    await open_circuit(bench)
    bench.transport.reply = decided
    bench.clock.now += 5
    trial = bench.start(question())
    await asyncio.sleep(0)
    trial.cancel()
    await turns()
    assert (bench.breaker.state, bench.transport.batches) == ("half_open", [])
    assert allowed(await bench.decide(question()))


async def test_a_rejected_trial_closes_the_circuit(bench):
    """IAM that refuses a question works."""
    await open_circuit(bench)
    bench.clock.now += 5
    failing(bench, lambda: answer(400, {}))
    assert codes(await bench.decide(question("poison"))) == ["iam_rejected"]
    assert bench.breaker.state == "closed"


async def test_what_waits_when_the_circuit_opens_is_answered_at_once(make_bench):
    bench = make_bench(max_concurrency=1, breaker=BreakerPolicy(failure_threshold=1, open_for_s=5))
    bench.transport.gate.clear()
    failing(bench)
    first = bench.start(question("a"))
    await turns()
    waiting = bench.start(question("b"))
    await turns()
    bench.transport.gate.set()
    assert codes(await first) == ["iam_error"]
    assert codes(await waiting) == ["iam_circuit_open"]
    assert bench.transport.batches == [["a:inventory"]] * 2


async def test_calls_begun_before_the_circuit_opened_do_not_count(make_bench):
    bench = make_bench(breaker=BreakerPolicy(failure_threshold=2, open_for_s=5, open_for_max_s=60))
    bench.transport.gate.clear()
    failing(bench)
    tasks = []
    for n in range(6):
        tasks.append(bench.start(question(f"u{n}")))
        await turns(5)
    bench.transport.gate.set()
    await asyncio.gather(*tasks)
    assert bench.memory.circuits == [("closed", "open", "2 consecutive failures, last: iam_error")]
    assert bench.breaker.remaining_s() == pytest.approx(5)


@pytest.mark.parametrize("status", [400, 409, 413, 422])
async def test_a_client_that_is_rejected_a_hundred_times_opens_nothing(bench, status):
    failing(bench, lambda: answer(status, {}))
    for _ in range(100):
        assert codes(await bench.decide(question())) == ["iam_rejected"]
    assert bench.breaker.state == "closed"
    assert bench.breaker.snapshot()["consecutive_failures"] == 0


async def test_denials_are_successes(bench):
    bench.transport.reply = lambda items: decided(items, lambda _: False)
    for _ in range(100):
        assert codes(await bench.decide(question())) == ["deny"]
    assert bench.breaker.snapshot()["consecutive_failures"] == 0


@pytest.mark.parametrize(
    ("make", "code", "attempts"),
    [
        (lambda: httpx.ConnectError(""), "iam_unreachable", 2),
        (lambda: httpx.ReadError(""), "iam_unreachable", 2),
        (lambda: httpx.RemoteProtocolError(""), "iam_unreachable", 2),
        (lambda: httpx.ConnectTimeout(""), "iam_timeout", 2),
        (lambda: httpx.ReadTimeout(""), "iam_timeout", 2),
        (lambda: httpx.WriteTimeout(""), "iam_timeout", 2),
        (lambda: httpx.PoolTimeout(""), "iam_overloaded", 1),
        (lambda: httpx.LocalProtocolError(""), "iam_rejected", 1),
        (lambda: answer(500, {}), "iam_error", 2),
        (lambda: answer(502, {}), "iam_error", 2),
        (lambda: answer(503, {}), "iam_error", 2),
        (lambda: answer(504, {}), "iam_error", 2),
        (lambda: answer(408, {}), "iam_error", 1),
        (lambda: answer(429, {}), "iam_error", 1),
        (lambda: answer(400, {}), "iam_rejected", 1),
        (lambda: answer(401, {}), "iam_auth_error", 1),
        (lambda: answer(404, {}), "iam_invalid_response", 1),
        (lambda: answer(200, {}), "iam_invalid_response", 2),
    ],
)
async def test_what_is_tried_again(bench, make, code, attempts):
    failing(bench, make)
    assert codes(await bench.decide(question())) == [code]
    assert len(bench.transport.batches) == attempts
    counted = 0 if code in {"iam_rejected", "iam_overloaded"} else 1
    assert bench.breaker.snapshot()["consecutive_failures"] == counted
    expected = [("iam", 2, 2, code)] if attempts == 2 else []
    assert bench.memory.retries == expected


async def test_a_second_attempt_that_succeeds_is_a_success(bench):
    replies = [answer(503, {}), answer(200, {"evaluations": [{"decision": True}]})]
    bench.transport.reply = lambda items: replies.pop(0)
    assert allowed(await bench.decide(question()))
    assert bench.breaker.snapshot()["consecutive_failures"] == 0


async def test_retries_are_a_share_of_the_calls(bench):
    """An IAM that always answers 503 gets a fifth more, or three a second, not twice as much."""
    bench.breaker.force_close()
    failing(bench, lambda: answer(503, {}))
    for n in range(50):
        await bench.decide(question(f"u{n}"))
    assert len(bench.transport.batches) <= 50 + 10


async def test_retry_after_of_iam_is_passed_on_and_no_retry_comes_before_it(bench):
    failing(bench, lambda: answer(503, {}, [(b"retry-after", b"7")]))
    (decision,) = await bench.decide(question())
    assert decision.fault.retry_after_s == 7
    assert len(bench.transport.batches) == 1


async def test_retry_after_is_the_later_of_iams_own_and_the_open_circuits(make_bench):
    bench = make_bench(breaker=BreakerPolicy(failure_threshold=1, open_for_s=5))
    failing(bench, lambda: answer(429, {}, [(b"Retry-After", b"900")]))
    (decision,) = await bench.decide(question())
    assert decision.fault.retry_after_s == 300
    assert codes(await bench.decide(question())) == ["iam_circuit_open"]


async def test_an_attempt_is_not_repeated_after_the_circuit_opened_meanwhile(make_bench):
    bench = make_bench(retry=RetryPolicy(attempts=5, backoff_s=0.0))

    def reply(items):
        bench.breaker.force_open()
        return answer(503, {})

    bench.transport.reply = reply
    assert codes(await bench.decide(question())) == ["iam_error"]
    assert len(bench.transport.batches) == 1


async def test_total_bounds_one_question_with_its_retries(make_bench):
    bench = make_bench(timeout=IamTimeouts(total_s=0.05))
    bench.transport.gate.clear()
    (decision,) = await bench.decide(question())
    assert decision.fault.code == "iam_timeout"
    assert bench.breaker.snapshot()["consecutive_failures"] == 1
    assert bench.memory.calls == [(1, "iam_timeout")]
    assert bench.iam.snapshot()["last_error"]["code"] == "iam_timeout"


async def test_a_hanging_trial_ends_by_itself(make_bench):
    bench = make_bench(timeout=IamTimeouts(total_s=0.05))
    await open_circuit(bench)
    bench.clock.now += 5
    bench.transport.gate.clear()
    assert codes(await bench.decide(question())) == ["iam_timeout"]
    assert bench.breaker.state == "open"


async def test_a_probe_closes_the_circuit_early(make_bench):
    bench = make_bench(breaker=BreakerPolicy(failure_threshold=1, open_for_s=500, open_for_max_s=500, probe_s=0.01))
    failing(bench)
    await bench.decide(question())
    assert bench.breaker.state == "open"
    bench.transport.reply = decided
    async with asyncio.timeout(5):
        await bench.memory.closed.wait()
    assert bench.transport.probes == 2
    assert allowed(await bench.decide(question()))


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: answer(400, {}), ""),
        (lambda: answer(500, {}), "iam_error"),
        (lambda: answer(401, {}), "iam_auth_error"),
    ],
)
async def test_a_probe_only_asks_whether_iam_answers(bench, make, code):
    failing(bench, make)
    assert await bench.iam.probe() == code


async def test_the_snapshot_shows_what_is_under_way_and_the_last_error(bench):
    await bench.decide(question("a"), question("b"), question("c"))
    failing(bench)
    await bench.decide(question())
    await turns()
    shown = bench.iam.snapshot()
    assert (shown["queue"], shown["in_flight"], shown["calls"]) == (0, 0, 3)
    assert shown["last_error"]["code"] == "iam_error"
    assert shown["last_error"]["reason"] == "IAM answered 500"
