"""What `herd serve` can be told, by flags or by a TOML file: one field an option."""

import msgspec

from herd.errors import ConfigError
from herd.weights.local import DEFAULT_MODEL

_LEAST = {
    "port": 0, "replicas": 1, "max_sequences": 1, "max_waiting": 1, "max_prompt": 1, "max_body": 1, "grace": 0,
    "requests_per_minute": 0, "concurrency": 0, "context": 1,
}  # fmt: skip


class ServeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a server. None is no limit, or what suits the model and the machine."""

    models: tuple[str, ...] = (DEFAULT_MODEL,)
    host: str = "127.0.0.1"
    root_path: str = ""
    port: int = 8000
    name: str | None = None
    keys: str | None = None
    preset: bool = True
    tools: str | None = None
    mcp: str | None = None
    documents: str | None = None
    replicas: int = 1
    max_sequences: int = 64
    max_waiting: int = 512
    max_prompt: int | None = None
    max_body: int = 4 << 20
    timeout: float | None = None
    grace: int = 30
    requests_per_minute: int = 0
    concurrency: int = 0
    cors: tuple[str, ...] = ()
    ssl_cert: str | None = None
    ssl_key: str | None = None
    log: str | None = None
    log_prompts: bool = False
    context: int | None = None
    backend: str = "auto"
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    kv_cache: str | None = None
    draft: str | None = None
    cache: str | None = None
    cache_size: int | None = None
    safety: str = "annotate"

    def check(self) -> None:
        """ConfigError naming the first option that is impossible."""
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}; expected {least} or more")
        if self.timeout is not None and not self.timeout > 0:
            raise ConfigError(f"--timeout is {self.timeout}; expected seconds above 0")
        if (self.ssl_cert is None) != (self.ssl_key is None):
            raise ConfigError("--ssl-cert and --ssl-key go together")
        if self.root_path and (not self.root_path.startswith("/") or self.root_path.endswith("/")):
            raise ConfigError(f"--root-path is {self.root_path!r}; expected a path like /llm")
        if not self.models:
            raise ConfigError("models is empty; expected the name or path of at least one model")
        if len(self.models) > 1:
            raise ConfigError(
                f"models names {len(self.models)}: a server has one model; start another for {self.models[1]}"
            )
