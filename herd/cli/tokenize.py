"""Show the tokens of a text, given as an argument or on standard input.

\b
Examples:
  herd tokenize "Hello, world!"
  herd tokenize --special "<|im_start|>user"
  herd tokenize --model Llama-3.1-8B --ids < book.txt
"""

import sys

import click

from herd.cli.common import model_option, open_model
from herd.text.tokenizer import encode_special


@click.command(help=__doc__)
@click.argument("text", required=False, help="The text. Default: standard input.")
@model_option
@click.option("--special", is_flag=True, help="Read the names of special tokens as those tokens, not as text.")
@click.option("--ids", is_flag=True, help="Only the ids, as a JSON list.")
@click.option("--count", is_flag=True, help="Only how many there are.")
def command(
    text: str | None,
    model: str,
    special: bool,
    ids: bool,
    count: bool,
) -> None:
    tokenizer = open_model(model).tokenizer
    if text is None:
        text = sys.stdin.buffer.read().decode("utf-8", "replace")
    tokens = encode_special(tokenizer, text) if special else tokenizer.encode(text)
    if count:
        print(len(tokens))
    elif ids:
        print(tokens)
    else:
        for token in tokens:
            print(f"{token:>7}  {tokenizer.token_bytes(token).decode('utf-8', 'replace')!r}")
