"""The `herd` command: one file a subcommand, imported when it is used."""

import contextlib
import importlib
import io
import os
import sys
import warnings

import click

from herd import __version__
from herd.errors import in_one_line

COMMANDS = {
    "chat": "Talk with a model.",
    "generate": "Continue prompts: one, a file's, or a whole JSONL file of them.",
    "serve": "Serve models behind the OpenAI API, with a chat page.",
    "keys": "Add, list and revoke API keys of a server.",
    "pull": "Fetch a model.",
    "models": "List the models that are here.",
    "inspect": "Show what a checkpoint is and what it needs.",
    "convert": "Convert a checkpoint between Meta, Hugging Face and GGUF.",
    "quantize": "Make a checkpoint smaller.",
    "tokenize": "Show the tokens of a text.",
    "bench": "Measure prefill and decode speed of a model on this machine.",
    "perplexity": "Measure how well a model predicts a text.",
    "eval": "Run benchmarks and compare their figures.",
    "arena": "Blind votes between models, and the ranking they give.",
    "plan": "Plan a run: layouts, time, memory, cost, faults.",
    "data": "Make a corpus by a recipe: filters, duplicates, a report.",
    "run": "The whole life of a model by one recipe, from corpus to report.",
    "synth": "Have a model write data by a recipe: instructions, questions, code, preferences.",
    "train": "Train a model by a recipe, or go on with a run.",
    "guard": "Look for insecure code, in files or in an answer.",
    "redteam": "Attack a model, and see what a Shield changes.",
    "audit": "Check that a safety audit log was not changed.",
    "plot": "Draw the curves of training runs.",
    "merge": "Merge a LoRA adapter into its model.",
    "average": "Average checkpoints of one model.",
    "rejection-sample": "Answer prompts several times and keep the best answers as training data.",
    "train-tokenizer": "Make a tokenizer for a new model from text.",
    "doctor": "Show what this machine can do and what is missing.",
    "completion": "Completion of commands and options for bash, zsh or fish.",
    "man": "The manual page, made from the commands' help.",
    "runs": "List long work and compare its results.",
}


class _Lazy(click.Group):
    """Lists commands from the table and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"herd.cli.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"show_default": True})
@click.version_option(__version__, message="%(prog)s %(version)s", help="Print the version.")
def herd() -> None:
    """The Llama 3.1 system in Python. Start with: herd chat"""


def main() -> None:
    """Run the command line; errors of users and of the system are one line and exit status 2."""
    _open_closed_streams()
    warnings.showwarning = lambda message, *_, **__: print(f"herd: {message}", file=sys.stderr)
    try:
        _accept_terminals()
        code = herd.main(prog_name="herd", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        code = 0
    except (click.exceptions.Abort, KeyboardInterrupt):
        code = 130
    except click.ClickException as error:
        code = _complain(error.format_message())
    except BrokenPipeError:  # the reader went away: herd ... | head
        code = 1
    except Exception as error:
        line = in_one_line(error)
        if line is None:
            raise
        code = _complain(line)
    try:
        sys.stdout.flush()
    except OSError:  # what is left cannot be written either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code if isinstance(code, int) else 0)


def _open_closed_streams() -> None:
    """What a caller has closed (`>&-`) reads as empty and is written to nowhere; a model's file must not take its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))  # the lowest number that is free


def _accept_terminals() -> None:
    """What a terminal's encoding lacks is shown as ?; in files and pipes it stays an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.isatty():
            stream.reconfigure(errors="replace")


def _complain(message: str) -> int:
    with contextlib.suppress(OSError):  # standard error escapes what it cannot write
        print(f"herd: {message}", file=sys.stderr)
    return 2
