import re
from collections import Counter

import pytest

from herd.engine.open import open_engine
from herd.evals import long
from herd.evals.prompts import Item, gold_of, item
from herd.evals.score import GENERATED
from herd.evals.source import Places, present, rows_of, shots_of
from herd.evals.target import EngineTarget
from herd.evals.task import Made, Task, all_tasks, choose, groups
from herd.family import shape
from tests.models import random_checkpoint


def made(kind, tokens=2000, rows=20, seed=1):
    return long.rows(Made(kind=kind, tokens=tokens, rows=rows, seed=seed))


@pytest.mark.parametrize("kind", ["needle", "needles", "variables", "common_words"])
def test_rows_are_the_same_for_a_seed_and_as_long_as_was_asked(kind, smollm):
    rows = made(kind)
    assert rows == made(kind)
    assert rows != made(kind, seed=2)
    assert len({row["text"] for row in rows}) == 20
    for tokens in (900, 8000):
        lengths = [len(smollm.tokenizer.encode(row["text"])) for row in made(kind, tokens, rows=3)]
        assert all(0.75 * tokens < length < 1.35 * tokens for length in lengths), (kind, tokens, lengths)


def test_needles_are_where_they_should_be_and_once():
    for row in made("needle"):
        (number,) = row["answer"]
        assert row["text"].count(number) == 1
        assert row["text"].index(number) / len(row["text"]) == pytest.approx(int(row["depth"][:-1]) / 100, abs=0.08)
        assert f"{row['begin']} {number}." in row["text"]
    for row in made("needles"):
        assert len(re.findall(r"special number of the (\w+) is (\d{7})\.", row["text"])) == 4
        assert all(f"is {number}." in row["text"] for number in row["answer"])


def test_chains_of_variables_give_the_answer():
    for row in made("variables"):
        values = {}
        for name, value in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)\.", row["text"]):
            values[name] = values.get(value, value)  # in the order of the text
        wanted = re.search(r"\d{7}", row["question"])[0]
        assert {name for name, value in values.items() if value == wanted} == set(row["answer"])
        assert len(values) == 8


def test_common_words_are_the_commonest_by_far():
    for tokens in (400, 2000, 16000):
        for row in made("common_words", tokens, rows=5):
            count = Counter(re.findall(r"[a-z]+", row["text"])).most_common()
            assert {word for word, _ in count[:5]} == set(row["answer"])
            assert count[4][1] >= 1.5 * count[5][1]


def test_tasks_need_no_data_and_score_by_the_share_that_is_found():
    tasks = choose(["long_4k"])
    assert {t.made.kind for t in tasks} == {"needle", "needles", "variables", "common_words"}
    assert all(present(tasks, Places()).values())
    one = item(tasks[1], rows_of(tasks[1], Places())[0], [], chat=False)
    first, second = one.gold
    assert [GENERATED["recall"](one, text) for text in (f"{second} and {first}", f"{first}, I think", "none")] == [
        1,
        0.5,
        0,
    ]


def test_metas_group_asks_as_meta_does():
    names = groups()["meta"]
    assert (len(names), len(groups()["meta_mmlu"])) == (59, 57)
    task = all_tasks()["meta_gsm8k"]
    one = item(task, {"id": "0", "question": "1 + 1?", "answer": "so\n#### 2"}, shots_of(task, Places()), chat=True)
    assert [m.role for m in one.messages] == ["user", "assistant"] * 8 + ["user"]
    assert all("The final answer is" in m.content for m in one.messages if m.role == "assistant")
    assert GENERATED["number"](one, "1 + 1 = 2. The final answer is 2.") == 1
    assert GENERATED["number"](one, "2 and 3. The final answer is $1,002.") == 0
    mmlu = all_tasks()["meta_mmlu_anatomy"]
    row = {"question": "q", "choices": ["w", "x", "y", "z"], "answer": 2}
    letter = Item(mmlu, "0", row, gold=gold_of(mmlu, row))
    assert [
        GENERATED["letter"](letter, text)
        for text in ("The best answer is C.", " C", "The best answer is B", "Certainly", "C man")
    ] == [1, 1, 0, 0, 0]


def test_questions_with_too_few_choices_are_left_out(tmp_path):
    task = all_tasks()["meta_arc_challenge"]
    mine = Task(name="m", kind="generate", source="s", licence="m", file="f.jsonl", keep=task.keep, gold=task.gold)
    (tmp_path / "f.jsonl").write_text(
        '{"choices": ["a", "b", "c"], "answer": 0}\n{"choices": {"text": ["a", "b", "c", "d"], "label": ["1", "2", "3", "4"]}, "answerKey": "3"}\n'
    )
    rows = rows_of(mine, Places((tmp_path,)))
    assert len(rows) == 1


def test_what_does_not_fit_fails_and_is_not_cut():
    task = all_tasks()["needle_4k"]
    one = item(task, rows_of(task, Places())[0], [], chat=False)
    with open_engine(random_checkpoint(shape("tiny")), "native", cache_tokens=1024) as engine:
        (answer,) = EngineTarget("tiny", engine).answer([one])
    assert "exceed the context of 1,024" in answer.error
