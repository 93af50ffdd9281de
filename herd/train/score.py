"""A reward model as a function: dialogs in, a number for each out."""

from collections.abc import Sequence

import torch

from herd.errors import ConfigError
from herd.model.attention import Documents
from herd.model.load import from_checkpoint
from herd.text.messages import Message
from herd.weights.checkpoint import Checkpoint

_TOGETHER = 4096  # tokens that it reads at a time


class RewardModel:
    """A model with a head of one class, as `objective = "reward"` trains it. ConfigError, with its `name`, for another model."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        if checkpoint.config.classes != 1:
            raise ConfigError(f'reward model {name}: has no head of one class; train one with objective = "reward"')
        self.context = checkpoint.config.context
        self._chat = checkpoint.chat_format()
        self._model = from_checkpoint(checkpoint.config, checkpoint.tensors, torch.float32).requires_grad_(False)

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        """A whole dialog as the model reads it."""
        return list(self._chat.encode(messages, reply=False).tokens)

    @torch.no_grad()
    def __call__(self, dialogs: Sequence[Sequence[int]]) -> list[float]:
        """The score at the last token of each dialog."""
        found: list[float] = []
        while len(found) < len(dialogs):
            part = [*dialogs[len(found) : len(found) + 1]]
            for one in dialogs[len(found) + 1 :]:
                if sum(map(len, part)) + len(one) > _TOGETHER:
                    break
                part.append(one)
            lengths = tuple(map(len, part))
            scores = self._model(torch.tensor([[token for one in part for token in one]]), mask=Documents(lengths))
            found += scores[0, torch.tensor(lengths).cumsum(0) - 1, 0].tolist()
        return found
