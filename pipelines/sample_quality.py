"""The job `vdm sample-quality`: samples of a checkpoint against images of the data, as a JSON report and a picture."""

import json
from dataclasses import asdict, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from pipelines.quality.classifiers import Classifiers
from pipelines.quality.features import FeatureNetwork, read_features
from pipelines.quality.picture import write_picture
from pipelines.sampling.given import check_split
from pipelines.sampling.results import SampleQualityResult
from pipelines.sampling.setting import Request, Setting, setting
from pipelines.sampling.told import Told
from vdm_lib import quality, sampling
from vdm_lib.data import Split, load_split
from vdm_lib.errors import ConfigError, DataError
from vdm_lib.files.records import write_atomically
from vdm_lib.samplers.solvers import Chain
from vdm_lib.types import Labels

_PAIRS_IN_PICTURE = 12
_LEAST_SAMPLES = 10


def run(request: Request, data: str, *, num: int = 500, features: str | None = None) -> SampleQualityResult:
    """Draw `num` samples, measure them against the train and the test split, and write FILE.json and FILE.png.

    Args:
      request: the run, the JSON file to write and the sampler.
      data: data directory that the run was trained on.
      num: samples.
      features: program of a feature network; with it FID, KID, precision and recall are measured too.

    Raises:
      CheckpointError: no such checkpoint.
      ConfigError: fewer than 10 samples, a class that the model does not have, guidance that it cannot give, a place
        where no report can be written, or no feature network.
      DataError: other images than the model's, or too few test images of the class.
      MachineError: so many samples at once do not fit the memory, or no scikit-learn.
      OSError: the report cannot be written.
    """
    if num < _LEAST_SAMPLES:
        raise ConfigError(f"the quality of samples needs at least {_LEAST_SAMPLES} of them, got --num {num}")
    network = None if features is None else read_features(features)
    with setting(request, (".json",), num=num) as here:
        train, test = (load_split(data, split) for split in ("train", "test"))
        for split in (train, test):
            check_split(split, here.model.data, data)
        if isinstance(request.told, int):
            # Samples of one class are set against test images of that class.
            test = _only(test, request.told, data)
        classes = here.labels(num)
        samples = _draw(here, num, classes)
    told = None if classes is None else np.asarray(classes, np.int64)
    picture = f"{request.out[: -len('.json')]}.png"
    measured = _against_train(samples, train, test, picture)
    labels = np.concatenate([train.labels, test.labels])
    if labels.min() < labels.max():
        measured |= _by_classifiers(samples, train, test, told)
    if network is not None:
        measured |= _by_features(network, samples, test, request.seed)
    report = {
        "measured": {name: asdict(value) for name, value in measured.items()},
        "protocol": {
            "samples": num,
            "steps": here.num_steps,
            "sampler": asdict(here.sampler),
            "class": _class(request.told, told),
            "seed": request.seed,
            "checkpoint_step": here.step,
            "train_images": len(train.images),
            "train_fingerprint": train.fingerprint,
            "reference_split": "test" if not isinstance(request.told, int) else f"test, class {request.told}",
            "reference_images": len(test.images),
            "reference_fingerprint": test.fingerprint,
        }
        | ({} if network is None else _protocol(network)),
    }
    epath.Path(request.out).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(epath.Path(request.out), (json.dumps(report, indent=2) + "\n").encode())
    return SampleQualityResult(
        report=request.out,
        picture=picture,
        num_samples=num,
        num_steps=here.num_steps,
        step=here.step,
        measured={name: (value.value, value.stderr) for name, value in measured.items()},
    )


def _class(wanted: Told, told: np.ndarray | None) -> int | str:
    if told is None:
        return "none"
    return wanted if isinstance(wanted, int) else "all"


def _only(split: Split, label: int, data: str) -> Split:
    mine = split.labels == label
    if mine.sum() < _LEAST_SAMPLES:
        raise DataError(
            f"{data} has {mine.sum()} {split.name} images of class {label}: to set samples against, it takes "
            f"{_LEAST_SAMPLES}"
        )
    return replace(split, images=split.images[mine], labels=split.labels[mine])


def _draw(here: Setting, num: int, classes: Labels | None) -> np.ndarray:
    def body(params: Any, chain: Chain, i: Any) -> Chain:
        return sampling.advance(here.model, params, here.sampler, chain, key_steps, i, here.num_steps, classes)

    z_1, key_steps = sampling.start(here.model, here.key, num)
    z_0 = here.loop(body, here.params, sampling.begin(z_1), here.num_steps).z
    return np.asarray(sampling.levels(here.model, here.params, jnp.asarray(z_0), here.sampler, key_steps))


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float64)


def _against_train(samples: np.ndarray, train: Split, test: Split, picture: str) -> dict[str, quality.Measured]:
    """Return how near samples and test images are to train images, and draw it."""
    known = _flat(train.images)
    of_samples, which = quality.nearest(_flat(samples), known)
    of_test, _ = quality.nearest(_flat(test.images), known)
    first = np.argsort(of_samples)[:_PAIRS_IN_PICTURE]
    write_picture(
        picture,
        samples[first],
        train.images[which[first]],
        train.num_levels,
        {"samples": of_samples, "test images": of_test},
    )
    near = of_samples < np.quantile(of_test, 0.01)
    return {
        "distance to the nearest train image, samples (levels)": _mean(of_samples),
        "distance to the nearest train image, test images (levels)": _mean(of_test),
        "samples nearer to train than 99 % of test images": quality.share(near),
        "copies of train images": quality.share(of_samples == 0.0),
    }


def _by_classifiers(
    samples: np.ndarray, train: Split, test: Split, told: np.ndarray | None
) -> dict[str, quality.Measured]:
    classify = Classifiers(train)
    of_samples, of_test = classify(samples), classify(test.images)
    measured = {
        "two classifiers agree, samples": of_samples.agreement,
        "two classifiers agree, test images": of_test.agreement,
        "accuracy of the classifier, test images": of_test.accuracy(test.labels),
    }
    if told is not None:
        measured["accuracy of the classifier, samples of the class that was told"] = of_samples.accuracy(told)
    return measured


def _by_features(network: FeatureNetwork, samples: np.ndarray, test: Split, seed: int) -> dict[str, quality.Measured]:
    x, y = (network(images, test.num_levels) for images in (samples, test.images))
    rng = np.random.default_rng(seed)
    precision, recall = quality.precision_recall(x, y)
    return {
        "FID": quality.fid_with_error(x, y, rng),
        "KID": quality.kid_with_error(x, y, rng),
        "precision": precision,
        "recall": recall,
    }


def _protocol(network: FeatureNetwork) -> dict[str, Any]:
    resize = "none" if network.size is None else f"bicubic with antialiasing to {network.size[0]}x{network.size[1]}"
    return {
        "features_sha256": network.sha256,
        "resize": resize,
        "fid_error": "deviation over 20 bootstrap samples of both sets",
        "kid_error": "deviation of the mean over 100 random subsets of at most 1000",
        "precision_recall": "third nearest neighbours, errors of shares",
    }


def _mean(values: np.ndarray) -> quality.Measured:
    return quality.Measured(float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5))
