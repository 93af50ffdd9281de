"""A batch as a person reads it: tokens coloured by their weight in the loss, documents between edges."""

from typing import TYPE_CHECKING

from herd.text.tokenizer import Tokenizer
from herd.train.packing import Batch

if TYPE_CHECKING:
    from rich.text import Text


def show_batch(batch: Batch, tokenizer: Tokenizer, names: list[str]) -> "Text":
    """Each document's tokens; green ones are predicted and count in the loss, grey ones are context, the first of a document is
    context always. `names` are those of the batch's samples.
    """
    from rich.text import Text

    out = Text()
    tokens, targets, weights = (x.flatten().tolist() for x in (batch.tokens, batch.targets, batch.weights))
    at = 0
    for length, owner in zip(batch.documents.lengths, batch.owner.tolist(), strict=True):
        if owner < 0:
            out.append(f"── padding, {length} tokens\n", style="blue")
        else:
            counted = int(sum(w > 0 for w in weights[at : at + length]))
            out.append(f"── {names[owner]}, {length + 1} tokens, {counted} count\n", style="blue")
            shown = [(tokens[at], 0.0), *zip(targets[at : at + length], weights[at : at + length], strict=True)]
            for token, weight in shown:
                text = tokenizer.token_bytes(token).decode("utf-8", "replace")
                out.append(text, style="bold green" if weight > 0 else "bright_black")
            out.append("\n")
        at += length
    return out
