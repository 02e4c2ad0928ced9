"""The training step: a pure function of the state and a batch of images; no input or output."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from vdm_lib.augment import augment
from vdm_lib.compiler import is_cpu, is_one_cpu, training_options
from vdm_lib.config import Config
from vdm_lib.labels import withhold_labels
from vdm_lib.layers import stack_layers, unstack_layers
from vdm_lib.likelihood import nats_to_bpd
from vdm_lib.microbatches import mean_over_parts
from vdm_lib.model import VDM, Losses, Noise, loops_over_layers
from vdm_lib.optim import make_optimizer
from vdm_lib.sharding import check_divisible, mean_over_devices, replicated, split_by_image, state_shardings
from vdm_lib.state import TrainState, create_state
from vdm_lib.types import Images, Labels, Metrics, Params
from vdm_lib.update import compile_update_by_layer, update_step

GradientStep = Callable[..., tuple[Params, Metrics]]
TrainStep = Callable[..., tuple[TrainState, Metrics]]

# The key of the labels that are withheld is none of those that the key of a step is split into.
_LABELS = 2**31 - 1


def bpd_terms(losses: Losses, num_dims: int) -> Metrics:
    """Return bpd, its three parts and its square, each the mean over the images of a batch."""
    recon, latent, diff = (nats_to_bpd(jnp.mean(term), num_dims) for term in losses)
    square = jnp.mean(jnp.square(nats_to_bpd(jax.lax.stop_gradient(losses.total), num_dims)))
    bpd = recon + latent + diff
    return {"bpd": bpd, "bpd_recon": recon, "bpd_latent": latent, "bpd_diff": diff, "bpd_square": square}


def _create(config: Config, seed: Any) -> TrainState:
    optimizer = make_optimizer(config.optim, config.train.steps)
    return create_state(VDM.from_config(config), optimizer, jax.random.key(seed))


@cache  # asked for several times at a start, each of which would trace for a second
def _stored_shapes(config: Config) -> TrainState:
    return jax.eval_shape(lambda: _create(config, np.uint32(0)))


@cache
def abstract_state(config: Config, mesh: Mesh) -> TrainState:
    """Return the shapes, types and shardings of the state of an experiment as it is stored; no array is made."""
    return _placed(_stored_shapes(config), config, mesh)


@cache
def abstract_trained_state(config: Config, mesh: Mesh) -> TrainState:
    """Return what `abstract_state` does of the state as it is trained."""
    stored = abstract_state(config, mesh)
    return _placed(jax.eval_shape(stack_layers, stored), config, mesh) if loops_over_layers(config.model) else stored


def _placed(shapes: TrainState, config: Config, mesh: Mesh) -> TrainState:
    shardings = state_shardings(shapes, mesh, config.train.shard)
    return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shapes, shardings)


def as_trained(stored: TrainState, config: Config, mesh: Mesh) -> TrainState:
    """Return a state in the form that the step takes: with its layers stacked where it loops over them.

    Both are in memory at once until the caller lets go of the first; where nothing is looped over they are the same.
    """
    if not loops_over_layers(config.model):
        return stored
    return _put(stack_layers(stored), abstract_trained_state(config, mesh))


def as_stored(trained: TrainState, config: Config, mesh: Mesh) -> TrainState:
    """Return the state that `as_trained` made this one of: what checkpoints hold does not depend on the machine."""
    if not loops_over_layers(config.model):
        return trained
    return _put(unstack_layers(trained), abstract_state(config, mesh))


def _put(state: TrainState, like: TrainState) -> TrainState:
    return jax.tree.map(lambda leaf, at: jax.device_put(leaf, at.sharding), state, like)


def init_state(config: Config, mesh: Mesh) -> TrainState:
    """Return the state before the first update as it is stored, made under jit straight into its shardings."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, mesh))
    # The seed is an argument, so that the compiler does not draw the parameters while it folds constants.
    return jax.jit(lambda seed: _create(config, seed), out_shardings=shardings)(np.uint32(config.train.seed))


def gradient_step(config: Config, mesh: Mesh) -> GradientStep:
    """Return the first half of a step, (state, images) -> (gradient, metrics), to be called under jit.

    The state is one `as_trained`; with model.num_classes labels follow the images. Everything random in step n is a
    function of (train.seed, n). The metrics are of the parameters of the state, with dropout: bpd, its parts and its
    variance over images with their times and noise, gamma_0, gamma_1.

    Raises:
      MachineError: the devices cannot share the batch evenly.
    """
    check_divisible(config.train.batch_size, mesh, "train.batch_size", config.train.microbatches)
    model = VDM.for_training(config)

    def step(state: TrainState, images: Images, labels: Labels | None = None) -> tuple[Params, Metrics]:
        assert (labels is not None) == (config.model.num_classes > 0)
        # The key of the initial parameters is the root itself, never folded in with a step.
        key = jax.random.fold_in(jax.random.key(config.train.seed), state.step)
        key_augment, key_noise, key_dropout = jax.random.split(key, 3)
        num_images = images.shape[0]
        images, conditioning = augment(key_augment, images, config.data.augmentation)
        if labels is not None:
            labels = withhold_labels(jax.random.fold_in(key, _LABELS), labels, config.model)
        # Drawn for the whole batch, each image with its own, so that no way of dividing it changes anything.
        batch = (images, conditioning, labels, model.draw_noise(key_noise, num_images), jnp.arange(num_images))

        def loss(params: Params, batch: tuple[Any, Any, Any, Noise, Any]) -> tuple[Float[Array, ""], Metrics]:
            images, conditioning, labels, noise, order = batch
            dropout_keys = jax.vmap(lambda i: jax.random.fold_in(key_dropout, i))(order)
            losses = model.losses(params, images, conditioning, noise, dropout_keys, labels)
            terms = bpd_terms(losses, config.data.num_dims)
            return terms["bpd"], terms

        gradient_and_terms = jax.grad(loss, has_aux=True)

        def of_device(params: Params, batch: Any) -> tuple[Params, Metrics]:
            return mean_over_parts(
                lambda part: gradient_and_terms(params, part), batch, config.train.microbatches, unrolled=is_cpu(mesh)
            )

        gradient, metrics = mean_over_devices(of_device, state.params, batch, mesh)
        shardings = state_shardings(state, mesh, config.train.shard)
        gradient = jax.lax.with_sharding_constraint(gradient, shardings.ema_params)
        # Not of each part of the batch: between parts the mean differs too.
        metrics["var_bpd"] = metrics.pop("bpd_square") - jnp.square(metrics["bpd"])
        metrics |= {f"gamma_{t}": model.gamma(state.params, jnp.asarray(float(t))) for t in (0, 1)}
        return gradient, metrics

    return step


def train_step(config: Config, mesh: Mesh) -> TrainStep:
    """Return the step (state, images) -> (state, metrics) of both halves, to be called under jit.

    Raises:
      MachineError: the devices cannot share the batch evenly.
    """
    gradient_of, update = gradient_step(config, mesh), update_step(config)

    def step(state: TrainState, images: Images, labels: Labels | None = None) -> tuple[TrainState, Metrics]:
        return update(state, *gradient_of(state, images, labels))

    return step


def make_train_step(config: Config, mesh: Mesh) -> Any:
    """Return the step of `train_step` under jit; the state's buffers are donated.

    On one CPU it is a program for the gradient and some for the update (`vdm_lib/update.py`), elsewhere one program.

    Raises:
      MachineError: the devices cannot share the batch evenly.
    """
    jit = partial(jax.jit, compiler_options=training_options(mesh))
    if is_one_cpu(mesh):
        gradient_of = jit(gradient_step(config, mesh))
        update = compile_update_by_layer(config, mesh, abstract_trained_state(config, mesh)).step
        return lambda state, *batch: update(state, *gradient_of(state, *batch))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_trained_state(config, mesh))
    inputs = [split_by_image(mesh)] * (2 if config.model.num_classes else 1)
    return jit(
        train_step(config, mesh),
        in_shardings=(shardings, *inputs),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
