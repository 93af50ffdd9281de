"""Which GGUF file of a repository or folder is meant: parts of one model belong together, and a name says the quantization."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from herd.errors import ConfigError

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
_LABEL = re.compile(
    r"(?:^|[-._/])((?:UD-)?(?:I?Q\d(?:_[0-9A-Z]+)*|TQ\d_\d|MXFP4(?:_MOE)?|BF16|FP?16|FP?32))(?=[-._/]|$)", re.IGNORECASE
)
# No models: what multimodal models see with, and the statistics that quantizers weigh with.
_BESIDE = re.compile(r"(?:^|[-._])mmproj(?:[-._]|$)|(?:^|[-._])imatrix(?:[-._](?:gguf|dat)|$)", re.IGNORECASE)
# First what answers nearly as the original does in about a third of its size, then larger, then smaller.
_PREFERRED = (
    "Q4_K_M", "Q4_K_S", "Q4_K", "Q4_1", "Q4_0", "UD-Q4_K_XL", "Q4_K_L", "Q5_K_M", "Q5_K_S", "Q5_K", "Q5_1", "Q5_0", "Q6_K", "Q8_0",
    "IQ4_NL", "IQ4_XS", "MXFP4", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K", "BF16", "F16", "F32",
)  # fmt: skip


class Model(NamedTuple):
    """One model's GGUF files, in order, what its quantization is called ("" if nothing says), and bytes in all."""

    files: tuple[str, ...]
    quant: str
    size: int


def part_of(name: str) -> tuple[str, int, int] | None:
    """Of a split file's name what is before its number, its number and how many there are; None for a whole file."""
    match = _PART.fullmatch(name)
    if match is None or not 1 <= int(match[2]) <= int(match[3]):
        return None
    return match[1], int(match[2]), int(match[3])


def part_name(base: str, number: int, count: int) -> str:
    """The name of part `number`, from 1, as llama.cpp's gguf-split gives it."""
    return f"{base}-{number:05}-of-{count:05}.gguf"


def gguf_models(sizes: Mapping[str, int]) -> list[Model]:
    """Whole models among files (path -> bytes); sets of parts that are not complete are left out."""
    sets: dict[tuple[str, int], dict[int, str]] = {}
    for name in sorted(sizes):
        if not name.lower().endswith(".gguf") or _BESIDE.search(name.rpartition("/")[2]):
            continue
        base, number, count = part_of(name) or (name[:-5], 1, 1)
        sets.setdefault((base, count), {})[number] = name
    return [
        Model(tuple(parts[i] for i in sorted(parts)), _quant(base), sum(sizes[name] for name in parts.values()))
        for (base, count), parts in sets.items()
        if sorted(parts) == list(range(1, count + 1))
    ]


def choose(models: list[Model], quant: str | None, where: str) -> Model:
    """The model in format `quant`, or without it the one to start with; ConfigError that lists what there is."""
    if quant is None:
        ranks = {label: rank for rank, label in enumerate(_PREFERRED)}
        best = min((ranks.get(model.quant, len(ranks)) for model in models), default=None)
        found = [model for model in models if ranks.get(model.quant, len(ranks)) == best]
    else:
        label = _normal(quant)
        found = [model for model in models if model.quant == label]
        found = found or [model for model in models if model.quant == f"UD-{label}"]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(f"{where}: no {quant or 'GGUF model'}; there is {listed(models)}")
    raise ConfigError(f"{where}: several models; name one file: {', '.join(model.files[0] for model in found)}")


def listed(models: list[Model]) -> str:
    """Models for people, the smallest first."""
    ordered = sorted(models, key=lambda model: model.size)
    return ", ".join(f"{model.quant or model.files[0]} ({_gigabytes(model.size)})" for model in ordered) or "none"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _quant(base: str) -> str:
    found = _LABEL.findall(base)
    return _normal(found[-1]) if found else ""


def _normal(label: str) -> str:
    return label.upper().replace("FP16", "F16").replace("FP32", "F32")
