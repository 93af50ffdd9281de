"""How well the guards do, beside others: Code Shield on labelled snippets, on pairs of vulnerable and mended code, on clean files.

python benchmarks/safety.py [--labelled insecure.jsonl] [--clean FOLDER] [--peer PYTHON] [--peer-rows 100]

`--peer` is the Python of an environment with codeshield 1.0.1 (make peer-codeshield); it is asked about the same rows.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from safety_data import MUTATIONS, read_pairs

from herd.safety.code_shield import scan
from herd.safety.code_shield.scan import ALIASES
from herd.safety.measure import code_table, read_rows, show

_PEER = """
import asyncio, json, sys, time
from codeshield.cs import CodeShield
async def main():
    for line in sys.stdin:
        row = json.loads(line)
        begin = time.perf_counter()
        result = await CodeShield.scan_code(row["code"])
        found = [str(i.cwe_id) for i in result.issues_found or []] if result.is_insecure else []
        print(json.dumps({"found": found, "took": time.perf_counter() - begin}), flush=True)
asyncio.run(main())
"""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labelled", type=Path)
    parser.add_argument("--clean", type=Path)
    parser.add_argument("--peer", help="Python with codeshield installed")
    parser.add_argument("--peer-rows", type=int, default=100)
    options = parser.parse_args()
    pairs()
    if options.clean:
        clean(options.clean)
    if options.labelled:
        rows = read_rows(options.labelled)
        print("\nLabelled snippets, herd\n\n" + show(code_table(rows)))
        print("\n" + show(code_table(rows, by="cwe_identifier")))
        if options.peer:
            some = rows[:: max(1, len(rows) // options.peer_rows)][: options.peer_rows]
            print(f"\nThe same {len(some)} snippets, herd and codeshield\n\n" + show(code_table(some)))
            print("\n" + show(code_table(some, peer(options.peer))))


def pairs() -> None:
    """Pairs of vulnerable and mended code, each as written and mutated."""
    table = [
        ["pairs", "vulnerable flagged", "CWE or family", "mended passed", "language guessed: flagged", "mended passed"]
    ]
    from herd.safety.code_shield.cwe import same_family

    everything = read_pairs()
    for name, mutate in MUTATIONS.items():
        flagged = right = passed = flagged_guess = passed_guess = 0
        for pair in everything:
            bad, good = mutate(pair.vulnerable, pair.language), mutate(pair.mended, pair.language)
            found = scan(bad, pair.language)
            flagged += bool(found)
            right += any(same_family(f.cwe, pair.cwe) for f in found)
            passed += not scan(good, pair.language)
            flagged_guess += bool(scan(bad))
            passed_guess += not scan(good)
        n = len(everything)
        cells = [flagged, right, passed, flagged_guess, passed_guess]
        table.append([f"{name} ({n})", *(f"{c / n:.1%}" for c in cells)])
    print("Pairs in fourteen languages\n\n" + show(table))


def clean(folder: Path) -> None:
    """Files of well-kept projects: how many are flagged, by language and severity."""
    files: Counter[str] = Counter()
    high: Counter[str] = Counter()
    medium: Counter[str] = Counter()
    begin, size = time.perf_counter(), 0
    for path in sorted(folder.rglob("*")):
        language = ALIASES.get(path.suffix[1:].lower())
        if language is None or not path.is_file() or path.stat().st_size > 200_000 or "test" in str(path).lower():
            continue
        code = path.read_text(errors="replace")
        size += len(code)
        severities = {f.severity for f in scan(code, language)}
        files[language] += 1
        high[language] += "high" in severities
        medium[language] += bool(severities & {"high", "medium"})
    table = [["language", "files", "high", "medium or high"]]
    for name in [*sorted(files), "all"]:
        n = files[name] if name != "all" else files.total()
        counts = [c[name] if name != "all" else c.total() for c in (high, medium)]
        table.append([name, str(n), *(f"{c} ({c / n:.1%})" for c in counts)])
    print(f"\nClean files, {size / 1e6:.1f} MB in {time.perf_counter() - begin:.0f} s\n\n" + show(table))


def peer(python: str):
    """codeshield as a scanner, one process for all rows."""
    process = subprocess.Popen([python, "-c", _PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def scanner(code: str, language: str) -> list[str]:
        process.stdin.write(json.dumps({"code": code}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            sys.exit("benchmarks/safety.py: codeshield ended; see its message above")
        return json.loads(line)["found"]

    return scanner


if __name__ == "__main__":
    main()
