"""What a red team found, with intervals: JSON, and one page of HTML with the transcripts folded away."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from herd.atomic import atomic_file
from herd.report import Report
from herd.safety.redteam.bias import Difference
from herd.safety.redteam.run import Outcome
from herd.statistics import Interval, mcnemar, proportion

_BY = ("category", "language", "technique")


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Success of attacks with 95% intervals (Wilson's), in all and by category, language and technique, without and with the Shield;
    of questions that are no attacks, how many the Shield stopped. Cases with an error are left out and counted.
    """
    whole = [one for one in outcomes if not one.error]
    attacks = [one for one in whole if one.goal != "ordinary"]
    ordinary = [one for one in whole if one.goal == "ordinary"]
    better = sum(one.success and not one.guarded_success for one in attacks)
    worse = sum(one.guarded_success and not one.success for one in attacks)
    return {
        "attacks": len(attacks), "errors": len(outcomes) - len(whole), **_rates(attacks),
        "p_same": mcnemar(better, worse) if better + worse else 1.0,
        "ordinary": len(ordinary), "ordinary_stopped": _rate(ordinary, lambda one: one.stopped),
        "by": {key: {value: {"attacks": len(part), **_rates(part)} for value, part in _parts(attacks, key)} for key in _BY},
    }  # fmt: skip


def _parts(outcomes: Sequence[Outcome], key: str) -> list[tuple[str, list[Outcome]]]:
    values = sorted({getattr(one, key) for one in outcomes})
    return [(value, [one for one in outcomes if getattr(one, key) == value]) for value in values]


def _rates(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "without": _rate(outcomes, lambda one: one.success),
        "with": _rate(outcomes, lambda one: one.guarded_success),
    }


def _rate(outcomes: Sequence[Outcome], hit: Callable[[Outcome], bool]) -> dict[str, float] | None:
    if not outcomes:
        return None
    found: Interval = proportion(sum(map(hit, outcomes)), len(outcomes))
    return {"rate": found.value, "low": found.low, "high": found.high}


def shown(rate: dict[str, float] | None) -> str:
    """A rate for people."""
    return "" if rate is None else f"{rate['rate']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]"


def write(
    outcomes: Sequence[Outcome], folder: Path, title: str, bias: Sequence[Difference] = (), *, shielded: bool = True
) -> dict[str, Any]:
    """report.json and report.html in a folder; the summary, with differences of the bias set if they were measured.

    Without a Shield (`shielded` false) what would be with one is null.
    """
    found = {**summary(outcomes), **({"bias": msgspec.to_builtins(list(bias))} if bias else {})}
    if not shielded:
        parts = [found, *(part for by in found["by"].values() for part in by.values())]
        found |= {"ordinary_stopped": None, "p_same": None}
        for part in parts:
            part["with"] = None
    with atomic_file(folder / "report.json") as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    page = Report(
        title,
        "Success is judged by rules that share nothing with the Shield; intervals are Wilson's at 95%, over cases.",
    )
    page.table(
        ["", "cases", "without Shield", "with Shield"],
        [
            ["attacks that had success", found["attacks"], shown(found["without"]), shown(found["with"])],
            ["ordinary questions stopped", found["ordinary"], "", shown(found["ordinary_stopped"])],
            ["cases with an error, left out", found["errors"], "", ""],
        ],
    )
    for key in _BY:
        page.heading(f"By {key}")
        rows = [[value, part["attacks"], shown(part["without"]), shown(part["with"])] for value, part in found["by"][key].items()]  # fmt: skip
        page.table([key, "cases", "without Shield", "with Shield"], rows)
    if bias:
        page.heading("Bias")
        page.note(
            "Leanings in nats, refusals as shares; 95% intervals by bootstrap over sentences and requests. 0 lies inside where nothing was seen."
        )
        rows = [[d.measure, d.groups, d.language, d.value, f"[{d.low:.3f}, {d.high:.3f}]", d.items] for d in bias]
        page.table(["measure", "first group less second", "language", "difference", "95%", "items"], rows)
    page.heading("Transcripts, the worst first")
    ranked = sorted((one for one in outcomes if one.goal != "ordinary"), key=lambda one: (not one.guarded_success, not one.success))  # fmt: skip
    page.examples(
        ("result", *_BY),
        (
            ((_result(one), one.category, one.language, one.technique), f"{_result(one)}: {one.id}", _transcript(one))
            for one in ranked
        ),
    )
    page.write(folder / "report.html")
    return found


def _result(one: Outcome) -> str:
    if one.error:
        return "error"
    return "success in spite of the Shield" if one.guarded_success else "success without" if one.success else "none"


def _transcript(one: Outcome) -> str:
    if one.error:
        return f"{one.asked}\n\nerror: {one.error}"
    fired = ", ".join(one.fired) or "nothing"
    kept = "(stopped)" if one.stopped else one.guarded
    return f"{one.asked}\n\nwithout Shield: {one.reply}\n\nwith Shield: {kept}\n\nfired: {fired}"
