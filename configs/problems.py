"""What pydantic finds wrong with values from outside, in one line."""

from pydantic import ValidationError


def first_problem(error: ValidationError) -> str:
    """Return where the first problem lies, what it is, and the value that was given."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "as a whole"
    # A check that spans several values has them all as its input, and its message names the wrong one.
    got = "" if isinstance(first["input"], dict) else f" (got {first['input']!r:.80})"
    # Of a check of our own, without the words of pydantic before it.
    message = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
    return f"{where}: {message}{got}"
