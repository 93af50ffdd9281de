import importlib.util
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_links_lead_somewhere_and_commands_exist():
    spec = importlib.util.spec_from_file_location("check", ROOT / "docs" / "check.py")
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    assert check.problems() == []


def test_architecture_names_every_room():
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    rooms = [p.name for p in (ROOT / "herd").iterdir() if p.is_dir() and (p / "__init__.py").exists()]
    assert rooms
    assert [room for room in rooms if f"`{room}/`" not in text] == []


def test_architecture_tells_the_order_that_the_linter_holds():
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    told = re.search(r"Imports go down only: `(.+?)`", text, re.DOTALL)[1].split(">")
    contract, torch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert [set(re.findall(r"\w+", level)) for level in told] == [
        set(re.findall(r"herd\.(\w+)", level)) for level in contract["layers"]
    ]
    named = text.split("keeps torch inside", 1)[1].split("\n\n")[0]
    for importer in torch["ignore_imports"]:
        place = importer.split(" ->")[0].removeprefix("herd.")
        place = (
            place.removesuffix(".**")
            if place.endswith("**")
            else place.removeprefix("engine.").replace(".", "/") + ".py"
        )
        assert f"`{place}`" in named


def test_every_python_file_belongs_to_a_level():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    held = set(re.findall(r"herd\.(\w+)", " ".join(contract["layers"])))
    ours = {p.stem for p in (ROOT / "herd").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert ours - {"__init__", "__main__"} == held


def test_sources_stay_small():
    long = [
        str(path)
        for path in (ROOT / "herd").rglob("*")
        if path.suffix in (".py", ".cpp", ".h") and len(re.findall("\n", path.read_text())) > 600
    ]
    assert long == []
    assert len((ROOT / "herd" / "model" / "llama.py").read_text().splitlines()) < 300
