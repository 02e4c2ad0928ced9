"""How results are printed for people: columns below each other, numbers with their units. Imports no jax."""

import re
from collections.abc import Iterable, Mapping, Sequence

from vdm_lib.report import with_error

# Of a fingerprint's 64 digits, those that people compare by eye.
FINGERPRINT_DIGITS = 12


def columns(rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return the rows with their cells below each other; a row of one cell is a line of its own."""
    rows = list(rows)
    table = [row for row in rows if len(row) > 1]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    lines = []
    for row in rows:
        if len(row) == 1:
            lines.append(row[0])
            continue
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def differences(max_difference: dict[str, float]) -> list[tuple[str, str]]:
    """Return one row for each exported function: how far it is from the model."""
    return [
        (f"difference of {name}", f"{value:.1e}" if value else "0") for name, value in sorted(max_difference.items())
    ]


def parameter_rows(sizes: Mapping[str, int]) -> list[tuple[str, str, str, str]]:
    """Return one row for each part of the network, like blocks together, and the total.

    Args:
        sizes: parameters of each array, by its name: parts joined by `/`.
    """
    parts: dict[str, tuple[set[str], int, int]] = {}
    for path, size in sizes.items():
        names = path.split("/")
        top = "/".join(names[:2]) if names[0] == "score_model" else names[0]
        kind = re.sub(r"_\d+$", "_*", top)
        members, arrays, total = parts.get(kind, (set(), 0, 0))
        parts[kind] = (members | {top}, arrays + 1, total + size)
    rows = [
        (kind, f"x{len(members)}", f"{arrays:,} arrays", f"{size:,} parameters")
        for kind, (members, arrays, size) in parts.items()
    ]
    return [*rows, ("total", "", f"{len(sizes):,} arrays", f"{sum(sizes.values()):,} parameters")]


def measured_bpd(bpd: float | None, stderr: float | None) -> str:
    """Return bpd rounded by its error, or that it was not measured."""
    if bpd is None or stderr is None:
        return "not measured"
    return f"{with_error(bpd, stderr)} bits/dim (Monte Carlo standard error)"


def rounded(value: float) -> str:
    """Return three digits, or whole numbers from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def megabytes(num_bytes: int) -> str:
    """Return a size in units of 1e6 bytes."""
    return f"{num_bytes / 1e6:,.1f} MB"


def duration(seconds: float) -> str:
    """Return a time in the units that people use for its length."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {seconds} s"
