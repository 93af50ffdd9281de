"""Continue a prompt, given as an argument, a file or standard input, or all prompts of a JSONL file.

A prompt is put to the model as a user's message in its chat format; with --raw it is continued as plain text. Lines of
a JSONL file are objects with `prompt`, and optionally `system` and sampling parameters; the output has one object a
line, and a run that was interrupted continues where it stopped.

\b
Examples:
  herd generate "Why is the sky blue?"
  herd generate --raw "The capital of France is" --max-tokens 8 --temperature 0
  herd generate --batch questions.jsonl --out answers.jsonl
"""

import sys
from pathlib import Path
from typing import Any

import click

from herd.cli.common import (
    PATH,
    cache_options,
    context_option,
    draft_option,
    engine_options,
    model_option,
    open_model,
    sampling_options,
    show_progress,
    system_option,
    warn,
)
from herd.engine.batch import Prompter, answer, run_batch
from herd.engine.open import open_engine
from herd.engine.request import Completion
from herd.errors import ConfigError


@click.command(help=__doc__)
@click.argument("prompt", required=False, help="The prompt. Default: standard input.")
@model_option
@click.option("--file", type=PATH, help="Read the prompt from a file.")
@click.option("--batch", type=PATH, help="A JSONL file of prompts.")
@click.option("--out", type=PATH, help="Where a batch's answers go; continued if it exists.")
@click.option("--config", type=PATH, help="Sampling parameters from a TOML file.")
@system_option
@click.option("--raw", is_flag=True, help="Continue the prompt as plain text.")
@click.option(
    "--special", is_flag=True, help="With --raw: read the names of special tokens in the prompt as those tokens."
)
@click.option("--json", is_flag=True, help="One JSON object with text, tokens and usage.")
@sampling_options
@click.option("--stop", multiple=True, help="End the reply before this text; may be repeated.")
@click.option("-n", type=int, help="How many completions.")
@click.option("--logprobs", type=int, help="Report log-probabilities and this many alternatives.")
@context_option
@engine_options
@draft_option
@cache_options
def command(
    prompt: str | None,
    model: str,
    file: Path | None,
    batch: Path | None,
    out: Path | None,
    config: Path | None,
    system: str | None,
    raw: bool,
    special: bool,
    json: bool,
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    seed: int | None,
    max_tokens: int | None,
    stop: tuple[str, ...],
    n: int | None,
    logprobs: int | None,
    cache_tokens: int | None,
    **backend: Any,
) -> None:
    if sum(x is not None for x in (prompt, file, batch)) > 1:
        raise ConfigError("give one of a prompt, --file and --batch")
    if (batch is None) != (out is None):
        raise ConfigError("--batch and --out go together")
    flags = {
        "temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed, "max_tokens": max_tokens,
        "stop": stop or None, "n": n, "logprobs": logprobs,
    }  # fmt: skip
    checkpoint = open_model(model)
    prompter = Prompter(checkpoint, raw=raw, special=special, system=system, config=config, flags=flags)
    if batch is None and prompt is None:
        prompt = prompter.read_prompt(file) if file else sys.stdin.buffer.read().decode("utf-8", "replace").strip("\n")
    with open_engine(checkpoint, cache_tokens=cache_tokens, warn=warn, **backend) as engine:
        if batch is not None and out is not None:
            with show_progress() as progress:
                run_batch(engine, prompter, batch, out, progress)
            return
        request = prompter.request(prompt or "")
        if json or request.params.n > 1:
            for completion in engine.run([request]):
                if completion.error is not None:
                    raise completion.error
                print(_json(completion) if json else f"[{completion.index}] {completion.text}")
            return
        for event in engine.generate(request):
            print(event.text, end="", flush=True)
        print()


def _json(completion: Completion) -> str:
    import msgspec

    return msgspec.json.encode(answer(completion)).decode()
