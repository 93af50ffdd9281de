"""Learning from rewards: the engine's answers are the trainer's batch, losses are those of plain tensors, runs resume bit for bit."""

import json
import math

import msgspec
import pytest
import torch

from herd.errors import ConfigError, FormatError
from herd.runs import Run
from herd.train.grpo import Facts, token_losses
from herd.train.open import make_trainer, open_recipe
from herd.train.recipe import Batch, Data, Grpo, Lora, Model, Optimizer, Recipe, RewardTerm, Schedule, Source
from herd.train.rewards import Task, last_number, make_reward, marked_number
from herd.train.rollouts import advantages
from herd.train.run import train
from herd.weights.open import open_checkpoint
from tests.train.conftest import sentence

REWARD = '''
def reward(answer, line):
    """The share of characters with an odd number."""
    return sum(ord(c) % 2 for c in answer) / max(1, len(answer)) * line["scale"]

def broken(answer, line):
    return {}["no"]
'''


@pytest.fixture(scope="module")
def tasks(place):
    lines = [{"prompt": sentence(i, 2), "answer": i, "scale": 1.0} for i in range(12)]
    (place / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (place / "rewards.py").write_text(REWARD)
    return place


def recipe_of(lora=None, **changes) -> Recipe:
    settings = {
        "rewards": (RewardTerm(file="rewards.py"),),
        "prompts": 2,
        "group": 4,
        "max_tokens": 8,
        "weights": "F32",
        **changes,
    }
    source = Source(path="prompts.jsonl", kind="prompts")
    return Recipe(
        objective="grpo", model=Model(start="model", dtype="float32"), data=Data(sources=(source,), validation=(source,), length=64),
        batch=Batch(rows=2), schedule=Schedule(peak=1e-3, steps=4, decay="constant"), optimizer=Optimizer(decay=0.0), lora=lora,
        grpo=Grpo(**settings), validate_every=4,
    ).check()  # fmt: skip


def logged(folder, event):
    return [line for line in Run.open(folder, "train").events() if line["event"] == event]


def run_of(recipe, folder, place, find, stop=lambda: False, run=None):
    from herd.train.recipe import Asked

    asked = Asked(recipe, place, run)
    return train(asked, folder, find, lambda _: None, stop, ["herd"])


@pytest.mark.parametrize("lora", [None, Lora(rank=4), Lora(rank=4, base="stored", targets=("wq", "w2"))])
def test_the_engine_answers_with_the_trainer_s_weights(tasks, find, tmp_path, lora):
    run_of(recipe_of(lora), tmp_path / "run", tasks, find)
    steps = logged(tmp_path / "run", "step")
    assert len(steps) == 4
    assert all(0 < step["gap"] < 2e-3 for step in steps), "float32 on both sides; the engine's cache is in halves"
    assert steps[-1]["norm"] > 0
    before, after = logged(tmp_path / "run", "validation")
    assert (before["step"], after["step"]) == (0, 4)
    assert before["low"] <= before["reward"] <= before["high"]


def test_a_trainer_that_the_engine_does_not_follow_is_seen(tasks, find, tmp_path):
    log = []
    opened = open_recipe(recipe_of(), tasks, find)
    trainer = make_trainer(opened, find, None, lambda **values: log.append(values))
    trainer.step()
    with torch.no_grad():
        trainer.model.norm.weight.mul_(1.5)
    rows = trainer.packer.rows(64, 0)
    trainer.packer._actor._model = make_trainer(opened, find, None, lambda **_: None).model  # the weights of the start
    trainer.packer._left = []
    rows = trainer.packer.rows(64, 0)
    _, sums, _ = trainer.gradients(rows, 64)
    trainer.close()
    assert sums["gap"] > 20 * log[-2].get("gap", 1e-3)


@pytest.mark.parametrize("updates", [1, 2])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tasks, find, tmp_path, updates):
    recipe = recipe_of(updates=updates, kl=0.1)
    run_of(recipe, tmp_path / "whole", tasks, find)
    count = iter(range(100))
    run_of(recipe, tmp_path / "cut", tasks, find, stop=lambda: next(count) == 3)
    run_of(recipe, tmp_path / "cut", tasks, find, run=Run.open(tmp_path / "cut", "train"))
    whole, cut = (
        [(s["loss"], s["norm"], s["gap"]) for s in logged(tmp_path / name, "step")] for name in ("whole", "cut")
    )
    assert len(whole) == 4
    assert whole == cut
    assert [a["answer"] for a in logged(tmp_path / "whole", "answers")] == [
        a["answer"] for a in logged(tmp_path / "cut", "answers")
    ]
    a, b = (
        open_checkpoint(tmp_path / name).tensors["layers.0.attention.wq.weight"].float32() for name in ("whole", "cut")
    )
    assert (a == b).all()


@pytest.mark.parametrize("divisor", ["tokens", "answers", "length"])
def test_one_normalizer_whatever_the_pieces(tasks, find, divisor):
    found = []
    opened = open_recipe(recipe_of(divisor=divisor, kl=0.1), tasks, find)
    trainer = make_trainer(opened, find, None, lambda **_: None)
    rows = trainer.packer.rows(64, 0)
    for size in (1, 2, len(rows)):
        trainer.recipe = msgspec.structs.replace(trainer.recipe, batch=Batch(rows=size))
        trainer.optimizer.zero_grad()
        loss, sums, count = trainer.gradients(rows, 64)
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in trainer.model.parameters()))
        found.append((loss, count, norm, sums["gap"]))
    trainer.close()
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-4, abs=1e-6)


def test_losses_of_packed_answers_are_those_of_the_answers_alone(tasks, find):
    """Against the formula written out on logits of each answer by itself."""
    recipe = recipe_of(divisor="answers")
    trainer = make_trainer(open_recipe(recipe, tasks, find), find, None, lambda **_: None)
    rows = trainer.packer.rows(64, 0)
    loss, _, count = trainer.gradients(rows, 64)
    answers = trainer.packer._now
    assert count == len(answers) == 8
    total = 0.0
    for answer in answers:
        prompt = trainer.packer._task(answer).tokens
        logits = trainer.model(torch.tensor([[*prompt, *answer.tokens]]))[0].double().log_softmax(-1)
        places = torch.arange(len(prompt) - 1, len(prompt) + len(answer.tokens) - 1)
        mine = logits[places, torch.tensor(answer.tokens)]
        weight = (mine - torch.tensor(answer.rollout)).exp().clamp(max=recipe.grpo.truncate)
        total += float((-answer.advantage * weight).mean().detach())
    trainer.close()
    assert loss == pytest.approx(total / 8, abs=1e-5)


def test_rewards_by_name(tmp_path):
    assert last_number("3 + 4 = 7, so 7.", {"answer": 7}) == 1
    assert last_number("7 or 8", {"answer": 7}) == 0
    assert last_number("none", {"answer": 7}) == 0
    assert last_number("It is $1,234.00", {"answer": "so\n#### 1,234"}) == 1
    assert marked_number("5\n#### 7", {"answer": "7"}) == 1
    assert marked_number("the answer is 7", {"answer": "7"}) == 0
    task = Task((1,), (), {"tests": "assert double(4) == 8", "answer": 1}, "here:1")
    form = make_reward(RewardTerm(check="format", pattern=r"\d+"), tmp_path, [task], open_checkpoint)
    assert form([(task, " 12\n"), (task, "12 apples")]) == [1, 0]


def test_code_is_run_with_its_tests(tmp_path):
    task = Task((1,), (), {"tests": "assert double(4) == 8"}, "here:1")
    try:
        code = make_reward(RewardTerm(check="code"), tmp_path, [task], open_checkpoint)
    except Exception as error:  # no sandbox on this machine
        pytest.skip(str(error))
    good = "```python\ndef double(x):\n    return 2 * x\n```"
    assert code([(task, good), (task, good.replace("2", "3")), (task, "import sys; sys.exit(0)")]) == [1, 0, 0]


def test_a_reward_model_s_score_is_that_of_the_dialog_s_last_token(tasks, find, tmp_path):
    from herd.train.recipe import Asked
    from tests.train.test_train import recipe_of as plain

    recipe = plain("ranked", objective="reward", schedule=Schedule(peak=1e-3, steps=1))
    train(Asked(recipe, tasks, None), tmp_path / "reward", find, lambda _: None, lambda: False, ["herd"])
    opened = open_recipe(recipe_of(), tasks, find)
    some = opened.prompts[0].tasks[:3]
    score = make_reward(RewardTerm(model="reward"), tmp_path, some, lambda name: open_checkpoint(tmp_path / name))
    answers = [(task, "the cat sat") for task in some]
    together, alone = score(answers), [score([one])[0] for one in answers]
    assert together == pytest.approx(alone, abs=1e-5)
    with pytest.raises(ConfigError, match="no head of one class"):
        make_reward(RewardTerm(model="model"), tmp_path, some, find)


def test_advantages():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    assert (advantages(rewards, "none")[0] == torch.tensor([0.5, -0.5, -0.5, 0.5])).all()
    assert not advantages(rewards, "group")[1].any()
    assert advantages(rewards, "group")[0, 0] == pytest.approx(0.5 / (rewards[0].std() + 1e-4))


def test_a_policy_that_moved_is_clipped_and_a_weight_truncated():
    old, facts = torch.zeros(3), Facts(torch.tensor([1.0, 1.0, -1.0]), torch.tensor([0.0, -2.0, 0.0]), torch.ones(3))
    current = torch.tensor([1.0, 0.0, -1.0], requires_grad=True)
    each, seen = token_losses(current, old, facts, Grpo(rewards=()))
    each.sum().backward()
    assert seen["clipped"].tolist() == [1, 0, 1]
    assert seen["truncated"].tolist() == [0, 1, 0]
    assert each.tolist() == pytest.approx([-1.2, -2.0, 0.8])
    assert current.grad.tolist() == pytest.approx([0.0, -2.0, 0.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": ()}, "grpo.rewards is empty"),
        ({"rewards": (RewardTerm(check="number", file="a.py"),)}, "either check, file or model"),
        ({"rewards": (RewardTerm(check="format", pattern="("),)}, "no regular expression"),
        ({"updates": 3}, "cannot be cut into 3"),
        ({"group": 1}, "grpo.group is 1"),
        ({"max_tokens": 64}, "data.length 64 has no room"),
        ({"lora": Lora(dropout=0.1)}, "lora.dropout is 0.1"),
    ],
)
def test_bad_recipes_name_the_key(change, message):
    with pytest.raises(ConfigError, match=message):
        recipe_of(**change)


def test_what_rewards_cannot_read_is_named(tasks, find):
    for terms, message in (
        ((RewardTerm(check="code"),), "prompts.jsonl:1: reward code needs 'tests'"),
        ((RewardTerm(file="rewards.py", function="none"),), "has no function none"),
        ((RewardTerm(file="absent.py"),), "no such Python file"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_recipe(recipe_of(rewards=terms), tasks, find)
    trainer = make_trainer(
        open_recipe(recipe_of(rewards=(RewardTerm(file="rewards.py", function="broken"),)), tasks, find),
        find,
        None,
        lambda **_: None,
    )
    with pytest.raises(ConfigError, match=r"broken fails on an answer to .*prompts\.jsonl:"):
        trainer.step()
    trainer.close()
    del trainer
    (tasks / "bad.jsonl").write_text('{"question": "2+2"}\n')
    bad = msgspec.structs.replace(
        recipe_of(), data=Data(sources=(Source(path="bad.jsonl", kind="prompts"),), length=64)
    )
    with pytest.raises(FormatError, match=r"bad\.jsonl:1: key 'prompt' is missing"):
        open_recipe(bad, tasks, find)
