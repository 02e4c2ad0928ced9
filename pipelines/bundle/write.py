"""Writing a bundle: every format, what the model says, the card with the measured differences, the checksums."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.stages import Compiled
from safetensors.numpy import save

import configs
from pipelines.bundle import check
from pipelines.bundle.fresh import CHECK, check_written, run_checks, start_writer
from pipelines.bundle.place import staged
from pipelines.bundle.processes import Processes
from pipelines.memory import check_program_fits, one_device, out_of_memory_explained
from pipelines.progress import telling
from vdm_lib.export import checks, functions, stablehlo
from vdm_lib.export.card import CardFacts, card
from vdm_lib.images import picture, write_png
from vdm_lib.labels import labels_to_draw
from vdm_lib.model import VDM

NOT_MEASURED = {"bpd": None, "note": "not measured"}
# Everything beside the parameters of a small model; large models only add to the latter.
_MEGABYTES_BESIDE = 20
# Compiling to ask how much memory is needed costs seconds.
_SURELY_FIT = 64


@dataclass(frozen=True)
class Written:
    """A bundle that was checked and published."""

    num_bytes: int
    max_difference: dict[str, float]
    notes: dict[str, str]


def write_bundle(
    out: str,
    facts: CardFacts,
    params: dict[str, Any],
    provenance: dict[str, Any],
    *,
    onnx: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Written:
    """Write a bundle, check it in fresh processes, then publish it under its name: whole and verified or not at all.

    Args:
        out: directory to make, local or gs://; an empty one may exist.
        facts: what the card says; the fields about files and differences are filled in here.
        params: flat parameters as numpy arrays; the moving average, as a rule.
        provenance: what made the parameters and this bundle.
        onnx: write model.onnx too.
        say: told what is being done.

    Raises:
        ConfigError: `out` holds something, or model.onnx is asked for where jax2onnx is not installed.
        MachineError: the samples do not fit the memory.
        VdmError: the bundle cannot be written, a full disk for one, or is not verified. Nothing is left behind.
    """
    num_bytes = sum(x.nbytes for x in params.values())
    device, advice = one_device(), f"ask for fewer than --samples {facts.samples.num}"
    with (
        out_of_memory_explained(device, lambda: advice),
        staged(out, 2 * num_bytes + num_bytes * onnx + _MEGABYTES_BESIDE * 10**6) as directory,
    ):
        if facts.samples.num > _SURELY_FIT:
            check_program_fits(_sampler(facts, params), device, advice)
        notes = _write_files(directory, facts, params, provenance, onnx, say)
        with telling(say, "loading every file back in fresh processes"):
            checked = run_checks(directory, check.FORMATS)
        notes |= checked.not_checked
        facts = replace(
            facts,
            differences=checked.max_difference,
            tolerances={name: check.tolerance(name) for name in checked.max_difference},
            has_saved_model=(directory / "saved_model").exists(),
            has_onnx=(directory / "model.onnx").exists(),
            notes=notes,
        )
        _write(directory / "README.md", card(facts).encode())
        _write_sums(directory)
        run_checks(directory, ("sums",))
        written = Written(sum(path.stat().st_size for path in _files(directory)), checked.max_difference, notes)
        say(f"publishing {out}")
    return written


def _write_files(
    directory: Path,
    facts: CardFacts,
    params: dict[str, Any],
    provenance: dict[str, Any],
    onnx: bool,
    say: Callable[[str], None],
) -> dict[str, str]:
    """Write all files but the card and the checksums; return the formats that were left out, and why."""
    config = facts.config
    model = VDM.from_config(config)
    say("writing parameters and StableHLO programs")
    _write(directory / "config.json", configs.to_json(config).encode())
    _write(directory / "metrics.json", _json(NOT_MEASURED if facts.report is None else asdict(facts.report)))
    _write(directory / "provenance.json", _json(provenance | {"bundle_schema_version": check.SCHEMA_VERSION}))
    shutil.copyfile(CHECK, directory / "verify.py")
    _write(directory / "params.safetensors", save(params))
    for name, data in stablehlo.serialise(model, params).items():
        _write(directory / name, data)
    writers, notes = [], {}
    if importlib.util.find_spec("tensorflow"):
        writers.append("pipelines.bundle.saved_model")
    else:
        notes["saved_model"] = "left out, TensorFlow is not installed where this was exported"
    if onnx:
        writers.append("pipelines.bundle.onnx_model")
    with Processes(at_once=1) as processes:
        others = {module: start_writer(processes, module, directory) for module in writers}
        with telling(say, "computing what the model itself says to the inputs of the check"):
            given = checks.given_inputs(model, facts.samples.num)
            expected = checks.expected_outputs(model, params, given)
        with (directory / "check.npz").open("wb") as file:
            np.savez(file, allow_pickle=False, **given, **expected)
        with telling(say, f"drawing {facts.samples.num} samples of {facts.samples.steps} steps"):
            _write_samples(directory / "samples.png", model, params, facts)
        if not all(other.done() for other in others.values()):
            with telling(say, "waiting for " + " and ".join(module.rsplit(".", 1)[-1] for module in writers)):
                wait(others.values())
        for module, other in others.items():
            check_written(module, other)
    return notes


def _sampler(facts: CardFacts, params: dict[str, Any]) -> Compiled:
    model, num = VDM.from_config(facts.config), facts.samples.num
    z_1, key_data = jax.eval_shape(lambda: functions.start(model, num, np.uint32(0)))
    told = functions.told_specs(model, num)
    lowered = functions.jitted(model).images.lower(params, z_1, key_data, np.int32(1), *told.labels, *told.guidance)
    return lowered.compile()


def _write_samples(path: Path, model: VDM, params: dict[str, Any], facts: CardFacts) -> None:
    samples = facts.samples
    with jax.default_matmul_precision("float32"):
        z_1, key_data = functions.start(model, samples.num, np.uint32(samples.seed))
        told: list[Any] = []
        if facts.config.model.num_classes:
            # All classes in turn, a column each.
            told.append(labels_to_draw(facts.config.model, "all", samples.num, 0.0))
            told += [np.float32(0.0)] if functions.told_specs(model, samples.num).guidance else []
        images = functions.jitted(model).images(params, z_1, key_data, np.int32(samples.steps), *told)
    columns = facts.config.model.num_classes or None
    write_png(str(path), picture(np.asarray(images), facts.config.data.num_levels, columns))


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _write_sums(directory: Path) -> None:
    lines = (f"{check.sha256(path)}  {path.relative_to(directory).as_posix()}\n" for path in _files(directory))
    _write(directory / check.SUMS, "".join(lines).encode())
