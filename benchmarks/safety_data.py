"""What benchmarks/safety.py and the tests measure on: pairs of vulnerable and mended code, and how each is varied."""

import re
from dataclasses import dataclass
from pathlib import Path

PAIRS = Path(__file__).parent / "pairs"


@dataclass(frozen=True)
class Pair:
    """The same code twice: with a weakness and without it."""

    language: str
    cwe: str
    title: str
    vulnerable: str
    mended: str


def read_pairs(folder: Path = PAIRS) -> list[Pair]:
    """All pairs of a folder's files: `=== CWE-89 title`, the vulnerable code, `--- mended`, the mended code."""
    pairs = []
    for file in sorted(folder.glob("*.txt")):
        for block in re.split(r"(?m)^=== ", file.read_text())[1:]:
            head, body = block.split("\n", 1)
            vulnerable, mended = body.split("--- mended\n")
            cwe, title = head.split(" ", 1)
            pairs.append(Pair(file.stem, cwe, title, vulnerable, mended))
    return pairs


_BOUND = {
    "python": r"(?m)^\s*(\w+) = |def \w+\(([^)]*)\)",
    "shell": r"(?m)^([a-z]\w*)=",
    "default": r"\b(?:let|const|var|val|auto|int|string|String|char|size_t|self\.)\s+(?:mut\s+)?\*?([a-z]\w*)\s*[=\[:]|\b([a-z]\w*)\s*:=",
    "php": r"(\$[a-z]\w*)\s*=[^=>]",
    "ruby": r"(?m)^\s*([a-z]\w*) = ",
}
_OTHER = {
    "python": "def unrelated(a, b):\n    return a + b\n",
    "ruby": "def unrelated(a, b)\n  a + b\nend\n",
    "shell": "unrelated() {\n  date\n}\n",
    "go": "func unrelated(a, b int) int {\n\treturn a + b\n}\n",
    "rust": "fn unrelated(a: i32, b: i32) -> i32 {\n    a + b\n}\n",
    "kotlin": "fun unrelated(a: Int, b: Int): Int {\n    return a + b\n}\n",
    "swift": "func unrelated(_ a: Int, _ b: Int) -> Int {\n    return a + b\n}\n",
    "javascript": "function unrelated(a, b) {\n  return a + b;\n}\n",
    "typescript": "function unrelated(a: number, b: number): number {\n  return a + b;\n}\n",
    "php": "function unrelated($a, $b) {\n    return $a + $b;\n}\n",
    "default": "int unrelated(int a, int b) {\n    return a + b;\n}\n",
    "java": "public int unrelated(int a, int b) {\n    return a + b;\n}\n",
    "csharp": "public int Unrelated(int a, int b)\n{\n    return a + b;\n}\n",
}


def renamed(code: str, language: str) -> str:
    """The code with its own variables called otherwise, unless their names carry what is secret."""
    names: list[str] = []
    for match in re.finditer(_BOUND.get(language, _BOUND["default"]), code):
        groups = [g for g in match.groups() if g]
        for group in groups:
            names += [n.split("=")[0].split(":")[0].strip(" *") for n in group.split(",")]
    kept = re.compile(
        r"(?i)pass|secret|token|key|self|pwd|salt|otp|request|req\b|http|random|transport|verify|^\$_|__|path$|argument"
    )
    for i, name in enumerate(dict.fromkeys(names)):
        if re.fullmatch(r"\$?[a-z]\w*", name) and not kept.search(name):
            fresh = ("$" if name.startswith("$") else "") + f"item{i}"
            code = re.sub(rf"(?<![\w.$'\"-]){re.escape(name)}\b(?![\w(]|\s*=\s*\w+[,)]|:)", lambda _, f=fresh: f, code)
    return code


def reordered(code: str, language: str) -> str:
    """The code with something unrelated before and after it."""
    other = _OTHER.get(language, _OTHER["default"])
    if language == "php":
        return code.replace("<?php\n", "<?php\n" + other, 1) + "\n" + other.replace("unrelated", "last")
    return other + "\n" + code + "\n" + other.replace("unrelated", "last")


def reformatted(code: str, language: str) -> str:
    """The code indented twice as far, with empty lines and with brackets on their own lines where the language allows it."""
    lines = []
    for line in code.split("\n"):
        indent = len(line) - len(line.lstrip(" "))
        lines.append(" " * indent + line)
    code = "\n".join(lines)
    if language in ("java", "csharp", "c", "cpp", "php", "kotlin", "swift", "rust", "javascript"):
        code = re.sub(r";\n", ";\n\n", code)
        code = re.sub(r"\) \{\n", ")\n{\n", code) if language in ("java", "c", "cpp") else code
    return code


MUTATIONS = {"as written": lambda code, _: code, "renamed": renamed, "reordered": reordered, "reformatted": reformatted}
