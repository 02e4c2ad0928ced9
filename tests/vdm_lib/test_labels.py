from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from scipy import stats

import configs
from tests.vdm_lib.test_evaluate import random_split
from vdm_lib import feed
from vdm_lib.batches import Batches
from vdm_lib.config import ModelConfig
from vdm_lib.errors import ConfigError, DataError
from vdm_lib.evaluate import check_data
from vdm_lib.labels import checked_labels, labels_to_draw, labels_to_measure, withhold_labels
from vdm_lib.model import VDM
from vdm_lib.sharding import make_mesh
from vdm_lib.train import init_state, make_train_step

MESH = make_mesh()
PLAIN = configs.load("debug")
CONFIG = replace(PLAIN, model=replace(PLAIN.model, num_classes=10, label_dropout=0.5))
NEVER_WITHOUT = replace(CONFIG, model=replace(CONFIG.model, label_dropout=0.0))
MODEL = VDM.from_config(CONFIG)


def shapes(config):
    tree = jax.eval_shape(VDM.from_config(config).init, jax.random.key(0))
    return {path: leaf.shape for path, leaf in flatten_dict(tree, sep="/").items()}


@pytest.fixture(scope="module")
def params():
    """Parameters with noise on every leaf, as many layers start from zero."""
    leaves, tree = jax.tree.flatten(jax.jit(MODEL.init)(jax.random.key(1)))
    keys = jax.random.split(jax.random.key(5), len(leaves))
    return jax.tree.unflatten(
        tree, [leaf + 0.1 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    )


def test_classes_add_one_table_and_widen_the_layer_that_reads_it():
    without, with_classes = shapes(PLAIN), shapes(CONFIG)
    n_embd = PLAIN.model.n_embd
    assert with_classes.pop("score_model/classes/embedding") == (11, n_embd)
    assert with_classes["score_model/dense0/kernel"] == (2 * n_embd + 1, 4 * n_embd)
    assert with_classes | {"score_model/dense0/kernel": (n_embd + 1, 4 * n_embd)} == without


def test_the_network_sees_the_label_of_each_image_and_no_label_is_a_label_of_its_own(params):
    eps_hat = jax.jit(lambda labels: MODEL.eps_hat(params, z, jnp.zeros(3), jnp.zeros(3), labels=labels))
    z = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    first = np.asarray(eps_hat(jnp.asarray([0, 1, 2], jnp.int32)))
    other = np.asarray(eps_hat(jnp.asarray([0, 1, 9], jnp.int32)))
    none = np.asarray(eps_hat(None))
    np.testing.assert_array_equal(other[:2], first[:2])
    assert np.abs(other[2] - first[2]).max() > 1e-3
    assert np.abs(none - first).max(axis=(1, 2, 3)).min() > 1e-3
    # Compiled otherwise, with the labels as constants.
    np.testing.assert_allclose(eps_hat(jnp.full(3, 10, jnp.int32)), none, atol=1e-4)


def test_the_stated_share_of_the_labels_is_withheld():
    labels = jnp.arange(20_000, dtype=jnp.int32) % 10
    model = ModelConfig(num_classes=10, label_dropout=0.2)
    after = np.asarray(withhold_labels(jax.random.key(0), labels, model))
    withheld = after == 10
    np.testing.assert_array_equal(after[~withheld], np.asarray(labels)[~withheld])
    # A right share fails by chance once in 10,000 keys.
    assert stats.binomtest(int(withheld.sum()), len(after), 0.2).pvalue > 1e-4
    # Which are withheld does not go by class.
    table = np.bincount(np.asarray(labels)[withheld], minlength=10)
    assert stats.chisquare(table).pvalue > 1e-4


@pytest.mark.parametrize("place", ["replicated", "sharded", "host"])
def test_a_feed_gives_the_labels_of_the_images_of_the_step(place):
    images = np.arange(23, dtype=np.uint8).reshape(23, 1, 1, 1)
    labels, batches = np.arange(23, dtype=np.int64) % 7, Batches(23, 8, 5)
    each = feed.make_feed(images, batches, MESH, place, labels)
    for step in (0, 2, 3, 40, 1):
        inputs = each.inputs(step)
        np.testing.assert_array_equal(each.labels(inputs), labels[np.asarray(each.images(inputs)).reshape(-1)])
    each.close()


@pytest.mark.slow  # compiles four training steps
def test_training_uses_the_labels_and_no_division_of_the_batch_changes_it():
    rng = np.random.default_rng(0)
    size = CONFIG.train.batch_size
    images = rng.integers(0, 17, (size, 8, 8, 1)).astype(np.uint8)
    labels = rng.integers(0, 10, size).astype(np.int32)

    def gradient_norm(config, labels):
        state, step = init_state(config, MESH), make_train_step(config, MESH)
        # A fresh network does not look at its conditioning: its projections are zero.
        for block in ("down.block_0", "up.block_0", "mid.block_1"):
            for name in ("cond_proj", "conv2"):
                kernel = state.params["score_model"][block][name]["kernel"]
                noise = 0.1 * jax.random.normal(jax.random.key(0), kernel.shape)
                state.params["score_model"][block][name]["kernel"] = kernel + noise
        return float(step(state, images, labels)[1]["gradient_norm"])

    whole = gradient_norm(NEVER_WITHOUT, labels)
    parts = replace(NEVER_WITHOUT, train=replace(NEVER_WITHOUT.train, microbatches=2))
    np.testing.assert_allclose(gradient_norm(parts, labels), whole, rtol=1e-4)
    assert abs(gradient_norm(NEVER_WITHOUT, (labels + 1) % 10) / whole - 1.0) > 1e-4


def test_images_to_draw_have_the_class_asked_for():
    model = CONFIG.model
    assert labels_to_draw(PLAIN.model, None, 3, 0.0) is None
    assert labels_to_draw(model, None, 3, 0.0) is None
    np.testing.assert_array_equal(labels_to_draw(model, 7, 3, 1.0), [7, 7, 7])
    np.testing.assert_array_equal(labels_to_draw(model, "all", 12, 0.0), [*range(10), 0, 1])
    np.testing.assert_array_equal(labels_to_draw(NEVER_WITHOUT.model, [3, 1], 2, 0.0), [3, 1])
    np.testing.assert_array_equal(labels_to_draw(NEVER_WITHOUT.model, None, 3, 0.0), [0, 1, 2])


@pytest.mark.parametrize(
    ("config", "wanted", "guidance", "message"),
    [
        (PLAIN, None, 1.0, "guidance needs a class-conditional model"),
        (PLAIN, 3, 0.0, "a class needs a class-conditional model"),
        (CONFIG, 10, 0.0, r"a class must lie in 0\.\.9, got 10"),
        (CONFIG, -1, 0.0, r"a class must lie in 0\.\.9, got -1"),
        (CONFIG, [1, 2], 0.0, "one whole number or 3"),
        (CONFIG, np.zeros(3), 0.0, "got float64"),
        (CONFIG, None, 1.0, "give a class too"),
        (NEVER_WITHOUT, 3, 1.0, "guidance needs a model that also went without labels"),
        (NEVER_WITHOUT, None, 1.0, "guidance needs a model that also went without labels"),
    ],
)
def test_images_that_a_model_cannot_draw_are_refused(config, wanted, guidance, message):
    with pytest.raises(ConfigError, match=message):
        labels_to_draw(config.model, wanted, 3, guidance)


def test_labels_that_a_model_cannot_be_told_are_refused():
    with pytest.raises(ConfigError, match="knows no classes"):
        checked_labels(PLAIN.model, 0, 3)
    for config in (PLAIN, NEVER_WITHOUT):
        none = replace(config, eval=replace(config.eval, labels="none"))
        with pytest.raises(ConfigError, match=r"eval\.labels=none"):
            labels_to_measure(none, np.zeros(3, np.int64))


def test_data_with_more_classes_than_the_model_is_refused():
    split = random_split(4)
    check_data(CONFIG, replace(split, labels=np.array([0, 9, 1, 2])))
    with pytest.raises(DataError, match=r"10 classes, the test data has label 10: .*model\.num_classes=11"):
        check_data(CONFIG, replace(split, labels=np.array([0, 10, 1, 2])))
    check_data(PLAIN, replace(split, labels=np.array([0, 10, 1, 2])))
