"""Add, list and revoke the API keys of a server.

\b
Examples:
  herd keys add alice --requests-per-minute 60
  herd keys list
  herd keys revoke alice
  herd serve --keys keys.json
"""

import datetime
import sys
from pathlib import Path

import click

from herd.cli.common import PATH
from herd.errors import ConfigError
from herd.serve.keys import KeyFile


@click.command(help=__doc__)
@click.argument("action", type=click.Choice(("add", "list", "revoke")), help="add, list or revoke.")
@click.argument("name", required=False, help="The key's name.")
@click.option("--keys", type=PATH, default=Path("keys.json"), help="The file of keys; it holds hashes alone.")
@click.option("--requests-per-minute", default=0, help="A limit for this key; 0 is the server's.")
@click.option("--concurrency", default=0, help="Requests at a time; 0 is the server's limit.")
def command(
    action: str,
    name: str | None,
    keys: Path,
    requests_per_minute: int,
    concurrency: int,
) -> None:
    file = KeyFile(keys)
    if action == "list":
        for key in file.keys().values():
            made = datetime.datetime.fromtimestamp(key.created).date()
            limits = f"{key.requests_per_minute or '-'} a minute, {key.concurrency or '-'} at a time"
            print(f"{key.name:<24} made {made}  {limits}")
        return
    if name is None:
        raise ConfigError(f"herd keys {action} needs a name")
    if action == "revoke":
        file.revoke(name)
        print(f"{name} is revoked")
        return
    print(file.add(name, requests_per_minute=requests_per_minute, concurrency=concurrency))
    print("This is the only time that the key is shown.", file=sys.stderr)
