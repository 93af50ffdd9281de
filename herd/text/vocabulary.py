"""What vocabularies have in common: bytes as printable characters, names of special tokens, ends of replies."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from herd.text.tokenizer import Batch

LLAMA3_SPECIAL = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>",
    "<|python_tag|>", "<|image|>", *(f"<|reserved_special_token_{i}|>" for i in range(2, 246)),
)  # fmt: skip
GGUF_CONTROL, GGUF_USER_DEFINED = 3, 4
ALWAYS_SPECIAL = (
    "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>", "<|im_end|>", "<|endoftext|>", "<|end|>", "<|end_of_turn|>",
    "<end_of_turn>", "<end_of_utterance>", "<｜end▁of▁sentence｜>",
)  # fmt: skip
"""Names that end a reply and that no text has by chance: special and a stop however a file types them."""
_STOP_NAMES = (*ALWAYS_SPECIAL, "</s>", "<EOT>", "[EOT]", "[EOS]", "<eos>")


@lru_cache(maxsize=1)
def byte_alphabet() -> tuple[str, ...]:
    """GPT-2's printable character for each of the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in printable}
    missing = (byte for byte in range(256) if byte not in table)
    table.update({byte: chr(256 + i) for i, byte in enumerate(missing)})
    return tuple(table[byte] for byte in range(256))


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(byte_alphabet())}


def to_bytes(token: str) -> bytes:
    """The bytes of a token written in the printable alphabet; of any other token its UTF-8."""
    table = _byte_of_character()
    try:
        return bytes(table[c] for c in token)
    except KeyError:
        return token.encode("utf-8", "replace")


def to_characters(token: bytes) -> str:
    """A token's bytes in the printable alphabet."""
    alphabet = byte_alphabet()
    return "".join(alphabet[byte] for byte in token)


def looks_special(name: str) -> bool:
    """Whether a token's name is one that only templates write, like <|im_end|> or [EOS]."""
    return len(name) > 3 and (name[0], name[-1]) in (("<", ">"), ("[", "]"))


def stops_of(special: Mapping[str, int], more: Iterable[int] = ()) -> frozenset[int]:
    """Ids that end a reply: those of special tokens with such a name, and `more`."""
    return frozenset([*(special[name] for name in _STOP_NAMES if name in special), *more])


def one_batch(encoded: "Iterable[NDArray[np.uint32]]") -> "Batch":
    """Texts' ids as one array, and where each begins."""
    import numpy as np

    arrays = list(encoded)
    offsets = np.zeros(len(arrays) + 1, np.int64)
    np.cumsum([len(ids) for ids in arrays], out=offsets[1:])
    return np.concatenate([np.zeros(0, np.uint32), *arrays]), offsets
