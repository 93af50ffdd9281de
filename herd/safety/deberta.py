"""Meta's Prompt Guard on a CPU without torch: DeBERTa-v3 (He and others 2021, arXiv 2111.09543), a classifier of texts, in numpy.

Reads a Hugging Face folder of any DeBERTa-v2 or v3 sequence classifier whose options it knows (mDeBERTa's 86M, DeBERTa's 22M); others
are refused by name. Attention sees what a token says and how far another is, in both directions (arXiv 2006.03654, section 3.1).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from herd.errors import FormatError, first_line
from herd.weights.checkpoint import StoredTensor
from herd.weights.files import read_json
from herd.weights.hf import SafetensorsFile

WINDOW, STEP = 512, 384  # tokens of a window with its two marks; the next begins so many tokens later


class Config(msgspec.Struct, frozen=True):
    """What config.json says."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    id2label: dict[str, str] = {}
    hidden_act: str = "gelu"
    pooler_hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-7
    max_position_embeddings: int = 512
    max_relative_positions: int = -1
    position_buckets: int = -1
    relative_attention: bool = False
    share_att_key: bool = False
    pos_att_type: list[str] | str = []
    norm_rel_ebd: str = "none"
    position_biased_input: bool = True
    type_vocab_size: int = 0
    conv_kernel_size: int = 0
    embedding_size: int | None = None


def read_config(path: Path) -> Config:
    """The settings of a folder's config.json; FormatError naming what herd does not run."""
    settings = read_json(path)
    if settings.get("model_type") != "deberta-v2":
        raise FormatError(
            f"{path}: model_type is {settings.get('model_type')!r}; a prompt guard is a deberta-v2 classifier"
        )
    try:
        config = msgspec.convert(settings, Config)
    except msgspec.ValidationError as error:
        raise FormatError(f"{path}: {first_line(error)}") from error
    kinds = config.pos_att_type.split("|") if isinstance(config.pos_att_type, str) else config.pos_att_type
    for name, value, expected in (
        ("hidden_act", config.hidden_act, "gelu"),
        ("pooler_hidden_act", config.pooler_hidden_act, "gelu"),
        ("relative_attention", config.relative_attention, True),
        ("share_att_key", config.share_att_key, True),
        ("pos_att_type", sorted(kinds), ["c2p", "p2c"]),
        ("norm_rel_ebd", config.norm_rel_ebd, "layer_norm"),
        ("position_biased_input", config.position_biased_input, False),
        ("type_vocab_size", config.type_vocab_size, 0),
        ("conv_kernel_size", config.conv_kernel_size, 0),
        ("embedding_size", config.embedding_size or config.hidden_size, config.hidden_size),
    ):
        if value != expected:
            raise FormatError(f"{path}: {name} is {value!r}; herd runs prompt guards with {expected!r}")
    if config.hidden_size % config.num_attention_heads or config.position_buckets < 2:
        raise FormatError(f"{path}: hidden_size is no multiple of num_attention_heads, or position_buckets is under 2")
    return config


class Deberta:
    """A classifier: token ids of one window -> log-odds of its labels."""

    def __init__(self, config: Config, tensors: dict[str, StoredTensor], where: str) -> None:
        self.config, self._tensors, self._where = config, tensors, where
        width, inner = config.hidden_size, config.intermediate_size
        self.labels = len(config.id2label) or 2
        self._embedding = self._stored("deberta.embeddings.word_embeddings.weight", (config.vocab_size, width))
        self._first = self._norm_weights("deberta.embeddings.LayerNorm")
        far = self._norm(
            self._read("deberta.encoder.rel_embeddings.weight", (2 * config.position_buckets, width)),
            self._norm_weights("deberta.encoder.LayerNorm"),
        )
        self._layers = []
        for i in range(config.num_hidden_layers):
            at = f"deberta.encoder.layer.{i}."
            query, key, value = (
                self._linear(f"{at}attention.self.{n}_proj", width, width) for n in ("query", "key", "value")
            )
            self._layers.append(
                {
                    "query": query, "key": key, "value": value,
                    "far_query": self._heads(_apply(far, query)), "far_key": self._heads(_apply(far, key)),
                    "mixed": self._linear(f"{at}attention.output.dense", width, width),
                    "mixed_norm": self._norm_weights(f"{at}attention.output.LayerNorm"),
                    "up": self._linear(f"{at}intermediate.dense", inner, width),
                    "down": self._linear(f"{at}output.dense", width, inner),
                    "norm": self._norm_weights(f"{at}output.LayerNorm"),
                }
            )  # fmt: skip
        self._pooler = self._linear("pooler.dense", width, width)
        self._classifier = self._linear("classifier", self.labels, width)

    def logits(self, tokens: Sequence[int]) -> Any:
        """(labels,) float32 of one window of at most `max_position_embeddings` tokens, marks included."""
        x = np.concatenate([self._embedding.float32(t, t + 1) for t in tokens])
        x = self._norm(x, self._first)
        buckets = distances(len(tokens), self.config) + self.config.position_buckets
        buckets = np.clip(buckets, 0, 2 * self.config.position_buckets - 1)
        for layer in self._layers:
            x = self._norm(x + _apply(self._attend(x, layer, buckets), layer["mixed"]), layer["mixed_norm"])
            x = self._norm(x + _apply(_gelu(_apply(x, layer["up"])), layer["down"]), layer["norm"])
        return _apply(_gelu(_apply(x[:1], self._pooler)), self._classifier)[0]

    def _attend(self, x: Any, layer: dict[str, Any], buckets: Any) -> Any:
        query, key, value = (self._heads(_apply(x, layer[n])) for n in ("query", "key", "value"))
        scores = query @ key.transpose(0, 2, 1)
        index = buckets[None]
        scores += np.take_along_axis(query @ layer["far_key"].transpose(0, 2, 1), index, 2)
        scores += np.take_along_axis(
            key @ layer["far_query"].transpose(0, 2, 1), index.transpose(0, 2, 1), 2
        ).transpose(0, 2, 1)
        scores *= np.float32((3 * query.shape[-1]) ** -0.5)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        mixed = scores @ value
        return mixed.transpose(1, 0, 2).reshape(len(x), -1)

    def _heads(self, x: Any) -> Any:
        """(heads, tokens, width of a head)."""
        return np.ascontiguousarray(x.reshape(len(x), self.config.num_attention_heads, -1).transpose(1, 0, 2))

    def _norm(self, x: Any, weights: tuple[Any, Any]) -> Any:
        x = x - x.mean(-1, keepdims=True)
        return (
            x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(self.config.layer_norm_eps)) * weights[0]
            + weights[1]
        )

    def _stored(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise FormatError(f"{self._where}: tensor {name} is missing")
        if tensor.shape != shape:
            raise FormatError(f"{self._where}: tensor {name} has shape {list(tensor.shape)}; expected {list(shape)}")
        return tensor

    def _read(self, name: str, shape: tuple[int, ...]) -> Any:
        values = self._stored(name, shape).float32()
        if not np.isfinite(values).all():
            raise FormatError(f"{self._where}: tensor {name} has values that are not finite")
        return values

    def _linear(self, name: str, rows: int, columns: int) -> tuple[Any, Any]:
        return self._read(f"{name}.weight", (rows, columns)).T, self._read(f"{name}.bias", (rows,))

    def _norm_weights(self, name: str) -> tuple[Any, Any]:
        width = (self.config.hidden_size,)
        return self._read(f"{name}.weight", width), self._read(f"{name}.bias", width)


def _apply(x: Any, linear: tuple[Any, Any]) -> Any:
    return x @ linear[0] + linear[1]


def distances(length: int, config: Config) -> Any:
    """The bucket of how far each token is from each other one, (length, length) int64: exact when near, by logarithm when far."""
    middle = config.position_buckets // 2
    longest = config.max_relative_positions if config.max_relative_positions > 0 else config.max_position_embeddings
    far = np.arange(length)[:, None] - np.arange(length)[None, :]
    away = np.maximum(np.abs(far), middle).astype(np.float32)
    log = (
        np.ceil(np.log(away / np.float32(middle)) / np.float32(np.log((longest - 1) / middle)) * (middle - 1)) + middle
    )
    return np.where(np.abs(far) <= middle, far, (log * np.sign(far)).astype(np.int64))


def _gelu(x: Any) -> Any:
    """x times the normal distribution's share below x; erf by Abramowitz and Stegun 7.1.26, whose error is under 2e-7."""
    z = np.abs(x) * np.float32(0.70710678)
    t = 1 / (1 + np.float32(0.3275911) * z)
    tail = (
        t
        * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
        * np.exp(-z * z)
    )
    return x * np.where(x > 0, 1 - tail / 2, tail / 2)


class Guard:
    """A Prompt Guard folder that is open: the classifier, its tokenizer, and which of its labels mean what."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        config = read_config(folder / "config.json")
        paths = sorted(folder.glob("*.safetensors"))
        if not paths or not (folder / "tokenizer.json").is_file():
            raise FormatError(f"{folder}: a prompt guard has model.safetensors and tokenizer.json; one is missing")
        tensors = {name: tensor for path in paths for name, tensor in SafetensorsFile(path).tensors.items()}
        self.model = Deberta(config, tensors, str(folder))
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises Exception itself
            raise FormatError(f"{folder / 'tokenizer.json'}: {first_line(error)}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        marks = self._tokenizer.encode("").ids
        largest = max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        if len(marks) != 2 or largest >= config.vocab_size:
            raise FormatError(
                f"{folder}: tokenizer.json does not fit: it has {largest + 1:,} tokens and puts {len(marks)} marks around a text"
            )
        self._begin, self._end = marks
        # three labels: harmless, orders in it, unbound; two: harmless, malicious
        self.three = self.model.labels == 3
        if self.model.labels not in (2, 3):
            raise FormatError(f"{folder}: {self.model.labels} labels; a prompt guard has two or three")

    def windows(self, text: str) -> list[list[int]]:
        """Tokens of the overlapping windows of a text between their marks; marks that a text spells out are left out."""
        ids = [
            i for i in self._tokenizer.encode(text, add_special_tokens=False).ids if i not in (self._begin, self._end)
        ]
        size = min(WINDOW, self.model.config.max_position_embeddings) - 2
        step = min(STEP, size)
        starts = range(0, max(len(ids) - size + step, 1), step)
        return [[self._begin, *ids[i : i + size], self._end] for i in starts]

    def chances(self, text: str, temperature: float = 1.0) -> Any:
        """Probabilities of the labels, (windows, labels)."""
        logits = np.stack([self.model.logits(w) for w in self.windows(text)]) / temperature
        logits = np.exp(logits - logits.max(1, keepdims=True))
        return logits / logits.sum(1, keepdims=True)
