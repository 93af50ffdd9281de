"""herd as a model of lm-evaluation-harness: its tasks, its prompts, its scores, computed by herd's engine.

    python -m herd.evals.lm_eval run --model herd --model_args pretrained=smollm2-135m --tasks arc_easy

is the harness's own command line with one more model; in a program, importing this module registers it. What its users stumble over is done right:
a text starts with the model's start token if the model declares one, and with one only; a reply may be 1,024 tokens where a task says
nothing, not 256; and the whole context is used, to the last token.
"""

import math
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from herd.errors import ConfigError, MissingDependencyError

try:
    from lm_eval import utils
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from tqdm import tqdm
except ImportError as missing:
    raise MissingDependencyError(
        "herd.evals.lm_eval needs lm-evaluation-harness; pip install 'llama-herd[evals]'"
    ) from missing

from herd.engine.open import open_engine
from herd.engine.request import Completion, Request, SamplingParams
from herd.text.chat_format import chat_format
from herd.text.messages import Message
from herd.text.tokenizer import decode, encode_special
from herd.weights.checkpoint import Checkpoint
from herd.weights.local import find
from herd.weights.open import open_checkpoint

_SCORE = SamplingParams(max_tokens=0, temperature=0.0, logprobs=1)
Scored = tuple[float, bool]


def _open(name: str | Checkpoint, models: str) -> Checkpoint:
    """A model by path, or by the name it was pulled under."""
    if isinstance(name, Checkpoint):
        return name
    path = find(name, Path(models).expanduser())
    if path is None:
        raise ConfigError(f"model {name!r} is not here; give a path, or fetch one first: herd pull hf:ORG/NAME")
    return open_checkpoint(path)


@register_model("herd")
class HerdLM(LM):  # type: ignore[misc]
    """`pretrained` is a path or the name of a model that was pulled to `models`. `add_bos_token` overrides what the model declares, `max_length` is tokens of context,
    `max_gen_toks` the longest reply of tasks that name none; `backend`, `device`, `dtype`, `threads` are the engine's. Batches are the engine's own.
    """

    def __init__(
        self, pretrained: str | Checkpoint, backend: str = "auto", device: str | None = None, dtype: str | None = None,
        threads: int | None = None, max_length: int | None = None, add_bos_token: bool | None = None, max_gen_toks: int = 1024,
        batch_size: Any = None, max_batch_size: Any = None, models: str = "~/.cache/herd/models",
    ) -> None:  # fmt: skip
        super().__init__()
        checkpoint = _open(pretrained, models)
        self._name = str(pretrained if isinstance(pretrained, str) else checkpoint.path)
        self._template = checkpoint.chat_template
        self.engine = open_engine(
            checkpoint, backend, device=device, dtype=dtype, threads=threads, cache_tokens=max_length
        )
        weakref.finalize(self, self.engine.close)  # the harness closes nothing
        self.tokenizer = checkpoint.tokenizer
        self.max_length, self.max_gen_toks = self.engine.max_length, max_gen_toks
        declared = self.tokenizer.declared
        if add_bos_token and declared.bos is None:
            raise ConfigError(f"add_bos_token: {self._name} declares no start token")
        self._first = declared.first if add_bos_token is None else declared.bos if add_bos_token else None
        self._bos = declared.bos
        self.prefix_token_id: int = (
            declared.bos if declared.bos is not None else min(self.tokenizer.stop_ids, default=0)
        )

    def tok_encode(self, text: str) -> list[int]:
        """Tokens of a prompt. The harness writes special tokens by name, so names are read; the start token is not put before itself."""
        found = encode_special(self.tokenizer, text)
        return found if self._first is None or found[:1] == [self._first] else [self._first, *found]

    # The dialog: the harness wants one string.

    @property
    def tokenizer_name(self) -> str:
        """What the harness's caches of requests are named after."""
        return self._name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template, for the harness's record."""
        return (self._template or "the model's own format") if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt of a dialog; without `add_generation_prompt` its last message is a reply that is to go on."""
        messages = [Message(m["role"], m["content"]) for m in chat_history]  # type: ignore[arg-type]
        begun = "" if add_generation_prompt else messages.pop().content
        encoded = chat_format(self.tokenizer, self._template).encode(messages)
        return decode(self.tokenizer, encoded.tokens) + begun

    # What the harness asks for.

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[Scored]:
        """(log-likelihood, whether greedy decoding would give it) of each continuation after its context."""
        pairs = [self._pair(*request.args) for request in requests]
        found: list[Scored] = [(0.0, False)] * len(pairs)
        order = sorted(range(len(pairs)), key=lambda i: pairs[i][0])  # what starts alike stands together
        made = ((i, self._request(*pairs[i])) for i in order)
        for number, completion in self._run(made, len(pairs), "loglikelihood", disable_tqdm):
            found[number] = _scored(completion)
            self.cache_hook.add_partial("loglikelihood", requests[number].args, found[number])
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods of whole texts, in the harness's own windows."""
        found = [0.0] * len(requests)
        windows: list[tuple[int, tuple[list[int], int]]] = []
        for number, request in enumerate(requests):
            tokens = encode_special(self.tokenizer, request.args[0])
            rolling = utils.get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, 1)
            for context, continuation in map(utils.make_disjoint_window, rolling):
                windows.append((number, ([*context, *continuation], len(context))))
        made = ((i, self._request(*window)) for i, (_, window) in enumerate(windows))
        for i, completion in self._run(made, len(windows), "loglikelihood_rolling", disable_tqdm):
            found[windows[i][0]] += _scored(completion)[0]
        for request, value in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Replies, each to the first of its `until`, an end token, or its limit."""
        found = [""] * len(requests)
        made = ((i, self._generation(*request.args)) for i, request in enumerate(requests))
        for number, completion in self._run(made, len(requests), "generate_until", disable_tqdm):
            found[number] = completion.text
            self.cache_hook.add_partial("generate_until", requests[number].args, completion.text)
        return found

    # How it is asked.

    def _pair(self, context: str, continuation: str) -> tuple[list[int], int]:
        """Tokens of both, and where the continuation begins; the harness's rules for spaces and for an empty context."""
        if not context:
            tokens = encode_special(self.tokenizer, continuation)
            return (tokens, 1) if tokens[:1] == [self.prefix_token_id] else ([self.prefix_token_id, *tokens], 1)
        stripped = context.rstrip()
        return self.tok_encode(context + continuation), len(self.tok_encode(stripped))

    def _request(self, whole: list[int], first: int) -> Request | None:
        """The last token needs not be computed, so that one more than the context can be scored; what is longer is cut from the left."""
        cut = max(0, len(whole) - self.max_length - 1)
        whole, first = whole[cut:], max(1, first - cut)
        if first >= len(whole):
            return None  # nothing to score
        if len(whole) <= self.max_length:
            return Request(prompt=whole, score_from=first, params=_SCORE)
        every = tuple(range(self.tokenizer.vocab_size))  # which is the likeliest is seen among all
        start = first if first < len(whole) - 1 else None
        return Request(prompt=whole[:-1], score_from=start, score_tokens=every, params=_SCORE, id=str(whole[-1]))

    def _generation(self, context: str, settings: dict[str, Any]) -> Request:
        settings = dict(settings)
        until = settings.pop("until", None) or []
        limit = int(settings.pop("max_gen_toks", self.max_gen_toks))
        sample = settings.pop("do_sample", None)
        heat = float(settings.pop("temperature", 0.0) or 0.0)
        temperature = 0.0 if sample is False else heat
        known = {"top_p", "top_k", "min_p", "repetition_penalty", "seed"}
        if unknown := set(settings) - known:
            raise ConfigError(f"generation setting {sorted(unknown)[0]!r}; herd knows {', '.join(sorted(known))}")
        if limit >= self.max_length:
            raise ConfigError(f"max_gen_toks is {limit:,}; the context has {self.max_length:,} tokens")
        stop = tuple(text for text in ([until] if isinstance(until, str) else until) if text)
        params = SamplingParams(temperature=temperature, max_tokens=limit, stop=stop, **settings)
        return Request(prompt=self.tok_encode(context)[limit - self.max_length :], params=params)

    def _run(
        self, requests: Iterator[tuple[int, Request | None]], total: int, what: str, quiet: bool
    ) -> Iterator[tuple[int, Completion]]:
        from msgspec.structs import replace

        def named() -> Iterator[Request]:
            for number, request in requests:
                if request is not None:
                    yield replace(request, id=f"{number} {request.id}")

        with tqdm(total=total, desc=f"Running {what} requests", disable=quiet or None) as bar:
            for completion in self.engine.run(named()):
                if completion.error is not None:
                    raise completion.error
                bar.update()
                yield int(completion.request.id.split()[0]), completion


def _scored(completion: Completion) -> Scored:
    """The sum over the tokens that were asked for, and whether each was the likeliest."""
    scores = [score for score in completion.prompt_logprobs or () if score is not None]
    values = [score.logprob for score in scores]
    greedy = all(score.logprob >= score.top[0][1] for score in scores)
    if completion.token_logprobs:
        last = completion.token_logprobs[int(completion.request.id.split()[1])]
        values.append(last)
        greedy = greedy and last >= max(completion.token_logprobs)
    return math.fsum(values), greedy


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
