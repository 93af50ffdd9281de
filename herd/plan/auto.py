"""`[layout] auto = true`: the fastest layout that the planner finds and the trainer takes. What is below what was ever measured is shared by rows alone."""

from collections.abc import Iterator

import msgspec

from herd.errors import ConfigError
from herd.family import ModelConfig
from herd.plan.constants import gpu, stack
from herd.plan.layout import Work
from herd.plan.search import Plan, search
from herd.train.layout import Layout
from herd.train.open import check_layout
from herd.train.recipe import Recipe


def with_layout(recipe: Recipe, config: ModelConfig, processes: int) -> Recipe:
    """The recipe with degrees, schedule, `batch.rows` and `recompute` for so many processes, each an accelerator of kind `layout.gpu`.

    No result depends on what is chosen. ConfigError with the trainer's reason where nothing goes.
    """
    length, tokens = max([(recipe.data.length, recipe.batch.tokens), *recipe.stages()])
    found = search(Work(config, length, tokens), processes, gpu(recipe.layout.gpu), stack("meta")).plans
    reasons = []
    for one in _candidates(recipe, processes, found):
        try:
            check_layout(one, config, Layout.on_paper(one.layout))
        except ConfigError as error:
            reasons.append(str(error))
            continue
        return one
    raise ConfigError(f"layout.auto: {processes:,} processes cannot share this recipe: {reasons[-1]}")


def _candidates(recipe: Recipe, processes: int, plans: tuple[Plan, ...]) -> Iterator[Recipe]:
    alone = msgspec.structs.replace(
        recipe.layout, tp=1, cp=1, pp=1, dp=processes, schedule="1f1b", virtual=None
    )  # the last resort too: rows alone
    for plan in plans:
        a = plan.layout
        pipe = {"schedule": "interleaved", "virtual": a.virtual} if a.virtual > 1 else {}
        yield msgspec.structs.replace(
            recipe,
            layout=msgspec.structs.replace(alone, tp=a.tp, cp=a.cp, pp=a.pp, dp=a.dp, **pipe),
            batch=msgspec.structs.replace(recipe.batch, rows=a.micro_batch),
            recompute=recipe.recompute or a.recompute == "full",
        )
    yield msgspec.structs.replace(recipe, layout=alone)
