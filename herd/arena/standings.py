"""The ranking as rows to show: range of ranks, points, interval, votes."""

from dataclasses import dataclass

from herd.arena.rank import Ratings, Table, bootstrap, bradley_terry, points, sandwich
from herd.errors import ConfigError

_PRIOR = 0.5


@dataclass(frozen=True)
class Row:
    """One model. `best` and `worst` are the ranks that the intervals allow; `low` and `high` bound the points at 95%."""

    name: str
    best: int
    worst: int
    points: float
    low: float
    high: float
    votes: int


def votes_of(table: Table) -> dict[str, int]:
    """How many votes each model took part in."""
    both = table.counts.sum((1, 2)) + table.counts.sum((0, 2))
    return {name: int(count) for name, count in zip(table.names, both, strict=True)}


def standings(table: Table) -> tuple[list[Row], bool]:
    """Rows, the best first, and whether half a tied vote a pair had to be added because a model only won or only lost."""
    if len(table.names) < 2:
        return [], False
    try:
        found, helped = sandwich(table, bradley_terry(table)), False
    except ConfigError:
        found, helped = bootstrap(table, bradley_terry(table, prior=_PRIOR), prior=_PRIOR), True
    return rows(table, found), helped


def rows(table: Table, found: Ratings) -> list[Row]:
    """Ratings that have intervals, as rows."""
    if found.low is None or found.high is None:
        raise ConfigError("standings need intervals")
    count, ranks = votes_of(table), found.ranks()
    return [
        Row(
            found.names[i], ranks[i][0], ranks[i][1], float(points(found.rating[i])), float(points(found.low[i])),
            float(points(found.high[i])), count[found.names[i]],
        )
        for i in found.order().tolist()
    ]  # fmt: skip
