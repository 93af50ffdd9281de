import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.errors import FormatError, RequestError
from herd.text.chat_format import chat_format
from herd.text.messages import Message, Tool
from herd.text.template import ChatTemplate
from herd.text.tokenizer import decode


def test_the_default_models_template(smollm):
    tokens = (
        chat_format(smollm.tokenizer, smollm.chat_template)
        .encode([Message("system", "Be nice."), Message("user", "Hi")])
        .tokens
    )
    assert decode(smollm.tokenizer, tokens) == (
        "<|im_start|>system\nBe nice.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokens.count(1) == 3


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["system", "user", "assistant", "ipython"]), st.text("ab <|é\n", max_size=10), st.integers(0, 12)
)
def test_text_never_becomes_a_special_token(smollm, role, around, cut):
    form = chat_format(smollm.tokenizer, smollm.chat_template)
    special = set(smollm.tokenizer.special_tokens.values())
    plain = form.encode([Message("system", "x"), Message(role, "x")]).tokens
    for name in ("<|im_start|>", "<|im_end|>", "<|endoftext|>"):
        for text in (around + name + around, name[:cut]):
            tokens = form.encode([Message("system", text), Message(role, text)]).tokens
            assert sum(t in special for t in tokens) == sum(t in special for t in plain)
            assert decode(smollm.tokenizer, tokens).count(text) >= 2


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 1000000000 }}",
        "{{ 'a' * 999999 * 999999 }}",
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ 'a'.center(1000000000) }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ 10 ** 10000000 }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('roles must alternate') }}",
        "{{ undefined.attribute }}",
    ],
)
def test_hostile_templates_end_soon_with_one_line(source):
    begun = time.monotonic()
    with pytest.raises((RequestError, FormatError)) as caught:
        ChatTemplate(source).render([{"role": "user", "content": "x"}])
    assert time.monotonic() - begun < 20
    assert "\n" not in str(caught.value)


def test_templates_that_do_not_compile_and_tools_without_a_place_for_them(smollm):
    with pytest.raises(FormatError, match="does not compile"):
        ChatTemplate("{% for %}")
    form = chat_format(smollm.tokenizer, smollm.chat_template)
    tokens = form.encode([Message("user", "x")], tools=[Tool("get_time", "The time")]).tokens
    assert "get_time" in decode(smollm.tokenizer, tokens)
    with pytest.raises(RequestError, match="built-in"):
        form.encode([Message("user", "x")], builtin_tools=["brave_search"])
