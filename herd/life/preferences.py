"""Pairs of a better and a worse answer, and the best answers: rejection sampling (`herd.train.rejection`) as a stage.

made/pairs.jsonl     {"prompt", "chosen", "rejected"}: for reward models and DPO
made/best.jsonl      {"prompt", "completion"}: the better one of each, for fine-tuning
"""

from pathlib import Path
from typing import Any

import msgspec

from herd.atomic import atomic_file
from herd.engine.open import open_engine
from herd.errors import ConfigError
from herd.life.recipe import Stage
from herd.life.work import StoppedError, Work
from herd.text.documents import json_lines


class Preferences(msgspec.Struct, frozen=True, kw_only=True):
    """`model` answers each of the first `limit` `prompts` (JSON lines of prompt and completion) `samples` times.

    With `reward`, a reward model, the best and the worst of them make a pair, as Llama 3's rejection sampling does (arXiv
    2407.21783, section 4.2.2); without, the file's completion is chosen and the model's own reply rejected (arXiv 2401.01335).
    """

    model: str
    prompts: str
    reward: str | None = None
    samples: int = 1
    limit: int | None = None
    max_tokens: int = 256
    temperature: float = 0.8
    seed: int = 0

    def check(self) -> "Preferences":
        """The settings; ConfigError naming what cannot be."""
        least = 1 if self.reward is None else 2
        if self.samples < least or (self.limit is not None and self.limit < 1) or self.max_tokens < 1:
            raise ConfigError(f"samples {self.samples}, limit {self.limit}, max_tokens {self.max_tokens}; expected {least}, 1 and 1 or more")  # fmt: skip
        return self


def make(stage: Stage, settings: Preferences, work: Work) -> dict[str, Any]:
    """The pairs and the best answers; answers that were cut off count too, as a model of an early stage seldom ends one."""
    from herd.train.recipe import RewardTerm, Source
    from herd.train.rejection import Sampling, rejection_sample
    from herd.train.rewards import make_reward
    from herd.train.tasks import read_tasks

    stage.made.mkdir(exist_ok=True)
    checkpoint, path = work.find(settings.model), Path(settings.prompts)
    room = min(checkpoint.config.context, 8192) - settings.max_tokens
    source = Source(path=settings.prompts, kind="prompts")
    tasks = read_tasks(source, path, checkpoint.tokenizer, checkpoint.chat_template, room).tasks[: settings.limit]
    kind, rewards = "given", []
    if settings.reward is not None:
        kind, rewards = "pairs", [(1.0, make_reward(RewardTerm(model=settings.reward), Path(), tasks, work.find))]
    asked = Sampling(kind, settings.samples, settings.max_tokens, settings.temperature, settings.seed, whole=False)  # type: ignore[arg-type]

    def show(what: str, done: int, total: int, /, note: str = "") -> None:
        work.show(what, done, total, note)
        if work.stop():
            raise StoppedError(f"{stage.name}: saved")

    pairs = stage.made / "pairs.jsonl"
    with open_engine(checkpoint) as engine:
        rejection_sample(engine, tasks, rewards, asked, pairs, show)
    lines = [line for _, line in json_lines(pairs)]
    if not lines:
        raise ConfigError(f"stages.{stage.name}: no two replies to a prompt differ; raise temperature or samples")
    with atomic_file(stage.made / "best.jsonl") as temporary:
        best = ({"prompt": line["prompt"], "completion": line["chosen"]} for line in lines)
        temporary.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in best))
    return {"prompts": len(tasks), "replies": len(tasks) * settings.samples, "pairs": len(lines)}
