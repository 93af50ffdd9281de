"""Where guesses of the next tokens come from: what was said before, or a small model that reads along (speculative decoding).

A guess changes no result: the step chooses a token after each by the request's own rules and random numbers, and keeps
those up to the first that was not guessed. So sampled tokens are bit for bit those of plain decoding too.
"""

from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from herd.engine.backend import Backend, Row, Sampling, StepPlan
from herd.engine.cache import BlockCache
from herd.engine.lookup import Lookup
from herd.engine.pace import MASK, VERIFY, Pace
from herd.engine.request import SamplingParams
from herd.engine.sequence import Sequence
from herd.errors import ConfigError
from herd.text.tokenizer import Tokenizer

_CHUNK = 512  # tokens that a draft model reads in a step


@dataclass(slots=True)
class Wish:
    """A sequence that may be guessed for, up to `most` tokens, how it samples, and the guess."""

    sequence: Sequence
    sampling: Sampling
    most: int
    guess: list[int] = field(default_factory=list)


class Drafter(Protocol):
    """Guesses for one engine's sequences."""

    def guess(self, wishes: list[Wish]) -> None:
        """Fill in the guesses; every sequence has blocks for `most` tokens more than it has."""
        ...

    def learn(self, sequence: Sequence, guessed: int, right: int) -> None:
        """So many of the last guess were right; `sequence` does not have them yet."""
        ...

    def forget(self, sequence: Sequence) -> None:
        """A sequence has ended."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


def _verifying(sequence: Sequence) -> float:
    return VERIFY if sequence.constraint is None else VERIFY + MASK


class LookupDrafter:
    """Guesses what followed the last tokens before; see `herd.engine.lookup`."""

    def __init__(self) -> None:
        self._lookups: dict[Sequence, Lookup] = {}

    def guess(self, wishes: list[Wish]) -> None:
        """Look up."""
        for wish in wishes:
            lookup = self._lookups.get(wish.sequence)
            if lookup is None:
                lookup = self._lookups[wish.sequence] = Lookup(_verifying(wish.sequence))
            wish.guess = lookup.guess(wish.sequence.tokens, wish.most)

    def learn(self, sequence: Sequence, guessed: int, right: int) -> None:
        """Longer guesses, or shorter ones."""
        self._lookups[sequence].learn(guessed, right)

    def forget(self, sequence: Sequence) -> None:
        """Drop what was indexed."""
        self._lookups.pop(sequence, None)

    def close(self) -> None:
        """Nothing is held."""


@dataclass(slots=True)
class _Reader:
    """How far the draft model has read a sequence, in which of its blocks."""

    pace: Pace
    params: SamplingParams  # without what only the reply needs
    blocks: list[int] = field(default_factory=list)
    computed: int = 0


class ModelDrafter:
    """Guesses what a small model would say with the same random numbers.

    Its cache has a block for each of the engine's, so that a sequence has one list of blocks for both. `cost` is what one of
    its tokens takes in steps of the model that it guesses for.
    """

    def __init__(self, backend: Backend, cache: BlockCache, cost: float) -> None:
        if (backend.block_count, backend.block_size) != (cache.count, cache.size):
            raise ConfigError(
                f"the draft model's cache has {backend.block_count} blocks of {backend.block_size} tokens; "
                f"expected {cache.count} of {cache.size}, as the model's"
            )
        self._backend, self._cache, self._cost = backend, cache, cost
        self._readers: dict[Sequence, _Reader] = {}
        self._filled: dict[int, bytes] = {}  # whole blocks that the draft model has computed, and what is in them

    def guess(self, wishes: list[Wish]) -> None:
        """Read what is new of all sequences together, then a token a step for those that want more."""
        budget = _CHUNK
        going: list[tuple[Wish, int]] = []
        rows: list[Row] = []
        for wish in wishes:
            sequence, tokens = wish.sequence, wish.sequence.tokens
            reader = self._reader(sequence)
            count = reader.pace.length(min(wish.most, self._backend.config.context - len(tokens)))
            if count <= 0 or budget <= 0:
                continue
            stop = min(len(tokens), reader.computed + budget)
            budget -= stop - reader.computed
            row = Row(tokens[reader.computed : stop], reader.computed, sequence.blocks)
            if stop == len(tokens):
                row.sampling = self._sampling(wish, reader)
            self._read(sequence, reader, stop)
            rows.append(row)
            going.append((wish, count))
        while going:
            results = self._backend.step(StepPlan(rows))
            next_rows, next_going = [], []
            for (wish, count), row, result in zip(going, rows, results, strict=True):
                if result.token is None or not result.finite:
                    continue
                wish.guess.append(result.token)
                if len(wish.guess) < count:
                    start = row.start + len(row.tokens)
                    sampling = self._sampling(wish, self._readers[wish.sequence])
                    next_rows.append(Row([result.token], start, wish.sequence.blocks, sampling))
                    next_going.append((wish, count))
            rows, going = next_rows, next_going

    def learn(self, sequence: Sequence, guessed: int, right: int) -> None:
        """Of what was guessed the draft model has read all but the last."""
        reader = self._readers[sequence]
        reader.pace.learn(guessed, right)
        reader.computed += min(right, guessed - 1)

    def forget(self, sequence: Sequence) -> None:
        """Whole blocks stay to be found by others."""
        self._readers.pop(sequence, None)

    def close(self) -> None:
        """Free the draft model."""
        self._backend.close()

    def _reader(self, sequence: Sequence) -> _Reader:
        reader = self._readers.get(sequence)
        if reader is None:
            params = msgspec.structs.replace(sequence.params, logprobs=None)
            reader = self._readers[sequence] = _Reader(Pace(self._cost + _verifying(sequence)), params)
        if reader.blocks is not sequence.blocks:  # it is new, or gave its blocks back meanwhile
            reader.blocks, reader.computed = sequence.blocks, 0
            while reader.computed + self._cache.size < len(sequence.tokens):
                i = reader.computed // self._cache.size
                if self._filled.get(sequence.blocks[i]) != self._cache.name(sequence.tokens, sequence.digests, i):
                    break
                reader.computed += self._cache.size
        return reader

    def _read(self, sequence: Sequence, reader: _Reader, stop: int) -> None:
        """Note that tokens up to `stop`, and guesses in the block after them, are written to the draft model's cache."""
        size = self._cache.size
        for i in range(reader.computed // size, len(sequence.blocks)):
            self._filled.pop(sequence.blocks[i], None)
        for i in range(reader.computed // size, stop // size):
            self._filled[sequence.blocks[i]] = self._cache.name(sequence.tokens, sequence.digests, i)
        reader.computed = stop

    def _sampling(self, wish: Wish, reader: _Reader) -> Sampling:
        asked = wish.sampling
        return Sampling(
            reader.params,
            asked.seed,
            asked.position + len(wish.guess),
            [*asked.history, *wish.guess] if asked.history else (),
            asked.prompt_length,
        )


def check_same_tokens(draft: Tokenizer, target: Tokenizer, vocabs: tuple[int, int]) -> None:
    """ConfigError naming the first difference between a draft model's tokens and those of the model that it guesses for.

    `vocabs` are the numbers of logits of both.
    """
    if vocabs[0] != vocabs[1]:
        raise ConfigError(
            f"the draft model has {vocabs[0]:,} tokens and the model {vocabs[1]:,}; expected the same tokenizer"
        )
    if draft.special_tokens != target.special_tokens:
        names = sorted({*draft.special_tokens.items()} ^ {*target.special_tokens.items()})
        raise ConfigError(f"the draft model's special tokens differ at {names[0][0]!r}; expected the same tokenizer")
    for token in range(vocabs[0]):
        ours, theirs = draft.token_bytes(token), target.token_bytes(token)
        if ours != theirs:
            raise ConfigError(
                f"token {token} is {ours!r} in the draft model and {theirs!r} in the model; expected the same tokenizer"
            )
