"""Starting a server as its settings say: the socket, the replicas, the model and its tools, the application."""

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from herd.engine.open import DEFAULT_CACHE, LOOKUP, open_engine
from herd.errors import ConfigError, FormatError, HerdError
from herd.safety.policy import Policy, read_policy
from herd.safety.shield import Shield
from herd.serve.app import create_app
from herd.serve.gate import GateSettings
from herd.serve.keys import KeyFile
from herd.serve.metrics import Metrics
from herd.serve.models import Card, Models
from herd.serve.pools import Pools
from herd.serve.served import Served
from herd.serve.server import Replicas, bind, is_loopback, serve, shown_address
from herd.serve.settings import ServeSettings
from herd.serve.store import Store
from herd.tools import ToolBox
from herd.weights.checkpoint import Checkpoint
from herd.weights.memory import need
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
    checkpoints = {name: find(model) for name, model in zip(settings.names(), settings.models, strict=True)}
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

    def ready(models: Models) -> None:
        scheme = "https" if settings.ssl_cert else "http"
        names = ", ".join(card.name for card in models.cards)
        _say(f"serving {names} at {scheme}://{shown_address(sock)} (API: /v1, described at /docs)")

    def load(metrics: Metrics) -> Models:
        shield = None if policy is None else open_shield(policy, guard, metrics)
        loader = _Loader(
            settings, dict(zip(checkpoints, settings.models, strict=True)), find, draft, box, metrics, shield
        )
        models = Models(
            [_card(settings, name, opened, box) for name, opened in checkpoints.items()], loader.load,
            resident=settings.resident, max_waiting=settings.max_waiting, idle=settings.idle, pools=loader.pools,
            metrics=metrics, toolbox=box, shield=shield, say=_say,
        )  # fmt: skip
        models.begin()
        if shield is not None:
            shield.warm_up()
        return models

    gate = GateSettings(
        max_body=settings.max_body, requests_per_minute=settings.requests_per_minute, concurrency=settings.concurrency,
        cors=settings.cors, loopback=loopback, log_prompts=settings.log_prompts,
        root_path=settings.root_path, timeout=settings.timeout,
    )  # fmt: skip
    app = create_app(
        load, gate, keys=keys, log=None if settings.log is None else Path(settings.log), metrics=Metrics(metrics_folder),
        ready_first=inherited is not None, on_ready=ready, on_failure=_failed,
    )  # fmt: skip
    serve(app, sock, grace=settings.grace, certificate=settings.ssl_cert, key=settings.ssl_key)()
    return 0


def _card(settings: ServeSettings, name: str, checkpoint: Checkpoint, box: ToolBox) -> Card:
    """What is told of a model that need not be in memory."""
    tokens = settings.context or min(checkpoint.config.context, DEFAULT_CACHE)
    native = settings.backend != "torch" and settings.device in (None, "cpu") and settings.dtype is None
    needs = need(checkpoint, settings.kv_cache or "f16").total(tokens) if native else 0
    context = min(checkpoint.config.context, tokens)
    preset = preset_for(checkpoint)
    return Card(
        name=name, context=context, preset=preset, use_preset=settings.preset, tools=box.tools, needs=needs
    )  # fmt: skip


@dataclass
class _Loader:
    """Loads models by their names in the API. What it holds is shared by all of them."""

    settings: ServeSettings
    models: dict[str, str]  # as they were given
    find: Callable[[str], Checkpoint]
    draft: str | Checkpoint | None
    box: ToolBox
    metrics: Metrics
    shield: Shield | None
    pools: Pools = field(default_factory=Pools)
    store: Store = field(default_factory=Store)
    _told: set[str] = field(default_factory=set)

    def load(self, name: str) -> Served:
        """The model of a name, ready to reply. Its files are opened anew: they may have changed."""
        settings, checkpoint = self.settings, self.find(self.models[name])
        engine = open_engine(
            checkpoint, settings.backend, device=settings.device, dtype=settings.dtype, threads=settings.threads,
            cache_tokens=settings.context, kv_cache=settings.kv_cache, max_sequences=settings.max_sequences,
            max_waiting=settings.max_waiting, draft=self.draft,
            cache=None if settings.cache is None else Path(settings.cache), cache_size=settings.cache_size, warn=_say,
        )  # fmt: skip
        try:
            chat = checkpoint.chat_format()
        except FormatError:
            chat = None
        try:
            served = Served(
                name, engine, chat, preset_for(checkpoint), self.metrics, ToolBox(dict(self.box.runners)),
                max_prompt=settings.max_prompt, timeout=settings.timeout, use_preset=settings.preset, pools=self.pools,
                store=self.store, shield=self.shield,
            )  # fmt: skip
            served.admit_tools()
            served.warm_up()
        except BaseException:
            engine.close()
            raise
        if name not in self._told:
            self._told.add(name)
            for tool, reason in served.left_out.items():
                _say(f"the tool {tool!r} cannot be offered and is left out: {reason}")
            for note in served.notes:
                _say(f"the tool {note}")
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
