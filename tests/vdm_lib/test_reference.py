import json

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

import configs
from tests.shared import shared_path
from vdm_lib import diffusion, likelihood, reference
from vdm_lib.errors import CheckpointError, ConfigError
from vdm_lib.model import VDM, Noise
from vdm_lib.sharding import make_mesh
from vdm_lib.train import init_state

CONFIG = configs.load("debug", {"model.n_embd": 32})
VARIANT_A = configs.load("cifar10", {"model.n_embd": 32, "model.n_layer": 2})


def expected_state(config=CONFIG):
    mesh = make_mesh()
    return jax.eval_shape(lambda: init_state(config, mesh))


def shapes_of(state):
    return {path: leaf.shape for path, leaf in flatten_dict(state.params, sep="/").items()}


@pytest.fixture(scope="module")
def state():
    """A state in which no two arrays are alike."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        return rng.standard_normal(leaf.shape).astype(leaf.dtype) if leaf.ndim else np.asarray(7, leaf.dtype)

    return jax.tree.map(draw, expected_state())


def original_bytes(state, reshape=lambda path, leaf: leaf):
    """The bytes that flax itself writes for the original's state."""

    def tree(params):
        flat = flatten_dict(params, sep="/")
        return unflatten_dict({path: reshape(path, np.asarray(leaf)) for path, leaf in flat.items()}, sep="/")

    adam = state.opt_state[0]
    return flax.serialization.to_bytes(
        {
            "step": np.asarray(state.step),
            "params": tree(state.params),
            "ema_params": tree(state.ema_params),
            "opt_state": {
                "0": {"count": np.asarray(adam.count), "mu": tree(adam.mu), "nu": tree(adam.nu)},
                "1": {"inner_state": {}},
                "2": {},
            },
        }
    )


@pytest.fixture
def directory(state, tmp_path):
    """A directory as the original leaves it: two checkpoints, the text file naming the newer one."""
    directory = tmp_path / "checkpoints-0"
    directory.mkdir()
    for name in ("ckpt-1", "ckpt-2"):
        (directory / f"{name}.flax").write_bytes(original_bytes(state))
    (directory / "checkpoint").write_text('model_checkpoint_path: "ckpt-2"\nall_model_checkpoint_paths: "ckpt-1"\n')
    return directory


def assert_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_what_flax_wrote_is_read(directory, state):
    assert_equal(reference.read_state(str(directory), expected_state()), state)
    assert_equal(reference.read_state(str(directory / "ckpt-1"), expected_state()), state)
    model = reference.read_model(str(directory), expected_state().params)
    assert model.step == 7
    assert_equal(model.ema_params, state.ema_params)


def test_what_is_written_is_what_flax_writes(state, tmp_path):
    reference.write_state(str(tmp_path / "out"), state)
    assert (tmp_path / "out" / "ckpt-1.flax").read_bytes() == original_bytes(state)
    assert_equal(reference.read_state(str(tmp_path / "out"), expected_state()), state)


def test_tensorflow_reads_the_files_beside_it(state, tmp_path):
    tf = pytest.importorskip("tensorflow")
    reference.write_state(str(tmp_path / "out"), state)
    assert tf.train.latest_checkpoint(str(tmp_path / "out")) == str(tmp_path / "out" / "ckpt-1")
    reader = tf.train.load_checkpoint(str(tmp_path / "out" / "ckpt-1"))
    assert reader.get_tensor("save_counter/.ATTRIBUTES/VARIABLE_VALUE") == 1


def test_the_shapes_of_an_older_flax_are_read(directory, state):
    def older(path, leaf):
        return leaf.reshape(1, 1, 1, -1) if "GroupNorm" in path else leaf

    (directory / "ckpt-2.flax").write_bytes(original_bytes(state, older))
    assert_equal(reference.read_state(str(directory), expected_state()), state)
    assert reference.read_shapes(str(directory)) == shapes_of(expected_state())


def test_another_architecture_is_named_by_its_first_leaf(directory):
    wider = configs.load("debug", {"model.n_embd": 64})
    with pytest.raises(CheckpointError, match=r"GroupNorm_0/bias is float32\[32\], the model's is float32\[64\]"):
        reference.read_model(str(directory), expected_state(wider).params)
    deeper = configs.load("debug", {"model.n_embd": 32, "model.n_layer": 2})
    with pytest.raises(CheckpointError, match=r"block_1/GroupNorm_0/bias is absent, the model's is float32\[32\]"):
        reference.read_state(str(directory), expected_state(deeper))
    assert reference.read_shapes(str(directory)) != shapes_of(expected_state(deeper))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_truncated_file_is_named(directory, share):
    file = directory / "ckpt-2.flax"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"ckpt-2\.flax is cut off or damaged"):
        reference.read_state(str(directory), expected_state())


def test_bytes_that_are_no_checkpoint_are_named(directory):
    (directory / "ckpt-2.flax").write_bytes(b"PK\x03\x04" * 100)
    with pytest.raises(CheckpointError, match=r"ckpt-2\.flax is cut off or damaged"):
        reference.read_model(str(directory), expected_state().params)
    (directory / "ckpt-2.flax").write_bytes(flax.serialization.to_bytes({"step": np.asarray(3, np.int32)}))
    with pytest.raises(CheckpointError, match="has no ema_params"):
        reference.read_model(str(directory), expected_state().params)


def test_what_is_missing_is_named(directory, tmp_path):
    with pytest.raises(CheckpointError, match="holds: ckpt-1, ckpt-2"):
        reference.find(str(directory / "ckpt-3"))
    (directory / "ckpt-2.flax").unlink()
    with pytest.raises(CheckpointError, match=r"names ckpt-2\.flax, which is not there"):
        reference.find(str(directory))
    (directory / "checkpoint").write_text("")
    with pytest.raises(CheckpointError, match="names no model_checkpoint_path"):
        reference.find(str(directory))
    (directory / "checkpoint").unlink()
    with pytest.raises(CheckpointError, match="no file `checkpoint`"):
        reference.find(str(directory))
    with pytest.raises(CheckpointError, match="no checkpoint"):
        reference.find(str(tmp_path / "nowhere"))


def test_a_directory_is_not_overwritten(state, tmp_path):
    (tmp_path / "checkpoint").write_text("")
    with pytest.raises(ConfigError, match="is there already"):
        reference.write_state(str(tmp_path), state)


def test_the_bpd_of_a_checkpoint_that_the_original_wrote():
    model = VDM.from_config(VARIANT_A)
    params = reference.read_model(
        str(shared_path("golden", "legacy_checkpoint", "checkpoints-0")), expected_state(VARIANT_A).params
    ).ema_params
    with np.load(shared_path("golden", "A", "inputs.npz")) as stored:
        given = {name: jnp.asarray(array) for name, array in stored.items()}
    noise = Noise(eps_0=given["eps_0"], t=diffusion.spread_times(given["u0"], 4), eps=given["eps"])
    losses = jax.jit(model.losses)(params, given["images"], given["conditioning"], noise)
    expected = json.loads(shared_path("golden", "legacy_checkpoint", "expected_eval.json").read_text())["ema_params"]
    bpd = likelihood.nats_to_bpd(losses.total.mean(), 3072)
    np.testing.assert_allclose(bpd, expected["bpd"], rtol=3e-5)
    np.testing.assert_allclose(bpd, 15.782998, rtol=3e-5)


def test_the_original_s_own_file_comes_back_byte_for_byte(tmp_path):
    source = shared_path("golden", "legacy_checkpoint", "checkpoints-0")
    reference.write_state(str(tmp_path / "out"), reference.read_state(str(source), expected_state(VARIANT_A)))
    assert (tmp_path / "out" / "ckpt-1.flax").read_bytes() == (source / "ckpt-2.flax").read_bytes()
    for suffix in ("index", "data-00000-of-00001"):
        assert (tmp_path / "out" / f"ckpt-1.{suffix}").read_bytes() == (source / f"ckpt-1.{suffix}").read_bytes()
