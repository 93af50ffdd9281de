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
from typing import Annotated, Any, Optional

import typer

from herd.cli.common import (
    BackendFlag,
    ContextFlag,
    DeviceFlag,
    DocumentsFlag,
    DtypeFlag,
    KvCacheFlag,
    McpFlag,
    Model,
    ThreadsFlag,
    ToolsFlag,
    open_model,
    open_tools,
)
from herd.errors import ConfigError, FormatError, HerdError, MissingDependencyError
from herd.weights.hub import DEFAULT_MODEL


def command(
    model: Model = DEFAULT_MODEL,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    name: Annotated[Optional[str], typer.Option(help="The model's name in the API. Default: as given.")] = None,
    keys: Annotated[Optional[Path], typer.Option(help="Ask for API keys of this file; see herd keys.")] = None,
    tools: ToolsFlag = None,
    mcp: McpFlag = None,
    documents: DocumentsFlag = None,
    replicas: Annotated[int, typer.Option(help="Processes behind the port, for machines with many cores.")] = 1,
    max_sequences: Annotated[int, typer.Option(help="Replies that are computed at a time.")] = 64,
    max_waiting: Annotated[int, typer.Option(help="Replies that may wait; more are told to come again.")] = 512,
    max_prompt: Annotated[Optional[int], typer.Option(help="Tokens of a prompt, at most.")] = None,
    max_body: Annotated[int, typer.Option(help="Bytes of a request, at most.")] = 4 << 20,
    timeout: Annotated[Optional[float], typer.Option(help="Seconds that a request may take.")] = None,
    grace: Annotated[int, typer.Option(help="Seconds that replies have to end when the server is stopped.")] = 30,
    requests_per_minute: Annotated[int, typer.Option(help="For each key, or in all without keys; 0 is no limit.")] = 0,
    concurrency: Annotated[int, typer.Option(help="Requests at a time, as above.")] = 0,
    cors: Annotated[Optional[list[str]], typer.Option(help="Origin whose pages may ask; may be repeated.")] = None,
    ssl_cert: Annotated[Optional[str], typer.Option(help="TLS certificate (PEM).")] = None,
    ssl_key: Annotated[Optional[str], typer.Option(help="TLS key (PEM).")] = None,
    log: Annotated[Optional[Path], typer.Option(help="Access log. Default: standard error.")] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Log what was asked, too.")] = False,
    backend: BackendFlag = "auto",
    device: DeviceFlag = None,
    dtype: DtypeFlag = None,
    threads: ThreadsFlag = None,
    context: ContextFlag = None,
    kv_cache: KvCacheFlag = None,
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
        from herd.serve.model import Served
        from herd.text.chat import chat_format
        from herd.weights.presets import preset_for

        engine = open_engine(
            checkpoint, backend, device=device, dtype=dtype, threads=threads, cache_tokens=context,
            kv_cache=kv_cache, max_sequences=max_sequences, max_waiting=max_waiting,
        )  # fmt: skip
        try:
            chat = chat_format(checkpoint.tokenizer, checkpoint.chat_template)
        except FormatError:
            chat = None
        shown = name or Path(model).stem
        served = Served(
            shown, engine, chat, preset_for(checkpoint.config), metrics, box, max_prompt=max_prompt, timeout=timeout
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
