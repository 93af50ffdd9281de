"""The `herd` command: one file a subcommand, imported when it is used."""

import importlib
import os
import sys
from typing import Any

import click
import typer
from typer.core import TyperGroup

from herd import __version__
from herd.errors import HerdError

COMMANDS = {
    "chat": "Talk with a model.",
    "generate": "Continue prompts: one, a file's, or a whole JSONL file of them.",
    "serve": "Serve a model behind the OpenAI API, with a chat page.",
    "keys": "Add, list and revoke API keys of a server.",
    "pull": "Fetch a model.",
    "models": "List the models that are here.",
    "inspect": "Show what a checkpoint is and what it needs.",
    "convert": "Convert a checkpoint between Meta, Hugging Face and GGUF.",
    "quantize": "Make a checkpoint smaller.",
    "tokenize": "Show the tokens of a text.",
    "bench": "Measure prefill and decode speed of a model on this machine.",
    "perplexity": "Measure how well a model predicts a text.",
}


class _Lazy(TyperGroup):
    """Lists commands from the table and imports one when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"herd.cli.{cmd_name}")
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        app.command(name=cmd_name, help=module.__doc__)(module.command)
        return typer.main.get_command(app)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(cls=_Lazy, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def _herd(ctx: typer.Context, version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    """The Llama 3.1 system in Python. Start with: herd chat"""
    if version:
        print(f"herd {__version__}")
    elif ctx.invoked_subcommand is None:
        print(ctx.get_help())


def main() -> None:
    """Run the command line; errors of users are one line and exit status 2."""
    try:
        code = app(standalone_mode=False)
    except HerdError as error:
        code = _complain(str(error))
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        code = _complain(error.format_message())
    except Exception as error:  # typer carries its own copy of click
        if not hasattr(error, "format_message"):
            raise
        code = _complain(error.format_message())
    except KeyboardInterrupt:
        code = 130
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> int:
    print(f"herd: {message}", file=sys.stderr)
    return 2
