"""The model answers, by the engine, and what it answered becomes the next step's batch. The engine is the actor: before each round of
answers its weights are set to the trainer's, in place.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from herd.engine.engine import Engine
from herd.engine.open import open_engine
from herd.engine.request import Completion, Request, SamplingParams
from herd.model.llama import Transformer
from herd.statistics import mean
from herd.train.grpo import Facts, answer_token_logprobs
from herd.train.lora import LoraLinear, StoredLinear, adapters_off
from herd.train.packing import Batch, Row, collate
from herd.train.recipe import Grpo
from herd.train.rewards import Task, Worth
from herd.train.samples import Corpus
from herd.train.tasks import Drawer, Tasks
from herd.train.trainer import Log, in_order
from herd.weights.checkpoint import Checkpoint, StoredTensor

_TOGETHER = 64  # answers for which the engine's cache has room at once
_MASK63 = (1 << 63) - 1


class Answer(msgspec.Struct):
    """An answer to task `number` of a source: tokens, its stop token among them, and their log-probabilities by the policy that drew
    them, by the trainer's at that time and by the reference, where those were computed.
    """

    source: int
    number: int
    tokens: list[int]
    rollout: list[float]
    advantage: float = 0.0
    old: list[float] | None = None
    reference: list[float] | None = None


@torch.no_grad()
def engine_tensors(model: Transformer, fmt: str, *, everything: bool) -> dict[str, StoredTensor]:
    """A model's weights by canonical names, matrices in `fmt`, adapters added; without `everything` only those that learn."""
    found: dict[str, StoredTensor] = {}
    adapted = {name: m for name, m in model.named_modules() if isinstance(m, LoraLinear)}
    if everything:
        found = {f"{name}.weight": m.stored for name, m in model.named_modules() if isinstance(m, StoredLinear)}
        found = {name: tensor for name, tensor in found.items() if ".base." not in name}
    for name, module in adapted.items():
        found[f"{name}.weight"] = StoredTensor.of(module.merged().numpy(), fmt)
    for name, parameter in model.named_parameters():
        of_adapter = name.rpartition(".")[0].removesuffix(".base") in adapted
        if not of_adapter and (everything or parameter.requires_grad):
            array = parameter.detach().numpy()
            found[name] = StoredTensor.of(array, fmt if array.ndim == 2 else "F32")
    return found


class Actor:
    """The engine with the model that learns."""

    def __init__(self, start: Checkpoint, model: Transformer, settings: Grpo, longest: int) -> None:
        self._model, self._settings = model, settings
        checkpoint = replace(start, tensors=engine_tensors(model, settings.weights, everything=True), maps=())
        together = min(_TOGETHER, settings.prompts * settings.group)
        self.engine: Engine = open_engine(
            checkpoint,
            "native",
            threads=torch.get_num_threads(),
            cache_tokens=longest * together,
            max_sequences=together,
        )

    def follow(self) -> None:
        """Take over the trainer's weights; what was computed with others is forgotten."""
        self.engine.update(engine_tensors(self._model, self._settings.weights, everything=False))

    def answers(self, tasks: Sequence[Task], **params: Any) -> list[list[Completion]]:
        """Completions of each task, in order; the first one's error is raised."""
        asked = [
            Request(prompt=task.tokens, id=str(i), params=SamplingParams(
                max_tokens=self._settings.max_tokens, **{k: v[i] if k == "seed" else v for k, v in params.items()}
            ))
            for i, task in enumerate(tasks)
        ]  # fmt: skip
        found: list[list[Completion]] = [[] for _ in tasks]
        for completion in self.engine.run(asked):
            if completion.error is not None:
                raise completion.error
            found[int(completion.request.id)].append(completion)
        return [sorted(group, key=lambda one: one.index) for group in found]

    def close(self) -> None:
        """End the engine."""
        self.engine.close()


def advantages(rewards: Tensor, std: str) -> Tensor:
    """Rewards [groups, answers] less their group's mean, over a standard deviation (+1e-4): the group's, the batch's or none."""
    centred = rewards - rewards.mean(1, keepdim=True)
    if std == "none":
        return centred
    return centred / ((rewards.std(1, keepdim=True) if std == "group" else rewards.std()) + 1e-4)


class Rollouts:
    """A stream of rows for the trainer, made of the model's own answers; `facts` tells the objective what is known of them.

    `rewards` are (name, weight, function). `reference` is a frozen copy of the model, None where the model with its adapters off is
    that, or where none is needed.
    """

    def __init__(
        self, prompts: Sequence[Tasks], held_out: Sequence[Tasks], rewards: Sequence[tuple[str, float, Worth]],
        settings: Grpo, seed: int, length: int, actor: Actor, model: Transformer, reference: Transformer | None,
        dtype: torch.dtype, log: Log,
    ) -> None:  # fmt: skip
        self.sources: list[Corpus] = []
        self._prompts, self._held_out, self._rewards, self._settings = prompts, held_out, rewards, settings
        self._drawer, self._seed, self._length = Drawer(prompts, seed), seed, length
        self._actor, self._model, self._reference, self._dtype, self._log = actor, model, reference, dtype, log
        self._left: list[list[Answer]] = []  # what is to be learned before the next round, an update each
        self._now: list[Answer] = []

    def rows(self, length: int, count: int) -> list[Row]:
        """The rows of the next update; answers are drawn first where none are left."""
        if not self._left:
            self._gather()
        self._now = self._left.pop(0)
        self.sources = [self._corpus(self._now)]
        return [row for rows in in_order(self.sources[0], 0, length) for row in rows]

    def facts(self, batch: Batch) -> Facts:
        """What is known of a batch's answers, a number a target token."""
        answers = [self._now[piece.sample] for piece in batch.pieces]
        sizes = torch.tensor([len(answer.tokens) for answer in answers])

        def flat(values: list[list[float] | None]) -> Tensor | None:
            known = [value for one in values if one is not None for value in one]
            return torch.tensor(known) if known else None

        rollout = flat([answer.rollout for answer in answers])
        assert rollout is not None
        each = torch.tensor([answer.advantage for answer in answers])
        return Facts(
            each.repeat_interleave(sizes), rollout, (1 / sizes).repeat_interleave(sizes),
            flat([answer.old for answer in answers]), flat([answer.reference for answer in answers]),
        )  # fmt: skip

    def close(self) -> None:
        """End the engine."""
        self._actor.close()

    def state(self) -> dict[str, Any]:
        """What `restore` needs: how far the stream is, and answers that are still to be learned from."""
        return {**self._drawer.state(), "left": msgspec.to_builtins(self._left)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._drawer.restore(state)
        self._left = msgspec.convert(state["left"], list[list[Answer]])

    def measure(self) -> Iterator[dict[str, Any]]:
        """Mean reward of greedy answers to each held-out source, with the 95% interval of the first reward's mean."""
        self._actor.follow()
        for source in self._held_out:
            groups = self._actor.answers(source.tasks, temperature=0.0)
            worth, total = self._judge(source.tasks, groups)
            first = mean(worth[self._rewards[0][0]])
            yield {
                "source": source.name, "reward": float(total.mean()), "count": len(source), "low": first.low, "high": first.high,
                **{name: float(np.mean(values)) for name, values in worth.items()},
            }  # fmt: skip

    def _task(self, answer: Answer) -> Task:
        return self._prompts[answer.source].tasks[answer.number]

    def _judge(
        self, tasks: Sequence[Task], groups: Sequence[Sequence[Completion]]
    ) -> tuple[dict[str, list[float]], Tensor]:
        """Each reward of all answers, and their weighted sum [tasks, answers]."""
        pairs = [(task, one.text) for task, group in zip(tasks, groups, strict=True) for one in group]
        worth = {name: reward(pairs) for name, _, reward in self._rewards}
        total = sum(weight * torch.tensor(worth[name]) for name, weight, _ in self._rewards)
        return worth, torch.as_tensor(total).view(len(tasks), -1)

    def _gather(self) -> None:
        """A round of answers, judged, cut into updates."""
        settings, began = self._settings, time.monotonic()
        self._actor.follow()
        first = self._drawer.count
        drawn = [self._drawer.draw() for _ in range(settings.prompts)]
        tasks = [self._prompts[source].tasks[number] for source, number in drawn]
        seeds = [(self._seed * 0x9E3779B97F4A7C15 + first + i) & _MASK63 for i in range(len(tasks))]
        groups = self._actor.answers(tasks, n=settings.group, seed=seeds, logprobs=0)
        generated = time.monotonic() - began
        worth, total = self._judge(tasks, groups)
        gained = advantages(total, settings.std)
        answers = [
            Answer(source, number, list(one.tokens), [token.logprob for token in one.logprobs], float(gained[i, k]))
            for i, ((source, number), group) in enumerate(zip(drawn, groups, strict=True))
            for k, one in enumerate(group)
        ]
        self._look_back(answers)
        size = len(answers) // settings.updates
        self._left = [answers[i : i + size] for i in range(0, len(answers), size)]
        self._report(tasks, groups, worth, total, generated)

    def _report(
        self,
        tasks: list[Task],
        groups: list[list[Completion]],
        worth: dict[str, list[float]],
        total: Tensor,
        seconds: float,
    ) -> None:
        ends = [one for group in groups for one in group]
        best = int(total[0].argmax())
        count = sum(len(one.tokens) for one in ends)
        self._log(
            event="answers", reward=float(total.mean()), spread=float(total.std(1).mean()), tokens_an_answer=count / len(ends),
            cut=sum(one.finish_reason == "length" for one in ends) / len(ends), seconds=round(seconds, 3),
            alike=float((total.amax(1) == total.amin(1)).float().mean()), tokens_a_second=round(count / seconds, 1),
            prompt=tasks[0].messages[-1].content, answer=groups[0][best].text, answer_reward=float(total[0, best]),
            **{f"reward {name}": float(np.mean(values)) for name, values in worth.items()},
        )  # fmt: skip

    @torch.no_grad()
    def _look_back(self, answers: list[Answer]) -> None:
        """The trainer's own log-probabilities where updates follow one another, and the reference's where it holds the policy."""
        if self._settings.updates > 1:
            for answer, values in zip(answers, self._logprobs(self._model, answers), strict=True):
                answer.old = values
        if self._settings.kl:
            with adapters_off(self._model):
                known = self._logprobs(self._reference or self._model, answers)
            for answer, values in zip(answers, known, strict=True):
                answer.reference = values

    def _logprobs(self, model: Transformer, answers: list[Answer]) -> Iterator[list[float]]:
        """The log-probabilities of each answer's tokens."""
        corpus = self._corpus(answers)
        training = model.training
        model.eval()
        found: list[float] = []
        for rows in in_order(corpus, 0, self._length):
            with torch.autocast("cpu", torch.bfloat16, enabled=self._dtype == torch.bfloat16):
                found += answer_token_logprobs(model, collate([corpus], rows, self._length)).tolist()
        model.train(training)
        at = 0
        for answer in answers:
            yield found[at : (at := at + len(answer.tokens))]

    def _corpus(self, answers: list[Answer]) -> Corpus:
        """Answers behind their prompts, as documents of which the answers' tokens count."""
        ids, masks = [], []
        for answer in answers:
            prompt = self._task(answer).tokens
            ids.append(np.array([*prompt, *answer.tokens], np.uint32))
            masks.append(np.arange(len(ids[-1])) >= len(prompt))
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in ids])])
        return Corpus(
            "answers", 1.0, np.concatenate(ids), offsets, np.concatenate(masks), np.arange(len(ids) + 1),
            lambda sample: self._task(answers[sample]).where, may_be_cut=False,
        )  # fmt: skip
