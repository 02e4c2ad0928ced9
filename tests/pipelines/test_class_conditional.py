"""A class-conditional run through the jobs: training, bpd with and without labels, samples, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import configs
import pipelines.train
import vdm_lib
from pipelines import command
from vdm_lib.errors import ConfigError
from vdm_lib.images import grid
from vdm_lib.samplers.sampler import Sampler

# Two trainings and three compiled networks, a minute; labels in the network and the samplers are tested in vdm_lib.
pytestmark = pytest.mark.slow
CONDITIONAL = {"model.num_classes": 10, "model.label_dropout": 0.5}


@pytest.fixture(scope="module")
def run(digits_dir, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("conditional") / "run"
    config = configs.load("debug", CONDITIONAL | {"train.sample_images": 11, "train.sample_steps": 2})
    assert pipelines.train.run(config, digits_dir, str(workdir)).step == 6
    return workdir


@pytest.fixture(scope="module")
def plain_run(digits_dir, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("plain") / "run"
    pipelines.train.run(configs.load("debug", {"train.steps": 1}), digits_dir, str(workdir))
    return workdir


def vdm(*words) -> int:
    return command.main([str(word) for word in words])


def test_the_bpd_says_whether_it_is_given_the_labels(run, digits_dir, capsys):
    assert vdm("eval", "--workdir", run, "--data", digits_dir) == 0
    assert "given the labels" in capsys.readouterr().out
    assert vdm("eval", "eval.labels=none", "--workdir", run, "--data", digits_dir) == 0
    assert "without labels" in capsys.readouterr().out
    reports = [json.loads((run / "eval" / name).read_text()) for name in ("6.json", "6-labels=none.json")]
    assert [report["labels"] for report in reports] == ["given", "none"]
    assert reports[0]["bpd_diff"] != reports[1]["bpd_diff"]
    # What does not pass through the network is told no label.
    assert reports[0]["bpd_recon"] == reports[1]["bpd_recon"]


def test_the_picture_has_a_column_for_each_class(run, tmp_path):
    out = tmp_path / "s.png"
    words = ("--num", 12, "--steps", 2, "--class", "all", "--guidance", 1.5, "--solver", "dpm")
    assert vdm("sample", "--workdir", run, *words, "--out", out) == 0
    model = vdm_lib.load(str(run))
    images = model.sample(12, steps=2, sampler=Sampler("dpm", guidance=1.5), label="all")
    expected = grid(images, 17, columns=10)
    picture = np.asarray(Image.open(out))
    factor = picture.shape[1] // expected.shape[1]
    # Compiled otherwise, a pixel between two levels may fall to the other side.
    assert np.mean(picture[::factor, ::factor] != expected) < 0.01


def test_the_loaded_model_takes_labels(run):
    model = vdm_lib.load(str(run))
    images = np.zeros((3, 8, 8, 1), np.uint8)
    assert model.bpd(images, labels=[0, 1, 2]).shape == (3,)
    assert model.eps(np.zeros((2, 8, 8, 1)), 0.0, labels=4).shape == (2, 8, 8, 1)
    with pytest.raises(ConfigError, match=r"0\.\.9, got 11"):
        model.bpd(images, labels=[0, 1, 11])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--class", 10), "a class must lie in 0..9, got 10"),
        (("--guidance", 2), "give a class too"),
        (("--class", 1, "--guidance", "nan"), "guidance must lie in -1000..1000"),
        (("--class", 1, "--guidance", "1e30"), "guidance must lie in -1000..1000"),
        (("--class", "seven"), "a class is a number from 0 on, all or data, got 'seven'"),
        (("--class", 1, "--steps", 0), "steps must lie in 1"),
        (("--class", "data"), "--class data is each image's own of --data: name the directory"),
        (("--class", 10, "--film"), "a class must lie in 0..9, got 10"),
        (("--guidance", 2, "--interpolate"), "give a class too"),
        (("--class", 1, "--guidance", 1, "--progressive", "--data", "DATA"), "is what guidance draws: leave it out"),
        (("--class", "all", "--progressive", "--data", "DATA"), "--class all is for samples"),
        (("--class", "data", "--interpolate", "--data", "DATA", "--images", 0, 1), "pair 0 is of "),
    ],
)
def test_a_sample_that_cannot_be_is_refused_in_one_line(run, digits_dir, words, message, tmp_path, capsys):
    words = [digits_dir if word == "DATA" else word for word in words]
    try:
        code = vdm("sample", "--workdir", run, "--out", tmp_path / "s.png", *words)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_classes_takes_neither_class_nor_guidance(plain_run, digits_dir, tmp_path, capsys):
    for words in (("--class", 1), ("--guidance", 1)):
        assert vdm("sample", "--workdir", plain_run, "--out", tmp_path / "s.png", *words) == 2
        assert "class-conditional" in capsys.readouterr().err.splitlines()[-1]
    assert vdm("eval", "eval.labels=none", "--workdir", plain_run, "--data", digits_dir) == 2
    assert "eval.labels=none" in capsys.readouterr().err.splitlines()[-1]


def test_data_with_more_classes_is_refused_before_anything_is_written(digits_dir, tmp_path, capsys):
    words = ("train", "debug", "model.num_classes=9", "--data", digits_dir, "--workdir", tmp_path / "run")
    assert vdm(*words) == 1
    assert "has label 9: prepare other data or set model.num_classes=10" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_the_original_has_no_such_models(run, tmp_path, capsys):
    assert vdm("import", "--reverse", run, tmp_path / "original") == 2
    assert "no class-conditional models" in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
