"""Pre-tokenizers, which cut text into words before merging: GGUF's names for them, and their `tokenizer.json` form."""

import json
from typing import Any

from herd.errors import FormatError

LLAMA3_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3_SPLIT = [{"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated", "invert": False}]
_BYTES_ONLY = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_GPT2_WORDS = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "llama-bpe": [*_LLAMA3_SPLIT, _BYTES_ONLY],
    "llama3": [*_LLAMA3_SPLIT, _BYTES_ONLY],
    "llama-v3": [*_LLAMA3_SPLIT, _BYTES_ONLY],
    "smollm": [{"type": "Digits", "individual_digits": True}, _GPT2_WORDS],
    "gpt-2": [_GPT2_WORDS],
}


def recognize(spec: dict[str, Any]) -> str:
    """The GGUF name of a `tokenizer.json` pre-tokenizer; raises FormatError when it has none that herd knows."""
    text = json.dumps(spec.get("pre_tokenizer"))
    if json.dumps(LLAMA3_PATTERN)[1:-1] in text or "\\\\p{N}{1,3}" in text:
        return "llama-bpe"
    if '"Digits"' in text and '"individual_digits": true' in text:
        return "smollm"
    if '"ByteLevel"' in text and '"Split"' not in text:
        return "gpt-2"
    raise FormatError(
        "tokenizer.json: this pre-tokenizer has no GGUF name that herd knows; convert to hf or meta instead"
    )
