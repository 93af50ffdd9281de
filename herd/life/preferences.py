"""Pairs of a better and a worse answer, and the best answers: a model answers prompts, and a reward model or the file's own answers judge.

made/replies.jsonl   every reply, appended as it comes
made/pairs.jsonl     {"prompt", "chosen", "rejected"}: for reward models and DPO
made/best.jsonl      {"prompt", "completion"}: the best of each prompt, for fine-tuning (rejection sampling)
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from herd.atomic import atomic_file, whole_lines
from herd.engine.batch import Prompter
from herd.engine.open import open_engine
from herd.engine.request import Request, SamplingParams
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


class _Line(msgspec.Struct):
    prompt: int
    sample: int
    reply: str


def make(stage: Stage, settings: Preferences, work: Work) -> dict[str, Any]:
    """The pairs and the best answers."""
    stage.made.mkdir(exist_ok=True)
    rows = [row for _, row in json_lines(Path(settings.prompts))][: settings.limit]
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("prompt"), str) or not isinstance(row.get("completion"), str):
            raise ConfigError(f"{settings.prompts}: sample {number} has no prompt and completion, both strings")
    replies = _replies(stage, settings, [row["prompt"] for row in rows], work)
    if settings.reward is None:
        found = [(row["completion"], replies[i, 0], row["completion"]) for i, row in enumerate(rows)]
    else:
        found = list(_by_reward(settings, rows, replies, work))
    pairs = [
        {"prompt": row["prompt"], "chosen": chosen, "rejected": rejected}
        for row, (chosen, rejected, _) in zip(rows, found, strict=True)
        if chosen != rejected and chosen.strip() and rejected.strip()
    ]
    best = [{"prompt": row["prompt"], "completion": one} for row, (_, _, one) in zip(rows, found, strict=True) if one.strip()]  # fmt: skip
    if not pairs:
        raise ConfigError(f"stages.{stage.name}: no two replies to a prompt differ; raise temperature or samples")
    for name, lines in (("pairs", pairs), ("best", best)):
        with atomic_file(stage.made / f"{name}.jsonl") as temporary:
            temporary.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return {"prompts": len(rows), "replies": len(replies), "pairs": len(pairs)}


def _replies(stage: Stage, settings: Preferences, prompts: list[str], work: Work) -> dict[tuple[int, int], str]:
    """The replies by (prompt, sample); those of an earlier start are kept. A prompt that does not fit has an empty reply."""
    path = stage.made / "replies.jsonl"
    lines = [msgspec.json.decode(line, type=_Line) for line in whole_lines(path)]
    found = {(line.prompt, line.sample): line.reply for line in lines}
    todo = [(i, k) for i in range(len(prompts)) for k in range(settings.samples) if (i, k) not in found]
    if not todo:
        return found
    checkpoint = work.find(settings.model)
    prompter = Prompter(checkpoint)
    engine = open_engine(checkpoint)

    def requests() -> Iterator[Request]:
        for i, k in todo:
            seed = settings.seed + i * settings.samples + k
            params = SamplingParams(temperature=settings.temperature, max_tokens=settings.max_tokens, seed=seed)
            yield prompter.request(prompts[i], params=params, name=f"{i} {k}")

    try:
        with path.open("ab") as file:
            for completion in engine.run(requests()):
                i, k = map(int, completion.request.id.split())
                found[i, k] = completion.text if completion.error is None else ""
                file.write(msgspec.json.encode(_Line(i, k, found[i, k])) + b"\n")
                file.flush()
                work.show("replies", len(found), len(prompts) * settings.samples)
                if work.stop():
                    raise StoppedError(f"{stage.name}: saved")
    finally:
        engine.close()
    return found


def _by_reward(
    settings: Preferences, rows: list[dict[str, Any]], replies: dict[tuple[int, int], str], work: Work
) -> Iterator[tuple[str, str, str]]:
    """(best, worst, best) of each prompt's replies."""
    score = work.reward(settings.reward or "")
    for i, row in enumerate(rows):
        some = list(dict.fromkeys(replies[i, k] for k in range(settings.samples)))
        ranked = sorted(some, key=lambda reply: score(row["prompt"], reply), reverse=True)
        work.show("scores", i + 1, len(rows))
        yield ranked[0], ranked[-1], ranked[0]
