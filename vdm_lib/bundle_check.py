"""Check an exported bundle without the project that wrote it: `python -I bundle_check.py BUNDLE`.

Imports numpy, jax, safetensors and the standard library only, so that it proves what a user of the bundle can do.
`-I` keeps the script's own directory off the path, where `types.py` would hide the standard module.
Prints one line of JSON {verified, files, max_difference, error}; the exit code is 0 if verified, else 1.
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SUMS = "SHA256SUMS"
REQUIRED = (
    "README.md",
    "bpd.jaxexport",
    "check.npz",
    "config.json",
    "eps.jaxexport",
    "metrics.json",
    "params.safetensors",
    "provenance.json",
    "sampler.jaxexport",
)
# Each is a bound on what `_compare` returns for the file. Images are integers: a draw that lies on the border
# of two levels may round either way, so a few of them may differ.
TOLERANCES = {"eps.jaxexport": 1e-4, "bpd.jaxexport": 1e-5, "sampler.jaxexport": 1e-2}
_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)")


class BundleError(Exception):
    """What is wrong with the bundle, in one line that names the file."""


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in pieces: the parameters may be larger than the memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_sums(bundle: Path) -> dict[str, str]:
    """Return the hex SHA-256 of each file by name.

    Raises:
        BundleError: no SHA256SUMS, a malformed line, or a file that every bundle has is not listed.
    """
    try:
        text = (bundle / SUMS).read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise BundleError(f"{SUMS} cannot be read: {error.strerror}") from None
    *lines, rest = text.split("\n")
    sums = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None or match[2] in sums:
            raise BundleError(f"line {number} of {SUMS} is damaged")
        sums[match[2]] = match[1]
    if rest:
        raise BundleError(f"the last line of {SUMS} is damaged")
    missing = [name for name in REQUIRED if name not in sums]
    if missing:
        raise BundleError(f"{SUMS} does not list {', '.join(missing)}")
    return sums


def check_sums(bundle: Path) -> int:
    """Return how many files SHA256SUMS lists, after comparing every one.

    Raises:
        BundleError: names the first file that is missing, not listed or not what was written.
    """
    sums = read_sums(bundle)
    there = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if not path.is_dir()} - {SUMS}
    for name in sorted(there | sums.keys()):
        if name not in there:
            raise BundleError(f"{name} is missing, {SUMS} lists it")
        if name not in sums:
            raise BundleError(f"{name} is not listed in {SUMS}")
        if sha256(bundle / name) != sums[name]:
            raise BundleError(f"{name} is damaged: its SHA-256 is not the one in {SUMS}")
    return len(sums)


def _compare(name: str, got: Any, expected: Any) -> float:
    """Return the difference of a file's output from the model's; not finite counts as infinitely far.

    For sampler.jaxexport the share of values that differ, else the largest difference over the largest value.
    """
    import numpy as np

    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape or got.dtype != expected.dtype:
        raise BundleError(f"{name} returns {got.dtype}{got.shape}, not {expected.dtype}{expected.shape}")
    if name == "sampler.jaxexport":
        return float(np.mean(got != expected))
    scale = max(float(np.max(np.abs(expected))), 1e-30)
    difference = float(np.max(np.abs(got.astype(np.float64) - expected))) / scale
    return difference if np.isfinite(difference) else float("inf")


def _calls(check: Any) -> Iterator[tuple[str, tuple[Any, ...], Any]]:
    """Yield the file, its arguments after the parameters and the expected output, of each exported function."""
    yield "eps.jaxexport", (check["z_t"], check["gamma_t"], check["conditioning"]), check["eps_hat"]
    yield "bpd.jaxexport", (check["images"], check["seed"]), check["nats"]
    yield "sampler.jaxexport", (check["z_1"], check["key_data"]), check["samples"]


def check_functions(bundle: Path) -> dict[str, float]:
    """Return the measured difference of each exported function from the model itself, by file name.

    Raises:
        BundleError: a file cannot be loaded or run, or its output is further off than its tolerance.
    """
    import jax
    import numpy as np
    from safetensors.numpy import load_file

    # The accelerator may belong to the process that is exporting; and only the CPU's float32 is float32 everywhere.
    jax.config.update("jax_platforms", "cpu")
    differences: dict[str, float] = {}
    name = "params.safetensors"
    try:
        params = load_file(bundle / name)
        name = "check.npz"
        with np.load(bundle / name) as file:
            calls = list(_calls(dict(file)))
        for name, args, expected in calls:
            exported = jax.export.deserialize(bytearray((bundle / name).read_bytes()))
            differences[name] = _compare(name, exported.call(params, *args), expected)
    except BundleError:
        raise
    # Whatever a damaged file makes a parser raise: the user is told which file it was.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise BundleError(f"{name} cannot be used: {type(error).__name__}: {reason}") from error
    for name, difference in differences.items():
        if difference > TOLERANCES[name]:
            raise BundleError(f"{name} differs from the model by {difference:.2e}, allowed is {TOLERANCES[name]:.0e}")
    return differences


def main(argv: list[str]) -> int:
    """Check the bundle that the arguments name; print one line of JSON and return the exit code."""
    parser = argparse.ArgumentParser(description="Check an exported bundle.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--only", choices=("sums", "functions"), help="check one half")
    args = parser.parse_args(argv)
    result: dict[str, Any] = {"verified": False, "files": 0, "max_difference": {}, "error": None}
    try:
        if not args.bundle.is_dir():
            raise BundleError(f"{args.bundle} is not a directory")
        if args.only != "functions":
            result["files"] = check_sums(args.bundle)
        if args.only != "sums":
            result["max_difference"] = check_functions(args.bundle)
        result["verified"] = True
    except (BundleError, OSError) as error:
        result["error"] = str(error)
    print(json.dumps(result))
    return 0 if result["verified"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
