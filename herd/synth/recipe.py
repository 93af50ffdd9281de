"""What a recipe says: who writes, from what, by which steps, and what is looked at before a row is written."""

from pathlib import Path

import msgspec

from herd.errors import ConfigError
from herd.synth.steps import STEPS, Options


class Deduplicate(msgspec.Struct, frozen=True, kw_only=True):
    """What the model wrote twice goes: equal texts, and those of Jaccard similarity `similar` or more (None: equal ones alone)."""

    similar: float | None = 0.8


class Decontaminate(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that hold a question of these evaluation tasks go. `data` are folders with their files; what comes with herd is always there."""

    tasks: tuple[str, ...] = ("small",)
    data: tuple[str, ...] = ()
    share: float = 0.5  # of a question's tokens in 8-grams that the row has too


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """`inputs` are files or folders (text, Markdown, HTML, JSON lines of any rows) from the recipe's own folder.

    `steps` follow each other: what one makes the next is given. `model` is a model's path or name, or with `url` its name there.
    """

    steps: tuple[str, ...]
    inputs: tuple[str, ...]
    model: str = "smollm2-135m"
    url: str = ""
    workers: int = 16  # connections to a URL
    per_minute: float = 0.0  # requests to a URL; 0 is any number
    licence: str = ""  # of the model, for the card; "" is what its file says
    prompts: dict[str, str] = {}  # files of prompts instead of a step's own
    rows: int | None = None  # of the input, at most
    repeat: int = 1  # times that each row is taken, with other seeds
    passage: int = 0  # characters of a passage that documents are cut into; 0 leaves them whole
    passages: int = 4  # of a document, at most
    seed: int = 0
    tools: tuple[str, ...] = ("calculator",)  # that the step `tools` offers
    options: Options = Options()
    deduplicate: Deduplicate = Deduplicate()
    decontaminate: Decontaminate = Decontaminate()
    folder: str = ""  # where inputs start from; the recipe's own folder

    def check(self) -> "Recipe":
        """The recipe; ConfigError naming what cannot be."""
        for name in (*self.steps, *self.prompts):
            if name not in STEPS:
                raise ConfigError(f"step {name!r}: expected one of {', '.join(STEPS)}")
        if not self.steps or not self.inputs:
            raise ConfigError(f"{'inputs' if self.steps else 'steps'} is empty; name one or more")
        if self.url and "tools" in self.steps:
            raise ConfigError("the step tools runs on herd's own engine; leave url out")
        if not self.url.startswith(("http://", "https://", "")[: 2 if self.url else 3]):
            raise ConfigError(f"url is {self.url!r}; expected one like http://127.0.0.1:8000/v1")
        counts = {"rows": self.rows, "repeat": self.repeat, "passages": self.passages, "workers": self.workers}
        for key, value in counts.items():
            if value is not None and value < 1:
                raise ConfigError(f"{key} is {value}; expected 1 or more")
        if self.passage < 0 or self.per_minute < 0:
            raise ConfigError("passage and per_minute cannot be below 0")
        shares = {"deduplicate.similar": self.deduplicate.similar, "decontaminate.share": self.decontaminate.share}
        for key, share in shares.items():
            if share is not None and not 0 < share <= 1:
                raise ConfigError(f"{key} is {share}; expected a number above 0, at most 1")
        self.options.check()
        return self

    def paths(self) -> list[Path]:
        """The inputs' files; ConfigError for one that is not there."""
        found = []
        for name in self.inputs:
            path = Path(self.folder) / name
            if not path.exists():
                raise ConfigError(f"inputs: {name}: no such file or folder in {Path(self.folder).resolve()}")
            found.append(path)
        return found
