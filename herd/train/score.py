"""A reward model as a function: a dialog in, one number out."""

from collections.abc import Callable, Sequence

import torch

from herd.errors import ConfigError
from herd.model.load import from_checkpoint
from herd.text.messages import Message
from herd.weights.checkpoint import Checkpoint

Scorer = Callable[[Sequence[Message]], float]


def scorer(checkpoint: Checkpoint) -> Scorer:
    """What the head of one class says at the last token of a whole dialog, as `Reward` trains it. ConfigError for another model."""
    if checkpoint.config.classes != 1:
        raise ConfigError(f'{checkpoint.path}: not a reward model; train one with objective = "reward"')
    model = from_checkpoint(checkpoint.config, checkpoint.tensors, torch.float32)
    chat, longest = checkpoint.chat_format(), checkpoint.config.context

    @torch.no_grad()
    def score(messages: Sequence[Message]) -> float:
        tokens = chat.encode(messages, reply=False).tokens[-longest:]
        return float(model(torch.tensor([tokens]))[0, -1, 0])

    return score
