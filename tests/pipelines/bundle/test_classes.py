"""The bundle of a class-conditional model: every format takes labels, and the samplers guidance."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import configs
import pipelines.evaluate
import pipelines.export
import pipelines.train
from pipelines import command
from pipelines.bundle import check
from vdm_lib import load
from vdm_lib.samplers.sampler import Sampler

pytestmark = pytest.mark.slow  # exports of their own


@pytest.fixture(scope="module")
def bundle(digits_dir, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("classes")
    config = configs.load("debug", {"model.num_classes": 10, "model.label_dropout": 0.5, "train.steps": 1})
    pipelines.train.run(config, digits_dir, str(place / "run"))
    pipelines.evaluate.run(str(place / "run"), digits_dir)
    onnx = importlib.util.find_spec("jax2onnx") is not None
    result = pipelines.export.run(
        str(place / "run"), str(place / "bundle"), data=digits_dir, num_samples=20, sample_steps=3, onnx=onnx
    )
    formats = {"eps.jaxexport", "bpd.jaxexport", "sampler.jaxexport"}
    formats |= {f"saved_model/{name}" for name in ("eps", "bpd", "sample")} | ({"model.onnx"} if onnx else set())
    assert set(result.max_difference) == formats
    return place / "bundle"


def test_the_card_says_how_a_class_is_told_and_its_code_runs_without_the_project(bundle):
    text = (bundle / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert "class-conditional" in front["tags"]
    assert "pipeline_tag" not in front
    assert "The model knows classes 0 to 9" in text
    assert "Label 10 tells no class." in text
    assert "20 samples, all 10 classes in turn, a column each" in text
    assert "| labels | given |" in text
    blocks = [each for each in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "onnx" not in each]
    code = "\n".join(
        f"{block}\nassert tuple(images.shape) == (4, 8, 8, 1)\nassert tuple(bpd.shape) == (4,)\n" for block in blocks
    )
    environment = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}
    subprocess.run([sys.executable, "-I", "-c", code], check=True, cwd=bundle, env=environment, capture_output=True)


def test_it_is_verified_and_measured_again(bundle, digits_dir, capsys):
    assert command.main(["verify", str(bundle), "--data", digits_dir, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["not_checked"] == {}
    assert result["report"]["labels"] == "given"


def test_what_is_loaded_draws_what_the_files_draw(bundle):
    with np.load(bundle / "check.npz") as file:
        given = dict(file)
    assert sorted(set(given["labels"])) == list(range(11))
    model = load(str(bundle))
    told = given["labels"] < 10
    # An image depends on its own class alone: those that the file was told none for may have any.
    images = model.sample(
        20, steps=int(given["num_steps"]), seed=int(given["seed"]), sampler=Sampler(guidance=float(given["guidance"])),
        label=np.where(told, given["labels"], 0),
    )  # fmt: skip
    assert check.compare("sample", "sample", images[told], given["samples"][told]) <= check.TOLERANCES["sample"]
    eps = model.eps(given["z_t"][told], given["gamma_t"][told], given["conditioning"][told], given["labels"][told])
    assert check.compare("eps", "eps", eps, given["eps_hat"][told]) <= check.TOLERANCES["eps"]


def test_tensorflow_refuses_a_class_that_is_none(bundle):
    code = """
import tensorflow as tf
sample = tf.saved_model.load("saved_model").signatures["sample"]
integer = lambda value: tf.constant(value, tf.int64)
try:
    sample(labels=integer([0, 11]), guidance=tf.constant(0.0), seed=integer(0), steps=integer(2))
except tf.errors.InvalidArgumentError as error:
    print("refused:", "labels must lie in 0..10" in str(error))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], check=True, cwd=bundle, env={"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert "refused: True" in done.stdout
