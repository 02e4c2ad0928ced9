"""Which class each image of a picture is told, and that it is told to the network."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import configs
import pipelines.train
from pipelines import command
from pipelines.sampling import told
from vdm_lib.config import ModelConfig
from vdm_lib.data import load_split
from vdm_lib.errors import ConfigError

WITH = ModelConfig(num_classes=10, label_dropout=0.5)
NEVER_WITHOUT = ModelConfig(num_classes=10, label_dropout=0.0)
PLAIN = ModelConfig()
OWN = np.array([3, 3, 7, 7])


def test_samples_and_given_images_are_told_what_was_asked_for():
    assert told.of_samples(WITH, None, 4, 0.0) is None
    np.testing.assert_array_equal(told.of_samples(WITH, "all", 4, 1.0), [0, 1, 2, 3])
    np.testing.assert_array_equal(told.of_samples(NEVER_WITHOUT, None, 4, 0.0), [0, 1, 2, 3])
    assert told.of_given(WITH, None, OWN) is None
    assert told.of_given(PLAIN, None, OWN) is None
    np.testing.assert_array_equal(told.of_given(WITH, "data", OWN), OWN)
    np.testing.assert_array_equal(told.of_given(NEVER_WITHOUT, None, OWN), OWN)
    np.testing.assert_array_equal(told.of_given(WITH, 5, OWN, 2.0), [5, 5, 5, 5])
    np.testing.assert_array_equal(told.of_pairs(told.of_given(WITH, "data", OWN)), [3, 7])
    assert told.of_pairs(None) is None
    assert told.names(None) == ()
    assert told.names(told.of_samples(WITH, "all", 2, 0.0)) == ("class 0", "class 1")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: told.of_samples(WITH, "data", 4, 0.0), "samples have no class of their own"),
        (lambda: told.of_given(WITH, "all", OWN), "--class all is for samples"),
        (lambda: told.of_given(WITH, "data", OWN + 5), r"a class must lie in 0\.\.9, got 12"),
        (lambda: told.of_given(PLAIN, "data", OWN), "a class needs a class-conditional model"),
        (lambda: told.of_given(WITH, None, OWN, 1.0), "give a class too"),
        (lambda: told.of_pairs(told.of_given(WITH, "data", OWN[1:3])), "pair 0 is of 3 and 7"),
        (lambda: told.check_class(PLAIN, "data", 0.0), "a class needs a class-conditional model"),
        (lambda: told.check_class(NEVER_WITHOUT, 1, 1.0), "guidance needs a model that also went without"),
    ],
)
def test_what_cannot_be_told_is_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.fixture(scope="module")
def run(digits_dir, tmp_path_factory) -> Path:
    """A run whose network, trained for one step, goes by the class as much as by anything else."""
    workdir = tmp_path_factory.mktemp("told") / "run"
    config = configs.load("debug", {"model.num_classes": 10, "model.label_dropout": 0.5, "train.steps": 1})
    pipelines.train.run(config, digits_dir, str(workdir))
    return workdir


@pytest.fixture
def noisy(monkeypatch):
    """Noise on every parameter: the layers that read the class start from zero."""
    from pipelines.sampling import setting
    from vdm_lib.restore import restore_ema

    def restored(*args):
        made = restore_ema(*args)
        leaves, tree = jax.tree.flatten(made.params)
        keys = jax.random.split(jax.random.key(5), len(leaves))
        drawn = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
        return replace(made, params=jax.tree.unflatten(tree, drawn))

    monkeypatch.setattr(setting, "restore_ema", restored)


@pytest.mark.slow  # two programs for each picture
@pytest.mark.parametrize(
    "words",
    [
        ["--film", "--num", 2, "--guidance", 1],
        ["--interpolate", "--num", 2, "--frames", 3],
        ["--interpolate", "--images", 5, 9, "--frames", 3, "--data", "DATA"],
        ["--inpaint", "MASK", "--num", 2, "--frames", 1, "--repeats", 1, "--guidance", 1, "--data", "DATA"],
        ["--progressive", "--num", 2, "--data", "DATA"],
    ],
    ids=lambda words: words[0] + (" of data" if "--images" in words else ""),
)
def test_another_class_is_another_picture_and_the_same_is_the_same(run, noisy, digits_dir, words, tmp_path, capsys):
    from PIL import Image

    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(tmp_path / "mask.png")
    words = [{"DATA": digits_dir, "MASK": tmp_path / "mask.png"}.get(word, word) for word in words]

    def picture(label):
        out = tmp_path / "a.png"
        given = ["sample", "--workdir", run, "--steps", 4, "--class", label, *words, "--out", out, "--json"]
        assert command.main([str(word) for word in given]) == 0
        with Image.open(out) as opened:
            # Without the names of the rows, which tell the classes too.
            return np.asarray(opened.convert("L"))[:, 80:], json.loads(capsys.readouterr().out.splitlines()[-1])

    (one, measured), (again, _), (other, others) = (picture(label) for label in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert one.shape != other.shape or np.any(one != other)
    if "--progressive" in words:
        assert measured["measured"] != others["measured"]


@pytest.mark.slow  # two programs
def test_the_quality_of_samples_of_a_class_is_told_beside_test_images_of_it(run, digits_dir, tmp_path):
    def report(label):
        out = tmp_path / "q.json"
        words = ["sample-quality", "--workdir", run, "--data", digits_dir, "--num", 10, "--steps", 2, "--out", out]
        assert command.main([str(word) for word in [*words, "--class", label]]) == 0
        return json.loads(out.read_text())

    accuracy = "accuracy of the classifier, samples of the class that was told"
    sevens, of_all = report(7), report("all")
    labels = load_split(digits_dir, "test").labels
    assert sevens["protocol"]["reference_split"] == "test, class 7"
    assert sevens["protocol"]["reference_images"] == np.sum(labels == 7)
    assert (sevens["protocol"]["class"], of_all["protocol"]["class"]) == (7, "all")
    assert of_all["protocol"]["reference_images"] == len(labels)
    assert 0.0 <= of_all["measured"][accuracy]["value"] <= 1.0
