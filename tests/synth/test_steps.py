"""Each step with a server that answers well and badly: what is kept, and the rule by which the rest goes."""

import json

import pytest

from herd.config import read
from herd.engine.remote import Remote
from herd.errors import ConfigError
from herd.runs import Run
from herd.synth.recipe import Recipe
from herd.synth.rows import passages
from herd.synth.run import make
from herd.synth.writer import RemoteWriter
from tests.synth.helpers import server, written

SQUARE = "Write a function square(x) that returns the square of a number."


def program(body):
    return f"Here it is:\n```python\ndef square(x):\n    {body}\n```"


def test_code_is_mended_from_its_error_messages(tmp_path):
    said = []

    def answer(text, body):
        if "Write test cases" in text:
            return {"cases": [{"arguments": "3", "expected": "9"}, {"arguments": "-2", "expected": "4"}]}
        said.append(text)
        return program("return x ** 2" if "does not pass" in text else "return x * y")

    data, dropped, _ = written(tmp_path, [{"problem": SQUARE, "name": "square"}], answer, 'steps = ["code"]')
    assert not dropped
    assert data[0]["attempts"] == 2
    assert "return x ** 2" in data[0]["messages"][1]["content"]
    assert "NameError" in said[1]  # the model was shown what went wrong


def test_code_that_fails_and_tests_that_prove_nothing_go(tmp_path):
    def answer(text, body):
        return program("import os; os._exit(0)" if "leaves" in text else "return x * 5")

    rows = [
        {"id": "fails", "problem": SQUARE, "name": "square", "tests": ["assert square(3) == 9"]},
        {"id": "empty", "problem": SQUARE, "name": "square", "tests": ["assert True", "square(3)"]},
        {"id": "exits", "problem": SQUARE + " It leaves.", "name": "square", "tests": "assert square(3) == 9"},
    ]
    data, dropped, _ = written(tmp_path, rows, answer, 'steps = ["code"]\noptions.code.attempts = 2')
    assert not data
    assert {row["id"]: row["rule"] for row in dropped} == {
        "fails": "tests_fail", "empty": "tests_prove_nothing", "exits": "tests_fail",
    }  # fmt: skip


def solution(*steps, answer):
    return {"steps": [{"text": "So we get", "expression": e, "result": r} for e, r in steps], "answer": answer}


def test_mathematics_is_computed_anew_and_agreed_on(tmp_path):
    right = solution(("3 * 4", "12"), ("12 + 5", "17"), answer="17")
    other = solution(("4 * 3 + 5", "17"), answer="17")
    wrong = solution(("3 * 4", "13"), ("13 + 5", "18"), answer="18")
    lone = solution(("3 + 4", "7"), answer="7")
    replies = {
        "agreed": [right, other, wrong, lone], "wrong": [wrong] * 4, "apart": [right, lone, wrong, wrong],
        "known": [lone, right, wrong, wrong], "missed": [lone] * 4,
    }  # fmt: skip
    rows = [{"id": name, "problem": f"Case {name}: how many?"} for name in replies]
    rows[3]["answer"] = rows[4]["answer"] = "thinking #### 17"

    def answer(text, body):
        return next(found for name, found in replies.items() if f"Case {name}:" in text)

    data, dropped, _ = written(tmp_path, rows, answer, 'steps = ["mathematics"]')
    assert {row["id"]: row["answer"] for row in data} == {"agreed": "17", "known": "17"}
    assert "12 + 5 = 17" in data[0]["messages"][1]["content"]
    assert {row["id"]: row["rule"] for row in dropped} == {
        "wrong": "steps_wrong", "apart": "disagree", "missed": "answer_wrong",
    }  # fmt: skip


def test_questions_whose_answers_are_not_in_the_text_go(tmp_path):
    text = "The bridge was built in 1874 by Ada Stone. It is 310 metres long."

    def answer(prompt, body):
        sentences = body["response_format"]["json_schema"]["schema"]["properties"]["sentence"]["enum"]
        assert sentences == [1, 2]
        good = {"sentence": 2, "question": "How long is the bridge of Ada Stone?", "answer": "310 metres"}
        return good if "[1] The bridge" in prompt else {**good, "answer": "Seven thousand elephants"}

    rows = [
        {"id": "good", "text": text, "document": f"Long before.\n{text}"},
        {"id": "made up", "text": "Nothing. Else."},
    ]
    data, dropped, _ = written(tmp_path, rows, answer, 'steps = ["questions"]')
    assert [(row["id"], row["evidence"]) for row in data] == [("good", "It is 310 metres long.")]
    assert data[0]["messages"][0]["content"].startswith("Long before.")
    assert [(row["id"], row["rule"]) for row in dropped] == [("made up", "grounded")]


def test_preferences_by_answer_and_by_judge(tmp_path):
    def answer(text, body):
        if "How good is this answer" in text:
            return {"score": 9 if "It is 4" in text else 2}
        return ["It is 4", "Perhaps 5", "It is 4", "6"]

    rows = [{"prompt": "What is 2 + 2?", "answer": "4"}]
    for rule in ("answer", "judge"):
        place = tmp_path / rule
        place.mkdir()
        data, _, _ = written(place, rows, answer, f'steps = ["preferences"]\noptions.preferences.rule = "{rule}"')
        assert data[0]["chosen"] == "It is 4"
        assert data[0]["rejected"] in ("Perhaps 5", "6")
    place = tmp_path / "ranked"
    place.mkdir()
    data, _, _ = written(place, rows, answer, 'steps = ["preferences"]\noptions.preferences.form = "ranked"')
    assert data[0]["answers"] == ["It is 4", "Perhaps 5", "6"]


def test_translations_into_another_language_than_asked_go(tmp_path):
    text = "All human beings are born free and equal in dignity and rights."

    def answer(prompt, body):
        return (
            "Tous les êtres humains naissent libres et égaux en dignité et en droits." if "French" in prompt else text
        )

    recipe = 'steps = ["translation"]\noptions.translation.languages = ["en", "de", "fr"]'
    data, dropped, _ = written(tmp_path, [{"text": text}], answer, recipe)
    assert [row["language"] for row in data] == ["fr"]
    assert [(row["rule"], row["value"]) for row in dropped] == [("language", "en, not de")]


def test_refusals_decline_and_borderline_replies_do_not(tmp_path):
    rows = [{"id": kind, "kind": kind, "category": "crime", "hazard": "h", "request": f"{kind}?"} for kind in ("refusal", "borderline")]  # fmt: skip
    declining = "I can't help with that."
    data, dropped, _ = written(tmp_path, rows, lambda *_: declining, 'steps = ["safety"]')
    assert [row["kind"] for row in data] == ["refusal"]
    assert [row["rule"] for row in dropped] == ["declines"]


def test_steps_follow_each_other_and_instructions_are_rated(tmp_path):
    def answer(text, body):
        if "Rate from 1 to 5" in text:
            return {"score": 5 if "tea" in text else 2}
        return {"instruction": "How do people make tea?" if "water" in text else "Say something about cars."}

    rows = [{"id": "tea", "text": "Boil water and wait."}, {"id": "cars", "text": "Wheels turn."}]
    data, dropped, _ = written(tmp_path, rows, answer, 'steps = ["instructions"]')
    assert [(row["messages"][0]["content"], row["messages"][1]["content"]) for row in data] == [
        ("How do people make tea?", "Boil water and wait.")
    ]
    assert [(row["id"], row["rule"], row["value"]) for row in dropped] == [("cars", "rating", 2)]


def test_what_a_reply_breaks_is_told(tmp_path):
    replies = {
        "cut": None,
        "noise": "no JSON",
        "schema": {"score": 7, "reason": "x"},
        "good": {"score": 3, "reason": "x"},
    }
    rows = [{"id": name, "text": f"Text {name}"} for name in replies]

    def answer(text, body):
        return next(found for name, found in replies.items() if f"Text {name}" in text)

    data, dropped, results = written(tmp_path, rows, answer, 'steps = ["labels"]')
    assert [(row["text"], row["label"]) for row in data] == [("Text good", 3)]
    told = {row["id"]: (row["rule"], row["value"]) for row in dropped}
    assert told["cut"] == ("cut_off", "no end within its tokens")
    assert told["noise"][0] == told["schema"][0] == "schema"
    assert told["schema"][1] == "not as the schema says (7 is not one of [0, 1, 2, 3, 4, 5])"
    assert results["rows"] == results["written"] + len(dropped)


def test_other_inputs_are_no_resumed_run(tmp_path):
    def answer(text, body):
        return {"score": 3, "reason": "x"}

    data, _, _ = written(tmp_path, [{"id": "a", "text": "A."}], answer, 'steps = ["labels"]')
    assert data[0]["id"] == "a"
    (tmp_path / "in.jsonl").write_text('{"id": "b", "text": "B."}\n')
    settings = read(Recipe, tmp_path / "recipe.toml", values={"folder": str(tmp_path)}).check()
    with server(answer) as url, pytest.raises(ConfigError, match="row 0 was a when the run was made and is b now"):
        make(Run.open(tmp_path / "run"), settings, RemoteWriter(Remote(url, "m"), {}), [])


def test_passages_lose_no_word_and_are_no_longer_than_asked():
    text = "\n".join(" ".join(f"w{i}x{j}" for j in range(i % 37)) for i in range(60)) + "\n" + "y" * 500
    found = list(passages(text, 200))
    assert max(map(len, found)) <= 200
    assert "".join("".join(found).split()) == "".join(text.split())
    assert json.dumps(found)
