"""Rows of metrics.jsonl as tests compare them."""

MEASURED = ("steps_per_s", "images_per_s", "flops_utilization", "memory_bytes")


def without_speed(row: dict[str, float]) -> dict[str, float]:
    """Return a row without what the machine decides."""
    return {key: value for key, value in row.items() if key not in MEASURED}
