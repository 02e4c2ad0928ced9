"""How near a set of samples is to a set of images: distances between features, and to nearest neighbours.

With features x_i of samples and y_j of images, in d dimensions, of means m and covariances C:

    (1)  FID = |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2))                      (Heusel et al., arXiv 1706.08500)
    (2)  KID = unbiased squared MMD with the kernel k(a, b) = (a.b / d + 1)^3          (Binkowski et al., 1801.01401)
    (3)  precision = share of x_i inside the manifold of y, recall the other way, where the manifold of a set is all
         that is as near to one of its points as that one's third nearest neighbour    (Kynkaanniemi et al., 1904.06991)

Everything is float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Features = Float[np.ndarray, "_ d"]

# Pairs of points whose distances are held at once.
_MOST_PAIRS = 4_000_000


@dataclass(frozen=True)
class Measured:
    """A number and its standard error."""

    value: float
    stderr: float


def fid(x: Features, y: Features) -> float:
    """Return the distance of the normals of the features, Eq. (1); it is biased upwards by few samples."""
    mean, covariance = zip(*((each.mean(axis=0), np.cov(each, rowvar=False, ddof=1)) for each in (x, y)), strict=True)
    covariance = tuple(np.atleast_2d(each) for each in covariance)
    root = _root(covariance[0])
    # The eigenvalues of C_x C_y are those of a symmetric matrix.
    eigenvalues = np.linalg.eigvalsh(root @ covariance[1] @ root)
    cross = np.sqrt(np.maximum(eigenvalues, 0.0)).sum()
    return float(np.square(mean[0] - mean[1]).sum() + np.trace(covariance[0]) + np.trace(covariance[1]) - 2.0 * cross)


def _root(matrix: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def fid_with_error(x: Features, y: Features, rng: np.random.Generator, resamplings: int = 20) -> Measured:
    """Return FID with the deviation over bootstrap samples of both sets."""
    drawn = [
        fid(x[rng.integers(len(x), size=len(x))], y[rng.integers(len(y), size=len(y))]) for _ in range(resamplings)
    ]
    return Measured(fid(x, y), float(np.std(drawn, ddof=1)))


def kid(x: Features, y: Features) -> float:
    """Return the unbiased squared MMD, Eq. (2); it is around zero, below it as well, where both sets are alike."""
    dims = x.shape[1]

    def kernel(a: Features, b: Features) -> np.ndarray:
        return (a @ b.T / dims + 1.0) ** 3

    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(x, x), kernel(y, y))]
    return float(sum(within) - 2.0 * kernel(x, y).mean())


def kid_with_error(
    x: Features, y: Features, rng: np.random.Generator, subsets: int = 100, size: int = 1000
) -> Measured:
    """Return the mean KID of random subsets of at most `size`, and the deviation of the mean over them."""
    size = min(size, len(x), len(y))
    drawn = [
        kid(x[rng.choice(len(x), size, replace=False)], y[rng.choice(len(y), size, replace=False)])
        for _ in range(subsets)
    ]
    return Measured(float(np.mean(drawn)), float(np.std(drawn, ddof=1) / subsets**0.5))


def precision_recall(x: Features, y: Features, neighbours: int = 3) -> tuple[Measured, Measured]:
    """Return precision and recall of samples x against images y, Eq. (3), with the errors of shares."""
    return _covered(x, y, neighbours), _covered(y, x, neighbours)


def _covered(points: Features, manifold: Features, neighbours: int) -> Measured:
    """Return the share of points inside the manifold."""
    # A point is its own nearest neighbour.
    radii = np.concatenate([np.partition(d, neighbours, axis=1)[:, neighbours] for d in _squared(manifold, manifold)])
    inside = np.concatenate([(d <= radii).any(axis=1) for d in _squared(points, manifold)])
    return share(inside)


def share(yes: np.ndarray) -> Measured:
    """Return the share of what is true, [n], and the deviation of what is known of it.

    It is that of the Beta distribution which n answers, k of them true, leave of a uniform one:
    sqrt((k + 1) (n - k + 1) / (n + 3)) / (n + 2). For large n that is the binomial error, but it is never 0.
    """
    n, k = len(yes), int(yes.sum())
    return Measured(k / n, ((k + 1) * (n - k + 1) / (n + 3)) ** 0.5 / (n + 2))


def nearest(points: Features, others: Features) -> tuple[Float[np.ndarray, " _"], np.ndarray]:
    """Return for each point the root mean squared distance to its nearest one of the others, and which that is."""
    found = [(d.min(axis=1), d.argmin(axis=1)) for d in _squared(points, others)]
    squared, which = (np.concatenate(each) for each in zip(*found, strict=True))
    return np.sqrt(squared / points.shape[1]), which


def _squared(points: Features, others: Features) -> Iterator[Float[np.ndarray, "_ _"]]:
    """Yield squared distances of some points at a time to all others; exactly zero between equal ones of integers."""
    rows = max(1, _MOST_PAIRS // len(others))
    lengths = np.square(others).sum(axis=1)
    for start in range(0, len(points), rows):
        some = points[start : start + rows]
        yield np.maximum(np.square(some).sum(axis=1)[:, np.newaxis] + lengths - 2.0 * some @ others.T, 0.0)
