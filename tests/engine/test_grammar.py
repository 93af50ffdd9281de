"""Replies held to grammars: whatever the model would say, what it says is valid."""

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from herd.engine.grammar import Grammars, forced_calls, free_calls, json_grammar, regex_grammar
from herd.engine.open import open_engine
from herd.engine.request import Request, SamplingParams
from herd.errors import RequestError
from herd.text.messages import Tool
from herd.text.tool_calls import ReplyParser
from tests.models import byte_tokenizer


@pytest.fixture(scope="module")
def engine(smollm):
    with open_engine(smollm) as opened:
        yield opened


@pytest.fixture(scope="module")
def grammars(engine):
    made = Grammars(engine.tokenizer, engine.backend.config.vocab)
    yield made
    made.close()


NAMES = st.text("abcdefgh_", min_size=1, max_size=6)
LEAVES = st.one_of(
    st.just({"type": "boolean"}), st.just({"type": "null"}),
    st.builds(lambda a, b: {"type": "integer", "minimum": min(a, b), "maximum": max(a, b)}, st.integers(-99, 99), st.integers(-99, 99)),
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 12)),
    st.builds(lambda values: {"enum": values}, st.lists(st.one_of(NAMES, st.integers(-9, 9), st.booleans()), min_size=1, max_size=4, unique_by=repr)),
    st.builds(lambda p: {"type": "string", "pattern": p}, st.sampled_from(["^[a-z]{1,4}$", "^\\d{3}-\\d{2}$", "^(red|green)$"])),
)  # fmt: skip


def _objects(inner):
    def make(properties, required):
        return {
            "type": "object", "properties": properties, "required": sorted(set(required) & set(properties)),
            "additionalProperties": False,
        }  # fmt: skip

    return st.builds(make, st.dictionaries(NAMES, inner, max_size=3), st.lists(NAMES, max_size=4) | st.just([]))


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        _objects(inner),
        st.builds(lambda i, n: {"type": "array", "items": i, "maxItems": n}, inner, st.integers(0, 3)),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=5,
)


@settings(
    max_examples=10, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(st.lists(_objects(SCHEMAS), min_size=20, max_size=20), st.integers(0, 1000))
def test_arguments_of_any_schema_are_valid(engine, grammars, schemas, seed):
    """Of 200 random schemas, twenty at a time: every reply is a call whose arguments are JSON that the schema allows."""
    held = [forced_calls([Tool("act", "Do it", schema)], several=False) for schema in schemas]
    params = SamplingParams(temperature=1.0, max_tokens=600, seed=seed)
    prompt = engine.tokenizer.encode("Call the function.")
    requests = [
        Request(prompt=prompt, params=params, constraint=grammars.constraint(grammar), id=str(i))
        for i, grammar in enumerate(held)
    ]
    texts, reasons = {str(i): "" for i in range(20)}, set()
    for event in engine.generate(requests):
        texts[event.request] += event.text
        reasons |= {event.finish_reason} - {None}
    assert reasons == {"stop"}
    for schema, text in zip(schemas, texts.values(), strict=True):
        (call,) = _parsed(text, {"act"})
        jsonschema.validate(call.arguments, schema)


def _parsed(text, known):
    parser = ReplyParser(frozenset(known))
    return [part for part in parser.push(text) + parser.finish() if not isinstance(part, str) or part.strip()]


WEATHER = Tool("get_weather", "", {"type": "object", "properties": {"city": {"type": "string", "maxLength": 9}}, "required": ["city"], "additionalProperties": False})  # fmt: skip


@pytest.mark.parametrize(
    "written,end",
    [
        ('{"name": "get_weather"', "}}"),
        ('{"name":"get_weather"', "}}"),
        ('Let me look.\n{"name": "get_weather"', "}}"),
        ("<function=get_weather>", "</function>"),
    ],
)
def test_a_call_in_free_text_is_held_to_its_schema_from_its_name_on(engine, grammars, written, end):
    """The model is made to write a call's beginning, by masks as a sampler would; what follows can only be valid."""
    state = grammars.constraint(free_calls([WEATHER]))()
    for token in engine.tokenizer.encode(written):
        assert _allows(state.mask(), token)
        state.advance(token)
    rng = np.random.default_rng(4)
    text = written
    while not text.endswith(end) and len(text) < 300:
        allowed = np.flatnonzero(np.unpackbits(state.mask().view(np.uint8), bitorder="little"))
        allowed = [t for t in allowed if engine.tokenizer.token_bytes(int(t)).isascii()]
        token = int(rng.choice(allowed))
        state.advance(token)
        text += engine.tokenizer.token_bytes(token).decode()
    calls = [part for part in _parsed(text, {"get_weather"}) if not isinstance(part, str)]
    assert len(calls) == 1, text
    jsonschema.validate(calls[0].arguments, WEATHER.parameters)


def _allows(mask, token):
    return bool(mask[token // 32] >> (token % 32) & 1)


def test_free_text_is_free_and_other_json_is_too(engine, grammars):
    state = grammars.constraint(free_calls([WEATHER]))()
    for token in engine.tokenizer.encode('Here: {"name": "Bob", "age": 3} and <function=other>x\n\nDone. 日本'):
        assert _allows(state.mask(), token)
        state.advance(token)
    assert _allows(state.mask(), next(iter(engine.tokenizer.stop_ids)))


def test_regex_is_matched_whole_and_constraints_run_beside_each_other(engine, grammars):
    pattern = regex_grammar("[0-9]{3}/[a-c]+x")
    events = engine.generate(
        [
            Request(prompt=[504, i], params=SamplingParams(max_tokens=40, seed=i), constraint=grammars.constraint(pattern) if i % 2 else None)
            for i in range(8)
        ]
    )  # fmt: skip
    texts: dict[str, str] = {}
    for event in events:
        texts[event.request] = texts.get(event.request, "") + event.text
    held = [text for text in texts.values() if len(text) > 4 and text[3:4] == "/" and text[:3].isdigit()]
    assert len(held) >= 4


@pytest.mark.parametrize("grammar", ["start: (", "nonsense", json_grammar({"type": "robot"}), regex_grammar("(")])
def test_a_bad_grammar_is_one_clear_error(grammars, grammar):
    with pytest.raises(RequestError, match="grammar"):
        grammars.constraint(grammar)


def test_llamas_python_tag_may_come_before_code_or_a_call():
    """With Llama 3's special tokens: text cannot choose any but the tag and the ends of turns."""
    tokenizer = byte_tokenizer()
    made = Grammars(tokenizer, tokenizer.vocab_size)
    special = tokenizer.special_tokens
    grammar = free_calls([WEATHER], python_tag=True)
    state = made.constraint(grammar)()
    assert _allows(state.mask(), special["<|python_tag|>"])
    assert _allows(state.mask(), special["<|eot_id|>"])
    assert not _allows(state.mask(), special["<|start_header_id|>"])
    state.advance(special["<|python_tag|>"])
    for token in tokenizer.encode('{"name": "get_weather"'):
        assert _allows(state.mask(), token)
        state.advance(token)
    assert _allows(state.mask(), tokenizer.encode(",")[0])
    assert not _allows(state.mask(), tokenizer.encode("x")[0])
    code = made.constraint(grammar)()
    for token in [special["<|python_tag|>"], *tokenizer.encode("print(6 * 7)")]:
        assert _allows(code.mask(), token)
        code.advance(token)
    assert _allows(code.mask(), special["<|eom_id|>"])
    made.close()


@pytest.fixture(scope="module")
def letters():
    """Grammars over single bytes, so that a text is taken or refused letter by letter."""
    tokenizer = byte_tokenizer()
    made = Grammars(tokenizer, tokenizer.vocab_size)
    yield tokenizer, made
    made.close()


def _takes(letters, make, text):
    """Whether a grammar allows a text, from its first token to the end of the reply."""
    tokenizer, _ = letters
    state = make()
    for token in tokenizer.encode(text):
        if not _allows(state.mask(), token):
            return False
        state.advance(token)
    return any(_allows(state.mask(), stop) for stop in tokenizer.stop_ids)


SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 9}, "days": {"type": "integer", "maximum": 5}}, "required": ["city"], "additionalProperties": False}  # fmt: skip
HELD = (Tool("get_weather", "", SCHEMA), Tool("now", "", {}), Tool("either", "", {**SCHEMA, "anyOf": [SCHEMA]}))
SPACES = st.sampled_from(["", " ", "\n"])
VALUES = st.sampled_from(['{"city": "Rome"}', '{"city": "Rome", "days": 3}', '{"city": 1}', "{}", '{"city": "Constantinople"}', "null", '""', '"{\\"city\\": 1}"', "[]"])  # fmt: skip
NAMED = st.sampled_from(["get_weather", "now", "either"])
BEFORE = st.lists(
    st.sampled_from(['"type": "function"', '"id": "x"', '"type":"function"', '"name": "Bob"', '"x": {}']), max_size=2
)
KEYS = st.sampled_from(["parameters", "arguments", "params"])


@st.composite
def _written_calls(draw):
    space = draw(SPACES)
    name, value, key = draw(NAMED), draw(VALUES), draw(KEYS)
    named = draw(st.sampled_from(["name", "function", "n\\u0061me"]))
    inner = f'"{named}"{space}:{space}"{name}"'
    fields = [*draw(BEFORE), inner, *([f'"{key}"{draw(SPACES)}:{draw(SPACES)}{value}'] if draw(st.booleans()) else [])]
    if draw(st.integers(0, 3)) == 0:
        fields.reverse()
    flat = "{" + space + f"{draw(SPACES)},{space}".join(fields) + space + "}"
    if draw(st.booleans()):
        flat = "{" + ", ".join([*draw(BEFORE), f'"function":{space}{flat}']) + "}"
    python = draw(
        st.sampled_from(
            ['city="Rome"', "city='Rome', days=3", "city=1", "", "days=9, city='x'", '**{"city": 1}', '**{"city": "x"}']
        )
    )
    return draw(
        st.sampled_from(
            [flat, f"[{space}{flat}{space}]", f"<tool_call>{space}{flat}{space}</tool_call>", f"<|python_tag|>{flat}",
             f"<function={name}>{space}{value}</function>", f"[{space}{name}({python})]", f"[now(), {name}({python})]",
             f"Hm.\n{flat}; {flat}", f"[{name}({python}),{space}{name}({python})]"]
        )
    )  # fmt: skip


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@example('{"type": "function", "name": "get_weather", "parameters": {"city": 1}}')
@example('{"function": "get_weather", "arguments":{}}')
@example('[{"name": "now", "parameters": {}},\n{"name": "get_weather"}]')
@example("[now(), get_weather(city=1)]")
@example('<tool_call>{"arguments": {"city": 1}, "name": "get_weather"}</tool_call>')
@example('<tool_call>{"arguments": {"city": "Rome"}, "name": "now"}</tool_call>')
@given(_written_calls())
def test_no_call_that_is_parsed_escapes_its_schema(letters, text):
    """What the parser takes for a call the grammar has held: arguments outside the schema cannot have been written."""
    _, made = letters
    calls = [part for part in _parsed(text, {tool.name for tool in HELD}) if not isinstance(part, str)]
    schemas = {"get_weather": SCHEMA, "either": SCHEMA, "now": {"type": "object", "maxProperties": 0}}
    if any(not jsonschema.Draft202012Validator(schemas[call.name]).is_valid(call.arguments) for call in calls):
        assert not _takes(letters, made.constraint(free_calls(HELD)), text)


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "get_weather", "parameters": {"city": "Rome"}}', '{"name":"get_weather","arguments":{"city": "Rome"}}',
        '{"type": "function", "name": "get_weather", "parameters": {"city": "Rome", "days": 3}}',
        '{"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}',
        '{"type": "function", "function": "get_weather", "parameters": {"city": "Rome"}}',
        'Well.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>',
        '<tool_call>\n{"arguments": {"city": "Rome"}, "name": "get_weather"}\n</tool_call>',
        '<tool_call>{"arguments": {}, "name": "now"}</tool_call>',
        '[{"name": "now", "parameters": {}}, {"name": "get_weather", "parameters": {"city": "Rome"}}]',
        '<function=get_weather>{"city": "Rome"}</function>', '[get_weather(city="Rome")]', "[now()]",
        '[get_weather(city="Rome", days=3), now(), either(**{"city": "Rome"})]', '[{"name": "Bob"}]', "[x for x in now()]",
    ],
)  # fmt: skip
def test_calls_that_fit_can_be_written_in_every_spelling(letters, text):
    _, made = letters
    assert _takes(letters, made.constraint(free_calls(HELD)), text)
    calls = [part for part in _parsed(text, {tool.name for tool in HELD}) if not isinstance(part, str)]
    assert bool(calls) == ("Bob" not in text and " for " not in text)
    once = _takes(letters, made.constraint(free_calls(HELD, several=False)), text)
    assert once == (len(calls) < 2)


def test_more_tools_than_the_library_takes_are_a_line_without_its_panic(letters):
    _, made = letters
    wide = {"type": "object", "properties": {f"a{i}": {"type": "string"} for i in range(40)}}
    with pytest.raises(RequestError, match="more parts than can be held to"):
        made.constraint(free_calls([Tool(f"f{i}", "", wide) for i in range(128)]))
