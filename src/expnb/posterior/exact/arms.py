"""What the data say about the mean of one arm, in many comparisons at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from expnb.errors import PosteriorError

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.intp]
BoolArray: TypeAlias = NDArray[np.bool_]

WEAKEST_DENOMINATOR = 10.0  # mean / standard error of the lower mean of a ratio
SMALLEST, LARGEST = 1e-40, 1e40  # of a standard error; figures need its sixth power, and doubles end at 1e308
FINEST = 1e-14  # standard error / mean; a mean is known to 16 digits
_NOTHING = 1e-40  # mean / standard error
_MOST_MISS = 66.0  # squared standard errors; what is less likely than exp(-33) is left out everywhere


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
        mean = _workable(mean, se)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "se", se)

    def __len__(self) -> int:
        return len(self.mean)

    def take(self, rows: IntArray) -> NormalMean:
        """The same arm in the comparisons `rows` only."""
        return NormalMean(self.mean[rows], self.se[rows])


@dataclass(frozen=True, slots=True)
class Poisson:
    """Events of all units of an arm, which come one by one.

    The reference prior on the rate per unit is flat, Gamma(1, 0): the posterior of one arm is Gamma(1 + total, units). It is the limit of Beta(1, 1) for rare events.

    Parameters
    ----------
    total : ndarray, shape (row,)
        Events; 0 or more.
    units : ndarray, shape (row,)
        Units of the arm, above 0.

    Raises
    ------
    PosteriorError
        If a total is negative, or an arm has no units.
    """

    total: FloatArray
    units: FloatArray

    def __post_init__(self) -> None:
        total, units = _rows(self.total), _rows(self.units)
        _same_length(total, units)
        ok = (total >= 0) & (units > 0) & np.isfinite(total) & np.isfinite(units)
        if not ok.all():
            row = int(np.argmin(ok))
            raise PosteriorError(
                f"row {row} has {total[row]:g} events of {units[row]:g} units; events start at 0 and units above it. Check how the cells were counted."
            )
        object.__setattr__(self, "total", total)
        object.__setattr__(self, "units", units)

    def __len__(self) -> int:
        return len(self.units)

    def take(self, rows: IntArray) -> Poisson:
        """The same arm in the comparisons `rows` only."""
        return Poisson(self.total[rows], self.units[rows])


@dataclass(frozen=True, slots=True)
class StudentMean:
    """A mean of few units, whose standard error is itself an estimate.

    The likelihood of the mean m is Student's t of ``(mean - m) / se``: what Normal values give once their variance is integrated out under its reference prior [1]_. The reference prior on m is flat.

    Parameters
    ----------
    mean : ndarray, shape (row,)
        Metric unit.
    se : ndarray, shape (row,)
        Estimated standard error of `mean`, above 0.
    df : ndarray, shape (row,)
        Degrees of freedom of `se`, at least 1: units (or clusters of them) less one.

    Raises
    ------
    PosteriorError
        If a value is missing, a standard error is not above 0, or there are no degrees of freedom.

    References
    ----------
    .. [1] Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., section 3.2.
    """

    mean: FloatArray
    se: FloatArray
    df: FloatArray

    def __post_init__(self) -> None:
        mean, se, df = _rows(self.mean), _rows(self.se), _rows(self.df)
        _same_length(mean, se)
        _same_length(mean, df)
        ok = np.isfinite(mean) & np.isfinite(se) & (se > 0) & (df >= 1)
        if not ok.all():
            row = int(np.argmin(ok))
            raise PosteriorError(
                f"row {row} has mean {mean[row]:g} with standard error {se[row]:g} on {df[row]:g} degrees of freedom; all must be finite, the error above 0 and the degrees of freedom at least 1."
                " A mean of one unit has no posterior: wait for more units."
            )
        mean = _workable(mean, se)
        for name, value in (("mean", mean), ("se", se), ("df", df)):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.mean)

    def take(self, rows: IntArray) -> StudentMean:
        """The same arm in the comparisons `rows` only."""
        return StudentMean(self.mean[rows], self.se[rows], self.df[rows])

    def log_likelihood(self, rows: IntArray, z: FloatArray) -> FloatArray:
        """Log likelihood, 0 at its peak, of means that lie `z` standard errors from the estimate; z has shape (len(rows), ...)."""
        df = _beside(self.df[rows], z)
        out: FloatArray = -0.5 * (df + 1.0) * np.log1p(z * z / df)
        return out

    def reach(self, drop: float) -> FloatArray:
        """Standard errors after which the likelihood has fallen by ``exp(-drop)``, shape (row,)."""
        out: FloatArray = np.sqrt(self.df * np.expm1(2.0 * drop / (self.df + 1.0)))
        return out

    @property
    def certainty(self) -> FloatArray:
        """Standard errors below the estimate that are as unlikely as five are under a Normal, shape (row,)."""
        return _quantile_like_five(self.df)

    @property
    def moments(self) -> FloatArray:
        """How many moments the mean has under its own reference prior, at most 2, shape (row,)."""
        return np.where(self.df > 2.0, 2.0, np.where(self.df > 1.0, 1.0, 0.0))


@dataclass(frozen=True, slots=True)
class RatioMean:
    """A ratio of two means, of which the lower one is not known well enough for the delta method.

    Both means are Normal together; the lower one is integrated out under flat reference priors on both, which gives the density of the ratio in closed form [1]_, [2]_. The lower mean is at least 10 standard errors above 0,
    so that a ratio of the other sign is less likely than ``exp(-50)``.

    Parameters
    ----------
    upper, lower : ndarray, shape (row,)
        Means per unit of numerator and denominator.
    var_upper, var_lower, cov : ndarray, shape (row,)
        Variances of both means and their covariance.

    Raises
    ------
    PosteriorError
        If a denominator is weaker than that, or the two means always move together.

    References
    ----------
    .. [1] Fieller (1954), Some problems in interval estimation.
    .. [2] Hinkley (1969), On the ratio of two correlated normal random variables.
    """

    upper: FloatArray
    lower: FloatArray
    var_upper: FloatArray
    var_lower: FloatArray
    cov: FloatArray

    def __post_init__(self) -> None:
        for name in self.__slots__:
            object.__setattr__(self, name, _rows(getattr(self, name)))
            _same_length(self.upper, getattr(self, name))
        with np.errstate(over="ignore", invalid="ignore"):
            size = self.mean, self.se
        _workable(*size)
        strength = self.lower / np.sqrt(self.var_lower)
        ok = (strength >= WEAKEST_DENOMINATOR * (1.0 - 1e-9)) & (self._spread > 0) & np.isfinite(self.mean)
        if not ok.all():
            row = int(np.argmin(ok))
            raise PosteriorError(
                f"row {row}: the denominator of a ratio is {self.lower[row]:g}, {strength[row]:.1f} standard errors above 0; a ratio needs {WEAKEST_DENOMINATOR:g} and a spread. Wait for more units, or measure the numerator per unit."
            )

    def __len__(self) -> int:
        return len(self.upper)

    def take(self, rows: IntArray) -> RatioMean:
        """The same arm in the comparisons `rows` only."""
        return RatioMean(*(getattr(self, name)[rows] for name in self.__slots__))

    @property
    def mean(self) -> FloatArray:
        """The ratio of the means."""
        return self.upper / self.lower

    @property
    def _spread(self) -> FloatArray:
        return np.asarray(self.var_upper - 2.0 * self.mean * self.cov + self.mean**2 * self.var_lower)

    @property
    def se(self) -> FloatArray:
        """Standard error by the delta method."""
        return np.sqrt(self._spread) / self.lower

    def log_likelihood(self, rows: IntArray, z: FloatArray) -> FloatArray:
        """Log likelihood, 0 at the estimate, of ratios that lie `z` delta errors from it; z has shape (len(rows), ...)."""
        tilt, bend = (_beside(part[rows], z) for part in self._shape)
        spread = 1.0 + 2.0 * z * tilt + z * z * bend
        height = np.maximum(1.0 + z * tilt, 1e-9)
        miss = z * z / spread
        out: FloatArray = np.where(miss > _MOST_MISS, -1e9, -0.5 * miss - 1.5 * np.log(spread) + np.log(height))
        return out

    @property
    def _shape(self) -> tuple[FloatArray, FloatArray]:
        """Slope and bend of the squared error of ``upper - ratio * lower`` along the ratio, in delta errors."""
        unit = self.se / self._spread
        return unit * (self.mean * self.var_lower - self.cov), unit * self.se * self.var_lower

    def reach(self, drop: float) -> FloatArray:
        """Delta errors after which the likelihood has fallen by ``exp(-drop)`` on both sides, shape (row,)."""
        tilt, bend = self._shape
        most = min(2.0 * drop, _MOST_MISS)
        rest = 1.0 - most * bend  # z * z = most * (1 + 2 z tilt + z z bend)
        out: FloatArray = (np.abs(most * tilt) + np.sqrt((most * tilt) ** 2 + most * rest)) / rest
        return out

    @property
    def certainty(self) -> FloatArray:
        """Delta errors below the estimate that are as unlikely as five are under a Normal, shape (row,)."""
        tilt, bend = self._shape
        rest = 1.0 - 25.0 * bend
        out: FloatArray = (-25.0 * tilt + np.sqrt((25.0 * tilt) ** 2 + 25.0 * rest)) / rest
        return out

    @property
    def moments(self) -> FloatArray:
        """Two: ratios less likely than ``exp(-33)`` are left out, without which no ratio has a mean; shape (row,)."""
        return np.full(len(self), 2.0)


class Located(Protocol):
    """An arm whose likelihood is one hump around an estimate, not a bell."""

    @property
    def mean(self) -> FloatArray:
        """Where the hump is, shape (row,)."""

    @property
    def se(self) -> FloatArray:
        """How wide it is, shape (row,)."""

    @property
    def moments(self) -> FloatArray:
        """How many moments the mean has, at most 2, shape (row,)."""

    @property
    def certainty(self) -> FloatArray:
        """Standard errors below the estimate that are as unlikely as five are under a Normal, shape (row,)."""

    def log_likelihood(self, rows: IntArray, z: FloatArray) -> FloatArray:
        """Log likelihood at `z` standard errors from the estimate."""

    def reach(self, drop: float) -> FloatArray:
        """Standard errors after which the likelihood has fallen by ``exp(-drop)``, shape (row,)."""


Arm: TypeAlias = Binomial | NormalMean | Poisson | StudentMean | RatioMean


def workable(mean: FloatArray, se: FloatArray) -> BoolArray:
    """Whether figures of a mean with this standard error can be worked out in double precision, shape (row,)."""
    return np.asarray((se >= SMALLEST) & (se <= LARGEST) & (np.abs(mean) <= LARGEST) & (se >= FINEST * np.abs(mean)))


def _workable(mean: FloatArray, se: FloatArray) -> FloatArray:
    """The means, 0 where they are next to nothing of their error: the square of error / mean would be out of range."""
    ok = workable(mean, se) | ~(se > 0)  # what has no error at all is told more plainly
    if not ok.all():
        row = int(np.argmin(ok))
        raise PosteriorError(
            f"row {row} has mean {mean[row]:g} with standard error {se[row]:g}; neither may exceed {LARGEST:g}, nor the error be below {SMALLEST:g} or {FINEST:g} of the mean."
            " State the metric in another unit; if it hardly varies, check its column."
        )
    return np.where(np.abs(mean) < _NOTHING * se, 0.0, mean)


def _beside(values: FloatArray, z: FloatArray) -> FloatArray:
    return values.reshape(-1, *[1] * (z.ndim - 1))


def _quantile_like_five(df: FloatArray) -> FloatArray:
    """The quantile of Student's t with the tail of five Normal standard errors, by Wallace's approximation [1]_.

    References
    ----------
    .. [1] Wallace (1959), Bounds on normal approximations to Student's and the chi-square distributions.
    """
    shrink = (8.0 * df + 3.0) / (8.0 * df + 1.0)
    out: FloatArray = np.sqrt(df * np.expm1((5.0 * shrink) ** 2 / df))
    return out


def _rows(values: FloatArray) -> FloatArray:
    return np.atleast_1d(np.asarray(values, dtype=np.float64))


def _same_length(first: FloatArray, second: FloatArray) -> None:
    if first.ndim != 1 or first.shape != second.shape:
        raise PosteriorError(
            f"an arm has values of shape {first.shape} and {second.shape}; both must be one value per row."
        )
