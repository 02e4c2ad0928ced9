"""What the TPU compiler believes a program takes: the cycles that it writes beside each kernel, loops counted.

The compiler chooses between kernels by these numbers. They know what a roofline does not: how well a shape fills the
matrix units, what is moved and formed beside the products. They hold nothing of what goes between devices, and none
was compared with a chip.
"""

import re

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
# The compiler writes 2^63 - 1 where it has no estimate.
_NO_ESTIMATE = 2**62
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_WHILE = re.compile(r" while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)")
_CALL = re.compile(r" call\(.*to_apply=%?([\w.-]+)")
_LIMIT = re.compile(r" = s32\[\]\S* constant\((\d+)\)")


def estimated_cycles(program: str) -> int | None:
    """Return the cycles of one device for the text of a compiled program, None if it holds none.

    A loop counts as often as the constant in its condition says, as those of `lax.scan` do.
    """
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in program.splitlines():
        if found := _COMPUTATION.match(line):
            lines = computations[found[2]] = []
            entry = found[2] if found[1] else entry
        else:
            lines.append(line)

    def cycles_of(name: str) -> int:
        total = 0
        for line in computations[name]:
            if (found := _CYCLES.search(line)) and int(found[1]) < _NO_ESTIMATE:
                total += int(found[1])
            if found := _WHILE.search(line):
                limits = [int(limit) for each in computations[found[1]] for limit in _LIMIT.findall(each)]
                total += max(limits, default=1) * cycles_of(found[2])
            elif found := _CALL.search(line):
                total += cycles_of(found[1])
        return total

    return (cycles_of(entry) or None) if entry else None
