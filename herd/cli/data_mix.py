"""`herd data mix`: recipes of small training runs with other mixes; then, from those runs, the mix that is predicted best."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from herd.errors import ConfigError

if TYPE_CHECKING:
    from herd.data.mix import Small


def write_designs(recipe: Path, count: int, out: Path) -> None:
    """Training recipes in `out`, each the given one with other weights of its sources."""
    import tomli_w

    from herd.atomic import atomic_file
    from herd.data.mix import designs

    values = _toml(recipe)
    sources = _sources(values, recipe)
    for source in [*sources, *values["data"].get("validation", [])]:
        source["path"] = str((recipe.parent / source["path"]).resolve())
    out.mkdir(parents=True, exist_ok=True)
    for number, mix in enumerate(designs([_name(source) for source in sources], count)):
        for source in sources:
            source["weight"] = mix[_name(source)]
        with atomic_file(out / f"mix-{number:02d}.toml") as temporary:
            temporary.write_text(tomli_w.dumps(values), "utf-8")
    print(f"{out}: {count} recipes; train each with herd train, then: herd data mix RUN RUN ...")


def show_best(folders: list[Path], tokens: float | None) -> None:
    """Print what the law says of these runs, and the best mix for `tokens` (default: the longest run's)."""
    import numpy as np

    from herd.data.mix import best, fit

    runs = [small_run(folder) for folder in folders]
    laws = fit(runs)
    tokens = tokens or max(run.tokens for run in runs)
    if len({run.tokens for run in runs}) == 1 and tokens != runs[0].tokens:
        raise ConfigError(f"all runs are of {runs[0].tokens:,.0f} tokens; for --tokens some must be longer than others")
    found = best(laws, tokens)
    even = np.full(len(found), 1 / len(found))
    for name, law in laws.items():
        loss = law.loss(np.array([found[source] for source in law.sources]), tokens)
        print(f"{name:20} loss {loss:.4f} with this mix, {law.loss(even, tokens):.4f} with an even one; runs were predicted within {law.missed:.2%}")  # fmt: skip
    for name, share in found.items():
        print(f"{name:20} weight {share:.3f}")


def small_run(folder: Path) -> "Small":
    """What a training run says; ConfigError for one that has not ended or has no validation."""
    from herd.data.mix import Small
    from herd.runs import Run

    run = Run.open(folder, "train")
    results = run.record.results
    losses = {
        name.removeprefix("validation ").removesuffix(" loss"): float(value)
        for name, value in results.items() if name.startswith("validation ")
    }  # fmt: skip
    if run.status != "done" or not losses:
        raise ConfigError(f"{folder}: expected a run that is done, of a recipe with data.validation")
    shares = {_name(source): float(source.get("weight", 1.0)) for source in _sources(_toml(run.recipe), run.recipe)}
    return Small(shares, float(results["tokens"]), losses)


def _toml(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML ({error})") from error


def _sources(values: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    sources = values.get("data", {}).get("sources")
    if not isinstance(sources, list) or not sources:
        raise ConfigError(f"{path}: has no data.sources; expected a recipe of herd train")
    return sources


def _name(source: dict[str, Any]) -> str:
    return source.get("name") or Path(source["path"]).stem
