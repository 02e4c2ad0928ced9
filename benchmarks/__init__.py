"""Timings and sizes; each module has `figures() -> list[Figure]` and `python -m benchmarks` runs them."""
