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
from typing import Annotated, Any, Optional

import typer

from herd.cli.common import (
    BackendFlag,
    ContextFlag,
    DeviceFlag,
    DtypeFlag,
    KvCacheFlag,
    MaxTokensFlag,
    SeedFlag,
    TemperatureFlag,
    ThreadsFlag,
    TopKFlag,
    TopPFlag,
    open_model,
)
from herd.engine.batch import Prompter, run_batch
from herd.engine.open import open_engine
from herd.errors import ConfigError
from herd.weights.hub import DEFAULT_MODEL


def command(
    prompt: Annotated[Optional[str], typer.Argument(help="The prompt. Default: standard input.")] = None,
    model: Annotated[str, typer.Option(help="A path, or the name of a model that was pulled.")] = DEFAULT_MODEL,
    file: Annotated[Optional[Path], typer.Option(help="Read the prompt from a file.")] = None,
    batch: Annotated[Optional[Path], typer.Option(help="A JSONL file of prompts.")] = None,
    out: Annotated[Optional[Path], typer.Option(help="Where a batch's answers go; continued if it exists.")] = None,
    config: Annotated[Optional[Path], typer.Option(help="Sampling parameters from a TOML file.")] = None,
    system: Annotated[Optional[str], typer.Option(help="System message. Default: the model's preset.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt as plain text.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object with text, tokens and usage.")] = False,
    temperature: TemperatureFlag = None,
    top_p: TopPFlag = None,
    top_k: TopKFlag = None,
    seed: SeedFlag = None,
    max_tokens: MaxTokensFlag = None,
    stop: Annotated[Optional[list[str]], typer.Option(help="End the reply before this text; may be repeated.")] = None,
    n: Annotated[Optional[int], typer.Option("-n", help="How many completions.")] = None,
    logprobs: Annotated[
        Optional[int], typer.Option(help="Report log-probabilities and this many alternatives.")
    ] = None,
    backend: BackendFlag = "auto",
    device: DeviceFlag = None,
    dtype: DtypeFlag = None,
    threads: ThreadsFlag = None,
    context: ContextFlag = None,
    kv_cache: KvCacheFlag = None,
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
    prompter = Prompter(checkpoint, raw=raw, system=system, config=config, flags=flags)
    if batch is None and prompt is None:
        prompt = prompter.read_prompt(file) if file else sys.stdin.buffer.read().decode("utf-8", "replace").strip("\n")
    opened = open_engine(
        checkpoint, backend, device=device, dtype=dtype, threads=threads, cache_tokens=context, kv_cache=kv_cache
    )
    with opened as engine:
        if batch is not None and out is not None:
            with _progress() as progress:
                run_batch(engine, prompter, batch, out, progress)
            return
        request = prompter.request(prompt or "")
        if json:
            import msgspec

            for answer in prompter.answers(engine, request):
                print(msgspec.json.encode(answer).decode())
            return
        if request.params.n > 1:
            for answer in prompter.answers(engine, request):
                print(f"[{answer['index']}] {answer['text']}")
            return
        for event in engine.generate(request):
            print(event.text, end="", flush=True)
        print()


def _progress() -> Any:
    """A bar that counts answers on a terminal."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    return Progress(
        *Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True,
    )  # fmt: skip
