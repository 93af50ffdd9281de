"""Completion of commands and options for a shell.

\b
Examples:
  herd completion bash > ~/.local/share/bash-completion/completions/herd
  herd completion zsh > ~/.zfunc/_herd        # with fpath+=~/.zfunc before compinit
  herd completion fish > ~/.config/fish/completions/herd.fish
"""

import click
from click.shell_completion import get_completion_class


@click.command(help=__doc__)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    kind = get_completion_class(shell)
    assert kind is not None  # click knows these three
    # made by hand from its parts: click's own way to it asks which bash is installed
    made = kind(context.find_root().command, {}, "herd", "_HERD_COMPLETE")
    click.echo(made.source_template % made.source_vars())
