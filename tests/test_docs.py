import importlib.util
import re
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


def test_sources_stay_small():
    long = [
        str(path)
        for path in (ROOT / "herd").rglob("*")
        if path.suffix in (".py", ".cpp", ".h") and len(re.findall("\n", path.read_text())) > 600
    ]
    assert long == []
    assert len((ROOT / "herd" / "model" / "llama.py").read_text().splitlines()) < 300
