"""`herd synth` as people run it, with the default model: killed and gone on, held to schemas, its data trained on."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import jsonschema
import msgspec
import pytest

from herd.cli.synth import command
from herd.config import read
from herd.data.overlap import Index
from herd.engine.open import open_engine
from herd.errors import ConfigError
from herd.synth.recipe import Recipe
from herd.synth.rows import input_rows
from herd.synth.run import prompts_of
from herd.synth.step import read_prompts
from herd.synth.steps import STEPS
from herd.synth.writer import Asked, EngineWriter
from herd.tools import ToolBox
from herd.tools.builtin import add_tools
from tests.synth.helpers import lines, written

ROOT = Path(__file__).parents[2]
HERD = [sys.executable, "-m", "herd", "synth"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
FILES = ("data.jsonl", "dropped.jsonl", "card.md")


def herd(place, *words, code=0):
    done = subprocess.run(
        [*HERD, *map(str, words)], cwd=place, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def refused(*words):
    with pytest.raises(ConfigError) as caught:
        command.main(list(map(str, words)), standalone_mode=False)
    return str(caught.value)


@pytest.fixture(scope="module")
def engine(smollm):
    with open_engine(smollm, cache_tokens=8192) as opened:
        yield opened


@pytest.fixture
def place(tmp_path):
    text = (ROOT / "tests/data/udhr/en.txt").read_text("utf-8")
    (tmp_path / "en.txt").write_text(text, "utf-8")
    own = (resources.files("herd.synth") / "prompts" / "labels.toml").read_text("utf-8")
    (tmp_path / "short.toml").write_text(own.replace("maxLength = 160", "maxLength = 30"), "utf-8")
    (tmp_path / "r.toml").write_text(
        'steps = ["labels"]\ninputs = ["en.txt"]\nrows = 8\npassage = 200\npassages = 100\nprompts.labels = "short.toml"\n'
    )
    return tmp_path


def test_kill_and_resume_give_equal_bytes(place):
    herd(place, place / place / "r.toml", "--out", place / "whole")
    process = subprocess.Popen(
        [*HERD, str(place / "r.toml"), "--out", "cut"], cwd=place, env=ENVIRONMENT, stdout=subprocess.DEVNULL
    )
    journal = place / "cut" / "rows.jsonl"
    for _ in range(3000):
        if journal.exists() and journal.read_bytes().count(b"\n") >= 3:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    count = journal.read_bytes().count(b"\n")
    assert 3 <= count < 8
    with journal.open("ab") as file:
        file.write(b'{"number": 9, "id": "ha')  # what a kill leaves of a line
    assert "8 rows" in herd(place, place / "r.toml", "--out", "cut")
    for name in FILES[:2]:
        assert (place / "cut" / name).read_bytes() == (place / "whole" / name).read_bytes()
    assert all(0 <= row["label"] <= 5 for row in lines(place / "cut" / "data.jsonl"))
    card = (place / "cut" / "card.md").read_text("utf-8")
    for told in ("smollm2-135m", "apache-2.0", "Rate from 0 to $best", "| rows | 8 |"):
        assert told in card
    assert "another recipe" in refused(place / "r.toml", "--out", place / "cut", "--set", "seed=2")
    (place / "short.toml").write_text((place / "short.toml").read_text("utf-8") + "\n")
    assert "prompts are others" in refused(place / "cut")


def test_what_cannot_be_is_told_in_a_line(place):
    for change, words in {
        "steps=[]": "steps", "rows=0": "rows is 0; expected 1 or more", "url=ftp://a": "expected one like http",
        "model=nothere": "is not here", "options.labels.best=0": "expected 1 to 100", "passage=-1": "below 0",
        "decontaminate.share=2": "at most 1", "nothing=1": "unknown key nothing",
    }.items():  # fmt: skip
        assert words in refused(place / "r.toml", "--out", place / "x", "--set", change)
    (place / "t.toml").write_text('steps = ["labels"]\ninputs = ["gone"]\n')
    assert "gone: no such file" in refused(place / "t.toml", "--out", place / "y")
    (place / "p.toml").write_text('[label]\nuser = "$nothing"\n')
    (place / "u.toml").write_text('steps = ["labels"]\ninputs = ["en.txt"]\nprompts.labels = "p.toml"\n')
    assert "lacks the properties reason, score" in refused(place / "u.toml", "--out", place / "z")
    own = (resources.files("herd.synth") / "prompts" / "labels.toml").read_text("utf-8")
    (place / "p.toml").write_text(own.replace("$text", "$nothing"))
    assert "names $nothing" in refused(place / "u.toml", "--out", place / "z")
    assert not (place / "x").exists()
    assert not (place / "z" / "data.jsonl").exists()


def bounded(schema):
    """Whether text that a schema allows has an end."""
    if "enum" in schema:
        return True
    kind = schema["type"]
    if kind == "object":
        return schema["additionalProperties"] is False and all(bounded(s) for s in schema["properties"].values())
    if kind == "array":
        return "maxItems" in schema and bounded(schema["items"])
    if kind == "string":
        return "maxLength" in schema or not any(sign in schema["pattern"] for sign in ("*$", "+$", "]*", "]+"))
    return False


def prompts():
    return [(step, name, prompt) for step in STEPS for name, prompt in read_prompts(step).named.items()]


def test_every_schema_has_an_end():
    filled = {"sentence", "score"}  # the step says which numbers
    for step, name, prompt in prompts():
        if prompt.schema is not None:
            parts = prompt.schema["properties"]
            schema = {**prompt.schema, "properties": {k: {"enum": [1]} if k in filled else v for k, v in parts.items()}}
            assert bounded(schema), (step, name)


def test_replies_of_the_smallest_model_are_valid_and_repeatable(engine, smollm):
    """Schemas of all prompts, several replies a prompt, at a temperature at which it babbles."""
    values = dict.fromkeys(
        ("text", "problem", "question", "prompt", "persona", "request", "category"), "What is 3 + 4?"
    )
    values |= {
        "sentences": "[1] Ada built it.",
        "best": 5,
        "name": "add",
        "instruction": "Say",
        "reply": "7",
        "hazard": "h",
    }
    asks = []
    for _, _, prompt in prompts():
        if prompt.schema is not None:
            parts = {
                k: {"enum": [1, 2]} if v.get("type") == "integer" else v for k, v in prompt.schema["properties"].items()
            }
            ask = prompt.ask(values, n=2, schema={**prompt.schema, "properties": parts})
            asks.append(msgspec.structs.replace(ask, temperature=1.0))
    assert len(asks) >= 12
    writer = EngineWriter(engine, smollm.chat_format(), {})

    def run(which):
        left = [Asked(i, ask, 7 + i) for i, ask in enumerate(asks) if i in which]
        return dict(writer.run(lambda: left.pop() if left else None))

    found = run(range(len(asks)))
    for number, replies in found.items():
        assert len(replies) == 2
        for reply in replies:
            assert not reply.problem
            jsonschema.validate(reply.value, asks[number].schema)
    assert run([0, 3]) == {number: found[number] for number in (0, 3)}  # whatever it runs beside


def test_tools_are_called_in_steps(engine, smollm):
    with ToolBox() as box:
        add_tools(box, ["calculator"])
        writer = EngineWriter(engine, smollm.chat_format(), {}, box)
        asks = [
            msgspec.structs.replace(
                read_prompts("tools")["dialog"].ask({"question": q}), tools="required", temperature=0.0
            )
            for q in ("What is 17 * 23?", "Add 5 and 8.")
        ]
        left = [Asked(i, ask, i) for i, ask in enumerate(asks)]
        found = dict(writer.run(lambda: left.pop() if left else None))
    assert sorted(found) == [0, 1]
    for (reply,) in found.values():
        assert reply.messages[0].tool_calls[0].name == "calculator"
        assert [message.role for message in reply.messages] == ["assistant", "ipython", "assistant"]
    assert found[0][0].messages[1].content == "391"  # of 17 * 23


def test_a_prompt_longer_than_the_context_loses_its_row_alone(engine, smollm):
    writer = EngineWriter(engine, smollm.chat_format(), {})
    short = read_prompts("labels")["label"].ask({"text": "Short.", "best": 5}, schema={"enum": [1]})
    long = read_prompts("labels")["label"].ask({"text": "word " * 9000, "best": 5}, schema={"enum": [1]})
    left = [Asked(0, long, 0), Asked(1, short, 0)]
    found = dict(writer.run(lambda: left.pop(0) if left else None))
    assert found[1][0].value == 1
    assert "context" in found[0][0].problem
    assert found[0][0].rule == "refused"


def test_duplicates_and_evaluation_questions_go(tmp_path):
    question = "A train leaves the old station at nine and travels two hundred miles before it stops for water and coal"
    replies = {
        "a": "Explain how clouds are made of very small drops of water that float in the air above us all.",
        "b": "Explain how clouds are made of very small drops of water that float in the air above us all.",
        "c": "Explain how clouds are made of very small drops of water that float in the air above us all!",
        "d": f"Please solve this. {question}. When?",
        "e": "Name three trees that grow beside rivers.",
    }  # fmt: skip

    def answer(text, body):
        return {"instruction": next(found for name, found in replies.items() if f"Text {name}." in text)}

    rows = [{"id": name, "text": f"Text {name}."} for name in replies]
    recipe = 'steps = ["instructions"]\noptions.instructions.least = 1'
    data, dropped, results = written(tmp_path, rows, answer, recipe, [("exam", "7", question), ("exam", "8", "short")])
    assert [row["id"] for row in data] == ["a", "e"]
    assert {row["id"]: row["rule"] for row in dropped} == {"b": "exact", "c": "similar", "d": "contaminated"}
    assert "exam 7" in next(row["value"] for row in dropped if row["id"] == "d")
    assert results["written"] == 2


def test_shares_of_one_text_are_those_of_a_corpus():
    texts = [("t", str(i), " ".join(f"word{i}x{j}" for j in range(30))) for i in range(20)]
    index = Index(texts)
    document = "before " + " ".join(texts[3][2].split()[5:25]) + " between " + texts[7][2]
    found = {key: share for _, key, share in index.found_in(document)}
    list(index.scan([document]))
    wanted = {match.id: match.share for match in index.matches()["t"] if match.share}
    assert found == pytest.approx(wanted)
    assert index.found_in("nothing of it is here at all, not even eight words") == []


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("synth-*.toml")), ids=lambda path: path.stem)
def test_recipes_that_come_with_herd_are_whole(path):
    recipe = read(Recipe, path, values={"folder": str(path.parent)}).check()
    rows = [row for _, row in input_rows(recipe)]
    assert rows
    assert all(isinstance(row, dict) for row in rows)
    prompts_of(recipe)


@pytest.mark.slow
def test_the_data_is_trained_on(place):
    (place / "q.toml").write_text('steps = ["personas"]\ninputs = ["en.txt"]\nrows = 4\npassage = 300\n')
    herd(place, "q.toml", "--out", "made")
    assert lines(place / "made" / "data.jsonl")
    recipe = (ROOT / "recipes" / "gsm8k-sft.toml").read_text("utf-8").split("[[data.validation]]")
    (place / "sft.toml").write_text(
        recipe[0].replace("data/tiny/gsm8k.jsonl", "made/data.jsonl").replace("validate_every = 20", "")
        + '[batch]\ntokens = 2048\nrows = 1\n[schedule]\nsteps = 2\npeak = 1e-4\n[lora]\nrank = 4\nalpha = 4\n'
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "herd", "train", "sft.toml", "--out", "trained"], cwd=place, env=ENVIRONMENT,
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((place / "trained" / "run.json").read_text())["ended"]
