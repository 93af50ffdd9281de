"""The learning rate of each step."""

import math

from herd.train.recipe import Schedule


def rate(schedule: Schedule, step: int, steps: int) -> float:
    """The learning rate of step `step` (from 0) of `steps`: linear warm-up, then the schedule's decay down to `final`.

    Llama 3 405B: warm-up over 8,000 steps to 8e-5, cosine to 8e-7 over 1,200,000 (arXiv 2407.21783, section 3.4.1).
    """
    if step < schedule.warmup:
        return schedule.peak * (step + 1) / schedule.warmup
    begin = steps - schedule.anneal if schedule.decay == "constant" else schedule.warmup
    if step < begin:
        return schedule.peak
    part = min(1.0, (step - begin) / max(1, steps - begin))
    if schedule.decay == "constant" and not schedule.anneal:
        return schedule.peak
    share = (1 + math.cos(math.pi * part)) / 2 if schedule.decay == "cosine" else 1 - part
    return schedule.final + (schedule.peak - schedule.final) * share
