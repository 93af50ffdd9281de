"""Make a checkpoint smaller: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K, Q4_K_M, Q5_K_M (GGUF) or FP8 as Meta published its 405B (Hugging Face).

With --calibrate FILE, text like what the model will read, Q4_0, Q4_1 and Q8_0 lose much less; with --tune, which takes minutes for
a small model, less still.

\b
Examples:
  herd quantize model.gguf small.gguf --format Q4_0 --report
  herd quantize model.gguf small.gguf --format Q4_0 --calibrate notes.txt --tune
  herd quantize Llama-3.1-8B-Instruct fp8-folder --format fp8
"""

import json as jsonlib
from pathlib import Path

import click

from herd.cli.common import PATH, human, open_model, show_progress, split_option, warn
from herd.engine.batch import Prompter
from herd.engine.calibrated import write
from herd.evals.quantized import report as make_report
from herd.weights.open import open_checkpoint


@click.command(help=__doc__)
@click.argument("source", metavar="IN", help="A checkpoint, best in 16 bits.")
@click.argument("out", type=PATH, metavar="OUT", help="A .gguf file, or for FP8 a folder.")
@click.option(
    "--format",
    required=True,
    help="Q8_0 (int8), Q4_0 (int4), Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K, Q4_K_M, Q5_K_M or F8_E4M3 (fp8).",
)
@click.option("--calibrate", type=PATH, help="A text file; needs torch.")
@click.option("--tune", is_flag=True, help="Train scales on that text until answers are like the original's.")
@click.option("--embedding", help="Format of the embedding and the output head. Default: Q8_0, or Q6_K with k-formats.")
@click.option("--report", is_flag=True, help="Show size, error of each tensor, speed.")
@click.option("--text", type=PATH, help="With --report: perplexity on this text, before and after.")
@click.option("--json", is_flag=True, help="The report as JSON.")
@split_option
def command(
    source: str,
    out: Path,
    format: str,
    calibrate: Path | None,
    tune: bool,
    embedding: str | None,
    report: bool,
    text: Path | None,
    json: bool,
    split: int | None,
) -> None:
    checkpoint = open_model(source)
    words = None if calibrate is None else Prompter.read_prompt(calibrate)
    read = None if text is None else Prompter.read_prompt(text)
    with show_progress() as progress:
        written = write(checkpoint, out, format, words, embedding, tuned=tune, progress=progress, split=split, say=warn)
    if not (report or json):
        print(written)
        return
    found = make_report(checkpoint, open_checkpoint(written), read)
    if json:
        print(jsonlib.dumps(found))
        return
    print(f"size         {human(found['bytes_before'])} -> {human(found['bytes_after'])}")
    for key in ("perplexity", "decode_tokens_per_second"):
        if f"{key}_before" in found:
            print(f"{key.split('_')[0]:<12} {found[f'{key}_before']:.4g} -> {found[f'{key}_after']:.4g}")
    for name, error in found["relative_error"].items():
        print(f"  {name:<40} {error:.4%}")
