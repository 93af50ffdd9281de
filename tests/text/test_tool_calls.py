import itertools
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.text.messages import ToolCall
from herd.text.tool_calls import ReplyParser, parse_reply

F, G = ToolCall("f", {"a": 1}), ToolCall("g", {})
F_TEXT, G_TEXT = '{"name": "f", "parameters": {"a": 1}}', '{"type": "function", "name": "g", "parameters": {}}'


@pytest.mark.parametrize(
    "reply, content, calls",
    [
        (F_TEXT, "", (F,)),
        ("<|python_tag|>" + F_TEXT, "", (F,)),
        (f"{F_TEXT}; {G_TEXT}", "", (F, G)),
        (f"{F_TEXT}\n{G_TEXT}\n", "", (F, G)),
        (f"<|python_tag|>{F_TEXT};{G_TEXT}", "", (F, G)),
        (f"[{F_TEXT}, {G_TEXT}]", "", (F, G)),
        ('{"type": "function", "function": {"name": "f", "arguments": "{\\"a\\": 1}"}}', "", (F,)),
        ('{"name": "f", "arguments": {"a": 1}}', "", (F,)),
        ('Let me see.\n{"name": "f", "parameters": {"a": 1}}', "Let me see.\n", (F,)),
        ('<function=f>{"a": 1}</function>', "", (F,)),
        ('<function=f>{"a": 1}', "", (F,)),
        ('I call <function=f>{"a": 1}</function><function=g>{}</function> now', "I call  now", (F, G)),
        ('{"name": "f", "parameters": {"s": "a } ] \\" { \\\\"}}', "", (ToolCall("f", {"s": 'a } ] " { \\'}),)),
        ('<function=f>{"s": "</function> }"}</function>', "", (ToolCall("f", {"s": "</function> }"}),)),
        ('brave_search.call(query="a (b) c")', "", (ToolCall("brave_search", {"query": "a (b) c"}),)),
        ('<|python_tag|>wolfram_alpha.call(query="1+1")', "", (ToolCall("wolfram_alpha", {"query": "1+1"}),)),
        ("<|python_tag|>x = [1]\nprint(x)", "", (ToolCall("code_interpreter", {"code": "x = [1]\nprint(x)"}),)),
        ("<|python_tag|>[x for x in y]", "", (ToolCall("code_interpreter", {"code": "[x for x in y]"}),)),
        (f"<tool_call>\n{F_TEXT}\n</tool_call>", "", (F,)),
        (f"Look:\n<tool_call>{F_TEXT}</tool_call>\n<tool_call>\n{G_TEXT}\n</tool_call>", "Look:\n", (F, G)),
        (f"<tool_call>{F_TEXT}", "", (F,)),
        ('<tool_call>\n{"arguments": {"a": 1}, "name": "f"}\n</tool_call>', "", (F,)),
        ('<tool_call>{"parameters": {}, "name": "g"}</tool_call>', "", (G,)),
        (
            '<tool_call>{"arguments": "{}", "name": "g"}</tool_call>',
            '<tool_call>{"arguments": "{}", "name": "g"}</tool_call>',
            (),
        ),
        (
            '<tool_call>{"arguments": {}, "name": "g", "x": 1}</tool_call>',
            '<tool_call>{"arguments": {}, "name": "g", "x": 1}</tool_call>',
            (),
        ),
        (f"<tool_call>\n[{F_TEXT}, {G_TEXT}]\n</tool_call> so", " so", (F, G)),
        ("[f(a=1)]", "", (F,)),
        ("[f(a=1), g()]", "", (F, G)),
        ("<|python_tag|>[f(a=1)]", "", (F,)),
        ("[ f ( a = 1 ) ,\n g( ) ]\n", "", (F, G)),
        ('[f(**{"a": 1})]', "", (F,)),
        (
            """[a.b(s='it\\'s )]', t="x\\u00e9\\/", u=[True, None, -1.5, {'k': (1,)}], v=true)]""",
            "",
            (ToolCall("a.b", {"s": "it's )]", "t": "xé/", "u": [True, None, -1.5, {"k": (1,)}], "v": True}),),
        ),
        ('{"type": "function", "name": "g", "parameters": null}', "", (G,)),
        ('{"name": "g", "parameters": null}', "", (G,)),
        ('{"type": "function", "name": "g"}', "", (G,)),
        ('{"type": "function", "function": {"name": "g"}}', "", (G,)),
        ('{"name": "g", "arguments": ""}', "", (G,)),
        ('{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}', "", (F,)),
        ('{"type": "function", "function": "f", "parameters": {"a": 1}}', "", (F,)),
        # near misses are text, every character of them
        ('{"name": "f", "parameters": {"a": 1}', '{"name": "f", "parameters": {"a": 1}', ()),
        ('<|python_tag|>{"name": "f", "param', '{"name": "f", "param', ()),
        ('{"name": "f"}', '{"name": "f"}', ()),
        ('{"name": "f", "parameters": [1]}', '{"name": "f", "parameters": [1]}', ()),
        ('{"name": "f", "parameters": {}, "x": 1}', '{"name": "f", "parameters": {}, "x": 1}', ()),
        ('{"parameters": {"a": 1}, "name": "f"}', '{"parameters": {"a": 1}, "name": "f"}', ()),
        ('{"n\\u0061me": "f", "parameters": {}}', '{"n\\u0061me": "f", "parameters": {}}', ()),
        ('{"name": "f", "parameters": {}, "arguments": {}}', '{"name": "f", "parameters": {}, "arguments": {}}', ()),
        ("<tool_call>f</tool_call>", "<tool_call>f</tool_call>", ()),
        ("<tool_call>\n{}\n</tool_call>", "<tool_call>\n{}\n</tool_call>", ()),
        ("[f(1)]", "[f(1)]", ()),
        ("[f(a=g())]", "[f(a=g())]", ()),
        ("[f(a=x)]", "[f(a=x)]", ()),
        ("[f(a=1e999)]", "[f(a=1e999)]", ()),
        ("[f(a=1, **{'a': 2})]", "[f(a=1, **{'a': 2})]", ()),
        ("[f(a={1})]", "[f(a={1})]", ()),
        ("[f(a='x\n')]", "[f(a='x\n')]", ()),
        ("[link](f(a=1))", "[link](f(a=1))", ()),
        ("Use [f(a=1)]", "Use [f(a=1)]", ()),
        ("[f(a=" + "-" * 5000 + "1)]", "[f(a=" + "-" * 5000 + "1)]", ()),
        ("[f(a=" + "(" * 500 + ")" * 500 + ")]", "[f(a=" + "(" * 500 + ")" * 500 + ")]", ()),
        ('{"name": "two words", "parameters": {}}', '{"name": "two words", "parameters": {}}', ()),
        ('{"a": 1}\n[1, 2]\n', '{"a": 1}\n[1, 2]\n', ()),
        ('Use {"name": "f", "parameters": {}} so', 'Use {"name": "f", "parameters": {}} so', ()),
        ('```json\n{"name": "f", "parameters": {}}\n```', '```json\n{"name": "f", "parameters": {}}\n```', ()),
        ("if a < b: <function=", "if a < b: <function=", ()),
        ("<function=>{}</function>", "<function=>{}</function>", ()),
        ("<function=f>[1]</function>", "<function=f>[1]</function>", ()),
        ("brave_search.call(query=gold)", "brave_search.call(query=gold)", ()),
        ("be well, wolf", "be well, wolf", ()),
        ("", "", ()),
        ("  hello \n", "  hello \n", ()),
        ("[" * 5000, "[" * 5000, ()),
        ("<function=f>{" * 300, "<function=f>{" * 300, ()),
        ('{"name": "f", "parameters": {"a": NaN}}', '{"name": "f", "parameters": {"a": NaN}}', ()),
    ],
)
def test_replies(reply, content, calls):
    assert parse_reply(reply) == (content, calls)


def test_only_known_functions_are_called():
    assert parse_reply(F_TEXT, frozenset({"g"})) == (F_TEXT, ())
    assert parse_reply(F_TEXT, frozenset({"f"})) == ("", (F,))
    assert parse_reply('<function=f>{"a": 1}</function>', frozenset({"g"}))[1] == ()
    assert parse_reply("[f(a=1)]", frozenset({"g"})) == ("[f(a=1)]", ())
    assert parse_reply('{"name": "g"}', frozenset({"g"})) == ("", (G,))
    assert parse_reply("<|python_tag|>print(1)", frozenset({"g"})) == ("print(1)", ())


def test_llamas_own_way_to_call_is_for_what_is_offered_so():
    search, known = 'brave_search.call(query="x")', frozenset({"brave_search"})
    assert parse_reply(search, known) == ("", (ToolCall("brave_search", {"query": "x"}),))
    parser = ReplyParser(known, frozenset())
    assert parser.push(search) + parser.finish() == [search]


def test_code_that_was_cut_off_is_not_run():
    assert parse_reply("<|python_tag|>import os; os.remo", cut_off=True) == ("import os; os.remo", ())


def streamed(reply: str, cuts: list[int]) -> tuple[str, tuple[ToolCall, ...]]:
    parser = ReplyParser()
    edges = sorted({0, len(reply), *(c % (len(reply) + 1) for c in cuts)})
    items = [item for a, b in itertools.pairwise(edges) for item in parser.push(reply[a:b])]
    items += parser.finish()
    content = "".join(item for item in items if isinstance(item, str))
    return content, tuple(item for item in items if isinstance(item, ToolCall))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text('ab"\\{}[];,<>/\n é', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text('k{}"', min_size=1, max_size=3), inner, max_size=2)
    ),
    max_leaves=5,
)
CALLS = st.builds(
    ToolCall, st.sampled_from(["f", "get_weather", "a.b-c"]), st.dictionaries(st.text(max_size=4), VALUES, max_size=3)
)
FRAGMENTS = st.one_of(
    CALLS.map(lambda c: json.dumps({"name": c.name, "parameters": c.arguments})),
    CALLS.map(lambda c: f"<function={c.name}>{json.dumps(c.arguments)}</function>"),
    st.sampled_from(
        ["; ", ", ", "\n", " ", "<|python_tag|>", "<function=", "</function>", "{", "}", "[", "]", '"', "\\", "```", "text",
         '{"name": "f", ', "<tool_call>", "</tool_call>", "[f(a=", "[f(a=1)]", ")]", "'", "f(", 'brave_search.call(query="', '")', "<|", "brave", "\n\n", "<f", "é", '{"x"']
    ),
    st.text(max_size=6),
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.lists(FRAGMENTS, max_size=8).map("".join), st.lists(st.integers(0, 10_000), max_size=12))
def test_streamed_equals_whole_however_it_is_cut(reply, cuts):
    whole = parse_reply(reply)
    assert streamed(reply, cuts) == whole
    assert streamed(reply, list(range(len(reply)))) == whole


@settings(max_examples=200, deadline=None)
@given(st.lists(CALLS, min_size=1, max_size=4), st.sampled_from(["; ", "\n", ",", " ", ";\n"]), st.booleans())
def test_calls_round_trip_in_any_number(calls, separator, tagged):
    text = separator.join(json.dumps({"name": c.name, "parameters": c.arguments}) for c in calls)
    assert parse_reply(("<|python_tag|>" if tagged else "") + text) == ("", tuple(calls))
    array = json.dumps([{"name": c.name, "parameters": c.arguments} for c in calls])
    assert parse_reply(array) == ("", tuple(calls))


def test_text_streams_without_waiting():
    parser = ReplyParser()
    assert parser.push("Hello wor") == ["Hello wor"]
    assert parser.push("ld <fun") == ["ld "]
    assert parser.push("ny>") == ["<funny>"]
    assert parser.push('\n{"x": 1') == ['\n{"x": 1']
    assert parser.finish() == []


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"name": "f", "parameters": {"a": "x" * 300_000}}),
        json.dumps({"name": "f", "data": "x" * 300_000}),
        "[" + ", ".join(['{"name": "f", "parameters": {"a": 1}}'] * 7_500) + "]",
        "[" + ", ".join(["f(a=1)"] * 12_000) + "]",
        "<function=f>{" * 22_000,
        '<function=f>{"a": "' + "x" * 300_000,
        '<tool_call>{{"}' * 20_000,
        'brave_search.call(query="' + '\\")' * 100_000,
        'brave_search.call(query="' + "x" * 300_000 + '")',
        "<|python_tag|>" * 21_000,
        "<|python_tag|>" + "print(1)\n" * 30_000,
    ],
    ids=lambda text: text[:20] + "..." + text[-5:],
)
def test_a_long_reply_takes_time_in_proportion(text):
    started = time.thread_time()
    parser = ReplyParser()
    items = [
        item for at in range(0, len(text), 5) for item in parser.push(text[at : at + 5]) if parser.begins is not None
    ]
    items += parser.finish()
    assert time.thread_time() - started < 2.5  # 0.4 measured at most; it was minutes
    whole, calls = parse_reply(text)
    assert time.thread_time() - started < 5
    assert "".join(item for item in items if isinstance(item, str)) == whole
    assert tuple(item for item in items if isinstance(item, ToolCall)) == calls
    assert whole == text or calls


def test_what_follows_a_broken_call_is_text_and_the_next_line_may_be_a_call():
    text = '<function=f>{"a": }</function>\n{"name": "g", "parameters": {"b": 1}}'
    assert parse_reply(text) == ('<function=f>{"a": }</function>\n', (ToolCall("g", {"b": 1}),))
    assert parse_reply('brave_search.call(7)\n{"name": "g", "parameters": {}}')[1] == (ToolCall("g", {}),)
    assert parse_reply('[f(a="é", b=[1,\n "ü"])]')[1] == (ToolCall("f", {"a": "é", "b": [1, "ü"]}),)
