"""Show the tokens of a text, given as an argument or on standard input.

\b
Examples:
  herd tokenize "Hello, world!"
  herd tokenize --model Llama-3.1-8B --ids < book.txt
"""

import sys
from typing import Annotated, Optional

import typer

from herd.cli.common import open_model
from herd.weights.hub import DEFAULT_MODEL


def command(
    text: Annotated[Optional[str], typer.Argument(help="The text. Default: standard input.")] = None,
    model: Annotated[str, typer.Option(help="A path, or the name of a model that was pulled.")] = DEFAULT_MODEL,
    ids: Annotated[bool, typer.Option("--ids", help="Only the ids, as a JSON list.")] = False,
    count: Annotated[bool, typer.Option("--count", help="Only how many there are.")] = False,
) -> None:
    tokenizer = open_model(model).tokenizer
    if text is None:
        text = sys.stdin.buffer.read().decode("utf-8", "replace")
    tokens = tokenizer.encode(text)
    if count:
        print(len(tokens))
    elif ids:
        print(tokens)
    else:
        for token in tokens:
            print(f"{token:>7}  {tokenizer.token_bytes(token).decode('utf-8', 'replace')!r}")
