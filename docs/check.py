"""Check that every link in the documents leads somewhere and every `herd` command and file of ours in them exists.

python docs/check.py
"""

import re
import sys
from pathlib import Path

from herd.cli import COMMANDS

ROOT = Path(__file__).parents[1]


LOGS = ("decisions.md", "performance-log.md")  # they tell of what was
FILE = re.compile(r"`((?:[\w-]+/)*[\w-]+\.(?:py|cpp|h))`")


def problems() -> list[str]:
    """One line for each dead link, unknown command or file of ours that is not there."""
    found = []
    ours = ["/" + str(file.relative_to(ROOT)) for kind in ("py", "cpp", "h") for file in ROOT.rglob(f"*.{kind}")]
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text()
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            if not link.startswith(("http://", "https://")) and not (page.parent / link).exists():
                found.append(f"{page.relative_to(ROOT)}: dead link {link}")
        for name in re.findall(r"(?:^ {4}|^\$ |`|\| )\s*herd ([a-z]+(?:-[a-z]+)*)\b", text, re.MULTILINE):
            if name not in COMMANDS:
                found.append(f"{page.relative_to(ROOT)}: no command `herd {name}`")
        if page.parent.name == "explanation" and page.name not in LOGS:
            for name in FILE.findall(text):
                if not any(file.endswith("/" + name) for file in ours):
                    found.append(f"{page.relative_to(ROOT)}: no file `{name}`")
    return found


if __name__ == "__main__":
    print("\n".join(problems()) or "every link and command is there")
    sys.exit(bool(problems()))
