"""API keys: kept as hashes in one file, with a name, when it was made, and limits of its own."""

import hashlib
import secrets
import time
from pathlib import Path

import msgspec

from herd.atomic import atomic_file
from herd.errors import ConfigError

_PREFIX = "herd-"


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of a key. Its SHA-256 suffices: a key is 256 random bits. Limits of 0 are none."""

    name: str
    sha256: str
    created: int
    requests_per_minute: int = 0
    concurrency: int = 0


class KeyFile:
    """The keys of a server. A file that changes is read anew, so that adding and revoking need no restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[int, dict[str, Key]] = (-1, {})

    def keys(self) -> dict[str, Key]:
        """Keys by their hash; ConfigError for a damaged file."""
        try:
            stamp = self._path.stat().st_mtime_ns
            if stamp != self._read[0]:
                found = msgspec.json.decode(self._path.read_bytes(), type=list[Key])
                self._read = (stamp, {key.sha256: key for key in found})
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be read ({error.strerror})") from error
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self._path}: not a file of keys ({error})") from error
        return self._read[1]

    def find(self, secret: str) -> Key | None:
        """The key that `secret` is. Looking up its hash tells a listener nothing of the secret."""
        return self.keys().get(hashlib.sha256(secret.encode()).hexdigest())

    def add(self, name: str, *, requests_per_minute: int = 0, concurrency: int = 0) -> str:
        """Make a key and return it; it cannot be shown again."""
        if not name.isprintable() or not name or len(name) > 100:
            raise ConfigError("a key needs a printable name of at most 100 characters")
        if any(key.name == name for key in self.keys().values()):
            raise ConfigError(f"there is a key called {name!r} already; revoke it first, or choose another name")
        if requests_per_minute < 0 or concurrency < 0:
            raise ConfigError("limits are 0 for none, or more")
        secret = _PREFIX + secrets.token_urlsafe(32)
        digest = hashlib.sha256(secret.encode()).hexdigest()
        self._write([*self.keys().values(), Key(name, digest, int(time.time()), requests_per_minute, concurrency)])
        return secret

    def revoke(self, name: str) -> None:
        """Forget a key."""
        left = [key for key in self.keys().values() if key.name != name]
        if len(left) == len(self.keys()):
            raise ConfigError(f"there is no key called {name!r}; herd keys list shows those there are")
        self._write(left)

    def _write(self, keys: list[Key]) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self._path) as temporary:
                temporary.touch(0o600)
                temporary.write_bytes(msgspec.json.format(msgspec.json.encode(keys)) + b"\n")
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be written ({error.strerror})") from error
