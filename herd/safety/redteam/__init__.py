"""Red team: attacks from data files on a model, judged by rules, with and without a Shield. Start with `run.attack`."""
