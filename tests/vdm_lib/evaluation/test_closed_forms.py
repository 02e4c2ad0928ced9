import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit, logsumexp

from vdm_lib.evaluation.closed_forms import encoded_levels, per_image, prior_table, recon_table


@pytest.mark.parametrize("num_levels", [2, 17, 256])
@pytest.mark.parametrize("gamma_0", [-20.0, -13.3, -6.0, 0.0])
def test_reconstruction_against_adaptive_quadrature(num_levels, gamma_0):
    table = recon_table(gamma_0, num_levels)
    values, scale = encoded_levels(num_levels), np.exp(0.5 * gamma_0)
    assert table.shape == (num_levels,)
    for level in (0, num_levels // 2):

        def integrand(eps, level=level):
            logits = -0.5 * ((values[level] + scale * eps - values) / scale) ** 2
            return (logsumexp(logits) - logits[level]) * np.exp(-0.5 * eps**2) / np.sqrt(2 * np.pi)

        expected = sum(quad(integrand, a, a + 1, epsabs=1e-11)[0] for a in range(-9, 9))
        assert table[level] == pytest.approx(expected, rel=1e-7, abs=1e-9)
    np.testing.assert_allclose(table, table[::-1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gamma_1", [-1.0, 5.0, 20.0])
def test_prior_is_the_divergence_between_gaussians(gamma_1):
    variance = expit(gamma_1)
    mean = np.sqrt(expit(-gamma_1)) * encoded_levels(17)
    expected = -0.5 * np.log(variance) + (variance + mean**2 - 1.0) / 2.0
    np.testing.assert_allclose(prior_table(gamma_1, 17), expected, rtol=1e-6, atol=1e-15)


def test_an_image_is_the_sum_of_its_entries():
    images = np.array([[[[0], [1]]], [[[2], [2]]]], np.uint8)
    np.testing.assert_array_equal(per_image(np.array([1.0, 10.0, 100.0]), images), [11.0, 200.0])
