"""The job `vdm eval --codec N`: the rate of a real code beside the bound that it should reach, on the same images."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from pipelines import run_dir
from pipelines.compression.codec import Subject, make_ready, make_settings
from pipelines.compression.other_formats import rates
from pipelines.compression.results import RefereeResult
from pipelines.evaluate import data_kind, kind_of, overridden
from pipelines.progress import Progress, telling
from vdm_lib.compression.account import Account, joined
from vdm_lib.compression.chunk import Codec, decode_chunk, encode_chunk
from vdm_lib.config import Config
from vdm_lib.data import Split, load_split
from vdm_lib.errors import ConfigError, VdmError
from vdm_lib.evaluate import Subject as Measured
from vdm_lib.evaluate import check_data
from vdm_lib.evaluation.bound import Bound
from vdm_lib.evaluation.measure import measure_split
from vdm_lib.evaluation.monte_carlo import spread
from vdm_lib.files.checksums import params_digest
from vdm_lib.files.records import write_atomically
from vdm_lib.restore import restore_ema
from vdm_lib.sharding import make_mesh

_DEFAULT_STEPS = 100


def run(
    workdir: str,
    data: str,
    num_images: int,
    *,
    repeats: int = 1,
    overrides: Mapping[str, Any] | None = None,
    step: int | None = None,
    allow_other_data: bool = False,
) -> RefereeResult:
    """Encode and decode the first test images, measure their bound with as many steps, and compare.

    Args:
      workdir: run directory; the numbers go to codec/STEP-timesteps=T-images=N.json in it, `-repeats=R` and
        what else differs from the run's own way in its name.
      data: data directory.
      num_images: images.
      repeats: codes of each image, each with other bits to begin with.
      overrides: values of eval.*, or model.timesteps for T; a run in continuous time takes 100 steps.
      step: of the checkpoint; None takes the newest.
      allow_other_data: measure on other images than the run began with.

    Raises:
      CheckpointError: other data, or no such checkpoint.
      ConfigError: a number out of its range, or an estimator other than the bound of every image.
      MachineError: constriction or pillow-jxl-plugin is not installed.
      VdmError: what was encoded does not decode to the same pixels.
    """
    own = run_dir.read_config(workdir)
    config = overridden(own, overrides or {})
    if config.eval.estimator != "bound" or config.eval.protocol != "every_image" or config.eval.schedule != "own":
        raise ConfigError(
            "--codec is compared with the bound of every image under the model's own schedule: leave out "
            "eval.estimator, eval.protocol and eval.schedule"
        )
    if config.eval.timesteps:
        raise ConfigError("--codec takes one number of steps: give model.timesteps, not eval.timesteps")
    steps = config.model.timesteps or _DEFAULT_STEPS
    own, config = (replace(each, model=replace(each.model, timesteps=steps)) for each in (own, config))
    whole = load_split(data, "test")
    check_data(config, whole)
    if not 2 <= num_images <= len(whole.images):
        raise ConfigError(f"--codec must lie in 2..{len(whole.images)}, the test images, got {num_images}")
    split = Split("test", whole.images[:num_images], whole.labels[:num_images], whole.num_levels, whole.fingerprint)
    if repeats < 1:
        raise ConfigError(f"--codec-repeats must be at least 1, got {repeats}")
    restored = restore_ema(workdir, config, step, raw=config.eval.params == "raw")
    known = restored.metadata["data_fingerprints"]
    same = run_dir.check_same_data(known, {"test": whole.fingerprint}, allow_other=allow_other_data)
    subject = Subject(config, restored.params, restored.step, params_digest(restored.params))
    settings = make_settings(subject, steps, None, None)
    # Only the net rate is compared, so that small batches at the beginning would be time for nothing.
    settings = replace(settings, first_batch=settings.batch_size)
    bound, per_image, bound_stderr = _bound(config, subject, split)
    with Progress("eval --codec", total=2 * repeats * num_images, unit="image there and back") as progress:
        with telling(progress.say, "compiling the codec"):
            ready = make_ready(subject, settings)
        progress.begin()
        codes = [_code(ready.codec, k, split, progress.advance_and_report) for k in range(repeats)]
    net, ideal = np.array([code.net_bpd for code in codes]), np.stack([code.ideal for code in codes])
    along = np.stack([code.divergence for code in codes]) + bound.exact
    loss = net - ideal.mean(axis=1)
    if repeats > 1:
        net_stderr = spread(ideal).monte_carlo_stderr
        difference_stderr = math.hypot(spread(along).monte_carlo_stderr, bound_stderr)
    else:
        # Of one code: what of it is chance and has the mean zero, and how the images differ, the bound's error within.
        net_stderr = float(np.sqrt(np.sum(np.square(ideal - along)))) / num_images
        difference_stderr = float((along - per_image).std(ddof=1)) / math.sqrt(num_images)
    result = RefereeResult(
        workdir=workdir,
        step=restored.step,
        num_images=num_images,
        steps=steps,
        repeats=repeats,
        net_bpd=float(net.mean()),
        net_bpd_stderr=net_stderr,
        gross_bpd=float(np.mean([code.gross_bpd for code in codes])),
        bound_bpd=float(per_image.mean()),
        bound_bpd_stderr=bound_stderr,
        coder_loss_bpd=float(loss.mean()),
        coder_loss_bpd_stderr=float(loss.std(ddof=1)) / math.sqrt(repeats) if repeats > 1 else None,
        without_chance_bpd=float(along.mean() + loss.mean()),
        difference_bpd=float(along.mean() + loss.mean() - per_image.mean()),
        difference_stderr=difference_stderr,
        encode_seconds=tuple(code.encode_seconds for code in codes),
        decode_seconds=tuple(code.decode_seconds for code in codes),
        other_bpd=rates(split.images),
    )
    times = f"-repeats={repeats}" if repeats > 1 else ""
    kind = kind_of(own, config, split.name) + ("" if same else data_kind(whole.fingerprint))
    name = f"{restored.step}-timesteps={steps}-images={num_images}{times}{kind}.json"
    place = epath.Path(workdir) / "codec" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    facts = {"data_fingerprint": split.fingerprint, "checkpoint_digest": subject.digest, "probe": ready.probe}
    write_atomically(place, (json.dumps(dataclasses.asdict(result) | facts, indent=2) + "\n").encode())
    return result


@dataclasses.dataclass(frozen=True)
class _Code:
    """What one code of all images took, in bits per dimension, and how long."""

    net_bpd: float
    gross_bpd: float
    ideal: Float[np.ndarray, " n"]
    divergence: Float[np.ndarray, " n"]
    encode_seconds: float
    decode_seconds: float


def _code(codec: Codec, number: int, split: Split, on_batch: Callable[[int], None]) -> _Code:
    """Encode and decode all images, on a stack that begins with bits of this number.

    Raises:
      VdmError: what was encoded does not decode to the same pixels.
    """
    accounts: list[Account] = []

    def witness(batch: np.ndarray) -> Account:
        accounts.append(Account(codec.ladder, batch, split.num_levels))
        return accounts[-1]

    started = time.perf_counter()
    chunk = encode_chunk(codec, number, split.images, on_batch, witness)
    encoded = time.perf_counter()
    decoded = decode_chunk(codec, number, chunk, split.images.shape[1:], on_batch)
    if not np.array_equal(decoded, split.images):
        raise VdmError("the images do not decode to the pixels that they were made of")
    ideal, divergence = (nats / (math.log(2.0) * split.images[0].size) for nats in joined(accounts))
    size = split.images.size
    return _Code(
        net_bpd=chunk.net_bits / size,
        gross_bpd=32 * chunk.words.size / size,
        ideal=ideal,
        divergence=divergence,
        encode_seconds=encoded - started,
        decode_seconds=time.perf_counter() - encoded,
    )


def _bound(config: Config, subject: Subject, split: Split) -> tuple[Bound, np.ndarray, float]:
    """Return the bound of these images, that of each of them averaged over the passes, and the error of their mean."""
    about = Measured(
        step=subject.step,
        split=split.name,
        fingerprint=split.fingerprint,
        params="ema",
        digest=subject.digest,
        code_version=run_dir.code_version(),
    )
    with Progress("eval", total=config.eval.passes, unit="pass") as progress:

        def on_pass(done: int) -> None:
            progress.advance()
            progress.report()

        with telling(progress.say, f"measuring the bound of {len(split.images):,} images"):
            measured = measure_split(config, subject.params, split, make_mesh(), about, on_pass=on_pass)
    estimator = measured.estimator
    assert isinstance(estimator, Bound)
    return estimator, measured.measurement.estimates.mean(axis=0) + estimator.exact, measured.report.bpd_stderr
