"""Perplexity of a text, computed as llama.cpp's `llama-perplexity` does, so that figures can be compared."""

import math

from herd.engine.backend import Backend, Row, StepPlan
from herd.errors import ConfigError, NotFiniteError
from herd.progress import Progress, silent
from herd.text.tokenizer import Tokenizer

_MOST = 700  # nats a token; a float64 ends at e^709


def perplexity(
    backend: Backend,
    tokenizer: Tokenizer,
    text: str,
    *,
    context: int = 512,
    chunks: int | None = None,
    progress: Progress = silent,
) -> tuple[float, int]:
    """e to the mean negative log-likelihood, and how many tokens it is a mean of.

    The text's tokens are cut into chunks of `context`; in each, the model sees all and is scored on the second half.
    A model that starts its texts with a token has it in place of each chunk's first. `progress` counts
    chunks, with the figure so far as its remark. ConfigError when the text is shorter than one chunk,
    NotFiniteError when the model computes no number.
    """
    if context < 8 or context > backend.config.context or context > backend.block_count * backend.block_size:
        raise ConfigError(f"context is {context}; expected 8 to {backend.config.context}, and a cache that holds it")
    tokens = tokenizer.encode(text)
    if tokenizer.bos_id is not None:
        tokens.insert(0, tokenizer.bos_id)
    count = len(tokens) // context
    if chunks is not None:
        count = min(count, chunks)
    if count < 1:
        raise ConfigError(f"the text has {len(tokens)} tokens; expected at least one chunk of {context}")
    half = context // 2
    blocks = list(range(-(-context // backend.block_size)))
    first_blocks = blocks[: -(-half // backend.block_size)]
    loss, scored = 0.0, 0
    for i in range(count):
        chunk = tokens[i * context : (i + 1) * context]
        if tokenizer.bos_id is not None:
            chunk[0] = tokenizer.bos_id
        backend.step(StepPlan([Row(chunk[:half], 0, first_blocks)]))
        found = backend.step(StepPlan([Row(chunk[half:], half, blocks, targets=chunk[half + 1 :])]))
        if not found[0].finite:
            raise NotFiniteError(
                f"chunk {i + 1}: the model computed a NaN or an infinity; its weights are damaged or overflow in this number format"
            )
        scores = found[0].scores or []
        loss -= math.fsum(score.logprob for score in scores)
        scored += len(scores)
        if loss / scored > _MOST:
            raise NotFiniteError(f"chunk {i + 1}: perplexity is beyond e^{_MOST}; the model's weights are damaged")
        progress("chunks", i + 1, count, note=f"{math.exp(loss / scored):.4f}")
    return math.exp(loss / scored), scored
