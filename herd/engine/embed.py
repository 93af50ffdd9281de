"""Embeddings: texts -> vectors that are near where the model finds the texts alike."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from herd.engine.engine import Engine
from herd.engine.request import Pooling, Request, SamplingParams
from herd.text.tokenizer import Tokenizer


def embed(
    engine: Engine, inputs: Iterable[str | Sequence[int]], *, pooling: Pooling = "mean", normalize: bool = True
) -> NDArray[np.float32]:
    """One row for each input, text or tokens: float32 [inputs, dim], of length 1 with `normalize`.

    RequestError for an input that is longer than the context, or is empty.
    """
    tokenizer = engine.tokenizer
    prompts = (start(tokenizer, one) if isinstance(one, str) else one for one in inputs)
    requests = (embedding_request(prompt, pooling, id=str(i)) for i, prompt in enumerate(prompts))
    found = {}
    for completion in engine.run(requests):
        if completion.error is not None:
            raise completion.error
        found[int(completion.request.id)] = completion.embedding
    rows = np.array([found[i] for i in range(len(found))], np.float64).reshape(-1, engine.config.dim)
    return (unit(rows) if normalize else rows).astype(np.float32)


def embedding_request(prompt: Sequence[int], pooling: Pooling, **more: object) -> Request:
    """What the engine is asked for one embedding."""
    return Request(prompt=prompt, params=SamplingParams(max_tokens=0), pooling=pooling, **more)  # type: ignore[arg-type]


def unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows [.., dim] of length 1; one of zeros stays."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)


def start(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of a text that begins a prompt: after the token that the model's prompts start with, if there is one."""
    first = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return [*first, *tokenizer.encode(text)]
