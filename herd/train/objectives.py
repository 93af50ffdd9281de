"""What is minimized. An objective says how many of its units a batch has, and sums its loss over them; the trainer divides
by the count of the whole global batch, however that was cut into pieces.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from herd.train.loss import token_logprobs, weighted_loss
from herd.train.packing import Batch


class Outcome(NamedTuple):
    """The summed loss, with gradient, and sums of what else is worth a line in the log (each over the same count)."""

    loss: Tensor
    sums: dict[str, float]


class Objective(Protocol):
    """One loss. `unit` is what `count` counts."""

    unit: str

    def count(self, batch: Batch) -> float:
        """How many units a batch has, known before anything is computed."""
        ...

    def __call__(self, model: Any, batch: Batch) -> Outcome:
        """The loss summed over a batch's units."""
        ...


def narrowed(hidden: Tensor) -> Tensor:
    """States [..., dim] as [n, dim], in the type that products are computed in."""
    hidden = hidden.flatten(0, -2)
    kind = hidden.device.type
    return hidden.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else hidden


class NextToken:
    """Cross-entropy of each next token that counts, in nats: pre-training, and fine-tuning where only answers count."""

    unit = "target tokens"

    def count(self, batch: Batch) -> float:
        """Targets that count."""
        return float(batch.weights.sum())

    def __call__(self, model: Any, batch: Batch) -> Outcome:
        """Summed over targets."""
        loss: Tensor = model(
            batch.tokens, mask=batch.documents,
            head=lambda h, w: weighted_loss(narrowed(h), w, batch.targets.flatten(), batch.weights.flatten()),
        )  # fmt: skip
        return Outcome(loss, {})


def answer_logprobs(model: Any, batch: Batch) -> Tensor:
    """The log-probability of each document's targets, summed: [documents], padding included (0)."""

    def head(hidden: Tensor, weight: Tensor) -> Tensor:
        each = token_logprobs(narrowed(hidden), weight, batch.targets.flatten()) * batch.weights.flatten()
        return batch.by_document(each)

    found: Tensor = model(batch.tokens, mask=batch.documents, head=head)
    return found


@dataclass
class DPO:
    """Direct preference optimization (arXiv 2305.18290) on summed log-probabilities, a mean over pairs, plus `nll` times the chosen
    answer's negative log-likelihood a target token of its own, as Llama 3 adds it (arXiv 2407.21783, section 4.1.4).

    `reference` gives the frozen model's log-probability of each document of a batch.
    """

    reference: Callable[[Batch], Tensor]
    beta: float = 0.1
    nll: float = 0.2
    unit = "pairs"

    def count(self, batch: Batch) -> float:
        """Pairs."""
        return float(batch.samples)

    def __call__(self, model: Any, batch: Batch) -> Outcome:
        """Summed over pairs."""
        found = answer_logprobs(model, batch)
        gained = (found - self.reference(batch))[batch.owner >= 0].view(-1, 2)
        margin = self.beta * (gained[:, 0] - gained[:, 1])
        loss = -F.logsigmoid(margin).sum()
        chosen = found[batch.owner >= 0].view(-1, 2)[:, 0]
        counts = batch.by_document(batch.weights.flatten())
        nll = -(chosen / counts[batch.owner >= 0].view(-1, 2)[:, 0]).sum()
        sums = {
            "accuracy": float((margin > 0).sum()), "margin": float(margin.detach().sum()), "nll": float(nll.detach()),
            "reward_chosen": float(self.beta * gained[:, 0].detach().sum()),
            "reward_rejected": float(self.beta * gained[:, 1].detach().sum()),
        }  # fmt: skip
        return Outcome(loss + self.nll * nll, sums)


class Reward:
    """Bradley-Terry loss of a head of one class on each answer's last token: the mean over pairs of better and worse answers, without a
    margin (arXiv 2407.21783, section 4.1.2; Ouyang et al., arXiv 2203.02155).
    """

    unit = "pairs of answers"

    def count(self, batch: Batch) -> float:
        """Pairs of answers to one prompt."""
        sizes = torch.bincount(batch.owner[batch.owner >= 0])
        return float((sizes * (sizes - 1) // 2).sum())

    def __call__(self, model: Any, batch: Batch) -> Outcome:
        """Summed over pairs."""
        score = scores(model, batch)
        owner = batch.owner[batch.owner >= 0]
        better, worse = torch.triu_indices(len(owner), len(owner), 1)
        same = owner[better] == owner[worse]
        gap = score[better[same]] - score[worse[same]]
        return Outcome(
            -F.logsigmoid(gap).sum(), {"accuracy": float((gap > 0).sum()), "margin": float(gap.detach().sum())}
        )


def scores(model: Any, batch: Batch) -> Tensor:
    """What a head of one class says of each document's end, its last target included, [documents without padding]."""
    found: Tensor = model(batch.tokens, mask=batch.documents)
    numbers, lengths = batch.document_of(), torch.tensor(batch.documents.lengths)
    ends = batch.documents.positions(batch.tokens.shape, batch.tokens.device).flatten() == lengths[numbers] - 1
    return batch.by_document(found.flatten() * ends)[batch.owner >= 0]


@dataclass
class Distillation:
    """Forward Kullback-Leibler divergence from a teacher's next-token distributions (Hinton et al., arXiv 1503.02531), a mean over
    target tokens, beside the data's own cross-entropy.
    """

    teacher: Any
    weight: float = 1.0
    data_weight: float = 0.0
    temperature: float = 1.0
    top: "Callable[[Batch], Top] | None" = None  # what is known of a teacher, in its place
    unit = "target tokens"

    def count(self, batch: Batch) -> float:
        """Targets that count."""
        return float(batch.weights.sum())

    def __call__(self, model: Any, batch: Batch) -> Outcome:
        """Summed over targets."""
        kept = batch.weights.flatten().nonzero()[:, 0]
        away = self._from(batch, kept)

        def head(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
            flat = narrowed(hidden)
            own = weighted_loss(flat, weight, batch.targets.flatten(), batch.weights.flatten())
            return away(flat[kept], weight), own

        apart, own = model(batch.tokens, mask=batch.documents, head=head)
        sums = {"divergence": float(apart.detach()), "nll": float(own.detach())}
        return Outcome(self.weight * apart + self.data_weight * own, sums)

    @torch.no_grad()
    def _from(self, batch: Batch, kept: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The divergence of a student's states and output weights from the teacher."""
        if self.top is not None:
            top = self.top(batch)
            return lambda h, w: top_divergence(h, w, top, self.temperature)
        wanted, teaches = self.teacher(batch.tokens, mask=batch.documents, head=lambda h, w: (narrowed(h)[kept], w))
        return lambda h, w: divergence(h, w, wanted, teaches, self.temperature)


def divergence(hidden: Tensor, weight: Tensor, wanted: Tensor, teaches: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) summed over tokens, times the temperature squared, logits made for some tokens at a time and again
    in the backward pass. hidden [n, dim], weight [vocab, dim]; the teacher's likewise.
    """

    def part(h: Tensor, w: Tensor, goal: Tensor) -> Tensor:
        student = F.log_softmax(F.linear(h, w.to(h.dtype)).float() / temperature, -1)
        teacher = F.log_softmax(F.linear(goal, teaches.to(goal.dtype)).float() / temperature, -1)
        return F.kl_div(student, teacher, reduction="sum", log_target=True)

    return _in_parts(part, hidden, weight, wanted) * temperature**2


class Top(NamedTuple):
    """A teacher's likeliest tokens: ids [n, k]; logprobs [n, k + 1], in nats, the last that of all other tokens together."""

    ids: Tensor
    logprobs: Tensor


@torch.no_grad()
def top_logprobs(hidden: Tensor, weight: Tensor, k: int, temperature: float) -> Top:
    """The `k` likeliest tokens of each state: hidden [n, dim], weight [vocab, dim]."""
    found = []
    for first in range(0, hidden.shape[0], _step(weight)):
        h = hidden[first : first + _step(weight)]
        logits = F.linear(h, weight.to(h.dtype)).float() / temperature
        ids = logits.topk(k).indices
        found.append(Top(ids, _told_apart(logits, ids)))
    return Top(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def top_divergence(hidden: Tensor, weight: Tensor, top: Top, temperature: float) -> Tensor:
    """As `divergence`, between distributions over the teacher's top k and the rest as one: never above the whole divergence."""

    def part(h: Tensor, w: Tensor, ids: Tensor, goal: Tensor) -> Tensor:
        student = _told_apart(F.linear(h, w.to(h.dtype)).float() / temperature, ids)
        return F.kl_div(student, goal, reduction="sum", log_target=True)

    return _in_parts(part, hidden, weight, *top) * temperature**2


def _told_apart(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of `ids` [n, k] and of all others together, [n, k + 1], from logits [n, vocab]."""
    rest = logits.scatter(1, ids, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([logits.gather(1, ids), rest], 1) - logits.logsumexp(1, keepdim=True)


def _step(weight: Tensor) -> int:
    return max(16, (32 << 20) // (4 * weight.shape[0]))


def _in_parts(part: Callable[..., Tensor], hidden: Tensor, weight: Tensor, *goals: Tensor) -> Tensor:
    """The sum of `part` over tokens, some at a time, computed again in the backward pass."""
    from torch.utils.checkpoint import checkpoint

    total = torch.zeros((), device=hidden.device)
    for first in range(0, hidden.shape[0], _step(weight)):
        span = slice(first, first + _step(weight))
        total = total + checkpoint(part, hidden[span], weight, *(goal[span] for goal in goals), use_reentrant=False)
    return total
