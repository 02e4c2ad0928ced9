"""The training step: a pure function of the state and a batch of images; no input or output."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from vdm_lib.augment import augment
from vdm_lib.config import Config
from vdm_lib.likelihood import nats_to_bpd
from vdm_lib.model import VDM, Losses
from vdm_lib.optim import global_norm, learning_rate_schedule, make_optimizer, update_ema
from vdm_lib.sharding import check_divisible, replicated, split_by_image
from vdm_lib.state import TrainState, create_state
from vdm_lib.types import Params

Metrics = dict[str, Float[Array, ""]]
TrainStep = Callable[[TrainState, UInt8[Array, "b h w c"]], tuple[TrainState, Metrics]]


def bpd_terms(losses: Losses, num_dims: int) -> Metrics:
    """Return bpd and its three parts, each the mean over the images of a batch."""
    recon, latent, diff = (nats_to_bpd(jnp.mean(term), num_dims) for term in losses)
    return {"bpd": recon + latent + diff, "bpd_recon": recon, "bpd_latent": latent, "bpd_diff": diff}


def init_state(config: Config, mesh: Mesh) -> TrainState:
    """Return the state before the first update, made under jit straight onto the devices of the mesh."""
    optimizer = make_optimizer(config.optim, config.train.steps)
    model = VDM.from_config(config)
    init = jax.jit(lambda key: create_state(model, optimizer, key), out_shardings=replicated(mesh))
    return init(jax.random.key(config.train.seed))


def make_train_step(config: Config, mesh: Mesh) -> TrainStep:
    """Return the compiled step (state, images) -> (state, metrics); the state's buffers are donated.

    Everything random in step n is a function of (train.seed, n). The metrics are of the parameters before the
    update, with dropout: bpd and its parts, gamma_0, gamma_1, gradient and update norms, learning rate.

    Raises:
      ConfigError: the devices cannot share the batch evenly.
    """
    check_divisible(config.train.batch_size, mesh, "train.batch_size")
    model = VDM.from_config(config)
    optimizer = make_optimizer(config.optim, config.train.steps)
    learning_rate = learning_rate_schedule(config.optim, config.train.steps)

    def step(state: TrainState, images: UInt8[Array, "b h w c"]) -> tuple[TrainState, Metrics]:
        # The key of the initial parameters is the root itself, never folded in with a step.
        key = jax.random.fold_in(jax.random.key(config.train.seed), state.step)
        key_augment, key_noise, key_dropout = jax.random.split(key, 3)
        images, conditioning = augment(key_augment, images, config.data.augmentation)
        noise = model.draw_noise(key_noise, images.shape[0])

        def loss(params: Params) -> tuple[Float[Array, ""], Metrics]:
            terms = bpd_terms(model.losses(params, images, conditioning, noise, key_dropout), config.data.num_dims)
            return terms["bpd"], terms

        gradient, metrics = jax.grad(loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics |= {
            "gamma_0": model.gamma(state.params, jnp.asarray(0.0)),
            "gamma_1": model.gamma(state.params, jnp.asarray(1.0)),
            "gradient_norm": global_norm(gradient),
            "update_norm": global_norm(updates),
            "learning_rate": jnp.asarray(learning_rate(state.step)),
        }
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            ema_params=update_ema(state.ema_params, params, config.optim.ema_rate),
            opt_state=opt_state,
        )
        return new_state, metrics

    everywhere = replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(everywhere, split_by_image(mesh)),
        out_shardings=(everywhere, everywhere),
        donate_argnums=0,
    )
