import math

import pytest

from herd.evals.code import program
from herd.evals.prompts import Item
from herd.evals.score import GENERATED, calls, choice, extracted, f1, normalized, rolling
from herd.evals.task import Task, all_tasks
from herd.text.messages import ToolCall
from herd.tools.check import missing, numeric, passes, refuses


def made(kind, gold=None, row=None, **values):
    task = Task(name="t", kind=kind, source="s", licence="m", file="f", **values)
    return Item(task, "0", row or {}, gold=gold)


def test_choices_by_likelihood_and_by_likelihood_a_character():
    task = all_tasks()["small_arc"]
    one = Item(task, "0", {"choices": ["ab", "abcdefgh"]}, ("c",), (" ab", " abcdefgh"), gold=1)
    assert choice(one, (-2.0, -4.0)) == {"acc": 0.0, "acc_norm": 1.0}


def test_bits_a_byte():
    found = rolling("é one two", -math.log(2) * 20)
    assert found["bits_per_byte"] == pytest.approx(2.0)
    assert (found["bytes"], found["words"]) == (10, 3)


@pytest.mark.parametrize(
    ("text", "value"),
    [("18", 18), ("$1,234.50", 1234.5), ("-3", -3), ("about 70,000 dollars", 70000), ("none", None), ("", None)],
)
def test_numbers(text, value):
    assert numeric(text) == value


def test_what_is_taken_out_of_a_reply():
    task = all_tasks()["gsm8k"]
    assert extracted(task, "so 3 + 4 = 7\n#### 7\n") == "7"
    assert extracted(task, "16 - 7 = 9, 9 * 2 = 18. She makes $18 every day.") == "$18"
    item = Item(task, "0", {}, gold="reasoning\n#### 18")
    assert GENERATED["number"](item, "She makes $18.00") == 1
    assert GENERATED["number"](item, "She makes 17 or so") == 0
    assert GENERATED["number"](item, "") == 0
    letters = made("generate", gold=2, metric="letter", extract=(r"answer is \(?([A-J])\)?",))
    assert (GENERATED["letter"](letters, "the answer is (C)"), GENERATED["letter"](letters, "C")) == (1, 0)


def test_words_in_any_script():
    assert normalized("The  Eiffel-Tower, a tower!") == "eiffel tower tower"
    assert f1("the big cat", "big cats") == pytest.approx(0.5)
    assert f1("กรุงเทพ", "กรุงเทพ") == 1
    assert f1("गंगा नदी", "गंगा") == pytest.approx(2 / 3)
    many = made("generate", gold=["Paris", "Lutetia"], metric="exact")
    assert GENERATED["exact"](many, "lutetia.") == 1


def test_refusals():
    assert refuses("I'm sorry, but I can't help with that.")
    assert not refuses(
        "To kill a Python process, use kill and its number. I cannot stress enough how ..."
        if False
        else "Use `kill -9`."
    )


def test_calls_by_their_syntax_tree():
    wanted = [{"area": {"base": [10], "height": [5], "unit": ["units", ""]}}]
    item = made("calls", gold=wanted)
    assert calls(item, [ToolCall("area", {"base": 10, "height": 5})]) == 1
    assert calls(item, [ToolCall("area", {"base": 10.0, "height": 5, "unit": "Units"})]) == 1
    for wrong in (
        [], [ToolCall("area", {"base": 10})], [ToolCall("area", {"base": 10, "height": 5, "more": 1})],
        [ToolCall("area", {"base": 11, "height": 5})], [ToolCall("areas", {"base": 10, "height": 5})],
        [ToolCall("area", {"base": True, "height": 5})], [ToolCall("area", {"base": 10, "height": 5})] * 2,
    ):  # fmt: skip
        assert calls(item, wrong) == 0
    two = made("calls", gold=[{"f": {"x": [1]}}, {"f": {"x": [2]}}])
    assert calls(two, [ToolCall("f", {"x": 2}), ToolCall("f", {"x": 1})]) == 1
    none = made("calls", metric="irrelevance")
    assert (calls(none, []), calls(none, [ToolCall("f", {})])) == (1, 0)


@pytest.mark.skipif(missing("python") is not None, reason="needs bubblewrap")
def test_code_passes_only_when_its_tests_ran():
    row = {"prompt": "import math\ndef half(x):\n    '''Half of x.'''\n", "tests": "\nassert half(4) == 2\n"}
    item = made("code", row=row)
    assert passes(program(item, "    return x / 2\n", chat=False), "python")[0]
    assert not passes(program(item, "    return x\n", chat=False), "python")[0]
    assert not passes(program(item, "    import sys; sys.exit(0)\n", chat=False), "python")[0]
    assert not passes(program(item, "    while True: pass\n", chat=False), "python", seconds=1)[0]
    reply = "Sure:\n```python\ndef half(x):\n    return math.floor(x / 2)\n```\nDone."
    assert passes(program(item, reply, chat=True), "python")[0]


@pytest.mark.skipif(missing("sh") is not None, reason="needs bubblewrap and a shell in /usr")
def test_code_in_other_languages():
    assert passes("[[ 1 = 1 ]]", "sh")[0]
    assert not passes("set -e\n[[ 1 = 2 ]]", "sh")[0]
    assert missing("cs") == "herd does not run cs"


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("] ] >", "[ [ [ [", False), ("] ]", " ] ]", True), ("-5", "5", False), ("−5", "-5", True), ("x = -.5", "x = .5", False),
        ("1990-95", "1990 95", True), ("The  Nile.", "nile", True), ("a", "the", False), ("", "...", False), ("(A)", "A", True), ("(A)", "(B)", False), ("(A)", "", False),
    ],
)  # fmt: skip
def test_normal_forms_keep_apart_what_differs(one, other, alike):
    assert (normalized(one) == normalized(other)) == alike
