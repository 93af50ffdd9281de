"""Pre-tokenizers, which cut text into words before merging: GGUF's names for them, and their `tokenizer.json` form.

A `tokenizer.json` has a name when everything in it that changes tokens (normalizer, every step of the pre-tokenizer, the
model's flags) is what the name means, in whatever spelling. Names: llama.cpp's `llama-vocab.cpp`.
"""

from typing import Any, NamedTuple

from herd.errors import FormatError

LLAMA3_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
SEED_CODER_PATTERN = QWEN2_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1}|").replace(r"\p{N}]+[\r\n]*", r"\p{N}\r\n]+")
_CAPITALS, _SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE, _CONTRACTIONS = r"[^\r\n\p{L}\p{N}]?", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_AFTER = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN_PATTERN = rf"{_BEFORE}{_CAPITALS}*{_SMALL}+|{_BEFORE}{_CAPITALS}+{_SMALL}*|\p{{N}}{_AFTER}"
O200K_PATTERN = rf"{_BEFORE}{_CAPITALS}*{_SMALL}+{_CONTRACTIONS}|{_BEFORE}{_CAPITALS}+{_SMALL}*{_CONTRACTIONS}|\p{{N}}{{1,3}}{_AFTER}"
DEEPSEEK_LETTERS = (
    "[A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b"
    "-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-"
    "\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15"
    "\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc"
    "\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107"
    "\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149"
    "\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f"
    "\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-"
    "\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-"
    "\U000118df\U0001e900-\U0001e943]"
)
"""Letters with a case, as DeepSeek LLM's tokenizer.json lists them."""
_EVERYWHERE = (LLAMA3_PATTERN, QWEN2_PATTERN, SEED_CODER_PATTERN, TEKKEN_PATTERN, O200K_PATTERN)
_DEEPSEEK_SIGNS = "[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]"
_DEEPSEEK_EAST = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_DEEPSEEK_V3_EAST = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK_V3_PATTERN = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CUTS = (
    "llama3", "gpt2", "smollm", "qwen2", "seed-coder", "tekken", "o200k", "deepseek-llm", "deepseek-coder", "deepseek-v3",
)  # fmt: skip
"""Ways of cutting, as csrc/words.h numbers them."""


class PreTokenizer(NamedTuple):
    """`cut` is one of CUTS; with `whole_words` a word that is a token is not merged from its bytes (`ignore_merges`)."""

    cut: str
    whole_words: bool = False
    adds_bos: bool = False


_NAMES: dict[PreTokenizer, str] = {
    # the first name is the one that is written
    PreTokenizer("llama3", whole_words=True, adds_bos=True):
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
    PreTokenizer("llama3"): "smaug-bpe dbrx",
    PreTokenizer("gpt2"): "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert exaone4 mpt olmo "
        "jais trillion granite-docling",
    PreTokenizer("smollm"): "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
    PreTokenizer("qwen2"): "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open",
    PreTokenizer("seed-coder"): "seed-coder",
    PreTokenizer("tekken", whole_words=True, adds_bos=True): "tekken",
    PreTokenizer("o200k"): "gpt-4o llama4 kanana2",
    PreTokenizer("deepseek-llm"): "deepseek-llm",
    PreTokenizer("deepseek-coder"): "deepseek-coder",
    PreTokenizer("deepseek-v3"): "deepseek-v3",
}  # fmt: skip
PRE_TOKENIZERS = {name: pre for pre, names in _NAMES.items() for name in names.split()}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


_DIGITS = {"type": "Digits", "individual_digits": True}
STEPS: dict[str, list[dict[str, Any]]] = {
    "llama3": [_split(LLAMA3_PATTERN), _byte_level(False)],
    "gpt2": [_byte_level(True)],
    "smollm": [_DIGITS, _byte_level(True)],
    "qwen2": [_split(QWEN2_PATTERN), _byte_level(False)],
    "seed-coder": [_split(SEED_CODER_PATTERN), _byte_level(False)],
    "tekken": [_split(TEKKEN_PATTERN), _byte_level(False)],
    "o200k": [_split(O200K_PATTERN), _byte_level(False)],
    "deepseek-llm": [
        *map(_split, (r"[\r\n]", rf"\s?{DEEPSEEK_LETTERS}+", rf"\s?{_DEEPSEEK_SIGNS}+", r"\s+$", _DEEPSEEK_EAST)),
        _DIGITS,
        _byte_level(False),
    ],
    "deepseek-coder": [
        *map(_split, (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_EAST)),
        _DIGITS,
        _byte_level(False),
    ],
    "deepseek-v3": [*map(_split, (r"\p{N}{1,3}", _DEEPSEEK_V3_EAST, _DEEPSEEK_V3_PATTERN)), _byte_level(False)],
}
"""The `tokenizer.json` form of each cut."""


def recognize(spec: dict[str, Any]) -> str:
    """The GGUF name of what a `tokenizer.json` does before merging; FormatError saying what in it has none."""
    if (normalizer := _flat(spec.get("normalizer"), "normalizers")) != []:
        raise _nameless("normalizer", normalizer)
    steps = _meaning(spec.get("pre_tokenizer"))
    cut = next((cut for cut, known in STEPS.items() if steps == _meaning({"pretokenizers": known})), None)
    if cut is None:
        raise _nameless("pre-tokenizer", _flat(spec.get("pre_tokenizer"), "pretokenizers"))
    model = spec["model"]
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise FormatError(f"tokenizer.json: {key} is {model[key]!r}, which a GGUF file cannot say; keep it as hf")
    for token in spec.get("added_tokens") or []:
        odd = [key for key in ("lstrip", "rstrip", "single_word") if token.get(key) and not token.get("special")]
        if odd:
            raise FormatError(
                f"tokenizer.json: token {token['content']!r} is {odd[0]}, which a GGUF file cannot say; keep it as hf"
            )
    whole_words = bool(model.get("ignore_merges"))
    for pre, names in _NAMES.items():
        if (pre.cut, pre.whole_words) == (cut, whole_words):
            return names.split()[0]
    raise FormatError(f"tokenizer.json: ignore_merges with {cut} words has no GGUF name; keep it as hf")


def _nameless(what: str, steps: list[Any]) -> FormatError:
    kinds = ", ".join(str(step.get("type")) if isinstance(step, dict) else repr(step) for step in steps) or "none"
    return FormatError(f"tokenizer.json: its {what} ({kinds}) has no GGUF name that herd knows; keep this model as hf")


def _flat(step: Any, key: str) -> list[Any]:
    """The steps of a normalizer or pre-tokenizer one after another, sequences of sequences taken apart."""
    if step is None:
        return []
    if isinstance(step, dict) and isinstance(step.get(key), list):
        return [inner for one in step[key] for inner in _flat(one, key)]
    return [step]


def _meaning(pre_tokenizer: Any) -> list[tuple[Any, ...]]:
    """What each step does, without what changes no token and in one spelling."""
    return [_step(step) for step in _flat(pre_tokenizer, "pretokenizers")]


def _step(step: Any) -> tuple[Any, ...]:
    kind = step.get("type") if isinstance(step, dict) else None
    if kind == "Split" and isinstance(step.get("pattern"), dict):
        # Removing what lies between matches is the same only where the pattern matches every character.
        how = (step.get("behavior"), bool(step.get("invert")))
        same = how[0] == "Isolated" or (how == ("Removed", True) and step["pattern"].get("Regex") in _EVERYWHERE)
        pattern = [
            (key, str(value).replace("\r", r"\r").replace("\n", r"\n")) for key, value in step["pattern"].items()
        ]
        return (kind, *pattern, "matches" if same else how)
    if kind == "Digits":
        return (kind, bool(step.get("individual_digits")))
    if kind == "ByteLevel":
        return (kind, bool(step.get("add_prefix_space", True)), bool(step.get("use_regex", True)))
    return ("unknown", kind, repr(step))


def pre_tokenizer(name: str) -> PreTokenizer:
    """What a GGUF file's `tokenizer.ggml.pre` means; FormatError for one that herd does not run."""
    if name not in PRE_TOKENIZERS:
        raise FormatError(
            f"tokenizer.ggml.pre is {name!r}, a pre-tokenizer that herd does not run; it runs {', '.join(PRE_TOKENIZERS)}"
        )
    return PRE_TOKENIZERS[name]
