"""What a run needs before anyone pays for it: memory, time, the best parallel layout, faults, and what serves a model."""
