"""Which tokens training counts: an assistant's, with the token that ends its turn, and no others."""

import time

import pytest

from herd.errors import RequestError
from herd.text.chat_format import LlamaChat, TemplateChat, chat_format
from herd.text.messages import Message, ToolCall
from herd.text.tokenizer import decode
from tests.models import byte_tokenizer
from tests.texts import DATA

CALL = ToolCall("f", {"a": 1})
DIALOG = [
    Message("system", "Be brief."),
    Message("user", "Hi<|im_end|>"),
    Message("assistant", " Hello. "),
    Message("user", "assistant"),
    Message("assistant", "Bye"),
]


def counted(tokenizer, encoded):
    """The text of each run of tokens that count."""
    assert len(encoded.loss_mask) == len(encoded.tokens)
    runs: list[list[int]] = [[]]
    for token, counts in zip(encoded.tokens, encoded.loss_mask, strict=True):
        if counts:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [decode(tokenizer, run) for run in runs if run]


def test_llamas_turns():
    tokenizer = byte_tokenizer()
    encoded = LlamaChat(tokenizer).encode(
        [*DIALOG, Message("assistant", "", (CALL,), expects_result=True), Message("ipython", "7")], reply=False
    )
    call = '{"type": "function", "name": "f", "parameters": {"a": 1}}<|eom_id|>'
    assert counted(tokenizer, encoded) == [" Hello. <|eot_id|>", "Bye<|eot_id|>", call]
    assert decode(tokenizer, encoded.tokens).endswith("ipython<|end_header_id|>\n\n7<|eot_id|>")
    prompt = LlamaChat(tokenizer).encode(DIALOG)
    assert decode(tokenizer, prompt.tokens).endswith("assistant<|end_header_id|>\n\n")
    assert counted(tokenizer, prompt) == [" Hello. <|eot_id|>", "Bye<|eot_id|>"]


def test_turns_of_a_template_without_generation_tags(smollm):
    form = chat_format(smollm.tokenizer, smollm.chat_template)
    encoded = form.encode(DIALOG, reply=False)
    assert counted(smollm.tokenizer, encoded) == [" Hello. <|im_end|>", "Bye<|im_end|>"]
    assert form.encode(DIALOG).tokens[: len(encoded.tokens)] == encoded.tokens


def test_prefixes_and_generation_tags_agree(smollm):
    plain, tagged = (
        TemplateChat(smollm.tokenizer, (DATA / "templates" / f"{name}.jinja").read_text())
        for name in ("qwen2.5", "qwen2-5-training")
    )
    dialog = [*DIALOG, Message("user", "f"), Message("assistant", "", (CALL,)), Message("ipython", "7")]
    ours, theirs = plain.encode(dialog, reply=False), tagged.encode(dialog, reply=False)
    assert ours.tokens == theirs.tokens
    runs = counted(smollm.tokenizer, ours)
    # those tags stand at the ends of lines, before and after the turn
    assert runs == [run.strip("\n") for run in counted(smollm.tokenizer, theirs)]
    assert len(runs) == 3


def test_tokens_that_reach_into_a_turn_count(smollm):
    source = "{% for m in messages %}{{ m.role }}:{% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}"
    encoded = TemplateChat(smollm.tokenizer, source).encode(
        [Message("user", ":::é€😀 x"), Message("user", "")], reply=False
    )
    (run,) = counted(smollm.tokenizer, encoded)
    assert run.startswith(":")
    assert ":::é€😀 x" in run
    assert "user" not in run


def test_a_template_that_rewrites_turns_has_prompts_and_no_mask(smollm):
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content if loop.last else m.content[:2] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    encoded = TemplateChat(smollm.tokenizer, source).encode(DIALOG, reply=False)
    assert len(encoded.tokens) > 20
    with pytest.raises(RequestError, match="message 3 differently"):
        _ = encoded.loss_mask
    last = TemplateChat(smollm.tokenizer, source).encode(
        [Message("user", "Hi"), Message("assistant", "Bye")], reply=False
    )
    assert counted(smollm.tokenizer, last) == ["Bye<|im_end|>"]


def test_a_mask_of_many_turns_takes_time_by_their_number():
    source = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|eot_id|>{% endgeneration %}{% else %}{{ m.content }}<|eot_id|>{% endif %}\n{% endfor %}"
    dialog = [Message("assistant" if i % 2 else "user", "Hi") for i in range(20_000)]
    encoded = TemplateChat(byte_tokenizer(), source).encode(dialog, reply=False)
    begun = time.thread_time()
    assert sum(encoded.loss_mask) == 30_000
    assert time.thread_time() - begun < 8  # 1.7 measured; each part looked at beside each turn, two minutes
