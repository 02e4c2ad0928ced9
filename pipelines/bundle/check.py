"""Check an exported bundle without the project that wrote it: `python verify.py`, or `python verify.py BUNDLE`.

This one file imports the standard library, numpy and what a user of each format needs, so that it proves what a user
can do; every bundle holds a copy of it. Prints one line of JSON {verified, files, max_difference, not_checked,
error}; the exit code is 0 if verified, else 1. What is not installed is not checked, and said so.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 2
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
    "samples.png",
    "verify.py",
)
PROJECT = ("beam_jobs", "configs", "flows", "pipelines", "vdm_lib")
# A bound on what `compare` returns, by what is computed and not by who computes it. A draw on the border of two
# levels may round either way, and the Fourier features multiply the last bit of z by 804: among 256 levels one or two
# in a hundred differ by one from compiler to compiler. Images of other noise differ by a third of the range.
TOLERANCES = {"eps": 1e-4, "bpd": 1e-5, "sample": 1e-3}
_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)")


class BundleError(Exception):
    """What is wrong with the bundle, in one line that names the file."""


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in pieces: the parameters may be larger than the memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_schema(bundle: Path) -> None:
    """Raise BundleError if this is a run, or a bundle of another layout; damage is left to the checksums."""
    if (bundle / "checkpoints").is_dir():
        raise BundleError(f"{bundle} is a run, no bundle: export it first with vdm export --workdir {bundle}")
    try:
        provenance = json.loads((bundle / "provenance.json").read_bytes())
        version = provenance.get("bundle_schema_version", 1)
    except (OSError, ValueError, AttributeError):
        return
    if version != SCHEMA_VERSION:
        older = isinstance(version, int) and version < SCHEMA_VERSION
        remedy = "export the run again" if older else "check it with the version that wrote it"
        raise BundleError(f"provenance.json says schema {version}, this checks schema {SCHEMA_VERSION}: {remedy}")


def read_sums(bundle: Path) -> dict[str, str]:
    """Return the hex SHA-256 of each file by its path in the bundle.

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
    there = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if not path.is_dir()} - {SUMS}
    for name in sorted(there | sums.keys()):
        if name not in there:
            raise BundleError(f"{name} is missing, {SUMS} lists it")
        if name not in sums:
            raise BundleError(f"{name} is not listed in {SUMS}")
        if sha256(bundle / name) != sums[name]:
            raise BundleError(f"{name} is damaged: its SHA-256 is not the one in {SUMS}")
    return len(sums)


def compare(what: str, name: str, got: Any, expected: Any) -> float:
    """Return the difference of an output from the model's over the largest value.

    For images the mean difference, for all else the largest; not finite counts as infinitely far.
    """
    import numpy as np

    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape or got.dtype != expected.dtype:
        raise BundleError(f"{name} returns {got.dtype}{got.shape}, not {expected.dtype}{expected.shape}")
    scale = max(float(np.max(np.abs(expected))), 1e-30)
    differences = np.abs(got.astype(np.float64) - expected) / scale
    difference = float(np.mean(differences) if what == "sample" else np.max(differences))
    return difference if np.isfinite(difference) else float("inf")


def check_jax(bundle: Path, check: dict[str, Any]) -> dict[str, float]:
    """Return the differences of the StableHLO files, by file name."""
    import jax
    import jax.export
    from safetensors.numpy import load_file

    # The accelerator may belong to the process that is exporting; and only the CPU's float32 is float32 everywhere.
    jax.config.update("jax_platforms", "cpu")
    name = "params.safetensors"
    calls = {
        "eps.jaxexport": ("eps", ("z_t", "gamma_t", "conditioning", "labels"), "eps_hat"),
        "bpd.jaxexport": ("bpd", ("images", "seed", "labels"), "bpd"),
        "sampler.jaxexport": ("sample", ("z_1", "key_data", "num_steps", "labels", "guidance"), "samples"),
    }
    differences = {}
    try:
        params = load_file(bundle / name)
        for name, (what, inputs, output) in calls.items():
            exported = jax.export.deserialize(bytearray((bundle / name).read_bytes()))
            # Labels and guidance are for class-conditional models.
            got = exported.call(params, *(check[key] for key in inputs if key in check))
            differences[name] = compare(what, name, got, check[output])
    except BundleError:
        raise
    except Exception as error:
        raise _unusable(bundle, name, "jax", error) from error
    return differences


def check_tensorflow(bundle: Path, check: dict[str, Any]) -> dict[str, float]:
    """Return the differences of the signatures of saved_model, by signature."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    differences = {}
    name = "saved_model"
    try:
        import tensorflow as tf

        signatures = tf.saved_model.load(str(bundle / "saved_model")).signatures
        labels = {"labels": tf.constant(check["labels"], tf.int64)} if "labels" in check else {}
        which = dict(labels) or {"num": tf.constant(len(check["z_1"]), tf.int64)}
        which |= {"guidance": tf.constant(check["guidance"])} if "guidance" in check else {}
        seed, steps = tf.constant(int(check["seed"]), tf.int64), tf.constant(int(check["num_steps"]), tf.int64)
        z, gamma, conditioning = (tf.constant(check[key]) for key in ("z_t", "gamma_t", "conditioning"))
        calls = {
            "eps": ({"z": z, "gamma": gamma, "conditioning": conditioning} | labels, "eps_hat", "eps_hat"),
            "bpd": ({"images": tf.constant(check["images"]), "seed": seed} | labels, "bpd", "bpd"),
            "sample": ({"seed": seed, "steps": steps} | which, "images", "samples"),
        }
        for what, (inputs, output, expected) in calls.items():
            name = f"saved_model, signature {what}"
            got = signatures[what](**inputs)[output].numpy()
            differences[f"saved_model/{what}"] = compare(what, name, got, check[expected])
    except BundleError:
        raise
    except Exception as error:
        raise _unusable(bundle, name, "tensorflow", error) from error
    return differences


def check_onnx(bundle: Path, check: dict[str, Any]) -> dict[str, float]:
    """Return the difference of model.onnx."""
    name = "model.onnx"
    try:
        import onnxruntime

        session = onnxruntime.InferenceSession(bundle / name, providers=["CPUExecutionProvider"])
        inputs = {"z": check["z_t"], "gamma": check["gamma_t"], "conditioning": check["conditioning"]}
        inputs |= {"labels": check["labels"]} if "labels" in check else {}
        (got,) = session.run(["eps_hat"], inputs)
        return {name: compare("eps", name, got, check["eps_hat"])}
    except BundleError:
        raise
    except Exception as error:
        raise _unusable(bundle, name, "onnxruntime", error) from error


# Who loads a format: its check, and the file without which there is nothing to check.
FORMATS: dict[str, tuple[Callable[[Path, dict[str, Any]], dict[str, float]], str]] = {
    "jax": (check_jax, "params.safetensors"),
    "tensorflow": (check_tensorflow, "saved_model"),
    "onnxruntime": (check_onnx, "model.onnx"),
}


def _unusable(bundle: Path, name: str, package: str, error: Exception) -> BundleError:
    """Return what a user is told if a file cannot be loaded or run, whatever a damaged file makes a parser raise."""
    reason = " ".join(str(error).split())[:300]
    text = f"{name} cannot be used: {type(error).__name__}: {reason}"
    try:
        written = json.loads((bundle / "provenance.json").read_bytes())["packages"].get(package)
        # Not by the distribution: tensorflow is also installed as tensorflow-cpu.
        installed = sys.modules[package].__version__
    except (OSError, ValueError, LookupError, AttributeError):
        return BundleError(text)
    if written and written != installed:
        return BundleError(
            f"{name} was written with {package} {written}, here is {package} {installed}, which cannot use it: "
            f"pip install '{package}>={written}' ({type(error).__name__}: {reason})"
        )
    return BundleError(text)


def check_format(bundle: Path, package: str) -> dict[str, float]:
    """Return the measured differences of one format from the model itself, by file.

    Raises:
        BundleError: a file cannot be loaded or run, or its output is further off than its tolerance.
    """
    import numpy as np

    try:
        with np.load(bundle / "check.npz") as file:
            check = dict(file)
    except Exception as error:
        raise BundleError(f"check.npz cannot be used: {type(error).__name__}: {error}") from error
    differences = FORMATS[package][0](bundle, check)
    for name, difference in differences.items():
        allowed = tolerance(name)
        if difference > allowed:
            raise BundleError(f"{name} differs from the model by {difference:.2e}, allowed is {allowed:.0e}")
    return differences


def tolerance(name: str) -> float:
    """Return the largest difference that is allowed to a file or signature."""
    if "sample" in name:
        return TOLERANCES["sample"]
    return TOLERANCES["bpd" if "bpd" in name else "eps"]


def main(argv: list[str]) -> int:
    """Check the bundle that the arguments name; print one line of JSON and return the exit code."""
    # Whatever is installed beside it: nothing of the project may help.
    sys.modules.update(dict.fromkeys(PROJECT))
    parser = argparse.ArgumentParser(description="Check an exported bundle.")
    parser.add_argument("bundle", type=Path, nargs="?", default=Path(__file__).parent)
    parser.add_argument("--only", choices=("sums", *FORMATS), action="append", help="check a part; may be repeated")
    args = parser.parse_args(argv)
    parts = args.only or ["sums", *FORMATS]
    if "jax" not in parts:
        # What others load, they load without jax.
        sys.modules.update(dict.fromkeys(("jax", "jaxlib")))
    result: dict[str, Any] = {"verified": False, "files": 0, "max_difference": {}, "not_checked": {}, "error": None}
    try:
        if not args.bundle.is_dir():
            raise BundleError(f"{args.bundle} is not a directory")
        check_schema(args.bundle)
        if "sums" in parts:
            result["files"] = check_sums(args.bundle)
        for package, (_, file) in FORMATS.items():
            if package not in parts or not (args.bundle / file).exists():
                continue
            if importlib.util.find_spec(package) is None:
                result["not_checked"][file] = f"{package} is not installed"
            else:
                result["max_difference"] |= check_format(args.bundle, package)
        result["verified"] = True
    except (BundleError, OSError) as error:
        result["error"] = str(error)
    print(json.dumps(result))
    return 0 if result["verified"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
