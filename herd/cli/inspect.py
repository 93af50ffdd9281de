"""Show what a checkpoint is: architecture, formats, tokenizer, template, sizes, and what this machine can do with it.

\b
Examples:
  herd inspect smollm2-135m
  herd inspect model.gguf --tensors
  herd inspect folder --json
"""

from typing import Any

import click

from herd.cli.common import human, model_argument, open_model
from herd.weights.inspect import inspect


@click.command(help=__doc__)
@model_argument
@click.option("--tensors", is_flag=True, help="List every tensor.")
@click.option("--json", is_flag=True, help="All of it as JSON.")
def command(
    model: str,
    tensors: bool,
    json: bool,
) -> None:
    found = inspect(open_model(model))
    if json:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    for key, value in _lines(found):
        print(f"{key:<14} {value}")
    if tensors:
        for tensor in found["tensors"]:
            print(f"  {tensor['name']:<40} {tensor['format']:<8} {tensor['shape']!s:<18} {human(tensor['bytes']):>12}")


def _template(found: dict[str, Any]) -> str:
    sizes = {"": found["chat_template"], " for tools": found["tool_template"]}
    return ", ".join(f"{len(text):,} characters{name}" for name, text in sizes.items() if text) or "none"


def _caches(sizes: dict[str, int]) -> str:
    return ", ".join(f"{kind} {size:,}" for kind, size in sizes.items())


def _values(sampling: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in sampling.items()) or "nothing"


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    config, tokenizer, machine = found["config"], found["tokenizer"], found["machine"]
    formats = ", ".join(f"{fmt}: {f['tensors']} tensors, {human(f['bytes'])}" for fmt, f in found["formats"].items())
    words = tokenizer.get("error") or (
        f"{tokenizer['vocabulary']:,} tokens, {tokenizer['special_tokens']} special, stops at {tokenizer['stop_tokens']}"
    )
    free = f"the {human(machine['free_bytes'])} of memory that are free"
    return [
        ("name", found["name"] or "(none)"),
        ("path", f"{found['path']} ({found['kind']})"),
        ("shape", found["shape"] or "not one of the named shapes"),
        ("layers", f"{config['layers']} of width {config['dim']:,}, feed-forward {config['ffn_dim']:,}"),
        ("attention", f"{config['heads']} heads of {config['head_dim']}, {config['kv_heads']} for keys and values"),
        ("rotary", f"base {config['rope_theta']:,.0f}, scaling {config['rope_scaling'] or 'none'}"),
        ("context", f"{config['context']:,} tokens"),
        (
            "cache",
            f"bytes a token with --kv-cache {_caches(found['kv_bytes_per_token'])}; the whole context in f16 "
            f"{human(config['context'] * found['kv_bytes_per_token']['f16'])}",
        ),
        ("parameters", f"{found['parameters']:,}{', output tied to embedding' if config['tied'] else ''}"),
        ("weights", f"{human(found['weight_bytes'])} ({formats})"),
        ("tokenizer", words),
        ("template", _template(found)),
        (
            "sampling",
            f"{_values(found['sampling'])}; the checkpoint recommends {_values(found['recommended_sampling'])}",
        ),
        (
            "machine",
            f"fits {free} with {machine['context_that_fits']:,} tokens of context"
            if machine["fits"]
            else f"takes {human(machine['packed_bytes'])}, more than {free}; {machine['advice']}",
        ),
    ]
