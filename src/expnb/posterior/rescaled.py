"""Absolute effects of large samples from the posterior of their log ratio.

Given the log ratio lam, the control's mean m is close to a bell whose first moments are known in closed form, and narrow. With its quantile ``m(eps, lam)`` at a Normal score eps the absolute
effect is ``m(eps, lam) (exp(lam) - 1)``, which rises with lam; hence ``P(effect < d) = E_eps[P(lam < root of m(eps, lam) (exp(lam) - 1) = d)]``, a sum over a few Gauss-Hermite nodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from expnb.posterior.arms import Arm, Binomial, BoolArray, FloatArray, IntArray, NormalMean, Poisson
from expnb.posterior.grid import Panels
from expnb.posterior.hdi import PROB
from expnb.posterior.quantity import CHART_POINTS, Quantity

LEAST_COUNT = 35
"""Conversions, and units without one, from which on a rate is served."""
LARGEST_ERROR = 0.15
"""Of a Normal mean, as a share of it, up to which it is served: the control's mean given the ratio is then Normal for all that the data say."""

_NODES = 7
_ROOT_STEPS, _NEWTON_STEPS = 12, 25
_SMALL = 1e-9
_SLOPE_STEP = 1e-5

Moments: TypeAlias = tuple[FloatArray, FloatArray, FloatArray, FloatArray]
"""Mean, standard deviation, skewness and excess kurtosis."""


def served(control: Arm, treatment: Arm) -> BoolArray:
    """Whether both arms are large enough, shape (row,)."""
    return _is_large(control) & _is_large(treatment)


def _is_large(arm: Arm) -> BoolArray:
    if isinstance(arm, Binomial):
        return np.minimum(arm.successes, arm.failures) >= LEAST_COUNT
    if isinstance(arm, Poisson):
        return arm.total >= LEAST_COUNT
    if isinstance(arm, NormalMean):
        return arm.se <= LARGEST_ERROR * arm.mean
    return np.zeros(len(arm), dtype=np.bool_)


def control_given_ratio(control: Arm, treatment: Arm, rows: IntArray, lam: FloatArray, own: float) -> Moments:
    """Moments of the control's mean in `rows`, given log ratios of shape (len(rows), any); `own` is 1 where the treatment has its own reference prior, 0 under a prior on the ratio."""
    growth = np.exp(lam)
    if isinstance(control, NormalMean) and isinstance(treatment, NormalMean):
        mean_c, mean_t, se_c, se_t = (
            _beside(part[rows], lam) for part in (control.mean, treatment.mean, control.se, treatment.se)
        )
        weight_c, weight_t = 1.0 / se_c**2, growth / se_t**2
        precision = weight_c + growth * weight_t
        none = np.zeros_like(lam)
        return (mean_c * weight_c + mean_t * weight_t) / precision, 1.0 / np.sqrt(precision), none, none
    if isinstance(control, Poisson) and isinstance(treatment, Poisson):
        events = _beside((control.total + treatment.total)[rows] + 1.0 + own, lam)
        units = _beside(control.units[rows], lam) + _beside(treatment.units[rows], lam) * growth
        return events / units, np.sqrt(events) / units, 2.0 / np.sqrt(events), 6.0 / events
    assert isinstance(control, Binomial)  # noqa: S101 - no other arm is served
    assert isinstance(treatment, Binomial)  # noqa: S101
    up = _beside((control.successes + treatment.successes)[rows] + own, lam)
    down, other = _beside(control.failures[rows], lam), _beside(treatment.failures[rows], lam)
    return _rate_given_ratio(up, down, other, growth)


def _rate_given_ratio(up: FloatArray, down: FloatArray, other: FloatArray, growth: FloatArray) -> Moments:
    """Of a density ``m**up (1 - m)**down (1 - growth m)**other``: its peak solves a quadratic equation, and the moments follow from the slopes there to second order [1]_.

    References
    ----------
    .. [1] Tierney, Kass, Kadane (1989), Fully exponential Laplace approximations.
    """
    turn = up * (1.0 + growth) + down + other * growth
    peak = 2.0 * up / (turn + np.sqrt(turn * turn - 4.0 * growth * (up + down + other) * up))
    one, two, three = 1.0 / peak, 1.0 / (1.0 - peak), growth / (1.0 - growth * peak)
    width = 1.0 / np.sqrt(up * one**2 + down * two**2 + other * three**2)
    third = 2.0 * (up * one**3 - down * two**3 - other * three**3) * width**3
    fourth = -6.0 * (up * one**4 + down * two**4 + other * three**4) * width**4
    fifth = 24.0 * (up * one**5 - down * two**5 - other * three**5) * width**5
    mean = 0.5 * third + fifth / 8.0 + 2.0 * third * fourth / 3.0 + 5.0 * third**3 / 8.0
    return peak + width * mean, width * np.sqrt(1.0 + 0.5 * fourth + third**2), third, fourth + 3.0 * third**2


def _beside(values: FloatArray, lam: FloatArray) -> FloatArray:
    return values.reshape(-1, *[1] * (lam.ndim - 1))


@dataclass(frozen=True, slots=True)
class _Mixed:
    """The absolute effect in some rows, as a mixture over Normal scores of the control's mean."""

    control: Arm
    treatment: Arm
    rows: IntArray
    these: Panels
    centre: FloatArray
    own: float

    def take(self, chosen: IntArray) -> _Mixed:
        these, centre = self.these.take(chosen), self.centre[chosen]
        return _Mixed(self.control, self.treatment, self.rows[chosen], these, centre, self.own)

    def at(self, d: FloatArray) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Mass below d and density at d, for d of shape (row, point), and where the roots were found."""
        lam, missing = self._roots(d)
        beyond = lam + _SLOPE_STEP
        rise = (self._mean(beyond) * np.expm1(beyond) - d[..., None]) / _SLOPE_STEP
        ok = np.asarray(np.abs(missing).max(axis=2) < 1e-8)
        flat = (lam - self.centre[:, None, None]).reshape(len(d), -1)
        mass, density = (part.reshape(lam.shape) for part in self.these.at(flat))
        inside = (flat >= self.these.breaks[:, :1]) & (flat <= self.these.breaks[:, -1:])
        density = np.where(inside.reshape(lam.shape), np.maximum(density, 0.0), 0.0)
        return mass @ _WEIGHTS, (density / np.maximum(rise, 1e-300)) @ _WEIGHTS, ok

    def _mean(self, lam: FloatArray) -> FloatArray:
        """The control's mean at each Normal score; lam has shape (row, point, score)."""
        mean, sd, skew, excess = control_given_ratio(self.control, self.treatment, self.rows, lam, self.own)
        bent = _SCORES + skew * _SECOND + excess * _THIRD - skew**2 * _SKEWED  # Cornish, Fisher (1938)
        return mean + sd * bent

    def _roots(self, d: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The log ratio at which each Normal score gives the effect d, by secant steps from where the mean hardly depends on it, and the last step."""
        low, high = (self.centre + self.these.breaks[:, end] for end in (0, -1))
        low, high = low[:, None, None] - 1.0, high[:, None, None] + 1.0

        def moved(lam: FloatArray) -> FloatArray:
            ratio = np.maximum(d[..., None] / self._mean(lam), -1.0 + 1e-12)
            return np.clip(np.log1p(ratio), low, high) - lam

        lam = np.broadcast_to(self.centre[:, None, None], (*d.shape, _NODES))
        gap = moved(lam)
        step = gap
        for _ in range(_ROOT_STEPS):
            new = np.clip(lam + step, low, high)
            new_gap = moved(new)
            slope = np.divide(new_gap - gap, new - lam, out=np.full_like(gap, -1.0), where=np.abs(new - lam) > 1e-14)
            lam, gap = new, new_gap
            step = -gap / np.where(slope < -0.1, slope, -1.0)
            if np.abs(step).max() < _SMALL:
                break
        return lam, step


def of_panels(
    control: Arm,
    treatment: Arm,
    rows: IntArray,
    these: Panels,
    centre: FloatArray,
    cuts: FloatArray,
    *,
    flat: bool,
    chart: bool,
) -> tuple[Quantity, BoolArray]:
    """Summary of the absolute effect in `rows`, and in which of them it was found.

    Parameters
    ----------
    these : Panels
        Densities of the log ratio less `centre`, with a break at no effect.
    cuts : ndarray, shape (row, cut) or (cut,)
        Metric unit.
    flat : bool
        Whether each arm has its own reference prior; not of Normal means, whose difference is then Normal.
    """
    lam = centre[:, None, None] + these.x
    own = 1.0 if flat else 0.0
    mean, sd, _, _ = control_given_ratio(control, treatment, rows, lam, own)
    share = np.expm1(lam)
    parts = these.integrate(share * mean)
    average = parts.sum(axis=1)
    square = these.integrate(share**2 * (mean**2 + sd**2)).sum(axis=1)
    spread = np.sqrt(np.maximum(square - average**2, 0.0))
    mixed = _Mixed(control, treatment, rows, these, centre, own)
    low, high, ok = _interval(mixed, average, spread)
    cuts = np.broadcast_to(cuts, (len(rows), cuts.shape[-1]))
    none = these.at(-centre[:, None])[0]
    below, _, found = mixed.at(np.where(cuts == 0, average[:, None], cuts))
    below = np.where(cuts == 0, none, below)
    points = average[:, None] + spread[:, None] * np.linspace(-6.0, 6.0, CHART_POINTS if chart else 0)
    quantity = Quantity(
        mean=average,
        sd=spread,
        hdi_low=low,
        hdi_high=high,
        p_above=np.clip(1.0 - below, 0.0, 1.0),
        loss=np.maximum(-parts, 0.0).sum(axis=1),
        gain=np.maximum(parts, 0.0).sum(axis=1),
        grid=points,
        density=mixed.at(points)[1] if chart else points,
    )
    return quantity, ok & (found | (cuts == 0)).all(axis=1)


def _interval(mixed: _Mixed, mean: FloatArray, sd: FloatArray) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Ends of the shortest interval that holds 95 %, by Newton's method on equal mass and equal density, and where it arrived."""
    ends = mean[:, None] + sd[:, None] * np.array([-1.96, 1.96])
    done = np.zeros(len(mean), dtype=np.bool_)
    left = np.arange(len(mean))
    for _ in range(_NEWTON_STEPS):
        some, width = mixed.take(left), sd[left, None]
        step = 1e-4 * width
        x = ends[left]
        mass, density, ok = some.at(np.concatenate([x, x + step], axis=1))
        height = np.log(np.maximum(density, 1e-300))
        rise = (height[:, 2:] - height[:, :2]) / step
        miss, gap = mass[:, 1] - mass[:, 0] - PROB, height[:, 1] - height[:, 0]
        det = density[:, 1] * rise[:, 0] - density[:, 0] * rise[:, 1]
        det = np.where(np.abs(det) < 1e-300, np.inf, det)
        move = (
            np.stack([gap * density[:, 1] - miss * rise[:, 1], gap * density[:, 0] - miss * rise[:, 0]], axis=1)
            / det[:, None]
        )
        ends[left] = x + np.clip(move, -0.5 * width, 0.5 * width)
        arrived = (np.abs(move) < 1e-5 * width).all(axis=1) & ok.all(axis=1) & (rise[:, 0] > 0) & (rise[:, 1] < 0)
        done[left[arrived]] = True
        left = left[~arrived]
        if not len(left):
            break
    return ends[:, 0], ends[:, 1], done


_SCORES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(_NODES)
_WEIGHTS /= math.sqrt(2.0 * math.pi)
_SECOND, _THIRD = (_SCORES**2 - 1.0) / 6.0, (_SCORES**3 - 3.0 * _SCORES) / 24.0
_SKEWED = (2.0 * _SCORES**3 - 5.0 * _SCORES) / 36.0
