"""What `herd serve` can be told, by flags or by a TOML file: one field an option."""

from pathlib import Path

import msgspec

from herd.engine.open import LOOKUP
from herd.errors import ConfigError
from herd.weights.local import DEFAULT_MODEL

_LEAST = {
    "port": 0, "replicas": 1, "max_sequences": 1, "max_waiting": 1, "max_prompt": 1, "max_body": 1, "grace": 0,
    "requests_per_minute": 0, "concurrency": 0, "context": 1, "resident": 1,
}  # fmt: skip
_FILES = (".gguf", ".safetensors", ".pth")


class ServeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a server. None is no limit, or what suits the model and the machine."""

    models: tuple[str, ...] = (DEFAULT_MODEL,)
    resident: int = 1
    idle: float | None = None
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
        for name, seconds in (("timeout", self.timeout), ("idle", self.idle)):
            if seconds is not None and not seconds > 0:
                raise ConfigError(f"--{name} is {seconds}; expected seconds above 0")
        if (self.ssl_cert is None) != (self.ssl_key is None):
            raise ConfigError("--ssl-cert and --ssl-key go together")
        if self.root_path and (not self.root_path.startswith("/") or self.root_path.endswith("/")):
            raise ConfigError(f"--root-path is {self.root_path!r}; expected a path like /llm")
        if not self.models:
            raise ConfigError("models is empty; expected the name or path of at least one model")
        self.names()
        if len(self.models) > 1 and self.draft not in (None, LOOKUP):
            raise ConfigError(f"--draft {self.draft} guesses for one model; with several there is --draft {LOOKUP}")

    def names(self) -> list[str]:
        """What the models are called in the API. ConfigError where two are called the same."""
        given = [name.strip() for name in self.name.split(",")] if self.name else [called(m) for m in self.models]
        if len(given) != len(self.models):
            raise ConfigError(f"--name gives {len(given)} names to {len(self.models)} models; expected one each, A,B")
        for i, name in enumerate(given):
            if not name or name in given[:i]:
                raise ConfigError(f"{self.models[i]} would be called {name!r} again; give each a name: --name A,B")
        return given


def called(model: str) -> str:
    """What a model is called that has no other name: its file's or folder's, or the name it was pulled by."""
    path = Path(model)
    return path.stem if path.suffix in _FILES else path.name
