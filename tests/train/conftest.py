"""A tiny model with Llama 3's dialog format as a folder, and small data in each kind."""

import json
from pathlib import Path

import pytest

from herd.family import shape
from herd.weights.convert import convert
from herd.weights.open import open_checkpoint
from tests.models import random_checkpoint

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "saw",
    "that",
    "dogs",
    "run",
    "fast",
    "in",
    "rain",
    "while",
    "birds",
    "sing",
    "songs",
    "of",
    "old",
    "times",
]


def sentence(i: int, words: int) -> str:
    return " ".join(WORDS[(i * 7 + k * k + 3) % len(WORDS)] for k in range(words))


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """model/, text.txt, valid.txt, chat.jsonl, pairs.jsonl, ranked.jsonl."""
    folder = tmp_path_factory.mktemp("train")
    convert(random_checkpoint(shape("tiny")), folder / "model", "hf")
    (folder / "text.txt").write_text("\n\n\n".join(sentence(i, 5 + i % 30) for i in range(60)))
    (folder / "valid.txt").write_text("\n\n\n".join(sentence(i + 100, 20) for i in range(5)))
    chats = [{"prompt": sentence(i, 3), "completion": sentence(i + 1, 2 + i % 5)} for i in range(40)]
    pairs = [
        {"prompt": sentence(i, 2), "chosen": sentence(i, 3), "rejected": sentence(i + 5, 1 + i % 4)} for i in range(20)
    ]
    ranked = [{"prompt": sentence(i, 2), "answers": [sentence(i + k, 2) for k in range(2 + i % 2)]} for i in range(12)]
    for name, rows in (("chat", chats), ("pairs", pairs), ("ranked", ranked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def find(place):
    return lambda name: open_checkpoint(place / name)
