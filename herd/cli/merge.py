"""Merge a LoRA adapter into the model that it was made for. Adapters in PEFT's files, or a run of herd's.

\b
Examples:
  herd merge smollm2-135m runs/gsm8k-sft/adapter merged --to hf
  herd merge Llama-3.1-8B my-adapter merged.gguf --format BF16
"""

from pathlib import Path

import click

from herd.cli.common import PATH, open_model, show_progress
from herd.errors import ConfigError


@click.command(help=__doc__)
@click.argument("model", help="The model: a path, or the name of a pulled one.")
@click.argument("adapter", type=PATH, help="The adapter's folder.")
@click.argument("out", type=PATH, help="The folder or .gguf file to write.")
@click.option("--to", help="meta, hf or gguf. Default: gguf for OUT ending in .gguf.")
@click.option("--format", default="BF16", help="Number format of the matrices: F32, F16 or BF16.")
def command(model: str, adapter: Path, out: Path, to: str | None, format: str) -> None:
    from herd.weights.adapter import merged, read_adapter
    from herd.weights.convert import convert, target_kind

    kind = target_kind(out, to)
    if (adapter / "run.json").exists():
        adapter = adapter / "adapter"
    if not (adapter / "adapter_config.json").exists():
        raise ConfigError(
            f"{adapter}: no adapter_config.json; give the folder of a LoRA adapter, or of a run with [lora] that is done"
        )
    checkpoint = open_model(model)
    whole = merged(checkpoint, read_adapter(adapter, checkpoint.config.head_dim))
    with show_progress(in_bytes=True) as progress:
        print(convert(whole, out, kind, format, progress))
