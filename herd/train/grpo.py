"""GRPO's loss: three policies are told apart. The rollout policy is the engine that drew the answers, the old one the trainer's model as
it was then, the current one the model that learns.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from herd.train.loss import token_logprobs
from herd.train.objectives import Outcome, narrowed
from herd.train.packing import Batch
from herd.train.recipe import Grpo


class Facts(NamedTuple):
    """What is known of a batch's answers, one number a target token that counts, in the batch's order: [tokens].

    `rollout`, `old` and `reference` are log-probabilities; `old` is None where the policy has not moved since, `reference` where it
    is not needed. `share` is one over the number of the answer's tokens.
    """

    advantages: Tensor
    rollout: Tensor
    share: Tensor
    old: Tensor | None = None
    reference: Tensor | None = None


def answer_token_logprobs(model: Any, batch: Batch) -> Tensor:
    """The log-probability of each target token that counts, [tokens]."""
    kept = batch.weights.flatten().nonzero()[:, 0]
    found: Tensor = model(
        batch.tokens, mask=batch.documents,
        head=lambda h, w: token_logprobs(narrowed(h)[kept], w, batch.targets.flatten()[kept]),
    )  # fmt: skip
    return found


class GRPO:
    """The clipped surrogate of group-relative advantages (Shao et al., arXiv 2402.03300), each token weighted by the truncated ratio of
    the trainer's old probability to the engine's, which drew it.
    """

    def __init__(self, facts: Callable[[Batch], Facts], settings: Grpo) -> None:
        self._facts, self._settings = facts, settings
        self.unit = {"tokens": "tokens of answers", "answers": "answers", "length": "tokens answers may have"}[
            settings.divisor
        ]

    def count(self, batch: Batch) -> float:
        """The declared divisor's units."""
        if self._settings.divisor == "tokens":
            return float(batch.weights.sum())
        return float(batch.samples * (1 if self._settings.divisor == "answers" else self._settings.max_tokens))

    def __call__(self, model: Any, batch: Batch) -> Outcome:
        """Summed over tokens; of means over answers the sum."""
        facts = self._facts(batch)
        current = answer_token_logprobs(model, batch)
        old = current.detach() if facts.old is None else facts.old
        each, logged = token_losses(current, old, facts, self._settings)
        one = {"tokens": torch.ones(()), "answers": facts.share, "length": facts.share * self._settings.max_tokens}[
            self._settings.divisor
        ]  # what a token's part of a mean is: over tokens, or over answers of the means of their tokens
        if self._settings.divisor == "answers":
            each = each * facts.share
        return Outcome(each.sum(), {name: float((value * one).sum()) for name, value in logged.items()})


def token_losses(current: Tensor, old: Tensor, facts: Facts, settings: Grpo) -> tuple[Tensor, dict[str, Tensor]]:
    """Each token's loss, with gradient, and what is logged of each: how far the engine's log-probabilities are from the trainer's (`gap`,
    in nats; `drift`, the estimate r - 1 - log r of the divergence of the old policy from the engine's, r their ratio), whether
    its weight was truncated and its ratio clipped, and the divergence from the reference.
    """
    ratio = (current - old).exp()
    bounded = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    gained, least = ratio * facts.advantages, bounded * facts.advantages
    each = -torch.min(gained, least)
    apart = old - facts.rollout
    weight = apart.exp()
    logged = {"gap": apart.abs(), "drift": weight - 1 - apart, "clipped": (least < gained).float()}
    if settings.truncate:
        each = each * weight.clamp(max=settings.truncate)
        logged["truncated"] = (weight > settings.truncate).float()
    if facts.reference is not None:
        away = facts.reference - current
        divergence = away.exp() - away - 1  # Schulman's k3, never below 0
        each = each + settings.kl * ratio * divergence  # the ratio makes its gradient unbiased (arXiv 2512.02556)
        logged["kl"] = divergence.detach()
    return each, logged
