"""Schedules, losses and fields, held against normal data, for which they are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.known_answers.models import GAMMA_0, GAMMA_1, GaussianVDM, gaussian, model_config
from vdm_lib.config import DataConfig
from vdm_lib.errors import ConfigError
from vdm_lib.fields import lattice, schedule, score_field
from vdm_lib.plots import draw_noise_levels, fields_figure, noise_levels_figure, schedule_figure
from vdm_lib.report import NoiseLevel

PLANE = GaussianVDM(DataConfig(name="plane", image_shape=(1, 1, 2), num_levels=256), model_config())
MEAN, VARIANCE = np.array([0.3, -0.2]), np.array([0.04, 0.25])
PARAMS = {"mean": jnp.asarray(MEAN, jnp.float32), "variance": jnp.asarray(VARIANCE, jnp.float32)}


def level(gamma_from, gamma_to, bpd):
    return NoiseLevel(
        gamma_from=gamma_from, gamma_to=gamma_to, bpd=bpd, bpd_stderr=0.1 * bpd, rate_bpd=0.0, distortion_rmse=None
    )


def test_the_schedule_is_that_of_the_model():
    times, log_snr = schedule(PLANE, PARAMS, 5)
    np.testing.assert_allclose(times, [0.0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(log_snr, np.linspace(-GAMMA_0, -GAMMA_1, 5), rtol=1e-6)
    (axes,) = schedule_figure(times, log_snr).axes
    np.testing.assert_allclose(axes.lines[0].get_xydata(), np.stack([times, log_snr], axis=1))


@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
def test_the_field_is_the_gradient_of_the_log_density(t):
    """Of normal data z_t is normal, with the mean alpha m and the variance alpha^2 v + sigma^2."""
    field = score_field(PLANE, PARAMS, t)
    assert field.places.shape == (625, 2)
    assert (field.t, field.log_snr) == (t, pytest.approx(-(GAMMA_0 + t * (GAMMA_1 - GAMMA_0))))
    alpha_2 = 1.0 / (1.0 + np.exp(-field.log_snr))
    expected = (np.sqrt(alpha_2) * MEAN - field.places) / (alpha_2 * VARIANCE + 1.0 - alpha_2)
    np.testing.assert_allclose(field.score, expected, rtol=1e-4, atol=1e-4)


def test_fields_are_drawn_where_and_as_they_are():
    places = lattice(1.0, 3)
    np.testing.assert_array_equal(np.unique(places), [-1.0, 0.0, 1.0])
    fields = [score_field(PLANE, PARAMS, t, places) for t in (0.2, 0.9)]
    noisy = [np.zeros((4, 2)), np.ones((4, 2))]
    figure = fields_figure(fields, noisy)
    assert [axes.get_title() for axes in figure.axes] == ["t = 0.2, log SNR = 2.8", "t = 0.9, log SNR = -4.9"]
    for axes, field in zip(figure.axes, fields, strict=True):
        dots, arrows = axes.collections
        assert len(dots.get_offsets()) == 4
        np.testing.assert_allclose(arrows.get_offsets(), places)
        np.testing.assert_allclose(np.hypot(arrows.U, arrows.V), 1.0, rtol=1e-5)
        np.testing.assert_allclose(arrows.U * field.score[:, 1], arrows.V * field.score[:, 0], atol=1e-4)
        # Sigma times the score is what the network estimates.
        sigma = np.sqrt(1.0 / (1.0 + np.exp(field.log_snr)))
        np.testing.assert_allclose(arrows.get_array(), sigma * np.linalg.norm(field.score, axis=1), rtol=1e-5)


def test_the_loss_against_log_snr_has_the_bpd_as_its_area():
    levels = [level(-5.0, -1.0, 0.8), level(-1.0, 1.0, 0.5), level(1.0, 6.0, 0.1)]
    (axes,) = noise_levels_figure(levels).axes
    stairs = axes.patches[0].get_data()
    np.testing.assert_allclose(stairs.edges, [5.0, 1.0, -1.0, -6.0])
    np.testing.assert_allclose(np.sum(stairs.values * -np.diff(stairs.edges)), 1.4)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ConfigError, match=r"not of \(2, 3, 1\)"):
        score_field(gaussian(1).model, gaussian(1).params, 0.5)
    with pytest.raises(ConfigError, match=r"a time lies in 0\.\.1, got 1\.5"):
        score_field(PLANE, PARAMS, 1.5)
    with pytest.raises(ConfigError, match="knows no classes"):
        score_field(PLANE, PARAMS, 0.5, label=1)
    with pytest.raises(ConfigError, match="0 fields"):
        fields_figure([])
    with pytest.raises(ConfigError, match="measured none"):
        draw_noise_levels(None, [])  # pyright: ignore[reportArgumentType]
