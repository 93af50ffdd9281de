"""Log-probabilities of the tokens of a text that is shown: no stop strings, no end of the turn, no calls."""

from collections import deque

from herd.engine.request import Event, TokenLogprob
from herd.text.tokenizer import Tokenizer


class ContentScores:
    """Takes the scores of all tokens as they come, and gives those whose text has been shown."""

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
