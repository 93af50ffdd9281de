"""The whole life of a model: killed on the way, gone on with, changed, opened. Real training of very small models, about 20 seconds."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from herd.engine.batch import Prompter
from herd.engine.open import open_engine
from herd.engine.request import SamplingParams
from herd.errors import ConfigError
from herd.life.dry_run import row
from herd.life.recipe import Recipe, load, stages
from herd.life.run import live
from herd.safety.policy import read_policy
from herd.weights.open import open_checkpoint

ROOT = Path(__file__).parents[2]
MINUTE = ROOT / "recipes" / "life-minute.toml"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def herd(out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "herd", "run", str(MINUTE), "--out", str(out), *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def record(out: Path, name: str) -> dict:
    (path,) = out.glob(f"stages/{name}-*/stage.json")
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """A run that was killed in its fourth stage and gone on with."""
    out = tmp_path_factory.mktemp("life") / "run"
    process = herd(out)
    try:
        for line in process.stderr:
            if line.startswith("long "):
                process.send_signal(signal.SIGKILL)
                break
    finally:
        process.kill()
        process.communicate(timeout=60)
    assert not list(out.glob("stages/sft-*"))
    before = {path: path.stat().st_mtime_ns for path in out.glob("stages/*/stage.json")}
    assert len(before) >= 3
    again = herd(out)
    said = again.communicate(timeout=600)
    assert again.returncode == 0, said[1]
    assert "pretrain (train): made before" in said[1]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    return out


def test_every_stage_left_what_it_promises(lived):
    recipe = load(MINUTE, {})
    asked = stages(recipe, MINUTE.parent, lived)
    assert [stage.name for stage in asked] == list(recipe.stages)
    for stage in asked:
        mark = record(lived, stage.name)
        assert mark["key"] == stage.key
        assert mark["seconds"] > 0
    pairs = [json.loads(line) for line in (next(s for s in asked if s.name == "rejection").made / "pairs.jsonl").open()]
    assert all(pair["chosen"] != pair["rejected"] for pair in pairs)
    pre, dpo = (record(lived, "evals")["results"]["figures"][name] for name in ("pretrain", "dpo"))
    assert [f["task"] for f in pre] == [f["task"] for f in dpo] == ["life_text", "life_solutions", "small_arc"]
    assert dpo[1]["low"] < dpo[1]["value"] < dpo[1]["high"]
    assert dpo[1]["value"] < pre[1]["value"], "worked solutions are predicted better after training on them"
    assert sum(row["votes"] for row in record(lived, "arena")["results"]["standings"]) == 12
    attacked = record(lived, "redteam")["results"]["red team"]["dpo"]
    assert attacked["attacks"] == 8
    assert attacked["errors"] == 0
    assert record(lived, "rl")["results"]["steps"] == 2


def test_its_model_folder_talks_and_says_what_it_is(lived):
    (folder,) = lived.glob("stages/model-*/made")
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0")
    assert "| dpo | life_solutions | bits_per_byte |" in card
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert read_policy(str(folder / "safety.toml")) == read_policy("block")
    checkpoint = open_checkpoint(folder)
    engine = open_engine(checkpoint)
    try:
        request = Prompter(checkpoint).request("Hello", params=SamplingParams(temperature=0, max_tokens=4))
        (done,) = engine.run([request])
    finally:
        engine.close()
    assert done.error is None
    assert len(done.tokens) > 0


def test_a_change_makes_anew_what_depends_on_it_alone(lived):
    before = {path.parent.name: path.stat().st_mtime_ns for path in lived.glob("stages/*/stage.json")}
    process = herd(lived, "--set", "stages.arena.limit=3")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert [line.split()[0] for line in said.splitlines() if line.endswith(" ...")] == ["arena"]
    after = {path.parent.name: path.stat().st_mtime_ns for path in lived.glob("stages/*/stage.json")}
    new = set(after) - set(before)
    assert {name: after[name] for name in before} == before
    assert len(new) == 1
    shutil.rmtree(lived / "stages" / new.pop())


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian's chromium)")
def test_the_report_opens_offline_in_a_browser(lived):
    playwright = pytest.importorskip("playwright.sync_api")
    asked, wrong = [], []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto((lived / "report.html").as_uri())
        headings = page.locator("h2").all_inner_texts()
        rows = page.locator("table").first.locator("tbody tr").count()
        curves = page.locator("svg path[fill=none]").count()
        text = page.inner_text("body")
        browser.close()
    assert headings == [
        "Stages and what they cost", "Training", "Evaluation: evals", "Arena: arena", "Red team: redteam",
        "Samples before and after each stage",
        "Every command to repeat a part",
    ]  # fmt: skip
    assert rows == len(load(MINUTE, {}).stages)
    assert curves >= 6
    assert re.search(r"herd train \S+recipe.toml --out again", text)
    assert not wrong
    assert all(url.startswith("file:") for url in asked)


def test_a_stage_has_a_model_write_data_and_is_made_once(tmp_path, smollm):
    sums = json.loads((ROOT / "recipes/data/arithmetic/train.jsonl").read_text().splitlines()[0])
    lines = [{**sums, "id": f"{a}", "answer": a + 3} for a in range(2, 8)]
    for line in lines:
        line["prompt"] = [*sums["prompt"][:-1], {"role": "user", "content": f"Compute {line['answer'] - 3} + 3."}]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    stage = {"kind": "synth", "steps": ["preferences"], "inputs": ["./sums.jsonl"], "options": {"preferences": {"answers": 8, "rule": "answer"}}}  # fmt: skip
    said = []
    for _ in range(2):
        live(Recipe(stages={"pairs": stage}), tmp_path, tmp_path / "out", lambda _: smollm, [], say=said.append)
    assert said == ["pairs (synth) ...", "pairs (synth): made before"]
    (made,) = tmp_path.glob("out/stages/pairs-*/made")
    pairs = [json.loads(line) for line in (made / "data.jsonl").open()]
    assert pairs
    assert all(pair["scores"] == [1, 0] for pair in pairs)
    assert record(tmp_path / "out", "pairs")["results"]["written"] == len(pairs)


def made_of(tmp_path: Path, **tables: dict) -> list:
    return stages(Recipe(stages=tables), tmp_path, tmp_path / "out")


def test_a_key_depends_on_settings_inputs_and_bytes(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    tokens = {"kind": "tokenizer", "files": ["./a.txt"], "vocab": 300}
    model = {"kind": "quantize", "model": "@t"}
    first = made_of(tmp_path, t=tokens, q=model)
    assert [s.key for s in made_of(tmp_path, t=tokens, q=model)] == [s.key for s in first]
    assert [s.key for s in made_of(tmp_path, t={**tokens, "minutes": 3}, q=model)] == [s.key for s in first], "a budget makes nothing anew"  # fmt: skip
    changed = made_of(tmp_path, t=tokens, q={**model, "format": "Q4_0"})
    assert (changed[0].key, changed[1].key != first[1].key) == (first[0].key, True)
    (tmp_path / "a.txt").write_text("two")
    after = made_of(tmp_path, t=tokens, q=model)
    assert after[0].key != first[0].key
    assert after[1].key != first[1].key
    assert after[1].settings["model"] == str(after[0].made)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({}, "there are none"),
        ({"a": {"files": []}}, "stages.a.kind is missing"),
        ({"a": {"kind": "quantize", "model": "@b"}}, "no stage before it is called b"),
        ({"a": {"kind": "tokenizer", "minutes": 0}}, "stages.a.minutes is 0"),
        ({"a b": {"kind": "tokenizer"}}, "is no name"),
        ({"a": {"kind": "tokenizer", "plan": 3}}, "stages.a.plan is 3"),
        ({"a": {"kind": "cook"}}, "stages.a.kind is 'cook'; expected one of data, tokenizer, train"),
        ({"a": {"kind": "tokenizer", "files": [], "vocap": 3}}, "stages.a: unknown key vocap"),
        (
            {"a": {"kind": "arena", "models": ["x", "y"], "prompts": "p"}},
            "stages.a: give one of judge, reward and rule",
        ),
    ],
)
def test_what_cannot_be_is_told_by_name(tmp_path, tables, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        [row(stage) for stage in made_of(tmp_path, **tables)]


def test_settings_are_changed_by_name():
    assert load(MINUTE, {"stages.arena.limit": "3"}).stages["arena"]["limit"] == 3
    with pytest.raises(ConfigError, match=r"--set stages.nothing.limit"):
        load(MINUTE, {"stages.nothing.limit": "3"})


def test_a_file_that_is_not_there_is_told_before_any_work(tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text('[stages.t]\nkind = "tokenizer"\nfiles = ["./no.txt"]\nvocab = 300\n')
    command = [sys.executable, "-m", "herd", "run", str(recipe), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("herd: stages.t: ./no.txt: no such file beside the recipe")
    assert not (tmp_path / "out").exists()


def test_the_papers_plan_is_shown_without_its_files():
    recipe = ROOT / "recipes" / "life-405b.toml"
    rows = {one["stage"]: one for one in map(row, stages(load(recipe, {}), recipe.parent, ROOT / "runs" / "none"))}
    assert rows["corpus"]["state"] == "./web/*.warc.gz is missing"
    assert rows["pretrain"]["layout"].startswith("TP8 CP1 PP16 DP128")  # Table 4's second row
    assert rows["long"]["layout"].startswith("TP8 CP16 PP16 DP8")  # and its third
    assert 54 < rows["pretrain"]["days"] < 100
