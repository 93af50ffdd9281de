"""Check that nothing in a safety audit log was changed or left out.

\b
Examples:
  herd audit verify audit.jsonl
  herd audit verify audit.jsonl --last 9f86d081884c7d65...
"""

from pathlib import Path

import click

from herd import chain
from herd.cli.common import PATH
from herd.errors import FormatError


@click.command(help=__doc__)
@click.argument("action", type=click.Choice(("verify",)), help="verify.")
@click.argument("file", type=PATH, help="The log of a policy's audit.path.")
@click.option("--last", help="A hash that was printed before: it must still be there, so that the end was not cut off.")
def command(action: str, file: Path, last: str | None) -> None:
    count, chained = chain.verify(file)
    if last is not None and not chain.contains(file, last):
        raise FormatError(f"{file}: no entry has the hash {last}; entries were removed, or the log was made anew")
    print(f"{count:,} entries, none changed; the last hash is {chained or '(none)'}")
