"""What the data say about the mean of one arm, in many comparisons at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from expnb.errors import PosteriorError

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.intp]
BoolArray: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Binomial:
    """Units that converted, of all units of an arm.

    The reference prior on the rate is Beta(1, 1).

    Parameters
    ----------
    successes : ndarray, shape (row,)
        Units that converted; between 0 and `units`.
    units : ndarray, shape (row,)
        Units of the arm, at least 1.

    Raises
    ------
    PosteriorError
        If the counts contradict each other.
    """

    successes: FloatArray
    units: FloatArray

    def __post_init__(self) -> None:
        successes, units = _rows(self.successes), _rows(self.units)
        _same_length(successes, units)
        ok = (successes >= 0) & (successes <= units) & (units >= 1) & np.isfinite(units)
        if not ok.all():
            row = int(np.argmin(ok))
            raise PosteriorError(
                f"row {row} has {successes[row]:g} successes of {units[row]:g} units; successes lie between 0 and units, and units start at 1."
                " Check how the cells were counted."
            )
        object.__setattr__(self, "successes", successes)
        object.__setattr__(self, "units", units)

    @property
    def failures(self) -> FloatArray:
        """Units that did not convert, shape (row,)."""
        return self.units - self.successes

    def __len__(self) -> int:
        return len(self.units)

    def take(self, rows: IntArray) -> Binomial:
        """The same arm in the comparisons `rows` only."""
        return Binomial(self.successes[rows], self.units[rows])


@dataclass(frozen=True, slots=True)
class NormalMean:
    """A mean and its standard error, by the central limit theorem.

    The reference prior is flat on the mean.

    Parameters
    ----------
    mean : ndarray, shape (row,)
        Metric unit.
    se : ndarray, shape (row,)
        Standard error of `mean`, above 0.

    Raises
    ------
    PosteriorError
        If a value is missing or a standard error is not above 0.
    """

    mean: FloatArray
    se: FloatArray

    def __post_init__(self) -> None:
        mean, se = _rows(self.mean), _rows(self.se)
        _same_length(mean, se)
        ok = np.isfinite(mean) & np.isfinite(se) & (se > 0)
        if not ok.all():
            row = int(np.argmin(ok))
            raise PosteriorError(
                f"row {row} has mean {mean[row]:g} with standard error {se[row]:g}; both must be finite and the error above 0."
                " A metric that never varies has no posterior: check its column."
            )
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "se", se)

    def __len__(self) -> int:
        return len(self.mean)

    def take(self, rows: IntArray) -> NormalMean:
        """The same arm in the comparisons `rows` only."""
        return NormalMean(self.mean[rows], self.se[rows])


Arm: TypeAlias = Binomial | NormalMean


def _rows(values: FloatArray) -> FloatArray:
    return np.atleast_1d(np.asarray(values, dtype=np.float64))


def _same_length(first: FloatArray, second: FloatArray) -> None:
    if first.ndim != 1 or first.shape != second.shape:
        raise PosteriorError(
            f"an arm has values of shape {first.shape} and {second.shape}; both must be one value per row."
        )
