"""Pre-tokenizers, which cut text into words before merging: GGUF's names for them, and their `tokenizer.json` form.

A `tokenizer.json` has a name when everything in it that changes tokens (normalizer, every step of the pre-tokenizer, the
model's flags) is what the name means, in whatever spelling. Names: llama.cpp's `llama-vocab.cpp`.
"""

from typing import Any, NamedTuple

from herd.errors import FormatError

LLAMA3_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
CUTS = ("llama3", "gpt2", "smollm", "qwen2")
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
}  # fmt: skip
PRE_TOKENIZERS = {name: pre for pre, names in _NAMES.items() for name in names.split()}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


STEPS: dict[str, list[dict[str, Any]]] = {
    "llama3": [_split(LLAMA3_PATTERN), _byte_level(False)],
    "gpt2": [_byte_level(True)],
    "smollm": [{"type": "Digits", "individual_digits": True}, _byte_level(True)],
    "qwen2": [_split(QWEN2_PATTERN), _byte_level(False)],
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
        # Removing what lies between matches keeps the matches: the same, as these patterns match every character.
        how = (step.get("behavior"), bool(step.get("invert")))
        same = how in (("Isolated", False), ("Isolated", True), ("Removed", True))
        return (kind, *step["pattern"].items(), "matches" if same else how)
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
