"""Add, list and revoke the API keys of a server.

\b
Examples:
  herd keys add alice --requests-per-minute 60
  herd keys list
  herd keys revoke alice
  herd serve --keys keys.json
"""

import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Optional

import typer

from herd.errors import ConfigError
from herd.serve.keys import KeyFile


class Action(StrEnum):
    """What to do."""

    add = "add"
    list = "list"
    revoke = "revoke"


def command(
    action: Annotated[Action, typer.Argument(help="add, list or revoke.")],
    name: Annotated[Optional[str], typer.Argument(help="The key's name.")] = None,
    keys: Annotated[Path, typer.Option(help="The file of keys; it holds hashes alone.")] = Path("keys.json"),
    requests_per_minute: Annotated[int, typer.Option(help="A limit for this key; 0 is the server's.")] = 0,
    concurrency: Annotated[int, typer.Option(help="Requests at a time; 0 is the server's limit.")] = 0,
) -> None:
    file = KeyFile(keys)
    if action is Action.list:
        for key in file.keys().values():
            made = datetime.datetime.fromtimestamp(key.created).date()
            limits = f"{key.requests_per_minute or '-'} a minute, {key.concurrency or '-'} at a time"
            print(f"{key.name:<24} made {made}  {limits}")
        return
    if name is None:
        raise ConfigError(f"herd keys {action.value} needs a name")
    if action is Action.revoke:
        file.revoke(name)
        print(f"{name} is revoked")
        return
    print(file.add(name, requests_per_minute=requests_per_minute, concurrency=concurrency))
    typer.echo("This is the only time that the key is shown.", err=True)
