"""Retries are a share of the requests, and a trickle is always there."""

from gateway.resilience.retry import RetryBudget


def spend(budget, wanted=10_000):
    return next((count for count in range(wanted) if not budget.try_retry()), wanted)


def test_a_quiet_gateway_may_retry_three_times_a_second(clock):
    budget = RetryBudget(clock=clock)
    assert spend(budget) == 3
    clock.pass_s(0.9)
    assert spend(budget) == 0
    clock.pass_s(0.1)
    assert spend(budget) == 3


def test_a_busy_one_retries_a_fifth_of_its_requests(clock):
    budget = RetryBudget(clock=clock)
    for _ in range(1000):
        budget.request()
    assert spend(budget) == 200


def test_the_share_is_of_the_last_ten_seconds(clock):
    budget = RetryBudget(clock=clock)
    for _ in range(1000):
        budget.request()
    clock.pass_s(11)
    assert spend(budget) == 3


def test_an_outage_costs_at_most_a_fifth_more(clock):
    budget = RetryBudget(clock=clock)
    retries = 0
    for _ in range(6000):
        budget.request()
        retries += budget.try_retry()
        clock.pass_s(0.01)
    assert retries <= 6000 * 0.2 + 3


def test_looking_takes_nothing(clock):
    budget = RetryBudget(clock=clock)
    assert all(budget.available() for _ in range(100))
    assert spend(budget) == 3
    assert not budget.available()


def test_who_took_it_all_leaves_half_as_many_to_others(clock):
    budget = RetryBudget(clock=clock)
    for _ in range(1000):
        budget.request()
    assert sum(budget.try_retry("mallory") for _ in range(1000)) == 200
    assert not budget.try_retry("mallory")
    assert sum(budget.try_retry(f"user{number}") for number in range(1000)) == 100


def test_who_took_the_trickle_leaves_some_to_others(clock):
    budget = RetryBudget(clock=clock)
    assert [budget.try_retry("mallory") for _ in range(4)] == [True, True, True, False]
    assert [budget.try_retry("alice"), budget.try_retry("bob"), budget.try_retry("carol")] == [True, True, False]


def test_where_all_fail_alike_nobody_has_more_than_the_budget(clock):
    budget = RetryBudget(clock=clock)
    retries = 0
    for number in range(6000):
        budget.request()
        retries += budget.try_retry(f"user{number % 5}")
        clock.pass_s(0.01)
    assert retries <= 6000 * 0.2 + 3
