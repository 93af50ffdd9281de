"""Starting a server as its settings say: the socket, the replicas, the model and its tools, the application."""

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from herd.engine.open import LOOKUP, open_engine
from herd.errors import ConfigError, FormatError, HerdError
from herd.safety.policy import Policy, read_policy
from herd.safety.shield import Shield
from herd.serve.app import create_app
from herd.serve.gate import GateSettings
from herd.serve.keys import KeyFile
from herd.serve.metrics import Metrics
from herd.serve.served import Served
from herd.serve.server import Replicas, bind, is_loopback, serve, shown_address
from herd.serve.settings import ServeSettings
from herd.tools import ToolBox
from herd.weights.checkpoint import Checkpoint
from herd.weights.presets import preset_for

_SWITCH = 0.001  # seconds that other Python code may keep the engine's thread waiting; Python's own is 0.005


def start(
    settings: ServeSettings,
    find: Callable[[str], Checkpoint],
    tools: Callable[[], ToolBox],
    *,
    command: Sequence[str],
    inherited: str | None = None,
    metrics_folder: str | None = None,
) -> int:
    """Serve until a signal comes; the exit status. `find` opens a model by name, `tools` those that the server runs.

    With several replicas `command` starts each of them anew; a replica has `inherited` from its parent where to listen.
    """
    settings.check()
    sys.setswitchinterval(_SWITCH)
    policy = None if settings.safety == "off" else read_policy(settings.safety)
    keys = None if settings.keys is None else KeyFile(Path(settings.keys))
    if keys is not None and not keys.keys():
        raise ConfigError(f"{settings.keys} has no keys; make one with: herd keys add NAME --keys {settings.keys}")
    checkpoint = find(settings.models[0])
    draft = settings.draft if settings.draft in (None, LOOKUP) else find(settings.draft)
    guard = find(policy.llama_guard.model) if policy is not None and policy.uses("llama_guard") else None
    host, port = settings.host, settings.port
    if inherited is not None:
        host, port = inherited.split()[0], int(inherited.split()[1])
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    sock = bind(host, port, shared=settings.replicas > 1)
    loopback = is_loopback(host)
    if not loopback and keys is None and inherited is None:
        _say(f"anyone who reaches {host} can use this server; --keys FILE asks for keys")
    if settings.replicas > 1 and inherited is None:
        return Replicas(command, settings.replicas, sock, grace=settings.grace).run()
    box = tools()

    def ready(served: Served) -> None:
        scheme = "https" if settings.ssl_cert else "http"
        _say(f"serving {served.name} at {scheme}://{shown_address(sock)} (API: /v1, described at /docs)")

    gate = GateSettings(
        max_body=settings.max_body, requests_per_minute=settings.requests_per_minute, concurrency=settings.concurrency,
        cors=settings.cors, loopback=loopback, log_prompts=settings.log_prompts,
        root_path=settings.root_path,
    )  # fmt: skip
    app = create_app(
        lambda metrics: _load(settings, checkpoint, draft, box, metrics, None if policy is None else open_shield(policy, guard, metrics)), gate, keys=keys,
        log=None if settings.log is None else Path(settings.log), metrics=Metrics(metrics_folder),
        ready_first=inherited is not None, on_ready=ready, on_failure=_failed,
    )  # fmt: skip
    serve(app, sock, grace=settings.grace, certificate=settings.ssl_cert, key=settings.ssl_key)()
    return 0


def _load(
    settings: ServeSettings,
    checkpoint: Checkpoint,
    draft: str | Checkpoint | None,
    box: ToolBox,
    metrics: Metrics,
    shield: Shield | None,
) -> Served:
    engine = open_engine(
        checkpoint, settings.backend, device=settings.device, dtype=settings.dtype, threads=settings.threads,
        cache_tokens=settings.context, kv_cache=settings.kv_cache, max_sequences=settings.max_sequences,
        max_waiting=settings.max_waiting, draft=draft,
        cache=None if settings.cache is None else Path(settings.cache), cache_size=settings.cache_size, warn=_say,
    )  # fmt: skip
    try:
        chat = checkpoint.chat_format()
    except FormatError:
        chat = None
    served = Served(
        settings.name or Path(settings.models[0]).stem, engine, chat, preset_for(checkpoint), metrics, box,
        max_prompt=settings.max_prompt, timeout=settings.timeout, use_preset=settings.preset, shield=shield,
    )  # fmt: skip
    served.admit_tools()
    for name, reason in served.left_out.items():
        _say(f"the tool {name!r} cannot be offered and is left out: {reason}")
    for note in served.notes:
        _say(f"the tool {note}")
    served.warm_up()
    return served


def open_shield(policy: Policy, guard: Checkpoint | None, metrics: Metrics) -> Shield:
    """The Shield of a policy, with the engine of its Llama Guard checkpoint."""
    if guard is None:
        return Shield(policy, say=_say, on_fired=metrics.fired)
    engine = open_engine(guard)
    return Shield(policy, engine, guard.chat_format(), say=_say, on_fired=metrics.fired)


def _failed(error: BaseException) -> Any:
    _say(str(error) if isinstance(error, HerdError) else repr(error))
    os._exit(2)


def _say(line: str) -> None:
    print(f"herd: {line}", file=sys.stderr, flush=True)


def _end_with(parent: int) -> None:
    """End this replica when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
