"""POST /v1/embeddings, as OpenAI documents it: vectors of texts by the model's final hidden states."""

import base64
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from herd.engine.embed import embedding_request, start, unit
from herd.errors import RequestError
from herd.serve.job import several
from herd.serve.reply import ensure_finished, generate
from herd.serve.schema import EmbeddingsRequest
from herd.serve.served import Served, check_prompt, limits

MAX_INPUTS = 2048
_AT_A_TIME = 16  # inputs in the engine: a large batch leaves others their place


class EmbeddingJob:
    """One request, checked and ready to run. Making it raises RequestError for what cannot be served."""

    def __init__(self, served: Served, body: EmbeddingsRequest, begun: float) -> None:
        self.served, self.body, self.limits = served, body, limits(served, body, begun)
        dim = served.engine.config.dim
        if body.dimensions not in (None, dim):
            raise RequestError(
                f"dimensions is {body.dimensions}; expected {dim}: this model's vectors lose their meaning when they are cut",
                param="dimensions",
            )
        given = several(body.input, "input")
        if len(given) > MAX_INPUTS:
            raise RequestError(f"input has {len(given):,} inputs; expected {MAX_INPUTS:,} at most", param="input")
        tokenizer = served.engine.tokenizer
        self.prompts = [start(tokenizer, one) if isinstance(one, str) else one for one in given]
        for i, prompt in enumerate(self.prompts):
            self._check(f"input[{i}]" if len(given) > 1 else "input", prompt)
        self.replies = min(len(self.prompts), _AT_A_TIME)

    def _check(self, name: str, prompt: list[int]) -> None:
        engine = self.served.engine
        if not prompt:
            raise RequestError(f"{name} is empty; expected text or tokens", param="input")
        if not 0 <= min(prompt) <= max(prompt) < engine.config.vocab:
            raise RequestError(f"{name}: expected tokens from 0 to {engine.config.vocab - 1}", param="input")
        if len(prompt) > engine.max_length:
            raise RequestError(
                f"{name} has {len(prompt):,} tokens; expected {engine.max_length:,} at most",
                param="input", code="context_length_exceeded",
            )  # fmt: skip
        check_prompt(self.served, len(prompt))

    async def whole(self) -> dict[str, Any]:
        """The answer."""
        rows: list[tuple[float, ...]] = [()] * len(self.prompts)
        until = None if self.limits.timeout is None else time.monotonic() + self.limits.timeout
        for first in range(0, len(rows), _AT_A_TIME):
            left = None if until is None else max(0.001, until - time.monotonic())
            requests = [
                embedding_request(
                    self.prompts[i], self.body.pooling or "mean", priority=self.limits.priority, deadline=left, id=str(i)
                )
                for i in range(first, min(first + _AT_A_TIME, len(rows)))
            ]  # fmt: skip
            async for event in generate(self.served, requests):
                ensure_finished(event.finish_reason)
                rows[int(event.request)] = event.embedding
        vectors = unit(np.array(rows, np.float64)).astype("<f4")
        count = sum(map(len, self.prompts))
        return {
            "object": "list", "model": self.served.name,
            "data": [{"object": "embedding", "index": i, "embedding": self._shown(v)} for i, v in enumerate(vectors)],
            "usage": {"prompt_tokens": count, "total_tokens": count},
        }  # fmt: skip

    def _shown(self, vector: NDArray[np.float32]) -> str | list[float]:
        if self.body.encoding_format == "base64":
            return base64.b64encode(vector.tobytes()).decode()
        shown: list[float] = vector.tolist()
        return shown
