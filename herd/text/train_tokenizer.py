"""A new byte-level BPE from text, split into words as Llama 3 splits them, with Llama 3's special tokens after it."""

import json
from collections.abc import Iterable

from herd.errors import ConfigError
from herd.text.pre_tokenizers import STEPS
from herd.text.tokenizer import Declared
from herd.text.tokenizer_json import HFTokenizer, tokenizer_spec
from herd.text.vocabulary import LLAMA3_SPECIAL, byte_alphabet

SPECIAL = LLAMA3_SPECIAL[:12]
"""Begin and end of text, padding, headers, ends of turns, python tag: what dialogs need. Llama 3's other 244 are reserves."""


def train_tokenizer(texts: Iterable[str], vocab: int) -> HFTokenizer:
    """A tokenizer of `vocab` tokens, special ones included; the merges are those of the `tokenizers` library's trainer.

    ConfigError when there is no room for bytes and special tokens, or not enough text for so many.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    room = vocab - len(SPECIAL)
    if room <= 256:
        raise ConfigError(
            f"a vocabulary of {vocab} has no room; 256 bytes and {len(SPECIAL)} special tokens need {256 + len(SPECIAL) + 1}"
        )
    trained = Tokenizer(models.BPE())
    split = json.dumps({"type": "Sequence", "pretokenizers": STEPS["llama3"]})
    shell = json.loads(trained.to_str())
    shell["pre_tokenizer"] = json.loads(split)
    trained = Tokenizer.from_str(json.dumps(shell))
    assert isinstance(trained.pre_tokenizer, pre_tokenizers.PreTokenizer)
    trainer = trainers.BpeTrainer(vocab_size=room, initial_alphabet=list(byte_alphabet()), show_progress=False)
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    if len(model["vocab"]) < room:
        raise ConfigError(
            f"the text gives {len(model['vocab'])} tokens; ask for {len(model['vocab']) + len(SPECIAL)} or give more text"
        )
    names = {name: room + i for i, name in enumerate(SPECIAL)}
    merges = [merge if isinstance(merge, list) else merge.split(" ", 1) for merge in model["merges"]]
    spec = tokenizer_spec({**model["vocab"], **names}, merges, STEPS["llama3"], names, ignore_merges=True)
    begin, end, turn = (names[name] for name in ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"))
    declared = Declared(
        bos=begin, eos=end, eot=turn, pad=names["<|finetune_right_pad_id|>"], stops=(end, turn), add_bos=True
    )
    return HFTokenizer(spec, declared)
