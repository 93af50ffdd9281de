"""`herd arena`: blind votes between models, and the ranking they give."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from herd.cli.common import PATH, open_model, show_progress, warn
from herd.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from herd.arena.rank import Ratings, Table
    from herd.arena.rigging import Flip

_VOTES = click.option("--votes", "place", default="arena.db", help="A SQLite file, or a postgresql:// URL.")


@click.group(name="arena", no_args_is_help=True)
def command() -> None:
    """Blind votes between models, and the ranking they give.

    \b
    Examples:
      herd arena serve a.gguf b.gguf http://localhost:8080/v1
      herd arena judge a.gguf b.gguf --judge judge.gguf --prompts prompts.jsonl
      herd arena study plan.toml
      herd arena import votes.csv --votes arena.db
      herd arena rank --votes arena.db --style --flips
    """


@command.command(no_args_is_help=True)
@click.argument("places", nargs=-1, required=True, metavar="[NAME=]MODEL ...")
@_VOTES
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is every one.")
@click.option("--port", default=8090, show_default=True, help="Port; 0 takes a free one.")
@click.option("--key", envvar="HERD_ARENA_KEY", help="API key for the URLs.")
@click.option("--max-tokens", default=1024, show_default=True, help="Tokens of an answer, at most.")
@click.option(
    "--context", type=int, help="Tokens of key-value cache for each model. Default: its context, at most 8192."
)
@click.option("--threads", type=int, help="CPU threads for each model. Default: one a core.")
@click.option("--per-minute", type=int, help="Questions a minute for each voter; ten times that for each address.")
@click.option("--concurrency", type=int, help="Rounds at a time.")
@click.option("--longest", type=int, help="Characters of a question, at most.")
@click.option("--least-seconds", type=float, help="Votes that come quicker are kept and not counted.")
@click.option("--ssl-cert", help="TLS certificate (PEM).")
@click.option("--ssl-key", help="TLS key (PEM).")
def serve(
    places: tuple[str, ...], place: str, host: str, port: int, key: str | None, max_tokens: int, context: int | None,
    threads: int | None, ssl_cert: str | None, ssl_key: str | None, **limits: float | None,
) -> None:  # fmt: skip
    """A page where people ask, see two anonymous answers, and vote.

    Each MODEL is one that herd opens, the URL of an OpenAI-compatible server (http://host/v1, or http://host/v1#model), or a .jsonl
    file of {"prompt": ..., "reply": ...}. With a file among them people vote on its prompts instead of asking.
    """
    try:
        from herd.arena.app import create_app
        from herd.serve.app import PAGE
        from herd.serve.server import bind, is_loopback, shown_address
        from herd.serve.server import serve as listen
    except ImportError as error:
        raise MissingDependencyError(
            f"herd arena serve needs {error.name}; install it with: pip install 'llama-herd[arena]'"
        ) from error
    from herd.arena.contestants import open_contestants
    from herd.arena.rounds import Arena, RoundSettings
    from herd.arena.votes import Votes

    if len(places) < 2:
        raise ConfigError(f"one contestant ({places[0]}); an arena needs two or more")
    settings = RoundSettings(**{name: value for name, value in limits.items() if value is not None})  # type: ignore[arg-type]
    settings.check()
    sock = bind(host, port)
    contestants = open_contestants(
        list(places), open_model, max_tokens=max_tokens, key=key, threads=threads, cache_tokens=context
    )
    arena = Arena(contestants, Votes(place), settings, warn)
    sock.listen(1024)
    url = f"{'https' if ssl_cert else 'http'}://{shown_address(sock)}"
    warn(f"herd: arena of {len(contestants)} at {url} (votes: {place.split('@')[-1]})")
    listen(create_app(arena, PAGE, loopback=is_loopback(host)), sock, grace=5, certificate=ssl_cert, key=ssl_key)()


@command.command(no_args_is_help=True)
@click.argument("places", nargs=-1, required=True, metavar="[NAME=]MODEL ...")
@click.option("--judge", "judge_place", help="The model that votes: one that herd opens, or a URL.")
@click.option("--rule", type=click.Choice(["longer", "shorter", "answer"]), help="A rule that votes instead.")
@click.option(
    "--prompts",
    type=PATH,
    help="JSONL of prompt, perhaps language, kind, answer. Default: those of the files of replies.",
)
@click.option(
    "--votes",
    "place",
    default="judge.db",
    show_default=True,
    help="A SQLite file, or a postgresql:// URL; not the one of people's votes.",
)
@click.option(
    "--replies",
    type=PATH,
    default=Path("replies.jsonl"),
    show_default=True,
    help="Replies are kept here and not made twice.",
)
@click.option("--key", envvar="HERD_ARENA_KEY", help="API key for the URLs.")
@click.option("--max-tokens", default=1024, show_default=True, help="Tokens of an answer, at most.")
@click.option(
    "--context", type=int, help="Tokens of key-value cache for each model. Default: its context, at most 8192."
)
@click.option("--threads", type=int, help="CPU threads for each model. Default: one a core.")
@click.option("--judge-tokens", default=512, show_default=True, help="Tokens of a judgement, at most.")
@click.option("--at-once", default=8, show_default=True, help="Pairs that are judged at a time.")
def judge(
    places: tuple[str, ...], judge_place: str | None, rule: str | None, prompts: Path | None, place: str, replies: Path,
    key: str | None, max_tokens: int, context: int | None, threads: int | None, judge_tokens: int, at_once: int,
) -> None:  # fmt: skip
    """A model or a rule votes on every pair of MODELs and every prompt, in both orders. Run again, it goes on."""
    import asyncio

    from herd.arena.contestants import common_prompts, open_contestants
    from herd.arena.judge import Judged, judge_all, model_judge, rule_judge
    from herd.arena.replies import Prompt, Replies, read_prompts
    from herd.arena.votes import Votes

    if (judge_place is None) == (rule is None):
        raise ConfigError("give one of --judge MODEL and --rule")
    if len(places) < 2 or at_once < 1:
        raise ConfigError(f"{len(places)} models, {at_once} pairs at a time; expected two or more, and one or more")
    common: dict[str, Any] = {"key": key, "threads": threads, "cache_tokens": context}
    contestants = open_contestants(list(places), open_model, max_tokens=max_tokens, **common)
    judges = (
        []
        if rule
        else open_contestants([str(judge_place)], open_model, max_tokens=judge_tokens, temperature=0, **common)
    )
    stored = common_prompts(contestants)
    asked = [Prompt.of(text) for text in stored or []] if prompts is None else read_prompts(prompts)
    if not asked:
        raise ConfigError("no prompts; give --prompts FILE.jsonl")
    voter = rule_judge(rule) if rule else model_judge(judges[0])

    async def work(votes: Votes) -> Judged:
        try:
            with show_progress() as progress:
                return await judge_all(
                    contestants, asked, voter, rule or judges[0].version, votes, Replies(replies), at_once=at_once, progress=progress
                )  # fmt: skip
        finally:
            for one in (*contestants, *judges):
                await one.close()

    with Votes(place) as votes:
        found = asyncio.run(work(votes))
    click.echo(
        f"{found.votes:,} votes kept in {place}, {found.before:,} were there; {found.changed:,} changed with the order (ties), "
        f"{found.unread:,} had no verdict (not kept)"
        + (f"; the reply shown first won {found.first / found.decided:.0%} of {found.decided:,} decisions" if found.decided else ""),
        err=True,
    )  # fmt: skip
    if found.failed:
        raise ConfigError(f"{len(found.failed)} pairs failed, run again for those; the first: {found.failed[0]}")


@command.command(no_args_is_help=True)
@click.argument("plan", type=PATH)
@click.option("--out", type=PATH, help="The study's folder. Default: the plan's name without .toml.")
@click.option("--report", type=PATH, help="Write an HTML report of the ratings so far here, and stop.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is every one.")
@click.option("--port", default=8091, show_default=True, help="Port; 0 takes a free one.")
@click.option("--key", envvar="HERD_ARENA_KEY", help="API key for the URLs.")
def study(plan: Path, out: Path | None, report: Path | None, host: str, port: int, key: str | None) -> None:
    """People rate replies in pairs on a scale of seven, as PLAN.toml says. The first time replies are made; then each rater has a link."""
    import asyncio

    from herd.arena.contestants import open_contestants
    from herd.arena.study import load, prepare, write_report

    folder = out or plan.with_suffix("")
    if report is not None:
        write_report(load(plan, folder), report)
        return
    try:
        from herd.arena.study_app import create_study_app
        from herd.serve.app import PAGE
        from herd.serve.server import bind, is_loopback, shown_address
        from herd.serve.server import serve as listen
    except ImportError as error:
        raise MissingDependencyError(
            f"herd arena study needs {error.name}; install it with: pip install 'llama-herd[arena]'"
        ) from error
    with show_progress() as progress:
        opened = asyncio.run(
            prepare(
                plan, folder, lambda p: open_contestants(list(p.models), open_model, max_tokens=p.max_tokens, key=key), progress
            )
        )  # fmt: skip
    sock = bind(host, port)
    sock.listen(1024)
    for name in opened.plan.raters:
        warn(f"{name}: http://{shown_address(sock)}/?rater={opened.token(name)}")
    listen(create_study_app(opened, PAGE, loopback=is_loopback(host)), sock, grace=5)()
    opened.close()


@command.command("import")
@click.argument("file", type=PATH)
@_VOTES
def import_votes(file: Path, place: str) -> None:
    """Keep the votes of a CSV FILE with columns left, right, winner and perhaps voter, language, kind."""
    from herd.arena.votes import Votes, read_csv

    with Votes(place) as votes:
        count = votes.add(read_csv(file))
    click.echo(f"{count:,} votes kept in {place}", err=True)


_REASON = click.option("--reason", required=True, help="Why; it stands in the public log.")


@command.command(no_args_is_help=True)
@click.argument("voters", nargs=-1, required=True)
@_VOTES
@_REASON
def exclude(voters: tuple[str, ...], place: str, reason: str) -> None:
    """Leave the votes of VOTERS out of rankings; they stay in the store. `herd arena rank --suspects` names candidates."""
    from herd.arena.votes import Votes

    _must_exist(place)
    with Votes(place) as votes:
        count = votes.exclude(voters, reason)
    click.echo(f"{count:,} votes are left out from now on", err=True)


@command.command(no_args_is_help=True)
@click.argument("model")
@_VOTES
@_REASON
def withdraw(model: str, place: str, reason: str) -> None:
    """Say in the public log that MODEL leaves the arena; its votes stay and count."""
    from herd.arena.votes import Votes

    _must_exist(place)
    with Votes(place) as votes:
        votes.withdraw(model, reason)


@command.command()
@_VOTES
def log(place: str) -> None:
    """Print the public log as JSON lines, after checking that no entry was changed or removed."""
    import msgspec

    from herd.arena.votes import Votes

    _must_exist(place)
    with Votes(place) as votes:
        for entry in votes.ledger():
            click.echo(msgspec.json.encode(entry))


def _must_exist(place: str) -> None:
    if not place.startswith("postgres") and not Path(place).exists():
        raise ConfigError(f"{place}: no such file; import votes first, or name another with --votes")


@command.command()
@_VOTES
@click.option("--language", help="Votes of one language alone.")
@click.option("--kind", help="Votes of one kind of prompt alone.")
@click.option("--style", is_flag=True, help="Take out what voters like about length and formatting.")
@click.option("--elo", is_flag=True, help="Elo's running update instead of Bradley-Terry.")
@click.option(
    "--bootstrap", "draws", type=int, help="Intervals over this many resampled votes instead of the sandwich's."
)
@click.option("--flips", is_flag=True, help="How many votes would change the order of each two neighbours.")
@click.option("--suspects", is_flag=True, help="Voters whose votes do not fit everybody else's.")
@click.option("--prior", type=float, default=0.0, help="Tied votes added between each two models.")
@click.option("--out", type=PATH, help="Also write an HTML report here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rank(
    place: str, language: str | None, kind: str | None, style: bool, elo: bool, draws: int | None, flips: bool,
    suspects: bool, prior: float, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Rank the models: rating, interval, range of ranks, votes."""
    from herd.arena import rank as ranking
    from herd.arena import rigging
    from herd.arena.votes import Votes, style_features

    _must_exist(place)
    with Votes(place) as votes:
        table = votes.table(language=language, kind=kind)
        names, rows = (
            ([], {}) if not (style or elo or suspects) else votes.rows(language=language, kind=kind, style=style)
        )
        if suspects and style:
            raise ConfigError("--suspects looks at voters, --style at replies; ask for one at a time")
    if not table.votes:
        raise ConfigError(f"{place}: no votes of that kind")
    if style:
        features = style_features(rows)
        if not features:
            raise ConfigError(f"{place}: no style was recorded with these votes; rank without --style")
        found = ranking.style_control(names, rows["first"], rows["second"], rows["outcome"], features)
    elif elo:
        found = ranking.elo(names, rows["first"], rows["second"], rows["outcome"])
    else:
        found = ranking.bradley_terry(table, prior=prior)
        found = (
            ranking.sandwich(table, found)
            if draws is None
            else ranking.bootstrap(table, found, draws=draws, prior=prior)
        )
    doubtful = (
        rigging.suspects(names, rows["first"], rows["second"], rows["outcome"], rows["voter"]) if suspects else []
    )
    moves = rigging.flips(table, found) if flips and not elo else []
    if as_json:
        import msgspec

        ratings = [{"name": found.names[i], "points": float(ranking.points(found.rating[i]))} for i in found.order()]
        click.echo(
            msgspec.json.encode({"ratings": ratings, "style": found.style, "flips": moves, "suspects": doubtful})
        )
        return
    lines = _lines(table, found)
    _print(["rank", "model", "points", "95%", "votes"], lines)
    for name, value in found.style.items():
        click.echo(f"style: {name} {value:+.3f} logits a standard deviation")
    if moves:
        _print(
            ["above", "below", "votes added", "votes dropped"], [[f.above, f.below, f.added, f.dropped] for f in moves]
        )
    for one in doubtful:
        click.echo(
            f"{one.voter}: {one.won:g} of {one.votes} for {one.model}, {one.expected:.1f} expected (p = {one.p_value:.1g})"
        )
    if out is not None:
        _report(out, table, found, lines, moves)


def _lines(table: "Table", found: "Ratings") -> list[list[object]]:
    from herd.arena.rank import points

    count = dict(zip(table.names, (table.counts.sum((1, 2)) + table.counts.sum((0, 2))).tolist(), strict=True))
    ranks = found.ranks() if found.low is not None else None
    lines: list[list[object]] = []
    for place, i in enumerate(found.order().tolist(), 1):
        span = f"{ranks[i][0]}-{ranks[i][1]}" if ranks else str(place)
        bounds = ""
        if found.low is not None and found.high is not None:
            bounds = f"{points(found.low[i]):,.0f} to {points(found.high[i]):,.0f}"
        lines.append([span, found.names[i], f"{points(found.rating[i]):,.0f}", bounds, int(count[found.names[i]])])
    return lines


def _print(columns: list[str], rows: list[list[object]]) -> None:
    from rich.console import Console
    from rich.table import Table as Drawn

    from herd.report import number

    drawn = Drawn(*columns, box=None, pad_edge=False)
    for row in rows:
        drawn.add_row(*map(number, row))
    Console(width=140).print(drawn)


def _report(out: Path, table: "Table", found: "Ratings", lines: list[list[object]], moves: list["Flip"]) -> None:
    from herd.arena.rank import prediction
    from herd.report import Report

    report = Report(
        "Arena", f"{int(table.votes):,} votes; Bradley-Terry, ties half a win to each, 1000 points is the mean."
    )
    report.table(["ranks", "model", "points", "95%", "votes"], lines)
    report.heading("How often a row's model beats a column's")
    order, rates = found.order().tolist()[:20], found.win_rates()
    report.table(["", *(found.names[i] for i in order)], [[found.names[i], *(f"{rates[i, j]:.0%}" if i != j else "" for j in order)] for i in order])  # fmt: skip
    if moves:
        report.heading("How few votes change the order of neighbours")
        report.table(
            ["above", "below", "votes added", "votes dropped"], [[f.above, f.below, f.added, f.dropped] for f in moves]
        )
    report.heading("Do ratings predict votes they have not seen?")
    check = prediction(table)
    report.table(["held back", "log loss", "a coin's", "accuracy without ties"], [[*check.values()]])
    report.write(out)
