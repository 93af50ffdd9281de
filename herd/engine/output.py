"""What becomes of a sequence's tokens: text, held back where it may begin a stop string, its scores, as events or one completion."""

from collections import deque
from collections.abc import Callable
from typing import Any

from herd.engine.backend import RowResult
from herd.engine.request import Completion, Event, FinishReason, Request, TokenLogprob, Usage
from herd.engine.sequence import Sequence
from herd.errors import HerdError
from herd.text.tokenizer import StreamDecoder, Tokenizer


class Caller:
    """Who waits for completions: `deliver` takes what a step had for it in a list, events, or completions where they are
    wanted `whole`, and exceptions. One at a time would hand the interpreter to and fro for each.
    """

    def __init__(self, deliver: Callable[[list[Any]], None], *, whole: bool = False) -> None:
        self.deliver, self.whole = deliver, whole
        self.open: set[Output] = set()  # the engine's thread keeps it


class Output:
    """One completion in the making: `sequence` of `request`, whose first is `first`; `special` tokens are not shown."""

    def __init__(
        self, caller: Caller, request: Request, sequence: Sequence, first: Sequence, tokenizer: Tokenizer,
        special: frozenset[int],
    ) -> None:  # fmt: skip
        self.caller, self.request, self.sequence = caller, request, sequence
        self._first, self._tokenizer, self._special = first, tokenizer, special
        self._decoder = StreamDecoder(tokenizer)
        self._stop = StopStrings(sequence.params.stop)
        self._stopped = False
        self._echoed = not sequence.params.echo
        self._text: list[str] = []
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._token_logprobs: tuple[float, ...] = ()

    def take(self, result: RowResult) -> FinishReason | None:
        """Take what a step found; returns why the completion ends with it, if it does."""
        sequence, params, token = self.sequence, self.sequence.params, result.token
        self._token_logprobs = result.token_logprobs
        if token is None:
            return "length"
        self._tokens.append(token)
        if result.logprob is not None:
            self._logprobs.append(result.logprob)
        if token in params.stop_tokens or (not params.ignore_eos and token in self._tokenizer.stop_ids):
            return "stop"
        if params.show_special or token not in self._special:
            text, self._stopped = self._stop.push(self._decoder.push(token))
            self._text.append(text)
            if self._stopped:
                return "stop"
        return "length" if len(sequence.tokens) >= sequence.max_length else None

    def news(self) -> Event | None:
        """What is new, unless the completion is wanted whole."""
        if not self.caller.whole and (self._tokens or any(self._text)):
            return Event(**self._parts())
        return None

    def finish(self, reason: FinishReason, error: HerdError | None = None) -> Event | Completion | HerdError:
        """The end; a stream's error as such."""
        if error is not None and not self.caller.whole:
            return error
        if not self._stopped:
            text, stopped = self._stop.push(self._decoder.finish())
            self._text += [text] if stopped else [text, self._stop.finish()]
        sequence = self.sequence
        cached = self._first.cached or 0  # what the others found beside that, the first had computed for them
        parts = self._parts()
        parts["usage"] = Usage(sequence.prompt_length, sequence.reply_length, cached)
        parts["token_logprobs"] = self._token_logprobs
        if (state := sequence.state) is not None:
            count = sequence.prompt_length if sequence.pooling == "mean" else 1
            parts["embedding"] = tuple(value / count for value in state)
        if self.request.score_from is not None:
            parts["prompt_logprobs"] = tuple(sequence.scores)
        if self.caller.whole:
            parts["request"] = self.request
            return Completion(finish_reason=reason, error=error, **parts)
        return Event(finish_reason=reason, **parts)

    def _parts(self) -> dict[str, Any]:
        """What is new, taken out."""
        sequence = self.sequence
        text = "".join(self._text)
        parts: dict[str, Any] = {"request": sequence.request, "index": sequence.index}
        if not self._echoed:
            self._echoed = True
            text = self._prompt() + text
            if sequence.params.logprobs is not None:
                parts["prompt_logprobs"] = (None, *sequence.scores)
        parts.update(text=text, tokens=tuple(self._tokens), logprobs=tuple(self._logprobs))
        self._text, self._tokens, self._logprobs = [], [], []
        return parts

    def _prompt(self) -> str:
        """The text of the prompt."""
        sequence = self.sequence
        prompt = sequence.tokens[: sequence.prompt_length]
        shown = [t for t in prompt if sequence.params.show_special or t not in self._special]
        return b"".join(map(self._tokenizer.token_bytes, shown)).decode("utf-8", "replace")


class StopStrings:
    """Ends a text before the first stop string and never shows the beginning of one: what `push` gives back is safe to show."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Text that is certain, and whether a stop string has been reached."""
        if not self._stops:
            return text, False
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            return self._held[: min(found)], True
        keep = max(_beginning(stop, self._held) for stop in self._stops)
        certain = len(self._held) - keep
        text, self._held = self._held[:certain], self._held[certain:]
        return text, False

    def finish(self) -> str:
        """What was held back when the stream ended without a stop string."""
        text, self._held = self._held, ""
        return text


def _beginning(stop: str, text: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`, short of all of it."""
    at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while at >= 0 and not stop.startswith(text[at:]):
        at = text.find(stop[0], at + 1)
    return len(text) - at if at >= 0 else 0


class ContentScores:
    """Takes the scores of all tokens as they come, and gives those whose text has been shown: no stop strings, no end of the
    turn, no calls.
    """

    def __init__(self, tokenizer: Tokenizer, *, show_special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._hidden = frozenset() if show_special else frozenset(tokenizer.special_tokens.values())
        self._waiting: deque[tuple[TokenLogprob, int]] = deque()  # with the bytes of text up to its end
        self._produced = self._shown = 0

    def push(self, event: Event) -> None:
        """Take an event's scores; the token that ends the turn has none here."""
        scores = event.logprobs
        if event.finish_reason == "stop" and scores and scores[-1].token in self._tokenizer.stop_ids:
            scores = scores[:-1]
        for score in scores:
            if score.token not in self._hidden:
                self._produced += len(self._tokenizer.token_bytes(score.token))
            self._waiting.append((score, self._produced))

    def of(self, text: str) -> tuple[TokenLogprob, ...]:
        """The scores of tokens that are shown whole once `text` is."""
        if not self._waiting and not self._produced:
            return ()
        self._shown += len(text.encode("utf-8", "replace"))
        found = []
        while self._waiting and self._waiting[0][1] <= self._shown:
            found.append(self._waiting.popleft()[0])
        return tuple(found)

    def skip(self) -> None:
        """What has come so far will not be shown."""
        self._waiting.clear()
        self._shown = self._produced
