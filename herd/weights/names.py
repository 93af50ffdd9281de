"""Tensor names and rotary orders of the three file formats, each a table to and from the canonical ones."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_HF = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "score.weight": "score.weight",
    "layers.{}.attention_norm.weight": "model.layers.{}.input_layernorm.weight",
    "layers.{}.attention.wq.weight": "model.layers.{}.self_attn.q_proj.weight",
    "layers.{}.attention.wk.weight": "model.layers.{}.self_attn.k_proj.weight",
    "layers.{}.attention.wv.weight": "model.layers.{}.self_attn.v_proj.weight",
    "layers.{}.attention.wo.weight": "model.layers.{}.self_attn.o_proj.weight",
    "layers.{}.ffn_norm.weight": "model.layers.{}.post_attention_layernorm.weight",
    "layers.{}.feed_forward.w1.weight": "model.layers.{}.mlp.gate_proj.weight",
    "layers.{}.feed_forward.w3.weight": "model.layers.{}.mlp.up_proj.weight",
    "layers.{}.feed_forward.w2.weight": "model.layers.{}.mlp.down_proj.weight",
}
_GGUF = {
    "tok_embeddings.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "output.weight": "output.weight",
    "score.weight": "cls.output.weight",
    "layers.{}.attention_norm.weight": "blk.{}.attn_norm.weight",
    "layers.{}.attention.wq.weight": "blk.{}.attn_q.weight",
    "layers.{}.attention.wk.weight": "blk.{}.attn_k.weight",
    "layers.{}.attention.wv.weight": "blk.{}.attn_v.weight",
    "layers.{}.attention.wo.weight": "blk.{}.attn_output.weight",
    "layers.{}.ffn_norm.weight": "blk.{}.ffn_norm.weight",
    "layers.{}.feed_forward.w1.weight": "blk.{}.ffn_gate.weight",
    "layers.{}.feed_forward.w3.weight": "blk.{}.ffn_up.weight",
    "layers.{}.feed_forward.w2.weight": "blk.{}.ffn_down.weight",
}
_TABLES = {"hf": _HF, "gguf": _GGUF}
_INVERSE = {kind: {theirs: ours for ours, theirs in table.items()} for kind, table in _TABLES.items()}
_LAYER = re.compile(r"^((?:model\.)?(?:layers|blk))\.(0|[1-9]\d{0,5})\.")


def to_canonical(name: str, kind: str) -> str | None:
    """The canonical name of a file's tensor; None when the architecture has no such tensor."""
    return _translate(name, _INVERSE[kind])


def from_canonical(name: str, kind: str) -> str:
    """A canonical tensor's name in files of `kind`."""
    translated = _translate(name, _TABLES[kind])
    assert translated is not None, name
    return translated


def _translate(name: str, table: dict[str, str]) -> str | None:
    layer = _LAYER.match(name)
    if layer is None:
        return table.get(name)
    pattern = table.get(_LAYER.sub(r"\1.{}.", name))
    return pattern and pattern.format(layer[2])


def is_rotary(name: str) -> bool:
    """Whether the rows of a canonical tensor are rotary pairs, which Hugging Face stores in another order."""
    return name.endswith((".wq.weight", ".wk.weight"))


def interleaved_from_halves(rows: int, head_dim: int) -> "NDArray[np.int64]":
    """For each canonical row (pair 2i, 2i+1) the row of Hugging Face's order (i, i + head_dim / 2) that holds it."""
    import numpy as np

    row = np.arange(rows, dtype=np.int64)
    head, within = row // head_dim, row % head_dim
    return head * head_dim + within % 2 * (head_dim // 2) + within // 2


def halves_from_interleaved(rows: int, head_dim: int) -> "NDArray[np.int64]":
    """The inverse of `interleaved_from_halves`."""
    import numpy as np

    return np.argsort(interleaved_from_halves(rows, head_dim))
