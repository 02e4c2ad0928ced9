"""The coder on arrays, with a network that is a formula: exact both ways, and as short as theory says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import configs
from vdm_lib.compression.account import Account, joined
from vdm_lib.compression.chunk import Codec, decode_chunk, encode_chunk
from vdm_lib.compression.ladder import Ladder
from vdm_lib.compression.network import Network, calls
from vdm_lib.compression.stack import Spread, Stack, seed_words
from vdm_lib.errors import ConfigError, RecordError
from vdm_lib.model import VDM


def formula(z, gamma):
    # The best guess if every pixel were standard normal; its rounding to float32 is part of the code.
    return (z / np.sqrt(1.0 + np.exp(-gamma))).astype(np.float32)


def codec(num_steps=10, num_levels=17, bins_per_std=16, batch_size=8, first_batch=2):
    gammas = np.linspace(-6.0, 5.0, num_steps + 1)
    return Codec(Ladder.of(gammas, bins_per_std), formula, num_levels, batch_size, first_batch)


def both_ways(how, images, index=0):
    chunk = encode_chunk(how, index, images)
    assert chunk.num_images == len(images)
    return chunk, decode_chunk(how, index, chunk, images.shape[1:])


@given(
    shape=st.tuples(*(st.integers(1, n) for n in (7, 4, 4, 3))),
    num_levels=st.sampled_from([2, 3, 17, 255, 256]),
    num_steps=st.integers(1, 12),
    kind=st.sampled_from(["random", "darkest", "brightest", "extremes"]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=30, deadline=None)
def test_every_image_comes_back(shape, num_levels, num_steps, kind, seed):
    rng = np.random.default_rng(seed)
    images = {
        "random": rng.integers(0, num_levels, shape),
        "darkest": np.zeros(shape),
        "brightest": np.full(shape, num_levels - 1),
        "extremes": rng.integers(0, 2, shape) * (num_levels - 1),
    }[kind].astype(np.uint8)
    _, decoded = both_ways(codec(num_steps, num_levels, batch_size=3), images)
    np.testing.assert_array_equal(decoded, images)


def test_a_network_that_is_utterly_wrong_costs_bits_not_pixels():
    images = np.random.default_rng(0).integers(0, 17, (5, 4, 4, 1)).astype(np.uint8)
    good = codec()
    wrong = Codec(good.ladder, lambda z, gamma: np.full(z.shape, 1e4, np.float32), 17, 8, 2)
    chunk, decoded = both_ways(wrong, images)
    np.testing.assert_array_equal(decoded, images)
    assert chunk.net_bits > 10 * both_ways(good, images)[0].net_bits


@pytest.mark.parametrize("num_steps", [100, 200])
def test_the_code_is_as_long_as_the_latents_say(num_steps):
    images = np.random.default_rng(1).integers(0, 17, (60, 8, 8, 1)).astype(np.uint8)
    how = codec(num_steps, batch_size=20, first_batch=20)
    accounts = []

    def witness(batch):
        accounts.append(Account(how.ladder, batch, 17))
        return accounts[-1]

    chunk = encode_chunk(how, 0, images, witness=witness)
    ideal, _ = joined(accounts)
    assert ideal.shape == (60,)
    loss = (chunk.net_bits - ideal.sum() / np.log(2.0)) / images.size
    # Both are sums over the very same latents, so nothing here is left to chance but rounding to 32-bit words.
    assert abs(loss) < 0.003


def test_the_first_batch_alone_pays_for_the_start():
    images = np.random.default_rng(2).integers(0, 17, (120, 8, 8, 1)).astype(np.uint8)
    how = codec(num_steps=20, batch_size=40, first_batch=2)
    chunk, decoded = both_ways(how, images)
    np.testing.assert_array_equal(decoded, images)
    assert chunk.counts[0] == 2 and max(chunk.counts) > 10
    start_bits = 32 * chunk.words.size - chunk.net_bits
    assert 0 < start_bits < 20 * 2 * 64 + 200


def test_another_seed_index_or_word_is_seen():
    images = np.random.default_rng(3).integers(0, 17, (9, 4, 4, 1)).astype(np.uint8)
    how = codec()
    chunk = encode_chunk(how, 3, images)
    with pytest.raises(RecordError, match="chunk 4 does not end"):
        decode_chunk(how, 4, chunk, (4, 4, 1))
    other = Codec(how.ladder, lambda z, gamma: formula(z, gamma) + np.float32(1e-2), 17, 8, 2)
    with pytest.raises(RecordError, match="does not end"):
        decode_chunk(other, 3, chunk, (4, 4, 1))


@given(
    points=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=20),
    std_bins=st.floats(1.0, 300.0),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50, deadline=None)
def test_points_however_far_from_their_mean_are_told_exactly(points, std_bins, seed):
    points = np.asarray(points, np.int32)
    means = np.random.default_rng(seed).uniform(-1e3, 1e3, len(points))
    stack = Stack(seed_words(4, b""), sealed=True)
    before = stack.words()
    stack.push_any(points, means, Spread(std_bins))
    np.testing.assert_array_equal(stack.pop_any(means, Spread(std_bins)), points)
    np.testing.assert_array_equal(stack.words(), before)


def test_popping_and_pushing_draws_returns_the_bits():
    stack = Stack(seed_words(2000, b"bits"), sealed=True)
    means = np.random.default_rng(0).normal(size=1000) * 100.0
    draws = stack.pop_near(means, Spread(8.0))
    # They are draws of the Gaussian: six errors of the mean and of the deviation.
    standard = (draws - means) / 8.0
    assert abs(standard.mean()) < 6 / np.sqrt(1000) and abs(standard.std() - 1.0) < 6 / np.sqrt(2000)
    stack.push_near(draws, means, Spread(8.0))
    np.testing.assert_array_equal(stack.unsealed_words(), seed_words(2000, b"bits"))


def test_a_schedule_that_does_not_rise_is_refused():
    with pytest.raises(ConfigError, match="rises"):
        Ladder.of(np.array([0.0, 0.0]), 8)


def test_a_model_that_always_had_labels_is_refused():
    config = configs.load("digits_cond", {"model.label_dropout": 0.0})
    with pytest.raises(ConfigError, match="label_dropout"):
        Network(VDM.from_config(config), {}, (4,))


@given(num_images=st.integers(1, 200), sizes=st.lists(st.integers(1, 16), min_size=1, max_size=4, unique=True))
def test_calls_hold_all_images_and_leave_less_room_than_the_smallest(num_images, sizes):
    sizes = sorted(sizes, reverse=True)
    found = calls(num_images, sizes)
    assert set(found) <= set(sizes) and 0 <= sum(found) - num_images < sizes[-1]
