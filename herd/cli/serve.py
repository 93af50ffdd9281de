"""Serve a model behind the OpenAI API, with a chat page at / and the API's description at /docs.

\b
Examples:
  herd serve
  herd serve model.gguf --port 8080 --keys keys.json
  herd serve --tools code_interpreter,calculator --documents notes/
  herd serve --host 0.0.0.0 --ssl-cert cert.pem --ssl-key key.pem --replicas 4
"""

import ipaddress
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click

from herd.cli.common import (
    PATH,
    context_option,
    documents_option,
    engine_options,
    mcp_option,
    model_argument,
    open_model,
    open_tools,
    tools_option,
)
from herd.errors import ConfigError, FormatError, HerdError, MissingDependencyError


@click.command(help=__doc__)
@model_argument
@click.option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 is every one.")
@click.option("--port", default=8000, help="Port; 0 takes a free one.")
@click.option("--name", help="The model's name in the API. Default: as given.")
@click.option("--keys", type=PATH, help="Ask for API keys of this file; see herd keys.")
@tools_option
@mcp_option
@documents_option
@click.option("--replicas", default=1, help="Processes behind the port, for machines with many cores.")
@click.option("--max-sequences", default=64, help="Replies that are computed at a time.")
@click.option("--max-waiting", default=512, help="Replies that may wait; more are told to come again.")
@click.option("--max-prompt", type=int, help="Tokens of a prompt, at most.")
@click.option("--max-body", default=4 << 20, help="Bytes of a request, at most.")
@click.option("--timeout", type=float, help="Seconds that a request may take.")
@click.option("--grace", default=30, help="Seconds that replies have to end when the server is stopped.")
@click.option("--requests-per-minute", default=0, help="For each key, or in all without keys; 0 is no limit.")
@click.option("--concurrency", default=0, help="Requests at a time, as above.")
@click.option("--cors", multiple=True, help="Origin whose pages may ask; may be repeated.")
@click.option("--ssl-cert", help="TLS certificate (PEM).")
@click.option("--ssl-key", help="TLS key (PEM).")
@click.option("--log", type=PATH, help="Access log. Default: standard error.")
@click.option("--log-prompts", is_flag=True, help="Log what was asked, too.")
@context_option
@engine_options
def command(
    model: str,
    host: str,
    port: int,
    name: str | None,
    keys: Path | None,
    tools: str | None,
    mcp: Path | None,
    documents: Path | None,
    replicas: int,
    max_sequences: int,
    max_waiting: int,
    max_prompt: int | None,
    max_body: int,
    timeout: float | None,
    grace: int,
    requests_per_minute: int,
    concurrency: int,
    cors: tuple[str, ...],
    ssl_cert: str | None,
    ssl_key: str | None,
    log: Path | None,
    log_prompts: bool,
    cache_tokens: int | None,
    **backend: Any,
) -> None:
    try:
        from herd.serve.app import create_app
        from herd.serve.gate import GateSettings
        from herd.serve.keys import KeyFile
        from herd.serve.server import REPLICA, Replicas, bind, serve
    except ImportError as error:
        raise MissingDependencyError(
            f"herd serve needs {error.name}; install it with: pip install 'llama-herd[serve]' (in a clone: make serve)"
        ) from error
    for flag, value, least in (
        ("replicas", replicas, 1), ("max-sequences", max_sequences, 1), ("max-waiting", max_waiting, 1),
        ("max-body", max_body, 1), ("grace", grace, 0), ("requests-per-minute", requests_per_minute, 0),
        ("concurrency", concurrency, 0), ("max-prompt", 1 if max_prompt is None else max_prompt, 1), ("port", port, 0),
    ):  # fmt: skip
        if value < least:
            raise ConfigError(f"--{flag} is {value}; expected {least} or more")
    if timeout is not None and timeout <= 0:
        raise ConfigError(f"--timeout is {timeout}; expected seconds above 0")
    if (ssl_cert is None) != (ssl_key is None):
        raise ConfigError("--ssl-cert and --ssl-key go together")
    key_file = None if keys is None else KeyFile(keys)
    if key_file is not None and not key_file.keys():
        raise ConfigError(f"{keys} has no keys; make one with: herd keys add NAME --keys {keys}")
    inherited = os.environ.get(REPLICA)
    checkpoint = open_model(model)
    if inherited is not None:
        host, port = inherited.split()[0], int(inherited.split()[1])
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    sock = bind(host, port, shared=replicas > 1)
    loopback = _is_loopback(host)
    if not loopback and keys is None and inherited is None:
        print(f"herd: anyone who reaches {host} can use this server; --keys FILE asks for keys", file=sys.stderr)
    if replicas > 1 and inherited is None:
        sys.exit(Replicas([sys.executable, "-m", "herd", *sys.argv[1:]], replicas, sock, grace=grace).run())
    box = open_tools(tools, mcp, documents)

    def load(metrics: Any) -> Any:
        from herd.engine.open import open_engine
        from herd.serve.served import Served
        from herd.weights.presets import preset_for

        engine = open_engine(
            checkpoint, cache_tokens=cache_tokens, **backend, max_sequences=max_sequences, max_waiting=max_waiting,
        )  # fmt: skip
        try:
            chat = checkpoint.chat_format()
        except FormatError:
            chat = None
        shown = name or Path(model).stem
        served = Served(
            shown, engine, chat, preset_for(checkpoint), metrics, box, max_prompt=max_prompt, timeout=timeout
        )
        served.warm_up()
        return served

    def ready(served: Any) -> None:
        at = sock.getsockname()
        shown = f"[{at[0]}]" if ":" in at[0] else at[0]
        scheme = "https" if ssl_cert else "http"
        print(
            f"herd: serving {served.name} at {scheme}://{shown}:{at[1]} (API: /v1, described at /docs)", file=sys.stderr
        )

    def failed(error: BaseException) -> None:
        print(f"herd: {error if isinstance(error, HerdError) else repr(error)}", file=sys.stderr, flush=True)
        os._exit(2)

    settings = GateSettings(
        max_body=max_body, requests_per_minute=requests_per_minute, concurrency=concurrency, cors=tuple(cors or ()),
        loopback=loopback, log_prompts=log_prompts,
    )  # fmt: skip
    from herd.serve.metrics import Metrics

    app = create_app(
        load, settings, keys=key_file, log=log, metrics=Metrics(os.environ.get("PROMETHEUS_MULTIPROC_DIR")),
        ready_first=inherited is not None, on_ready=ready, on_failure=failed,
    )  # fmt: skip
    serve(app, sock, grace=grace, certificate=ssl_cert, key=ssl_key)()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _end_with(parent: int) -> None:
    """End this replica when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
