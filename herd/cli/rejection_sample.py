"""Answer each prompt several times and keep the best answers, as data to train on.

Prompts are lines of JSON with `prompt` and what the check reads (`answer`, `tests`). With --kind messages the best answer is
kept, for fine-tuning; with --kind pairs the best and the worst, for DPO; with --kind given the line's own `completion` and the model's
first answer, which nothing needs to judge. A file that is there is gone on with.

\b
Examples:
  herd rejection-sample smollm2-135m problems.jsonl --check number --out best.jsonl
  herd rejection-sample runs/sft problems.jsonl --kind pairs --reward-model runs/reward --out pairs.jsonl
"""

import hashlib
from pathlib import Path
from typing import Any, Literal

import click

from herd.cli.common import PATH, context_option, engine_options, open_model, show_progress
from herd.engine.open import open_engine
from herd.errors import ConfigError, MissingDependencyError


@click.command(help=__doc__)
@click.argument("model", help="The model that answers.")
@click.argument("prompts", type=PATH, help="A JSONL file of prompts.")
@click.option("--out", type=PATH, required=True, help="The JSONL file to write.")
@click.option(
    "--kind", type=click.Choice(["messages", "pairs", "given"]), default="messages", help="What a line holds."
)
@click.option("--check", type=click.Choice(["number", "gsm8k", "code"]), help="What an answer is worth, by name.")
@click.option("--pattern", help="An answer is worth 1 when all of it matches this expression.")
@click.option("--reward-model", help="An answer is worth this model's score.")
@click.option("--reward-file", type=PATH, help="A Python file with reward(answer, line).")
@click.option("--samples", default=8, help="Answers to each prompt.")
@click.option("--max-tokens", default=256, help="Longest answer; longer ones are not kept.")
@click.option("--temperature", default=1.0)
@click.option("--seed", default=0)
@click.option("--at-least", type=float, help="Keep the best answer only for so much reward or more.")
@context_option
@engine_options
def command(
    model: str, prompts: Path, out: Path, kind: Literal["messages", "pairs", "given"], check: Any, pattern: str | None,
    reward_model: str | None, reward_file: Path | None, samples: int, max_tokens: int, temperature: float, seed: int,
    at_least: float | None, cache_tokens: int | None, **backend: Any,
) -> None:  # fmt: skip
    try:
        from herd.train.rejection import Sampling, rejection_sample
        from herd.train.rewards import make_reward
        from herd.train.tasks import read_tasks
    except ImportError as error:
        raise MissingDependencyError("rejection-sample needs torch: pip install 'llama-herd[torch]'") from error
    from herd.train.recipe import RewardTerm, Source, check_rewards

    terms = [RewardTerm(check=check)] if check else []
    terms += [RewardTerm(check="format", pattern=pattern)] if pattern is not None else []
    terms += [RewardTerm(model=reward_model)] if reward_model else []
    terms += [RewardTerm(file=str(reward_file.resolve()))] if reward_file else []
    if bool(terms) == (kind == "given"):
        raise ConfigError(
            "--kind given judges nothing: leave the rewards out"
            if terms
            else "say what an answer is worth: --check, --pattern, --reward-model or --reward-file"
        )
    if terms:
        check_rewards(tuple(terms), "rewards")
    settings = Sampling(kind, samples, max_tokens, temperature, seed, at_least)
    settings.check()
    checkpoint = open_model(model)
    room = min(checkpoint.config.context, cache_tokens or 8192) - max_tokens
    found = read_tasks(
        Source(path=str(prompts), kind="prompts"), prompts, checkpoint.tokenizer, checkpoint.chat_template, room
    )
    rewards = [(term.weight, make_reward(term, Path(), found.tasks, open_model)) for term in terms]
    asked = repr((model, terms, settings, cache_tokens))
    asked = hashlib.sha256(asked.encode()).hexdigest()[:12]
    with open_engine(checkpoint, cache_tokens=cache_tokens, **backend) as engine, show_progress() as progress:
        seen = rejection_sample(engine, found.tasks, rewards, settings, out, progress, asked=asked)
    seen["too long"] = found.dropped
    print(f"{out}: " + ", ".join(f"{count} {reason}" for reason, count in seen.items() if count or reason == "kept"))
