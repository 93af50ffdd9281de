"""How long a million votes take from SQLite to a ranking, with nothing precomputed but an index.

python benchmarks/arena.py [--votes 1000000] [--models 100] [--rounds 5]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from herd.arena.rank import bootstrap, bradley_terry, sandwich, style_control
from herd.arena.votes import WINNERS, Votes, style_features


def fill(place: Path, count: int, models: int) -> None:
    """Simulated votes straight into the table."""
    generator = np.random.default_rng(0)
    skill = generator.normal(0, 1, models)
    first = generator.integers(0, models, count)
    second = (first + generator.integers(1, models, count)) % models
    style = generator.normal(0, 0.3, (count, 4)).round(4)
    chance = 1 / (1 + np.exp(skill[second] - skill[first] - style[:, 0]))
    luck = generator.random(count)
    winner = np.where(
        luck < 0.8 * chance, 0, np.where(luck < 0.8 * chance + 0.1, 1, np.where(luck < 0.8 * chance + 0.2, 3, 2))
    )
    assert WINNERS[2] == "right"
    with Votes(str(place)) as votes:
        numbers = np.array([votes.model(f"model-{i:03}") for i in range(models)])
        rows = zip(
            numbers[first].tolist(), numbers[second].tolist(), winner.tolist(),
            np.array(["en", "de", "th"])[generator.integers(0, 3, count)].tolist(), *style.T.tolist(), strict=True,
        )  # fmt: skip
        votes._connection.execute("begin")
        votes._connection.executemany(
            "insert into votes (time, voter, first, second, winner, language, characters, headers, bold, lists)"
            " values (0, 'v', ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        votes._connection.execute("commit")


def timed(what, rounds: int) -> tuple[float, object]:
    """Median seconds of a call, and what it gave."""
    spent = []
    for _ in range(rounds):
        started = time.perf_counter()
        result = what()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent), result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--votes", type=int, default=1_000_000)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "votes.db"
        fill(place, options.votes, options.models)

        def table():
            with Votes(str(place)) as votes:
                counts = votes.table()
            return sandwich(counts, bradley_terry(counts))

        def categories():
            with Votes(str(place)) as votes:
                return [bradley_terry(votes.table(language=name)) for name in votes.kinds("language")]

        def style():
            with Votes(str(place)) as votes:
                names, rows = votes.rows(style=True)
            return style_control(names, rows["first"], rows["second"], rows["outcome"], style_features(rows))

        with Votes(str(place)) as votes:
            counts = votes.table()
        ratings = bradley_terry(counts)
        print(f"{options.votes:,} votes over {options.models} models, medians of {options.rounds}")
        for name, what in (
            ("SQLite to ratings and sandwich intervals", table),
            ("ratings alone, from the table of counts", lambda: bradley_terry(counts)),
            ("100 bootstraps", lambda: bootstrap(counts, ratings)),
            ("by language, SQLite to three rankings", categories),
            ("style control, SQLite to ratings", style),
        ):
            print(f"{name}: {timed(what, options.rounds)[0]:.3f} s")


if __name__ == "__main__":
    main()
