from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_lib.config import DataConfig, ModelConfig
from vdm_lib.export import functions, stablehlo
from vdm_lib.export.functions import flatten_params, unflatten_params
from vdm_lib.likelihood import nats_to_bpd
from vdm_lib.model import VDM
from vdm_lib.samplers.sampler import Sampler

DATA, NETWORK = DataConfig(name="toy", image_shape=(4, 4, 1), num_levels=17), ModelConfig(n_embd=64, n_layer=1)
MODEL = VDM(DATA, NETWORK)
OF_CLASSES = VDM(DATA, replace(NETWORK, num_classes=3, label_dropout=0.1))
JITTED = functions.jitted(MODEL)


def parameters(model):
    # A fresh network's last layers are zero: it would return z_t whatever the rest of it does.
    leaves, tree = jax.tree.flatten(flatten_params(jax.jit(model.init)(jax.random.key(0))))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.03 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


@pytest.fixture(scope="module")
def flat():
    return parameters(MODEL)


def test_flat_parameters_become_nested_and_flat_again(flat):
    assert "score_model/conv_in/kernel" in flat
    assert flatten_params(unflatten_params(flat)).keys() == flat.keys()


def test_bpd_estimates_the_bound_of_the_model(flat):
    images = np.random.default_rng(0).integers(0, 17, (64, 4, 4, 1), dtype=np.uint8)
    got = np.stack([JITTED.bpd(flat, images, np.uint32(seed)) for seed in range(8)])

    @jax.jit
    def direct(key):
        losses = MODEL.losses(unflatten_params(flat), jnp.asarray(images), jnp.zeros(64), MODEL.draw_noise(key, 64))
        return nats_to_bpd(losses.total, 16)

    expected = np.stack([direct(jax.random.key(seed)) for seed in range(8)])
    assert got.shape == expected.shape
    assert len(np.unique(got)) == got.size
    # Two independent estimates by 8 seeds: their means differ by a few of their own standard errors.
    means = got.mean(axis=1), expected.mean(axis=1)
    error = np.sqrt(sum(mean.var(ddof=1) / mean.size for mean in means))
    assert abs(means[0].mean() - means[1].mean()) < 5 * error


def test_an_image_is_the_same_in_a_batch_of_any_size_and_one_file_serves_all(flat):
    files = stablehlo.serialise(MODEL, flat)
    assert set(files) == {"eps.jaxexport", "bpd.jaxexport", "sampler.jaxexport"}
    sampler = jax.export.deserialize(bytearray(files["sampler.jaxexport"])).call
    starts = {num: functions.start(MODEL, num, np.uint32(5)) for num in (2, 3)}
    np.testing.assert_array_equal(starts[2][0], starts[3][0][:2])
    drawn = {num: np.asarray(sampler(flat, *start, np.int32(4))) for num, start in starts.items()}
    assert (drawn[3].dtype, drawn[3].shape) == (np.uint8, (3, 4, 4, 1))
    assert drawn[3].max() < 17
    assert len(np.unique(drawn[3])) > 2
    # A processor may round a convolution of two images in another way than one of three.
    assert _levels_between(drawn[2], drawn[3][:2]) <= 1
    other = np.asarray(sampler(flat, *functions.start(MODEL, 2, np.uint32(6)), np.int32(4)))
    assert _levels_between(other, drawn[2]) > 1


def _levels_between(images, others):
    return np.abs(images.astype(np.int32) - others.astype(np.int32)).max()


@pytest.mark.slow
def test_the_files_of_a_class_conditional_model_take_labels_and_a_weight():
    flat = parameters(OF_CLASSES)
    files = stablehlo.serialise(OF_CLASSES, flat)
    eps, bpd, sampler = (
        jax.export.deserialize(bytearray(files[f"{name}.jaxexport"])).call for name in ("eps", "bpd", "sampler")
    )
    z_1, key_data = functions.start(OF_CLASSES, 4, np.uint32(5))
    labels = np.array([0, 1, 2, 3], np.int32)
    jitted = functions.jitted(OF_CLASSES)
    drawn = {}
    for weight in (0.0, 2.0):
        drawn[weight] = np.asarray(sampler(flat, z_1, key_data, np.int32(3), labels, np.float32(weight)))
        direct = jitted.images(flat, z_1, key_data, np.int32(3), labels, sampler=Sampler(guidance=weight))
        # Compiled otherwise, a pixel between two levels may fall to the other side.
        assert np.mean(drawn[weight] != direct) <= 0.05
    # Guidance pulls at all but the image of no class.
    changed = np.any(drawn[0.0] != drawn[2.0], axis=(1, 2, 3))
    assert changed.tolist() == [True, True, True, False]
    zeros = np.zeros(4, np.float32)
    np.testing.assert_allclose(
        eps(flat, z_1, zeros, zeros, labels), jitted.eps_hat(flat, z_1, zeros, zeros, labels), atol=1e-4
    )
    # What is no class is not taken for one.
    assert np.isnan(eps(flat, z_1, zeros, zeros, labels + 1)).any(axis=(1, 2, 3)).tolist() == [False] * 3 + [True]
    given, other = (np.asarray(bpd(flat, drawn[0.0], np.uint32(0), (labels + k) % 4)) for k in (0, 1))
    assert np.all(given != other)


def test_a_model_that_was_always_told_a_class_takes_no_weight():
    always = VDM(DATA, replace(OF_CLASSES.model, label_dropout=0.0))
    specs = [functions.told_specs(model, 4) for model in (MODEL, OF_CLASSES, always)]
    assert [(len(each.labels), len(each.guidance)) for each in specs] == [(0, 0), (1, 1), (1, 0)]
