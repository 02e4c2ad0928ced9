"""A stack of bits: asymmetric numeral systems (arXiv 1311.2540) by constriction, for quantised Gaussians and tables.

What is pushed comes back in reverse order. A pop of what was never pushed turns bits into a draw of the model, which
is what bits-back coding lives on; the push of that draw returns the very bits.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int32, UInt32

from vdm_lib.errors import MachineError, VdmError

_DRAWN_STDS = 5.0
"""A draw lies this many standard deviations from its mean at most: one in 1.7 million of a whole Gaussian is cut off.

Farther out a bin would be drawn more often than it should be, as no probability is below 2^-24, and be dear to tell.
"""
_TOLD_STDS = 8.0
"""So far from its mean a point is told directly."""
_PIECE_BITS = 16
_ESCAPE_BITS = 16
"""Far symbols are told in two numbers of so many bits."""
# constriction tells probabilities in 24 bits and gives every symbol one of 2^24 parts at least, so that a wide support
# would take what the tails do not have.
_MOST_SYMBOLS = 2**16


def _constriction() -> Any:
    try:
        import constriction
    except ImportError:
        raise MachineError("compression needs constriction: pip install '.[codec]'") from None
    return constriction


def coder_version() -> str:
    """Return the version of constriction.

    Raises:
      MachineError: it is not installed.
    """
    import importlib.metadata

    _constriction()
    return importlib.metadata.version("constriction")


def seed_words(num_words: int, name: bytes) -> UInt32[np.ndarray, " n"]:
    """Return the bits that a stack begins with: SHAKE-256 of a name, so that they need not be stored."""
    return np.frombuffer(hashlib.shake_256(name).digest(4 * num_words), "<u4").astype(np.uint32)


@dataclass(frozen=True)
class Spread:
    """The standard deviation of a Gaussian in bins of its grid."""

    std_bins: float

    def reach(self, stds: float) -> int:
        """Return the bins to either side of the rounded mean."""
        return min(math.ceil(stds * self.std_bins) + 1, _MOST_SYMBOLS // 2)


@lru_cache(maxsize=4096)
def _gaussian(reach: int, std_bins: float) -> Any:
    return _constriction().stream.model.QuantizedGaussian(-reach, reach, std=std_bins)


class Stack:
    """Bits on a stack; `lowest_words` is how far down it has ever been used."""

    def __init__(self, words: UInt32[np.ndarray, " n"], *, sealed: bool) -> None:
        """Begin with these words.

        Args:
          words: 32 bits each.
          sealed: they are arbitrary bits; otherwise what `words` of another stack returned.
        """
        self._models = _constriction().stream.model
        self._coder = _constriction().stream.stack.AnsCoder(words, seal=sealed)
        self.lowest_words = int(self._coder.num_words())

    @property
    def num_bits(self) -> int:
        """Bits on the stack."""
        return int(self._coder.num_valid_bits())

    def words(self) -> UInt32[np.ndarray, " n"]:
        """Return all words."""
        return self._coder.get_compressed()

    def unsealed_words(self) -> UInt32[np.ndarray, " n"]:
        """Return the arbitrary words that this stack began with, once everything else is popped.

        Raises:
          VdmError: something else is left.
        """
        try:
            return self._coder.get_compressed(unseal=True)
        except Exception as error:
            raise VdmError("the stack does not end where it began") from error

    def whiten(self, num_symbols: int, spread: Spread, key: bytes) -> None:
        """Turn over the bits that the next `num_symbols` pops take, by a key: twice with one key changes nothing.

        The bits that a symbol was pushed with tell where it lay under the model. Unchanged they would be the noise of
        the next latent, which the pixels then had a hand in.
        """
        bits = num_symbols * math.log2(2.0 + math.sqrt(2.0 * math.pi * math.e) * spread.std_bins)
        count = math.ceil(bits / _PIECE_BITS) + 8
        part = self._models.Uniform(2**_PIECE_BITS)
        pieces = self._coder.decode(part, count)
        self.lowest_words = min(self.lowest_words, int(self._coder.num_words()))
        turned = pieces ^ (seed_words(count, key) >> (32 - _PIECE_BITS)).astype(np.int32)
        self._coder.encode_reverse(turned.astype(np.int32), part)

    def pop_near(self, mean_bins: Float[np.ndarray, " n"], spread: Spread) -> Int32[np.ndarray, " n"]:
        """Return grid points under Gaussians, each near its mean."""
        offset = np.rint(mean_bins)
        found = self._pop(_gaussian(spread.reach(_DRAWN_STDS), spread.std_bins), mean_bins - offset)
        return (found + offset).astype(np.int64).astype(np.int32)

    def push_near(self, points: Int32[np.ndarray, " n"], mean_bins: Float[np.ndarray, " n"], spread: Spread) -> None:
        """Push what `pop_near` returned."""
        offset = np.rint(mean_bins)
        self._push(
            (points - offset).astype(np.int64).astype(np.int32),
            _gaussian(spread.reach(_DRAWN_STDS), spread.std_bins),
            mean_bins - offset,
        )

    def push_any(self, points: Int32[np.ndarray, " n"], mean_bins: Float[np.ndarray, " n"], spread: Spread) -> None:
        """Push grid points under Gaussians; those far from their mean cost at most 56 bits each.

        Raises:
          VdmError: a point 2^32 bins from its mean.
        """
        offset, edge = np.rint(mean_bins), spread.reach(_TOLD_STDS) + 1
        symbols = points.astype(np.int64) - offset.astype(np.int64)
        beyond = np.abs(symbols) - edge
        far = beyond[beyond >= 0]
        if far.size:
            if far.max() >= 2 ** (2 * _ESCAPE_BITS):
                raise VdmError("a latent lies too far from where the model expects it")
            part = self._models.Uniform(2**_ESCAPE_BITS)
            self._coder.encode_reverse((far >> _ESCAPE_BITS).astype(np.int32), part)
            self._coder.encode_reverse((far & (2**_ESCAPE_BITS - 1)).astype(np.int32), part)
        near = np.clip(symbols, -edge, edge).astype(np.int32)
        self._push(near, _gaussian(edge, spread.std_bins), mean_bins - offset)

    def pop_any(self, mean_bins: Float[np.ndarray, " n"], spread: Spread) -> Int32[np.ndarray, " n"]:
        """Return what `push_any` pushed."""
        offset, edge = np.rint(mean_bins), spread.reach(_TOLD_STDS) + 1
        symbols = self._pop(_gaussian(edge, spread.std_bins), mean_bins - offset).astype(np.int64)
        far = np.abs(symbols) == edge
        count = int(far.sum())
        if count:
            part = self._models.Uniform(2**_ESCAPE_BITS)
            low = self._coder.decode(part, count).astype(np.int64)
            beyond = low + (self._coder.decode(part, count).astype(np.int64) << _ESCAPE_BITS)
            symbols[far] += np.sign(symbols[far]) * beyond
        return (symbols + offset.astype(np.int64)).astype(np.int32)

    def push_table(self, symbols: Int32[np.ndarray, " n"], probabilities: Float[np.ndarray, "n levels"]) -> None:
        """Push symbols, each under a row of probabilities."""
        self._coder.encode_reverse(symbols, self._models.Categorical(perfect=False), probabilities)

    def pop_table(self, probabilities: Float[np.ndarray, "n levels"]) -> Int32[np.ndarray, " n"]:
        """Return symbols, each under a row of probabilities."""
        return self._coder.decode(self._models.Categorical(perfect=False), probabilities)

    def _pop(self, model: Any, means: Float[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
        found = self._coder.decode(model, means)
        self.lowest_words = min(self.lowest_words, int(self._coder.num_words()))
        return found

    def _push(self, symbols: Int32[np.ndarray, " n"], model: Any, means: Float[np.ndarray, " n"]) -> None:
        self._coder.encode_reverse(symbols, model, means)
