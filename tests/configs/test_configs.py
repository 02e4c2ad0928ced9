import dataclasses

import jax
import pytest

import configs
from vdm_lib.errors import ConfigError
from vdm_lib.model import VDM, count_params


@pytest.mark.parametrize("name", configs.NAMES)
def test_every_config_survives_its_json(name):
    config = configs.load(name)
    assert config.name == name
    assert configs.from_json(configs.to_json(config), "here") == config


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # The published totals of the original's trees. cifar10_aug and its paper variant use the learned monotone
        # schedule, whose 3,074 parameters a scalar schedule would miss.
        ("cifar10", 30_578_181),
        ("cifar10_aug", 122_140_677),
        pytest.param("cifar10_aug_paper", 139_279_877, marks=pytest.mark.slow),
        pytest.param("imagenet32", 122_137_605, marks=pytest.mark.slow),
        pytest.param("imagenet64", 237_603_845, marks=pytest.mark.slow),
    ],
)
def test_parameter_totals_are_the_originals(name, expected):
    model = VDM.from_config(configs.load(name))
    assert count_params(jax.eval_shape(model.init, jax.random.key(0))) == expected


def test_an_override_changes_one_value():
    config = configs.load("cifar10", {"model.n_embd": 64})
    assert config.model == dataclasses.replace(configs.load("cifar10").model, n_embd=64)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("cifar11", {}, "did you mean 'cifar10'"),
        ("cifar10", {"model.n_emb": 64}, "did you mean 'model.n_embd'"),
        ("cifar10", {"model.n_embd": "64"}, "model.n_embd"),
        ("cifar10", {"model.n_embd": 64.5}, "model.n_embd"),
        ("cifar10", {"model.n_embd": 33}, "multiple of 32"),
        ("cifar10", {"train.batch_size": 0}, "batch_size must be at least 1"),
        ("cifar10", {"model.gamma_type": "cosine"}, "model.gamma_type"),
        ("cifar10", {"model.gamma_min": 9.0}, "gamma_min must be below"),
        ("cifar10", {"eval.passes": 1}, "at least 2"),
        ("cifar10", {"data.num_levels": 300}, "num_levels"),
    ],
)
def test_a_wrong_config_is_named(name, overrides, message):
    with pytest.raises(ConfigError, match=message):
        configs.load(name, overrides)


def test_override_values_are_json_or_else_strings():
    words = ["a=1", "b=1e-4", "c=null", "d=[6, 7]", "e=fixed", "f=x=y"]
    assert configs.parse_overrides(words) == {"a": 1, "b": 1e-4, "c": None, "d": [6, 7], "e": "fixed", "f": "x=y"}
    with pytest.raises(ConfigError, match="key=value"):
        configs.parse_overrides(["model.n_embd"])
