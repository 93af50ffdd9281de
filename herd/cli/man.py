"""The manual page, made from the commands' own help.

\b
Examples:
  herd man | man -l -
  herd man > ~/.local/share/man/man1/herd.1
"""

import inspect
from collections.abc import Iterator

import click

from herd import __version__


@click.command(help=__doc__)
@click.pass_context
def command(context: click.Context) -> None:
    root = context.find_root()
    click.echo("\n".join(_page(root)))


def _page(root: click.Context) -> Iterator[str]:
    """The page in man's macros (man 7 man)."""
    yield f'.TH HERD 1 "" "herd {__version__}" "User Commands"'
    yield ".SH NAME"
    yield "herd \\- the Llama 3.1 system: chat, serve, train, evaluate, guard and plan"
    yield ".SH SYNOPSIS"
    yield ".B herd\n.I COMMAND\n[\\fIOPTION\\fR]... [\\fIARGUMENT\\fR]..."
    yield ".SH DESCRIPTION"
    yield _text(inspect.cleandoc(root.command.help or ""))
    yield ".SH COMMANDS"
    assert isinstance(root.command, click.Group)
    yield from _commands(root.command, root, "herd")
    yield ".SH EXIT STATUS"
    yield "0 when it went well, 2 when something given cannot be, 130 when it was interrupted, 1 otherwise."


def _commands(group: click.Group, context: click.Context, above: str) -> Iterator[str]:
    for name in group.list_commands(context):
        one = group.get_command(context, name)
        if one is None or one.hidden:
            continue
        below = click.Context(one, parent=context, info_name=name)
        usage = " ".join(one.collect_usage_pieces(below))
        yield f".SS {_text(f'{above} {name} {usage}')}"
        yield from _paragraphs(one.help or "")
        for parameter in one.get_params(below):
            record = parameter.get_help_record(below)
            if record is not None and not (isinstance(parameter, click.Option) and "--help" in parameter.opts):
                yield f".TP\n.B {_text(record[0])}\n{_text(record[1])}"
        if isinstance(one, click.Group):
            yield from _commands(one, below, f"{above} {name}")


def _paragraphs(text: str) -> Iterator[str]:
    """A help text; what click keeps as it stands stays so here."""
    for part in inspect.cleandoc(text).split("\n\n"):
        if part.startswith("\b"):
            yield f".PP\n.nf\n{_text(part[1:].strip(chr(10)))}\n.fi"
        elif part.strip():
            yield f".PP\n{_text(part)}"


def _text(text: str) -> str:
    """Text whose marks man would take for its own are escaped."""
    lines = text.replace("\\", "\\e").replace("-", "\\-").split("\n")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in lines)
