"""Class-conditional models in closed form: one normal for each class, and one for no class, all of one variance."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.known_answers.models import GaussianVDM, gaussian
from vdm_lib import sampling
from vdm_lib.evaluation.bound import make_bound
from vdm_lib.evaluation.importance_weighted import ImportanceWeighted
from vdm_lib.evaluation.ode import OdeLikelihood
from vdm_lib.labels import no_labels
from vdm_lib.samplers.sampler import Sampler

KNOWN = gaussian(12)
PLAIN, PARAMS = KNOWN.model, KNOWN.params
CLASSES = 3
STEPS = 8
# The last is that of no class.
MEANS = PARAMS["mean"] + jnp.asarray([0.0, -0.3, 0.2, 0.1]).reshape(-1, 1, 1, 1)


@dataclass(frozen=True)
class ClassesVDM(GaussianVDM):
    """GaussianVDM whose mean goes by the label."""

    def eps_hat(self, params, z_t, gamma_t, conditioning, dropout_key=None, labels=None):
        labels = no_labels(self.model, z_t.shape[0]) if labels is None else labels
        return super().eps_hat({**params, "mean": params["means"][labels]}, z_t, gamma_t, conditioning)


MODEL = ClassesVDM(data=PLAIN.data, model=replace(PLAIN.model, num_classes=CLASSES, label_dropout=0.1))
LABELS = np.arange(12, dtype=np.int32) % CLASSES


def plain(mean):
    return {**PARAMS, "mean": mean}


@partial(jax.jit, static_argnums=(0, 1))
def latents(model, sampler, params, labels):
    z_1, key_steps = sampling.start(MODEL, jax.random.key(0), 12)
    return sampling.denoise(model, params, sampler, z_1, key_steps, STEPS, labels)


@pytest.mark.parametrize("solver", ["ancestral", "ddim", "dpm", "dpm_sde"])
@pytest.mark.parametrize("guidance", [-1.0, 0.0, 1.5])
def test_guidance_is_in_closed_form(solver, guidance):
    """Guided normals of one variance are a normal whose mean is (1 + w) that of the class - w that of no class."""
    params = {**PARAMS, "means": MEANS}
    found = latents(MODEL, Sampler(solver, guidance=guidance), params, jnp.asarray(LABELS))
    for label in range(CLASSES):
        mine = np.equal(LABELS, label)
        mean = (1.0 + guidance) * MEANS[label] - guidance * MEANS[CLASSES]
        expected = latents(PLAIN, Sampler(solver), plain(mean), None)
        np.testing.assert_allclose(found[mine], expected[mine], atol=2e-5)


@pytest.mark.parametrize("solver", ["ancestral", "ddim", "dpm", "dpm_sde"])
def test_an_image_depends_on_its_own_class_alone(solver):
    params = {**PARAMS, "means": MEANS}

    def draw(labels):
        images = jax.jit(
            lambda labels: sampling.sample(
                MODEL, params, jax.random.key(2), len(labels), STEPS, Sampler(solver, guidance=1.0), labels
            )
        )
        return np.asarray(images(jnp.asarray(labels, jnp.int32)))

    many = draw([0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(draw([0, 1, 2]), many[:3])
    other = draw([0, 2, 2])
    np.testing.assert_array_equal(other[[0, 2]], many[[0, 2]])
    assert np.any(other[1] != many[1])


def test_without_a_label_the_model_is_that_of_no_class():
    expected = latents(PLAIN, Sampler("dpm"), plain(MEANS[CLASSES]), None)
    found = latents(MODEL, Sampler("dpm"), {**PARAMS, "means": MEANS}, None)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def ode(model):
    return OdeLikelihood(model, steps=5, tolerance=1e-3, trace="rademacher", dequantisation="decoder", samples=1)


@pytest.mark.parametrize("at_once", [pytest.param(0, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("estimator", ["bound", "importance_weighted", "ode"])
def test_every_estimator_tells_each_image_its_own_label(estimator, told, at_once):
    """Each image has the bpd that the model of its class alone gives it, under the same noise."""

    def nats(model, params, labels):
        runner = replace(KNOWN.runner(), params=params, labels=labels, at_once=at_once)
        if estimator == "bound":
            return make_bound(model, runner, 0, "uniform").one_pass(0).estimates
        model = replace(model, model=replace(model.model, timesteps=3))
        estimate = ImportanceWeighted(model, 2) if estimator == "importance_weighted" else ode(model)
        return runner(estimate, np.zeros(12, np.float32), jax.random.key(0))

    found = nats(MODEL, {**PARAMS, "means": MEANS}, LABELS if told else None)
    for label in range(CLASSES):
        mine = np.equal(LABELS, label)
        expected = nats(PLAIN, plain(MEANS[label if told else CLASSES]), None)
        np.testing.assert_allclose(found[mine], expected[mine], rtol=2e-4)
