"""Bundles: a trained model as files that work without this project, checked before they are published.

The exported functions take the parameters as `safetensors` loads them, a flat dict of names joined by '/'. Their
batch dimension is symbolic; they run on cpu, cuda and tpu:

    eps.jaxexport      (params, z_t [b,h,w,c], gamma_t [b], conditioning [b]) -> eps_hat [b,h,w,c], float32
    bpd.jaxexport      (params, images uint8 [b,h,w,c], seed uint32 []) -> one estimate in nats per image [b], float32
    sampler.jaxexport  (params, z_1 [b,h,w,c] standard normal, key_data uint32 [2]) -> images uint8 [b,h,w,c]
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from safetensors.numpy import save

from vdm_lib import diffusion, likelihood
from vdm_lib.errors import ConfigError, VdmError
from vdm_lib.model import VDM, Noise, count_params
from vdm_lib.sampling import reverse_step
from vdm_lib.types import Latents, Levels, Params, PerImage

PLATFORMS = ("cpu", "cuda", "tpu")
NOT_MEASURED = {"bpd": None, "note": "not measured"}
# Named, so that a user's jax_default_prng_impl does not change what the files compute.
_PRNG = "threefry2x32"
_CHECK = Path(__file__).with_name("bundle_check.py")


def flatten_params(params: Params, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested params by their names joined by '/'."""
    flat: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, dict):
            flat |= flatten_params(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = value
    return flat


def unflatten_params(flat: dict[str, Any]) -> Params:
    """Return the nested params that `flatten_params` made flat."""
    params: Params = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return params


def _normal_per_image(key: jax.Array, shape: tuple[Any, ...]) -> jax.Array:
    """Return standard normal noise [b, ...] in which that of image i depends on the key and i alone."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(shape[0]))
    return jax.vmap(lambda key: jax.random.normal(key, shape[1:]))(keys)


def bound_nats(model: VDM, params: Params, images: Levels, seed: jax.Array) -> PerImage:
    """Return one estimate of the negative evidence lower bound of images [b, h, w, c], in nats per image [b].

    The times of a batch are spread evenly over [0, 1). `VDM.draw_noise` needs a batch of known size, this does not.
    """
    key_0, key_t, key_eps = jax.random.split(jax.random.key(seed, impl=_PRNG), 3)
    batch = images.shape[0]
    spread = jnp.arange(batch, dtype=jnp.float32) / jnp.asarray(batch, jnp.float32)
    noise = Noise(
        eps_0=_normal_per_image(key_0, images.shape),
        t=jnp.mod(jax.random.uniform(key_t) + spread, 1.0),
        eps=_normal_per_image(key_eps, images.shape),
    )
    return model.losses(params, images, jnp.zeros(batch), noise).total


def draw_images(model: VDM, params: Params, z_1: Latents, key_data: jax.Array, num_steps: int) -> jax.Array:
    """Return uint8 images [b, h, w, c] by num_steps ancestral steps from standard normal z_1 [b, h, w, c]."""
    key = jax.random.wrap_key_data(key_data, impl=_PRNG)

    def body(i: jax.Array, z: jax.Array) -> jax.Array:
        noise = _normal_per_image(jax.random.fold_in(key, i), z.shape)
        return reverse_step(model, params, z, noise, i, num_steps)

    z_0 = jax.lax.fori_loop(0, num_steps, body, z_1)
    z_0_rescaled = z_0 / diffusion.alpha(model.gamma(params, jnp.asarray(0.0)))
    return likelihood.most_likely_levels(z_0_rescaled, model.data.num_levels).astype(jnp.uint8)


def _functions(model: VDM, sample_steps: int) -> dict[str, Callable[..., jax.Array]]:
    """Return the functions of a bundle by file name; each takes flat parameters first."""

    def eps_hat(params: Params, z_t: jax.Array, gamma_t: jax.Array, conditioning: jax.Array) -> jax.Array:
        return model.eps_hat(unflatten_params(params), z_t, gamma_t, conditioning)

    def nats(params: Params, images: jax.Array, seed: jax.Array) -> jax.Array:
        return bound_nats(model, unflatten_params(params), images, seed)

    def sampler(params: Params, z_1: jax.Array, key_data: jax.Array) -> jax.Array:
        return draw_images(model, unflatten_params(params), z_1, key_data, sample_steps)

    return {"eps.jaxexport": eps_hat, "bpd.jaxexport": nats, "sampler.jaxexport": sampler}


def _inputs(model: VDM, num_checks: int) -> dict[str, dict[str, np.ndarray]]:
    """Return small named inputs of each function after the parameters, by file name."""
    random = np.random.Generator(np.random.Philox(0))
    shape = (num_checks, *model.data.image_shape)
    gammas = np.linspace(model.model.gamma_min, model.model.gamma_max, num_checks, dtype=np.float32)
    return {
        "eps.jaxexport": {
            "z_t": random.standard_normal(shape, dtype=np.float32),
            "gamma_t": gammas,
            "conditioning": np.arange(num_checks, dtype=np.float32) % 2,
        },
        "bpd.jaxexport": {
            "images": random.integers(0, model.data.num_levels, shape, dtype=np.uint8),
            "seed": np.asarray(7, np.uint32),
        },
        # One image: all steps of a large network on a CPU take their time.
        "sampler.jaxexport": {
            "z_1": random.standard_normal((1, *shape[1:]), dtype=np.float32),
            "key_data": np.asarray([0, 7], np.uint32),
        },
    }


_OUTPUTS = {"eps.jaxexport": "eps_hat", "bpd.jaxexport": "nats", "sampler.jaxexport": "samples"}


def _export(function: Callable[..., jax.Array], params: dict[str, Any], inputs: dict[str, np.ndarray]) -> bytes:
    """Return the function serialised, the first dimension of every array of images or numbers per image symbolic."""
    (batch,) = jax_export.symbolic_shape("b")

    def spec(name: str, x: np.ndarray) -> jax.ShapeDtypeStruct:
        per_batch = name not in ("seed", "key_data")
        return jax.ShapeDtypeStruct((batch, *x.shape[1:]) if per_batch else x.shape, x.dtype)

    param_specs = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in params.items()}
    specs = [spec(name, x) for name, x in inputs.items()]
    return bytes(jax_export.export(jax.jit(function), platforms=PLATFORMS)(param_specs, *specs).serialize())


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _write_functions(directory: Path, model: VDM, params: dict[str, Any], sample_steps: int, num_checks: int) -> None:
    """Write the parameters, the exported functions and `check.npz`, what the model itself says on small inputs."""
    _write(directory / "params.safetensors", save(params))
    check: dict[str, np.ndarray] = {}
    inputs = _inputs(model, num_checks)
    for name, function in _functions(model, sample_steps).items():
        _write(directory / name, _export(function, params, inputs[name]))
        # The checker computes on the CPU; so must what it compares with.
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            check |= inputs[name] | {_OUTPUTS[name]: np.asarray(jax.jit(function)(params, *inputs[name].values()))}
    with (directory / "check.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **check)


def run_check(bundle: Path, *options: str) -> dict[str, Any]:
    """Return what `bundle_check` says of a bundle in a fresh process that cannot see this one.

    Raises:
        VdmError: the bundle is not verified; one line that names the file.
    """
    command = [sys.executable, "-I", str(_CHECK), str(bundle), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    try:
        result = json.loads(lines[-1])
    except (IndexError, ValueError):
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise VdmError(f"checking {bundle} failed with exit code {done.returncode}: {reason}") from None
    if done.returncode or not result["verified"]:
        raise VdmError(f"the bundle {bundle} is not verified: {result['error']}")
    return result


def _card(
    model: VDM,
    num_params: int,
    sample_steps: int,
    eval_report: dict[str, Any] | None,
    provenance: dict[str, Any],
    differences: dict[str, float],
) -> str:
    """Return the model card, Markdown with the front matter of the Hugging Face hub."""
    height, width, channels = shape = model.data.image_shape
    bpd = "not measured"
    if eval_report is not None:
        bpd = f"{eval_report['bpd']:.4f} ± {eval_report['bpd_stderr']:.4f} (Monte Carlo standard error)"
        if "num_images" in eval_report and "passes" in eval_report:
            split = eval_report.get("split", "")
            bpd += f", {eval_report['num_images']} {split} images x {eval_report['passes']} passes"
    rows = "\n".join(
        f"| `{name}` | {_MEASURE[name]} | {difference:.1e} |" for name, difference in sorted(differences.items())
    )
    step = f", step {provenance['step']}" if "step" in provenance else ""
    return f"""---
license: apache-2.0
library_name: jax
pipeline_tag: unconditional-image-generation
tags: [diffusion, variational-diffusion-model, likelihood, jax, {model.data.name}]
---
# Variational diffusion model of {model.data.name}

Images of {height}x{width}x{channels} with {model.data.num_levels} levels; {num_params:,} parameters{step}
(exponential moving average). Method: Variational Diffusion Models, arXiv 2107.00630.

**Bits per dimension** (upper bound on the negative log-likelihood): {bpd}.

## Use

`pip install jax safetensors flatbuffers`; this project is not needed. The batch size is free.

```python
import jax, jax.export, numpy as np, safetensors.numpy
params = safetensors.numpy.load_file("params.safetensors")
load = lambda name: jax.export.deserialize(bytearray(open(name, "rb").read())).call
z_1 = np.random.default_rng(0).standard_normal((4, {", ".join(map(str, shape))}), dtype=np.float32)
images = load("sampler.jaxexport")(params, z_1, np.array([0, 1], np.uint32))  # uint8, {sample_steps} steps
```

```python
nats = load("bpd.jaxexport")(params, images, np.uint32(0))  # one estimate per image; average over seeds
bpd = nats / (np.log(2) * {model.data.num_dims})
```

```python
gamma_t, conditioning = np.zeros(4, np.float32), np.zeros(4, np.float32)  # gamma = -log SNR; conditioning 0
eps_hat = load("eps.jaxexport")(params, z_1, gamma_t, conditioning)
```

`config.json`, `metrics.json`, `provenance.json`: the experiment, its measurement, where it came from.
`check.npz`: inputs and outputs of each function. Checksums: `sha256sum -c SHA256SUMS`.

## Checked before publication

Each file was loaded in a fresh process on a CPU and compared with the model.

| file | measure | difference |
| --- | --- | --- |
{rows}
"""


_MEASURE = {
    "eps.jaxexport": "largest difference over the largest value",
    "bpd.jaxexport": "largest difference over the largest value",
    "sampler.jaxexport": "share of values that differ",
}


def _write_sums(directory: Path) -> None:
    from vdm_lib.bundle_check import SUMS, sha256

    lines = (f"{sha256(path)}  {path.name}\n" for path in sorted(directory.iterdir()))
    _write(directory / SUMS, "".join(lines).encode())


def write_bundle(
    out_dir: str | os.PathLike[str],
    *,
    config_json: str,
    model: VDM,
    params: Params,
    eval_report: dict[str, Any] | None,
    provenance: dict[str, Any],
    sample_steps: int = 256,
    num_checks: int = 2,
) -> dict[str, float]:
    """Write a bundle, check it in a fresh process, then publish it under its name: whole and verified or not at all.

    Args:
        out_dir: local directory to make; an empty one may exist.
        config_json: the text of the experiment's config.
        model: the model.
        params: its parameters, nested; the moving average, as a rule.
        eval_report: fields of a BpdReport, or None if bits per dimension were not measured.
        provenance: what made the parameters; a field `step` goes on the model card.
        sample_steps: ancestral steps of the sampler.
        num_checks: images of the check of eps and bpd.

    Returns:
        The measured difference of each exported function by file name.

    Raises:
        ConfigError: out_dir is not local or is there already; sample_steps or num_checks below 1.
        VdmError: the bundle cannot be written, a full disk for one, or is not verified. Nothing is left behind.
    """
    if "://" in os.fspath(out_dir):
        raise ConfigError(f"a bundle is renamed when it is complete: export to a local directory, not {out_dir}")
    if sample_steps < 1 or num_checks < 1:
        raise ConfigError(f"sample_steps and num_checks must be at least 1, got {sample_steps} and {num_checks}")
    out = Path(out_dir).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out_dir} is there already: choose another directory or remove it")
    temporary = out.parent / f"{out.name}.tmp-{os.urandom(4).hex()}"
    flat = {name: np.asarray(x) for name, x in flatten_params(jax.device_get(params)).items()}
    try:
        temporary.mkdir(parents=True)
        _write(temporary / "config.json", config_json.encode())
        _write(temporary / "metrics.json", _json(NOT_MEASURED if eval_report is None else eval_report))
        _write(temporary / "provenance.json", _json(provenance))
        _write_functions(temporary, model, flat, sample_steps, num_checks)
        # In two halves: the card holds the differences, and the checksums cover the card.
        differences = run_check(temporary, "--only", "functions")["max_difference"]
        card = _card(model, count_params(flat), sample_steps, eval_report, provenance, differences)
        _write(temporary / "README.md", card.encode())
        _write_sums(temporary)
        run_check(temporary, "--only", "sums")
        temporary.replace(out)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise VdmError(f"cannot write the bundle {out_dir}: {error}") from error
        raise
    return differences
