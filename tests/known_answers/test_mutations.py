"""The suite can fail: each mistake that was made in published code makes one of its checks fail."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from tests.known_answers.checks import check_bound, check_chain, check_ode, few
from tests.known_answers.models import gaussian
from vdm_lib import diffusion, likelihood
from vdm_lib.evaluation import bound, importance_weighted, level_control, linear_control, ode, passes, time_density
from vdm_lib.evaluation.time_density import TimeDensity

# Few levels, so that a bin is wide.
KNOWN = gaussian(num_levels=8)


@pytest.fixture(autouse=True)
def compiled_anew():
    passes._compiled.cache_clear()
    yield
    passes._compiled.cache_clear()


def wrong_sign(monkeypatch):
    right = diffusion.q_sample
    monkeypatch.setattr(diffusion, "q_sample", lambda x, eps, gamma_t: right(x, -eps, gamma_t))


def shifted_bin(monkeypatch):
    right = likelihood.encode
    for module in (bound, likelihood):
        monkeypatch.setattr(module, "encode", lambda levels, num_levels: right(levels, num_levels) + 2.0 / num_levels)


def missing_weight(monkeypatch):
    monkeypatch.setattr(TimeDensity, "at", lambda self, times: np.ones(times.shape))


def positions_off_the_lower_half(monkeypatch):
    right = time_density.even_positions
    monkeypatch.setattr(time_density, "even_positions", lambda *args: 0.5 + 0.5 * right(*args))


def levels_without_expectation(monkeypatch):
    monkeypatch.setattr(level_control, "_between_rows", lambda table, gammas, gamma: 0.0 * table[: len(gamma)])


def linear_without_expectation(monkeypatch):
    right = linear_control.jnp.square
    monkeypatch.setattr(linear_control, "jnp", SimpleNamespace(**{**vars(jnp), "square": lambda a: 0.5 * right(a)}))


def wrong_factor(monkeypatch):
    right = diffusion.diffusion_loss_continuous
    monkeypatch.setattr(diffusion, "diffusion_loss_continuous", lambda *args: 2.0 * right(*args))


def missing_log_determinant(monkeypatch):
    right = ode.diffrax.diffeqsolve

    def without(*args, **kwargs):
        solution = right(*args, **kwargs)
        return SimpleNamespace(ys=(solution.ys[0], jnp.zeros_like(solution.ys[1])), result=solution.result)

    monkeypatch.setattr(ode, "diffrax", SimpleNamespace(**{**vars(ode.diffrax), "diffeqsolve": without}))


def missing_cross_term(monkeypatch):
    right = importance_weighted.jnp.sqrt
    monkeypatch.setattr(importance_weighted, "jnp", SimpleNamespace(**{**vars(jnp), "sqrt": lambda x: -0.5 * right(x)}))


def test_without_a_mistake_the_bound_passes():
    check_bound(KNOWN)


@pytest.mark.parametrize(
    "mistake",
    [
        wrong_sign,
        shifted_bin,
        missing_weight,
        wrong_factor,
        positions_off_the_lower_half,
        levels_without_expectation,
        linear_without_expectation,
    ],
)
def test_the_bound_fails(mistake, monkeypatch):
    mistake(monkeypatch)
    with pytest.raises(AssertionError, match="errors from"):
        check_bound(KNOWN)


@pytest.mark.parametrize("mistake", [missing_log_determinant, shifted_bin])
def test_the_ode_fails(mistake, monkeypatch):
    mistake(monkeypatch)
    with pytest.raises(AssertionError, match="errors from"):
        check_ode(few(KNOWN, 100), trace="exact", steps=30)


@pytest.mark.parametrize("mistake", [wrong_sign, missing_cross_term])
def test_the_chain_fails(mistake, monkeypatch):
    mistake(monkeypatch)
    with pytest.raises(AssertionError, match="errors from"):
        check_chain(few(KNOWN, 100).with_timesteps(12))
