import numpy as np
from scipy import stats

from beam_jobs.sources.swirl import DEVIATION, NUM_LEVELS, Swirl, on_spiral


def probabilities() -> np.ndarray:
    """The probability of every place (x, y) of the plane: normals around the spiral, integrated over it."""
    centres = on_spiral((np.arange(20_000) + 0.5) / 20_000)
    edges = np.linspace(-1.0, 1.0, NUM_LEVELS + 1)
    edges[[0, -1]] = -np.inf, np.inf
    x, y = (np.diff(stats.norm.cdf((edges - centre[:, None]) / DEVIATION), axis=1) for centre in centres.T)
    return x.T @ y / len(centres)


def entropy_bpd() -> float:
    """Bits per dimension that no model can be below on average."""
    p = probabilities()
    return float(-np.sum(p * np.log2(np.where(p > 0, p, 1.0))) / 2)


def test_the_points_are_of_the_stated_density():
    swirl = Swirl()
    points = np.stack([record.image.reshape(2) for record in swirl.read("train", 0, swirl.splits["train"])])
    # In 16 x 16 fields of which each expects at least five points; a right draw fails once in 10,000 seeds.
    expected = probabilities().reshape(16, 16, 16, 16).sum(axis=(1, 3)) * len(points)
    found = np.zeros((16, 16))
    np.add.at(found, tuple(points.T // 16), 1)
    many = expected >= 5
    pairs = [np.append(table[many], table[~many].sum()) for table in (found, expected)]
    assert stats.chisquare(*pairs).pvalue > 1e-4


def test_any_range_gives_the_same_points_and_the_splits_are_not_the_same():
    swirl = Swirl()
    whole = [record.image.tolist() for record in swirl.read("test", 0, 50)]
    assert [record.image.tolist() for record in swirl.read("test", 20, 30)] == whole[20:30]
    assert [record.image.tolist() for record in swirl.read("train", 0, 50)] != whole
    assert [record.index for record in swirl.read("test", 20, 23)] == [20, 21, 22]
