import hashlib
import json
import shutil
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pipelines import command
from pipelines.quality.classifiers import Classifiers
from pipelines.quality.features import read_features
from vdm_lib.data import load_split


@pytest.fixture(scope="module")
def run(debug_run, tmp_path_factory) -> Path:
    return Path(shutil.copytree(debug_run, tmp_path_factory.mktemp("quality") / "run"))


def export(path: Path, shape: str, function) -> Path:
    given = jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape), jnp.float32)
    path.write_bytes(jax.export.export(jax.jit(function))(given).serialize())
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """Means of the quarters of an image of 16x16, as 4 features of each of 3 channels."""
    place = tmp_path_factory.mktemp("features") / "f.jaxexport"
    return export(place, "b, 16, 16, 3", lambda x: x.reshape(-1, 2, 8, 2, 8, 3).mean((2, 4)).reshape(-1, 12) / 255)


def quality(run, data, out, *words) -> int:
    words = ["--workdir", str(run), "--data", data, "--out", str(out), "--steps", "3", *map(str, words), "--json"]
    return command.main(["sample-quality", *words])


def test_the_report_says_what_was_measured_and_how(run, digits_dir, network, tmp_path, capsys):
    out = tmp_path / "x" / "q.json"
    assert quality(run, digits_dir, out, "--num", 40, "--features", network) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    report = json.loads(out.read_text())
    assert set(result["measured"]) == set(report["measured"])
    for name in ("FID", "KID", "precision", "recall", "copies of train images", "two classifiers agree, samples"):
        assert report["measured"][name]["stderr"] > 0.0
    protocol = report["protocol"]
    assert protocol["features_sha256"] == hashlib.sha256(network.read_bytes()).hexdigest()
    assert (protocol["samples"], protocol["steps"], protocol["reference_images"]) == (40, 3, 359)
    assert protocol["resize"] == "bicubic with antialiasing to 16x16"
    # Of a network that has learned almost nothing.
    measured = report["measured"]
    far = "distance to the nearest train image, {} (levels)"
    assert measured[far.format("samples")]["value"] > 1.5 * measured[far.format("test images")]["value"]
    assert measured["two classifiers agree, samples"]["value"] < measured["two classifiers agree, test images"]["value"]
    assert measured["copies of train images"]["value"] == 0.0
    with Image.open(result["picture"]) as picture:
        assert picture.width > 300


@pytest.mark.slow  # samples again
def test_without_features_there_is_no_fid(run, digits_dir, tmp_path, capsys):
    assert quality(run, digits_dir, tmp_path / "q.json", "--num", 10) == 0
    assert "FID" not in json.loads(capsys.readouterr().out.splitlines()[-1])["measured"]


def test_features_are_of_images_stretched_to_colour_and_resized(network):
    images = np.zeros((70, 8, 8, 1), np.uint8)
    images[:, 4:] = 16
    features = read_features(str(network))(images, 17)
    assert features.shape == (70, 12)
    # The lower quarters are white, but for the edge that the resizing softens.
    expected = np.repeat([0.0, 0.0, 1.0, 1.0], 3)
    np.testing.assert_allclose(features, np.broadcast_to(expected, features.shape), atol=0.03)
    np.testing.assert_array_equal(features[0], features[69])


def test_the_classifiers_know_digits_and_doubt_noise(digits_dir):
    train, test = load_split(digits_dir, "train"), load_split(digits_dir, "test")
    classify = Classifiers(train)
    of_test = classify(test.images)
    assert of_test.accuracy(test.labels).value > 0.95
    assert of_test.agreement.value > 0.95
    noise = np.random.default_rng(0).integers(0, 17, test.images.shape).astype(np.uint8)
    assert classify(noise).agreement.value < 0.6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num", "9"], "at least 10"),
        (["--steps", "0"], "steps must lie in 1"),
        (["--features", "absent"], "does not exist"),
        (["--features", "text"], "no program"),
        (["--features", "grey"], "it must take images [b, h, w, 3]"),
        (["--features", "flat", "--num", "12"], "must return finite features [64, d], got (64,)"),
        (["--out", "q.txt"], "ends in .json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_refused_in_one_line(run, digits_dir, words, message, tmp_path, capsys):
    (tmp_path / "text").write_text("no program")
    export(tmp_path / "grey", "b, 8, 8, 1", lambda x: x.reshape(-1, 64))
    export(tmp_path / "flat", "b, 8, 8, 3", lambda x: x.sum((1, 2, 3)))
    words = [str(tmp_path / word) if word in ("absent", "text", "grey", "flat", "q.txt") else word for word in words]
    assert quality(run, digits_dir, tmp_path / "q.json", *words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error
    assert not (tmp_path / "q.json").exists()
