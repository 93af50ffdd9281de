import json

import pytest

from herd.errors import ConfigError, FormatError
from herd.evals.prompts import choices_of, gold_of, item
from herd.evals.source import READERS, AbsentError, Places, present, rows_of, shots_of
from herd.evals.task import Task, all_tasks, choose, groups, read_tasks


def test_enough_tasks_from_enough_sources_each_with_a_licence():
    tasks = all_tasks()
    assert len(tasks) >= 150
    assert len({task.source for task in tasks.values()}) >= 40
    assert all(task.licence and (task.file or task.hub or task.made) for task in tasks.values())
    assert len(groups()["mmlu"]) == 57
    assert len(groups()["bbh"]) == 27
    assert all(task.reader in READERS for task in tasks.values())


def test_every_embedded_task_makes_whole_questions():
    for task in choose(["small"]):
        rows = rows_of(task, Places())
        assert len(rows) >= 8
        for row in rows:
            one = item(task, row, [], chat=False)
            if task.kind == "choice":
                assert 0 <= one.gold < len(one.continuations)
                assert all(text.strip() for text in one.continuations)
            if task.kind == "calls":
                assert one.tools
                assert one.gold


def test_names_groups_and_what_is_neither():
    assert next(t.name for t in choose(["small_arc", "small"])) == "small_arc"
    assert len(choose(["small", "small_arc"])) == len(groups()["small"])
    with pytest.raises(ConfigError, match="arc_challenge"):
        choose(["arc_chalenge"])


def test_shots_stand_before_the_question_and_are_never_the_row_itself():
    task = all_tasks()["bbh_boolean_expressions"]
    shots = shots_of(task, Places())
    assert len(shots) == 3
    row = {"id": "0", "input": "not True is", "target": "False", "answer": "False"}
    text = item(task, row, shots, chat=False).contexts[0]
    assert text.count("\n\nQ: ") == 4
    assert text.endswith("Q: not True is\nA:")
    turns = item(task, row, shots, chat=True).messages
    assert [m.role for m in turns] == ["system"] + ["user", "assistant"] * 3 + ["user"]


def test_golds_of_all_kinds():
    base = {"name": "t", "kind": "choice", "source": "s", "licence": "MIT", "file": "x"}
    lettered = Task(**base, choices=("A", "B", "C"))
    assert [gold_of(lettered, {"answer": g}) for g in ("B", "2", 0)] == [1, 2, 0]
    hub = Task(**base, gold="answerKey")
    row = {"choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}
    assert (choices_of(hub, row), gold_of(hub, row)) == (["x", "y"], 1)
    with pytest.raises(ConfigError, match="names none of 3"):
        gold_of(lettered, {"answer": "F"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[task]]\nname = "x"\nkind = "choice"\nsource = "s"\nlicence = "m"\nfile = "f"\nmetrik = "acc"\n', "metrik"),
        (
            '[[task]]\nname = "x"\nkind = "choice"\nsource = "s"\nlicence = "m"\nfile = "f"\nmetric = "f1"\n',
            "kind choice has acc",
        ),
        ('[[task]]\nname = "x"\nkind = "guess"\nsource = "s"\nlicence = "m"\nfile = "f"\n', "Invalid enum"),
        ('[[task]]\nname = "x"\nkind = "choice"\nsource = "s"\nlicence = "m"\n', "where is its data"),
        ('name = "x"\n', "no \\[\\[task\\]\\]"),
        ("name = ", "not valid TOML"),
    ],
)
def test_wrong_tasks_are_refused_by_name(text, message):
    with pytest.raises(ConfigError, match=message):
        read_tasks(text, "mine.toml")


def test_data_that_is_absent_changed_or_damaged(tmp_path):
    task = all_tasks()["arc_challenge"]
    with pytest.raises(AbsentError, match="allenai/ai2_arc"):
        rows_of(task, Places((tmp_path,)))
    (tmp_path / "commonsense").mkdir()
    (tmp_path / task.file).write_text("[]")
    assert present([task], Places((tmp_path,))) == {"arc_challenge": True}
    with pytest.raises(FormatError, match="SHA-256"):
        rows_of(task, Places((tmp_path,)))
    mine = Task(name="m", kind="choice", source="s", licence="m", file="m.json", reader="adapters")
    for text in ("[", "[1]", json.dumps([{"instruction": "no answers", "answer": "1"}]), "[{}]"):
        (tmp_path / "m.json").write_text(text)
        with pytest.raises(FormatError, match=r"m\.json"):
            rows_of(mine, Places((tmp_path,)))
