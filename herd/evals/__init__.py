"""Benchmarks: tasks as frozen records, run on any model or URL, scored with intervals, compared item by item."""
