"""Agreement with numbers that the original implementation gave; tests/golden/README.md says what they are."""

import gzip
import json
import math
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

import configs
from vdm_lib import diffusion, likelihood, optim
from vdm_lib.config import DataConfig, ModelConfig, OptimConfig
from vdm_lib.model import VDM, Noise, count_params
from vdm_lib.unet import fourier_features, time_embedding

# Largest deviation, as a share of the largest value of the array.
TOLERANCE = 3e-5
TOLERANCE_GAMMA_GRADIENT = 1.3e-3  # sums that cancel
TOLERANCE_PRIOR = 1e-3  # v - log v - 1 for v close to 1

GOLDEN = Path(__file__).parents[1] / "golden"
DATA = DataConfig(name="golden", image_shape=(32, 32, 3))
MODEL_C = ModelConfig(n_embd=64, n_layer=3, with_fourier_features=False, gamma_type="fixed", timesteps=10, dropout=0.1)
MODEL_D = ModelConfig(n_embd=64, n_layer=1, with_attention=True, gamma_type="learnable_nnet", dropout=0.1)
VDM_D = VDM(data=DATA, model=MODEL_D)


def load(name):
    with np.load(GOLDEN / name) as arrays:
        return {key: arrays[key] for key in arrays.files}


def load_params():
    stored = load("d_params.npz")
    flat = np.ascontiguousarray(stored["planes"].T).reshape(-1).view(np.float32)
    shapes = [tuple(json.loads(str(shape))) for shape in stored["shapes"]]
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    leaves = np.split(flat, ends[:-1])
    tree = {
        tuple(str(name).split("/")): jnp.asarray(leaf.reshape(shape))
        for name, leaf, shape in zip(stored["names"], leaves, shapes, strict=True)
    }
    return unflatten_dict(tree)["params"]


C = load("c_values.npz")
D = load("d_values.npz")
PARAMS = load_params()


def assert_agrees(actual, expected, tolerance=TOLERANCE):
    expected = np.asarray(expected, np.float64)
    actual = np.asarray(actual, np.float64).reshape(expected.shape)
    np.testing.assert_allclose(actual, expected, rtol=0.0, atol=tolerance * max(np.abs(expected).max(), 1e-9))


def given(stored, name):
    return jnp.asarray(stored[f"in/{name}"])


def given_noise(stored, offset, shift=0):
    eps_0, eps = (jnp.roll(given(stored, name), shift, axis=0) for name in ("eps_0", "eps"))
    return Noise(eps_0=eps_0, t=diffusion.spread_times(jnp.asarray(offset), 4), eps=eps)


@jax.jit
def loss_and_gradient(params, images, noise):
    def mean_bpd(params):
        losses = VDM_D.losses(params, images, given(D, "conditioning"), noise)
        return likelihood.nats_to_bpd(losses.total.mean(), DATA.num_dims), losses

    return jax.value_and_grad(mean_bpd, has_aux=True)(params)


@pytest.fixture(scope="module")
def evaluated_d():
    (bpd, losses), gradient = loss_and_gradient(PARAMS, given(D, "images"), given_noise(D, D["in/u0"]))
    return bpd, losses, flatten_dict(gradient, sep="/")


@pytest.fixture(scope="module")
def eps_hat_d():
    return jax.jit(VDM_D.eps_hat)


def test_schedule_d():
    gamma, slope = VDM_D.gamma_and_slope(PARAMS, given(D, "t_grid"))
    assert_agrees(gamma, D["gamma"])
    assert_agrees(slope, D["gamma_dt"])
    ends = VDM_D.gamma(PARAMS, jnp.asarray([0.0, 1.0]))
    assert_agrees(ends[0], D["gamma_0"])
    assert_agrees(ends[1], D["gamma_1"])
    assert_agrees(diffusion.sigma(ends) ** 2, np.concatenate([D["var_0"], D["var_1"]]).reshape(-1))


def test_schedule_c():
    gamma, slope = VDM(data=DATA, model=MODEL_C).gamma_and_slope({}, given(C, "t_grid"))
    assert_agrees(gamma, C["gamma"])
    assert_agrees(slope, C["gamma_dt"])


def test_time_embedding():
    assert_agrees(time_embedding(given(D, "temb_t"), 64), D["temb_64"])


def test_fourier_features():
    crop = fourier_features(given(D, "score_z"), (6, 7))
    images, height, width, _ = D["fourier_of_score_z_crop"].shape
    assert_agrees(crop[:images, :height, :width], D["fourier_of_score_z_crop"][: len(crop)])


def test_score_network(eps_hat_d):
    eps_hat = eps_hat_d(PARAMS, given(D, "score_z"), given(D, "score_g")[:2], given(D, "conditioning")[:2])
    assert_agrees(eps_hat, D["score_eps_hat"])


def test_encode():
    np.testing.assert_array_equal(likelihood.encode(given(D, "images")[:1], 256), D["encode"])


def test_decode():
    gamma_0 = VDM_D.gamma(PARAMS, jnp.asarray(0.0))
    assert_agrees(likelihood.decode(given(D, "z_0_rescaled_crop"), gamma_0, 256), D["decode_logprobs_crop"])


def test_most_likely_levels():
    levels = likelihood.most_likely_levels(given(D, "decode_z_wide"), 256)
    np.testing.assert_array_equal(levels, D["decode_wide_argmax"])


def test_generated_levels():
    gamma_0 = VDM_D.gamma(PARAMS, jnp.asarray(0.0))
    levels = likelihood.most_likely_levels(given(D, "gen_z0") / diffusion.alpha(gamma_0), 256)
    np.testing.assert_array_equal(levels, D["generate_x"])


def test_log_prob():
    gamma_0 = VDM_D.gamma(PARAMS, jnp.asarray(0.0))
    images = given(D, "images")
    z_0_rescaled = likelihood.encode(images, 256) + jnp.exp(0.5 * gamma_0) * given(D, "eps_0")
    assert_agrees(likelihood.log_prob(images, z_0_rescaled, gamma_0, 256), D["logprob"])


def assert_losses_agree(losses, stored):
    assert_agrees(losses.recon, stored["loss_recon"])
    assert_agrees(losses.latent, stored["loss_klz"], TOLERANCE_PRIOR)
    assert_agrees(losses.diff, stored["loss_diff"])
    for loss, name in ((losses.recon, "recon"), (losses.diff, "diff")):
        assert_agrees(likelihood.nats_to_bpd(loss.mean(), DATA.num_dims), stored[f"bpd_{name}"])
    bpd_latent = likelihood.nats_to_bpd(losses.latent.mean(), DATA.num_dims)
    assert_agrees(bpd_latent, stored["bpd_latent"], TOLERANCE_PRIOR)
    assert_agrees(likelihood.nats_to_bpd(losses.total.mean(), DATA.num_dims), stored["bpd"])


def test_losses_in_continuous_time(evaluated_d):
    bpd, losses, _ = evaluated_d
    assert_losses_agree(losses, D)
    assert_agrees(bpd, D["bpd"])


@dataclass(frozen=True, eq=False)
class GivenNetwork(VDM):
    """A model whose network answers what the original's network answered."""

    def eps_hat(self, params, z_t, gamma_t, conditioning, dropout_key=None):
        assert_agrees(gamma_t, C["g_t"])
        assert_agrees(z_t[:1], C["z_t"])
        return jnp.asarray(C["eps_hat"])


def test_losses_in_ten_steps():
    model = GivenNetwork(data=DATA, model=MODEL_C)
    noise = given_noise(C, C["in/u0"])
    assert_agrees(noise.t, C["t_before_ceil"])
    assert_agrees(diffusion.discretise_times(noise.t, 10), C["t"])
    assert_losses_agree(model.losses({}, given(C, "images"), given(C, "conditioning"), noise), C)


GRADIENT_LEAVES = sorted(key.removeprefix("grad/params/") for key in D if key.startswith("grad/"))


@pytest.mark.parametrize("leaf", GRADIENT_LEAVES)
def test_gradient(evaluated_d, leaf):
    tolerance = TOLERANCE_GAMMA_GRADIENT if leaf.startswith("gamma/") else TOLERANCE
    assert_agrees(evaluated_d[2][leaf], D[f"grad/params/{leaf}"], tolerance)


def test_gradient_norm(evaluated_d):
    # The gradient of gamma is part of the norm, so its tolerance holds.
    assert_agrees(optim.global_norm(evaluated_d[2]), D["grad_global_norm"], TOLERANCE_GAMMA_GRADIENT)


@pytest.mark.parametrize("i", [0, 500, 999])
def test_reverse_step(eps_hat_d, i):
    gamma_s, gamma_t = VDM_D.gamma(PARAMS, jnp.asarray([(999 - i) / 1000, (1000 - i) / 1000]))
    z_t = given(D, "step_z")
    eps_hat = eps_hat_d(PARAMS, z_t, gamma_t[None], given(D, "conditioning")[:1])
    z_s = diffusion.p_sample(z_t, eps_hat, given(D, "step_eps"), gamma_s, gamma_t)
    assert_agrees(z_s, D[f"step_i{i}_of_1000"])


@pytest.mark.parametrize(
    ("lr_decay", "name"),
    [(False, "warmup100_lr2e-4_no_decay"), (True, "warmup100_lr2e-4_decay_to_1000")],
)
def test_learning_rates(lr_decay, name):
    stored = load("lr_schedules.npz")
    schedule = optim.learning_rate_schedule(OptimConfig(lr_decay=lr_decay), 1000)
    assert_agrees([schedule(int(step)) for step in stored["steps"]], stored[name])


def test_decay_mask():
    expected = json.loads((GOLDEN / "d_decay_mask.json").read_text())
    assert flatten_dict(optim.decay_mask(PARAMS), sep="/") == expected


TREES = json.loads(gzip.decompress((GOLDEN / "param_trees.json.gz").read_bytes()))


@pytest.mark.parametrize("name", sorted(TREES))
def test_parameter_tree(name):
    shapes = jax.eval_shape(VDM.from_config(configs.load(name)).init, jax.random.key(0))
    assert {path: list(leaf.shape) for path, leaf in flatten_dict(shapes, sep="/").items()} == TREES[name]
    assert count_params(shapes) == sum(math.prod(shape) for shape in TREES[name].values())


def test_optimiser_trajectory():
    config = OptimConfig(learning_rate=1e-2, warmup_steps=2, ema_rate=0.9)
    optimizer = optim.make_optimizer(config, 1000)
    update = jax.jit(optimizer.update)
    params = ema = PARAMS
    opt_state = optimizer.init(params)
    for step in range(3):
        prefix = f"traj_fast/step{step}"
        noise = given_noise(D, D[f"{prefix}/u0"], shift=step)
        (bpd, _), gradient = loss_and_gradient(params, jnp.roll(given(D, "images"), step, axis=0), noise)
        assert_agrees(bpd, D[f"{prefix}/train_bpd"])
        assert_agrees(optim.learning_rate_schedule(config, 1000)(step), D[f"{prefix}/lr"])
        updates, opt_state = update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        ema = optim.update_ema(ema, params, config.ema_rate)
        if step == 0:
            jax.tree.map(np.testing.assert_array_equal, (params, ema), (PARAMS, PARAMS))
        for tree, kind in ((params, "params"), (ema, "ema")):
            flat = flatten_dict(tree, sep="/")
            start = f"{prefix}/{kind}/"
            for key in (key for key in D if key.startswith(start)):
                assert_agrees(flat[key.removeprefix(start)], D[key])
