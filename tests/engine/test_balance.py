"""How many tokens of prompts a step computes beside replies, by what steps took."""

from statistics import mean

from herd.engine.balance import STRETCH, Balance

ALONE, TOKEN = 0.004, 0.0008  # seconds: of a step without prompts, and for each token of a prompt


def steps(balance: Balance, count: int, noise=lambda i: 0.0) -> list[float]:
    """What steps take that follow its advice."""
    taken = []
    for i in range(count):
        tokens = balance.tokens()
        taken.append(ALONE + TOKEN * tokens + noise(i))
        balance.learn(tokens, taken[-1])
    return taken


def test_steps_are_as_much_longer_as_they_may_be():
    balance = Balance()
    balance.learn(0, ALONE)
    taken = steps(balance, 200)[20:]
    assert 0.8 * STRETCH < mean(taken) / ALONE < 1.05 * STRETCH


def test_a_slow_first_step_is_soon_forgotten():
    balance = Balance()
    balance.learn(0, 5 * ALONE)  # the machine was busy just then
    assert mean(steps(balance, 60)[1:]) < 3 * ALONE


def test_what_others_take_of_the_processor_is_not_taken_for_the_replies_own():
    balance = Balance()
    balance.learn(0, ALONE)
    taken = steps(balance, 400, lambda i: 3 * ALONE if i % 5 == 0 else 0.0)
    assert mean(t - (3 * ALONE if i % 5 == 0 else 0.0) for i, t in enumerate(taken)) < 2.5 * ALONE
