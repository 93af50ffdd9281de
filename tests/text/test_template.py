import dataclasses
import resource
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.errors import FormatError, RequestError
from herd.text.chat_format import LlamaChat, TemplateChat, chat_format
from herd.text.messages import Message, Tool, ToolCall
from herd.text.template import ChatTemplate
from herd.text.tokenizer import decode
from tests.models import byte_tokenizer


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
        "{{ ('a' * 999999) | replace('a', 'b' * 999999) }}",
        "{{ ('a' * 999999).replace('a', 'b' * 999999) }}",
        "{{ (('a' * 99999) | list) | join('b' * 999999) }}",
        "{{ ('b' * 999999).join(('a' * 99999) | list) }}",
        "{% set a = 'a' * 999999 %}{{ " + " ~ ".join(["a"] * 5000) + " }}",
        "{{ 'a' | slice(3000000000) | list | length }}",
        "{{ '{:{}}'.format(1, 1000000000) }}",
        "{{ '%*d' | format(1000000000, 1) }}",
        "{% autoescape [1]|tojson(indent=3000000000) %}{% endautoescape %}x",
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
    with pytest.raises(FormatError, match="longer than"):
        ChatTemplate("x" * 200_001)
    form = chat_format(smollm.tokenizer, smollm.chat_template)
    tokens = form.encode([Message("user", "x")], tools=[Tool("get_time", "The time")]).tokens
    assert "get_time" in decode(smollm.tokenizer, tokens)
    with pytest.raises(RequestError, match="built-in"):
        form.encode([Message("user", "x")], builtin_tools=["brave_search"])


@pytest.mark.parametrize(
    "source",
    [
        "{{ [1] | tojson(indent=3000000000) }}",
        "{{ ('a' * 999999) | replace('a', 'b' * 999999) }}",
        "{% set a = ['a'] | map('indent', 3000000000) | list %}x",
        "{{ 'a' | indent(3000000000) }}",
        "{% if 'a' | wordwrap(3) | center(3000000000) %}{% endif %}x",
        "{% macro m(a=[1] | tojson(indent=3000000000)) %}{{ a }}{% endmacro %}x",
    ],
)
def test_nothing_is_computed_while_a_template_is_compiled(source):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.monotonic()
    ChatTemplate(source)
    assert time.monotonic() - begun < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_formats_work_inside_their_bounds():
    source = (
        "{{ '{:>5}|{x:03d}'.format('a', x=7) }} {{ '%s and %05.1f' | format('b', 2.5) }} {{ '%(n)s' | format(n=3) }} "
        "{{ '{a}'.format_map({'a': 1}) }} {{ 'a-b'.replace('-', '+', 1) }} {{ ['a', 'b'] | join(', ') }} "
        "{{ messages | join('/', attribute='role') }} {{ ', '.join(['x', 'y']) }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}"
    )
    text = ChatTemplate(source).render([{"role": "user", "content": "x"}] * 2)
    assert text == '    a|007 b and 002.5 3 1 a+b a, b user/user x, y {"a": 2, "b": 1}'


@pytest.mark.parametrize(
    "text", ["'{0.__class__}'.format(1)", "'{a.__init__}'.format_map({'a': cycler})", "''.join.__self__"]
)
def test_formats_do_not_lead_out_of_the_sandbox(text):
    try:
        assert ChatTemplate("{{ " + text + " }}").render([]) == ""
    except RequestError as refused:
        assert "unsafe" in str(refused)


def test_twenty_thousand_short_messages_are_no_attack(smollm):
    form = chat_format(smollm.tokenizer, smollm.chat_template)
    messages = [Message("user" if i % 2 == 0 else "assistant", "Hi") for i in range(20_000)]
    assert len(form.encode(messages).tokens) > 100_000
    with pytest.raises(RequestError, match="computed for more than 2"):
        ChatTemplate("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}").render([])
    quadratic = "{% for m in messages %}{% for k in messages %}{% set x = k.content %}{% endfor %}{% endfor %}"
    with pytest.raises(RequestError, match=r"computed for more than 2\.9 seconds"):
        ChatTemplate(quadratic).render(messages[:3_000])


def test_start_and_end_tokens_are_the_declared_ones_though_none_is_added():
    tokenizer = byte_tokenizer()
    tokenizer.declared = dataclasses.replace(tokenizer.declared, bos=257, eos=265, add_bos=False)
    form = TemplateChat(tokenizer, "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ unk_token is defined }}")
    assert form.encode([Message("user", "x")]).tokens == [257, 120, 265, *b"False"]


CALL = ToolCall("get_time", {"zone": "é", "n": [1, None]})
CALLED = [Message("user", "Time?"), Message("assistant", "Well.", (CALL, CALL)), Message("ipython", "12:00"), Message("ipython", "13:00")]  # fmt: skip
CHATML = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    "source, expected",
    [
        (  # calls that it does not read are text
            CHATML,
            '<user>Time?<assistant>Well.\n{"name": "get_time", "parameters": {"zone": "é", "n": [1, null]}}\n'
            '{"name": "get_time", "parameters": {"zone": "é", "n": [1, null]}}<tool>12:00<tool>13:00',
        ),
        (  # and so are results, in one turn
            "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('roles') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}",
            '<user>Time?<assistant>Well.\n{"name": "get_time", "parameters": {"zone": "é", "n": [1, null]}}\n'
            '{"name": "get_time", "parameters": {"zone": "é", "n": [1, null]}}<user>12:00\n13:00',
        ),
        (  # an object where it is made into JSON
            CHATML.replace("{% endfor %}", "{% for c in m.tool_calls %}[{{ c.function.arguments | tojson }}]{% endfor %}[{{ m.name }}]{% endfor %}")
            + "{{ messages[1].tool_calls[0].function.name if messages | length > 1 }}",
            '<user>Time?[]<assistant>Well.[{"zone": "é", "n": [1, null]}][{"zone": "é", "n": [1, null]}][]<tool>12:00[get_time]<tool>13:00[get_time]get_time',
        ),
        (  # a string where it is concatenated
            CHATML.replace("{% endfor %}", "{% for c in m.tool_calls %}{{ c.function.name + ':' + c.function.arguments }}{% endfor %}{% endfor %}"),
            '<user>Time?<assistant>Well.get_time:{"zone": "é", "n": [1, null]}get_time:{"zone": "é", "n": [1, null]}<tool>12:00<tool>13:00',
        ),
        (  # or would be written as Python writes a dict
            CHATML.replace("{% endfor %}", "{% for c in m.tool_calls %}{{ c.function.name ~ ':' ~ c.function.arguments }}{% endfor %}{% endfor %}"),
            '<user>Time?<assistant>Well.get_time:{"zone": "é", "n": [1, null]}get_time:{"zone": "é", "n": [1, null]}<tool>12:00<tool>13:00',
        ),
    ],
)  # fmt: skip
def test_history_never_loses_a_call(smollm, source, expected):
    tokens = TemplateChat(smollm.tokenizer, source).encode(CALLED).tokens
    assert decode(smollm.tokenizer, tokens) == expected


METAS = """{{- bos_token }}{%- set system = '' %}
{%- if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}{% set messages = messages[1:] %}{% endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}{{ 'Environment: ipython\n' if tools }}
{{- 'Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n' + system + '<|eot_id|>' }}
{%- for m in messages %}
    {{- '<|start_header_id|>' + (m.role if m.role != 'tool' else 'ipython') + '<|end_header_id|>\n\n' }}
    {%- if loop.first and tools %}
        {{- 'Given the following functions, please respond with a JSON for a function call with its proper arguments that best answers the given prompt.\n\n' }}
        {{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.Do not use variables.\n\n' }}
        {%- for t in tools %}{{ t | tojson(indent=4) + '\n\n' }}{% endfor %}
    {%- endif %}
    {%- if m.tool_calls %}{% set c = m.tool_calls[0].function %}{{ '{"name": "' + c.name + '", "parameters": ' }}{{ c.arguments | tojson }}{{ '}' }}
    {%- else %}{{ m.content | tojson if m.role == 'tool' else m.content | trim }}{% endif %}{{ '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""


def test_a_template_is_metas_when_it_writes_what_metas_does():
    tokenizer = byte_tokenizer()
    assert isinstance(chat_format(tokenizer, METAS), LlamaChat)
    assert isinstance(chat_format(tokenizer, None), LlamaChat)
    for changed in (
        METAS.replace("{{ 'Environment: ipython\n' if tools }}", ""),
        METAS.replace("system + '<|eot_id|>'", "(system or 'ipython is here') + '<|eot_id|>'"),
        METAS.replace("{{ '<|eot_id|>' }}", "{{ '<|end_of_text|>' }}"),
        "{# ipython #}" + CHATML + "<|start_header_id|>",
        METAS.replace("m.role == 'tool'", "m.role == 'ipython' and raise_exception('no')"),
    ):
        assert changed != METAS
        assert isinstance(chat_format(tokenizer, changed), TemplateChat)
    assert isinstance(chat_format(tokenizer, METAS, tool_template=CHATML), TemplateChat)


@pytest.mark.parametrize(
    "source",
    [
        "{{ [[1]*1000000]*1000000 }}", "{{ (['x'*1000000]*100000)|string }}", "{{ (['x'*1000000]*100000)|tojson }}",
        "{{ (['x'*1000000]*100000)|pprint }}", "{{ [['x'*1000000]*100000] ~ '' }}", "{{ {'a': ['x'*1000000]*100000}.items() }}",
        "{% set ns = namespace(x=['x'*1000000]*100000) %}{{ ns }}", "{{ ('%s'*10000)|format(*(['a'*1000000]*10000)) }}",
        "{{ ('%(a)s'*10000)|format(a='a'*1000000) }}", "{{ ('%s'*1000) % (['a'*1000000]*100,) }}",
        "{{ ('{0}'*100000).format('a'*1000000) }}", "{{ '{0!r}'.format(['a'*1000000]*100000) }}", "{{ [1]|batch(3000000000, 1)|list }}",
        "{{ (1).to_bytes(3000000000, 'big') }}", "{{ 'a'.encode() * 3000000000 }}", "{{ 1|round(300000000, 'ceil') }}",
        "{{ ([[1]*1000000]*1000)|sum(start=[])|length }}", "{{ ([0]*1000000)|tojson(indent=64) }}",
    ],
)  # fmt: skip
def test_texts_of_huge_values_are_refused_before_they_are_made(source):
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.thread_time()
    with pytest.raises(RequestError, match=r"too large|is unsafe|unexpected keyword"):
        ChatTemplate(source).render([{"role": "user", "content": "Hi"}])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB; they took gigabytes
    assert time.thread_time() - begun < 5 * 2.5


def test_texts_of_ordinary_values_are_written():
    source = "{{ [1, 'a']|string }} {{ {'a': [1]} }} {{ [1, 2]|sum }} {{ '%s-%s'|format('a', 2) }} {{ '{0:.1f}'.format(1.25) }} {{ [1, 2, 3]|batch(2)|list }} {{ 1.26|round(1) }} {{ ' a '|trim|upper }} {{ '<'|e }}"  # fmt: skip
    assert ChatTemplate(source).render([]) == "[1, 'a'] {'a': [1]} 3 a-2 1.2 [[1, 2], [3]] 1.3 A &lt;"
