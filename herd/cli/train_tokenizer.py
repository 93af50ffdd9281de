"""Make a tokenizer for a new model: a byte-level BPE learned from text, with Llama 3's words and special tokens.

\b
Examples:
  herd train-tokenizer recipes/data/tiny --vocab 4096 --out tokenizer
  herd train-tokenizer corpus.txt more.jsonl --vocab 32000 --out tokenizer
"""

from pathlib import Path

import click

from herd.cli.common import PATH
from herd.errors import ConfigError


@click.command(help=__doc__)
@click.argument(
    "files", nargs=-1, type=PATH, required=True, help="Text files, JSON lines with `text`, or folders of text files."
)
@click.option("--vocab", type=int, default=4096, help="Tokens, 12 special ones included.")
@click.option("--out", type=PATH, required=True, help="The folder to write tokenizer.json into.")
def command(files: tuple[Path, ...], vocab: int, out: Path) -> None:
    from herd.atomic import atomic_folder
    from herd.text.documents import read_documents
    from herd.text.train_tokenizer import train_tokenizer
    from herd.weights.sidecars import write_tokenizer

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: exists already; give another name or remove it")
    texts = [text for file in files for text, _ in read_documents(file)]
    tokenizer = train_tokenizer(texts, vocab)
    with atomic_folder(out) as folder:
        write_tokenizer(folder, tokenizer, 131_072)
    characters, tokens = sum(map(len, texts)), len(tokenizer.encode_batch(texts)[0])
    print(f"{out}: {vocab:,} tokens, {characters / tokens:.2f} characters a token on {characters:,} characters")
