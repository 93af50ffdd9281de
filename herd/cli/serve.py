"""Serve models behind the OpenAI API, with a chat page at / and the API's description at /docs.

\b
Examples:
  herd serve
  herd serve model.gguf --port 8080 --keys keys.json
  herd serve small.gguf large.gguf --resident 1
  herd serve --tools code_interpreter,calculator --documents notes/
  herd serve --host 0.0.0.0 --ssl-cert cert.pem --ssl-key key.pem --replicas 4
  herd serve --config serve.toml
"""

import os
import sys
from pathlib import Path
from typing import Any

import click

from herd.cli.common import CACHE_HELP, CACHE_SIZE_HELP, DRAFT_HELP, KV_CACHE_HELP, PATH, open_model, open_tools, size
from herd.config import read
from herd.errors import MissingDependencyError
from herd.serve.settings import ServeSettings

_DEFAULTS = ServeSettings()


def _option(name: str, text: str, kind: Any = str, **more: Any) -> Any:
    """An option of the settings; it is left to the file when it is not given."""
    field = name.removeprefix("--").replace("-", "_")
    default = getattr(_DEFAULTS, field)
    shown = str(default) if default not in (None, (), True, False) else False
    return click.option(name, field, type=None if more else kind, default=None, show_default=shown, help=text, **more)


_OPTIONS = (
    _option("--host", "Address to listen on; 0.0.0.0 is every one."),
    _option("--port", "Port; 0 takes a free one.", int),
    _option("--root-path", "Path before every other, behind a proxy that serves more: /llm."),
    _option("--name", "The model's name in the API; of several A,B. Default: as given."),
    _option("--resident", "Models in memory at a time, of several; others are loaded when asked for.", int),
    _option("--idle", "Seconds unused after which a model is dropped from memory. Default: when another needs its place.", float),
    _option("--keys", "Ask for API keys of this file; see herd keys."),
    click.option("--no-preset", "preset", flag_value=False, default=None, help="No system message and sampling of the model's own for requests that have none."),
    _option("--tools", "Tools that herd runs: code_interpreter, calculator, search; comma-separated."),
    _option("--mcp", "MCP servers whose tools join, as a JSON file of mcpServers."),
    _option("--documents", "A folder of text files for the search tool."),
    _option("--replicas", "Processes behind the port, for machines with many cores.", int),
    _option("--max-sequences", "Replies that are computed at a time.", int),
    _option("--max-waiting", "Replies that may wait; more are told to come again.", int),
    _option("--max-prompt", "Tokens of a prompt, at most.", int),
    _option("--max-body", "Bytes of a request, at most.", int),
    _option("--timeout", "Seconds that a request may take.", float),
    _option("--grace", "Seconds that replies have to end when the server is stopped.", int),
    _option("--requests-per-minute", "For each key, or in all without keys; 0 is no limit.", int),
    _option("--concurrency", "Replies at a time, as above.", int),
    _option("--cors", "Origin whose pages may ask; may be repeated.", multiple=True),
    _option("--ssl-cert", "TLS certificate (PEM)."),
    _option("--ssl-key", "TLS key (PEM)."),
    _option("--log", "Access log. Default: standard error."),
    _option("--log-prompts", "Log what was asked, too.", is_flag=True),
    _option("--context", "Tokens of key-value cache. Default: the model's context, at most 8192.", int),
    _option("--backend", "native (CPU), torch, or auto: native unless --device or --dtype is given."),
    _option("--device", "For torch: cpu, cuda, cuda:1."),
    _option("--dtype", "For torch: float32, bfloat16 or float16."),
    _option("--threads", "CPU threads. Default: one a core.", int),
    _option("--draft", DRAFT_HELP),
    _option("--cache", CACHE_HELP),
    click.option("--cache-size", callback=size, metavar="SIZE", help=CACHE_SIZE_HELP),
    _option("--safety", "A policy of the Shield: annotate, block, off, or a TOML file."),
    click.option("--no-safety", "safety", flag_value="off", default=None, help="No Shield: the same as --safety off."),
    _option("--kv-cache", KV_CACHE_HELP),
)  # fmt: skip


def _options(command: Any) -> Any:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command(help=__doc__)
@click.argument("models", nargs=-1, help="Paths, or names of models that were pulled. Default: smollm2-135m.")
@click.option("--config", type=PATH, help="A TOML file of these options, by their names with underscores, and models.")
@_options
def command(config: Path | None, **flags: Any) -> None:
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    settings = read(ServeSettings, config, given)
    try:
        from herd.serve.server import REPLICA
        from herd.serve.start import start
    except ImportError as error:
        raise MissingDependencyError(
            f"herd serve needs {error.name}; install it with: pip install 'llama-herd[serve]' (in a clone: make serve)"
        ) from error

    def path(text: str | None) -> Path | None:
        return None if text is None else Path(text)

    status = start(
        settings,
        open_model,
        lambda: open_tools(settings.tools, path(settings.mcp), path(settings.documents)),
        command=[sys.executable, "-m", "herd", *sys.argv[1:]],
        inherited=os.environ.get(REPLICA),
        metrics_folder=os.environ.get("PROMETHEUS_MULTIPROC_DIR"),
    )
    sys.exit(status)
