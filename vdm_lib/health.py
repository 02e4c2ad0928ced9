"""Whether training still goes well, judged from the metrics of each step."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median

from vdm_lib.config import OnNan
from vdm_lib.errors import DivergedError

# In the order in which a wrong value spreads: the first of them that is not finite is where it began.
_TERMS = ("bpd_recon", "bpd_latent", "bpd_diff", "gradient_norm", "update_norm", "parameter_norm")
_JUMP = 10.0
_STEPS_REMEMBERED, _STEPS_NEEDED = 1000, 20
_REMEDY = "Lower optim.learning_rate or set optim.gradient_clip_norm=1"


def wrong_term(row: Mapping[str, float]) -> str | None:
    """Return the first term of a step that is not finite, None if all are."""
    return next((term for term in (*_TERMS, *row) if term in row and not math.isfinite(row[term])), None)


class Health:
    """Stops a run whose losses are no longer finite, or far above what they were."""

    def __init__(self, on_nan: OnNan, max_skipped_steps: int, skipped_before: int = 0) -> None:
        """Count on from `skipped_before` updates that earlier calls of the run left out."""
        self._on_nan, self._limit = on_nan, max_skipped_steps
        self.skipped = skipped_before
        self._recent: deque[float] = deque(maxlen=_STEPS_REMEMBERED)

    def check(self, rows: Sequence[Mapping[str, float]], first_step: int) -> list[Mapping[str, float]]:
        """Return the rows of the steps whose update counted.

        Args:
          rows: metrics of consecutive steps.
          first_step: number of the first of them, counted from 1.

        Raises:
          DivergedError: a value that is not finite (with on_nan=skip: more often than the limit), a bpd over 10 times
            the median of the last 1000 steps, or end points of gamma that crossed; names the step and the term.
        """
        usable = []
        for step, row in enumerate(rows, start=first_step):
            term = wrong_term(row)
            if term is None:
                _check_ends(step, row)
                self._check_jump(step, row)
                usable.append(row)
                continue
            self.skipped += 1
            if self._on_nan == "stop":
                raise DivergedError(f"step {step}: {term} is {row[term]}. {_REMEDY}, or train.on_nan=skip")
            if self.skipped > self._limit:
                raise DivergedError(
                    f"step {step}: {term} is {row[term]}, and {self.skipped} updates were left out, more than "
                    f"train.max_skipped_steps={self._limit}. {_REMEDY}"
                )
        return usable

    def _check_jump(self, step: int, row: Mapping[str, float]) -> None:
        usual = median(self._recent) if len(self._recent) >= _STEPS_NEEDED else math.inf
        if row["bpd"] > _JUMP * usual:
            largest = max(("bpd_recon", "bpd_latent", "bpd_diff"), key=lambda term: row[term])
            raise DivergedError(
                f"step {step}: bpd is {row['bpd']:.4g}, over 10 times the median {usual:.4g} of the steps before; "
                f"most of it is {largest}={row[largest]:.4g}. {_REMEDY}"
            )
        self._recent.append(row["bpd"])


def _check_ends(step: int, row: Mapping[str, float]) -> None:
    if "gamma_0" in row and not row["gamma_0"] < row["gamma_1"]:
        raise DivergedError(
            f"step {step}: the end points of gamma have crossed, gamma_0={row['gamma_0']:.4g} is not below "
            f"gamma_1={row['gamma_1']:.4g}. Train again with a lower optim.learning_rate"
        )
