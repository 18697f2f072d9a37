"""Absolute effects of large samples from the posterior of their log ratio.

Given the log ratio lam, the control's mean m is close to a bell whose first moments are known in closed form, and narrow. With its quantile ``m(eps, lam)`` at a Normal score eps the absolute
effect is ``m(eps, lam) (exp(lam) - 1)``, which rises with lam; hence ``P(effect < d) = E_eps[P(lam < root of m(eps, lam) (exp(lam) - 1) = d)]``, a sum over a few Gauss-Hermite nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from expnb.posterior.exact.arms import Arm, Binomial, BoolArray, FloatArray, IntArray, NormalMean, Poisson
from expnb.posterior.exact.point import with_point
from expnb.posterior.exact.quantity import CHART_POINTS, Quantity, collect
from expnb.posterior.exact.sampled import (
    Curve,
    Integral,
    Looked,
    Samples,
    chunks,
    even_ends,
    log_likelihood,
    peak_of,
    size_of,
)

_MANY = 45.0  # conversions, and units without one, from which on a few moments say where the control's mean lies
_FEW = 10.0  # below, the control's mean bends sharply with the log ratio
_CALM, _ROUGH, _LOST = 0.12, 0.35, 0.6  # blur up to which three scores do, or five, or any
_DROP = 28.0  # exp(-28) = 1e-12 of the peak: what of the control's mean is left out
_RAMP = np.linspace(0.0, 1.0, 48)
_QUANTILE_STEPS = 6
_GRID_ROWS = 128  # at a time, where each needs a grid: a thousand points a row soon leave the processor's cache
_FAR = 3.0  # standard deviations
_ROOT_STEPS, _NEWTON_STEPS = 12, 20
_CLOSE = 1e-4  # standard deviations; the next step is about the square of this one
_NEAR = 1e-4  # likewise
_NEGLIGIBLE = 1e-11  # of a mean, or of its square
_SMALL = 1e-9  # of half the stretch of log ratios: the square of a step, which is about the next one

Moments: TypeAlias = tuple[FloatArray, FloatArray, FloatArray, FloatArray]
"""Mean, standard deviation, skewness and excess kurtosis."""


class _Rule:
    """Normal scores of the control's mean to sum over, and the degree of the polynomials in the log ratio that say where they lie."""

    def __init__(self, scores: int, degree: int) -> None:
        z, weights = np.polynomial.hermite_e.hermegauss(scores)
        at = np.polynomial.chebyshev.chebpts1(degree + 1)
        self.scores, self.weights = z, weights / math.sqrt(2.0 * math.pi)
        self.probabilities = np.array([0.5 * math.erfc(-score / math.sqrt(2.0)) for score in z])
        self.second, self.third = (z**2 - 1.0) / 6.0, (z**3 - 3.0 * z) / 24.0
        self.skewed = (2.0 * z**3 - 5.0 * z) / 36.0
        self.at = at  # -1 to 1
        self.to_powers = np.linalg.inv(np.polynomial.polynomial.polyvander(at, degree)).T  # values there -> polynomial

    def bent(self, skew: FloatArray, excess: FloatArray) -> FloatArray:
        """Scores of a density that is a bell but for its skewness and excess kurtosis, which have any shape: along a new last axis [1]_.

        References
        ----------
        .. [1] Cornish, Fisher (1938), Moments and cumulants in the specification of distributions.
        """
        lean, tail = skew[..., None], excess[..., None]
        return self.scores + lean * self.second + tail * self.third - lean**2 * self.skewed


_RARE, _FEW_COUNTS = _Rule(9, 30), _Rule(9, 22)
_BLURRED, _USUAL, _QUIET = _Rule(9, 12), _Rule(5, 12), _Rule(3, 12)


@dataclass(frozen=True, slots=True)
class _Given:
    """The control's mean given log ratios of shape (row, any).

    Parameters
    ----------
    mean, square : ndarray, shape (row, any)
        Expectation of it, and of its square.
    at_scores : ndarray, shape (row, any, score)
        Its quantiles at the probabilities of Normal scores.
    """

    mean: FloatArray
    square: FloatArray
    at_scores: FloatArray


def _from_grid(control: Arm, treatment: Arm, lam: FloatArray, rule: _Rule) -> _Given:
    """The density of the logarithm of the control's mean on an even grid, and its integral, turned round."""
    (mean_c, _), (mean_t, _) = peak_of(control), peak_of(treatment)
    middle = _moments(control, treatment, lam)[0]
    far = _DROP / (mean_c * _units(control) + mean_t * _units(treatment))
    low, high = -np.sqrt(2.0 * far) - far, np.log1p(np.sqrt(2.0 * far) + far)
    x = np.log(middle / mean_c[:, None])[..., None] + (low[:, None] + (high - low)[:, None] * _RAMP)[:, None]
    shift = (lam + np.log(mean_c / mean_t)[:, None])[..., None]
    share = np.expm1(x)
    log_density = x.copy()  # the measure is that of the mean itself
    for arm, own in ((control, share), (treatment, share * np.exp(shift) + np.expm1(shift))):
        # that the treatment's mean is not exp(x) times its estimate, but exp(x + shift), adds the same to all points
        log_density += log_likelihood(arm, own.reshape(len(lam), -1), x.reshape(len(lam), -1)).reshape(x.shape)
    density = np.exp(log_density - log_density.max(axis=2, keepdims=True)).reshape(-1, x.shape[2])
    x, share = (part.reshape(density.shape) for part in (x, share))
    step = x[:, 1] - x[:, 0]
    these = Samples(x[:, 0], step, density).normalised()
    mass, (first, sd) = Integral.of(these), these.mean_sd()
    z = (x - first[:, None]) / sd[:, None]
    square = z * z
    skew, excess = these.integrate(square * z), these.integrate(square * square) - 3.0
    at = first[:, None] + sd[:, None] * rule.bent(skew, excess)
    for _ in range(_QUANTILE_STEPS):
        below, height, _ = mass.at(at)
        move = (below - rule.probabilities) / np.maximum(height, 1e-300)
        at = at - np.clip(move, -0.5 * sd[:, None], 0.5 * sd[:, None])
        if (np.abs(move) < _NEAR * sd[:, None]).all():
            break
    ratio, scale = 1.0 + share, mean_c[:, None]
    return _Given(
        these.integrate(ratio).reshape(lam.shape) * scale,
        these.integrate(ratio * ratio).reshape(lam.shape) * scale**2,
        np.exp(at).reshape(*lam.shape, len(rule.scores)) * scale[..., None],
    )


def _units(arm: Arm) -> FloatArray:
    assert isinstance(arm, Binomial | Poisson)  # noqa: S101 - of means the moments are exact
    return arm.units


def _from_moments(control: Arm, treatment: Arm, lam: FloatArray, rule: _Rule) -> _Given:
    mean, sd, skew, excess = _moments(control, treatment, lam)
    return _Given(mean, mean**2 + sd**2, mean[..., None] + sd[..., None] * rule.bent(skew, excess))


def _moments(control: Arm, treatment: Arm, lam: FloatArray) -> Moments:
    """Moments of the control's mean given log ratios of shape (row, any)."""
    growth = np.exp(lam)
    if isinstance(control, NormalMean) and isinstance(treatment, NormalMean):
        mean_c, mean_t, se_c, se_t = (
            part[:, None] for part in (control.mean, treatment.mean, control.se, treatment.se)
        )
        weight_c, weight_t = 1.0 / se_c**2, growth / se_t**2
        precision = weight_c + growth * weight_t
        none = np.zeros_like(lam)
        return (mean_c * weight_c + mean_t * weight_t) / precision, 1.0 / np.sqrt(precision), none, none
    if isinstance(control, Poisson) and isinstance(treatment, Poisson):
        events = (control.total + treatment.total)[:, None] + 1.0 + np.zeros_like(lam)
        units = control.units[:, None] + treatment.units[:, None] * growth
        return events / units, np.sqrt(events) / units, 2.0 / np.sqrt(events), 6.0 / events
    assert isinstance(control, Binomial)  # noqa: S101 - no other arm is served
    assert isinstance(treatment, Binomial)  # noqa: S101
    up = (control.successes + treatment.successes)[:, None]
    return _rate_given_ratio(up, control.failures[:, None], treatment.failures[:, None], growth)


def _rate_given_ratio(up: FloatArray, down: FloatArray, other: FloatArray, growth: FloatArray) -> Moments:
    """Of a density ``m**up (1 - m)**down (1 - growth m)**other``: its peak solves a quadratic equation, and the moments follow from the slopes there to second order [1]_.

    References
    ----------
    .. [1] Tierney, Kass, Kadane (1989), Fully exponential Laplace approximations.
    """
    turn = up * (1.0 + growth) + down + other * growth
    peak = 2.0 * up / (turn + np.sqrt(turn * turn - 4.0 * growth * (up + down + other) * up))
    one, two, three = 1.0 / peak, 1.0 / (1.0 - peak), growth / (1.0 - growth * peak)
    # of the second to the fifth order, by products: NumPy's powers take fifty times as long
    slopes: list[FloatArray] = []
    first, second, last = up * one, down * two, other * three
    for _ in range(4):
        first, second, last = first * one, second * two, last * three
        slopes.append(first - second - last if len(slopes) % 2 else first + second + last)
    width = 1.0 / np.sqrt(slopes[0])
    square = width * width
    third = 2.0 * slopes[1] * square * width
    fourth = -6.0 * slopes[2] * square * square
    fifth = 24.0 * slopes[3] * square * square * width
    lean = third * third
    mean = third * (0.5 + 2.0 * fourth / 3.0 + 5.0 * lean / 8.0) + fifth / 8.0
    return peak + width * mean, width * np.sqrt(1.0 + 0.5 * fourth + lean), third, fourth + 3.0 * lean


@dataclass(frozen=True, slots=True)
class _Mixed:
    """The absolute effect in some rows, as a mixture over Normal scores of the control's mean.

    Parameters
    ----------
    rule : _Rule
    curve : Curve
        Of the log ratio.
    low, half : ndarray, shape (row,)
        The stretch of log ratios that holds the curve: its low end, and half its width.
    mean : ndarray, shape (power, row, score)
        The control's mean at each score, as a polynomial in ``(lam - low) / half - 1``.
    expected : ndarray, shape (power, 2, row)
        Its expectation and that of its square, likewise.
    """

    rule: _Rule
    curve: Curve
    low: FloatArray
    half: FloatArray
    mean: FloatArray
    expected: FloatArray

    @classmethod
    def of(cls, control: Arm, treatment: Arm, curve: Curve, rule: _Rule) -> _Mixed:
        first, last = curve.breaks.T
        half = 0.5 * (last - first)
        lam = first[:, None] + half[:, None] * (1.0 + rule.at)
        given = (_from_grid if rule in {_RARE, _FEW_COUNTS} else _from_moments)(control, treatment, lam, rule)
        mean = np.tensordot(rule.to_powers, given.at_scores, axes=(0, 1))
        expected = np.tensordot(rule.to_powers, np.stack([given.mean, given.square]), axes=(0, 2))
        return cls(rule, curve, first, half, _that_matter(mean), _that_matter(expected))

    def take(self, chosen: IntArray) -> _Mixed:
        parts = self.low[chosen], self.half[chosen], self.mean[:, chosen], self.expected[:, :, chosen]
        return _Mixed(self.rule, self.curve.take(chosen), *parts)

    @property
    def breaks(self) -> FloatArray:
        """Where the density begins and ends, shape (row, 2)."""
        return self._at_middle(self.curve.breaks)

    def ladder(self) -> tuple[FloatArray, FloatArray]:
        """Effects and the mass below each, both of shape (row, any)."""
        d = self._at_middle(self.curve.ladder()[0])
        return d, self.at(d)[0]

    def _at_middle(self, lam: FloatArray) -> FloatArray:
        """Effects at the middle score, for log ratios of shape (row, any)."""
        lam = np.clip(lam, self.low[:, None], (self.low + 2.0 * self.half)[:, None])
        each = np.broadcast_to(lam[..., None], (*lam.shape, len(self.rule.scores)))
        return self._mean(each)[0][..., len(self.rule.scores) // 2] * np.expm1(lam)

    def at(self, d: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mass below d and density at d, for d of shape (row, any)."""
        mass, density, _, _ = self.with_slope(d)
        return mass, density

    def with_slope(self, d: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, BoolArray]:
        """Mass below d, density at d and its slope, for d of shape (row, any), and where the roots were found."""
        (lam, m, rise, ok), w = self._roots(d), self.rule.weights
        growth = np.exp(lam)
        per = rise * (growth - 1.0) + m * growth  # how fast the effect rises with the log ratio
        bend = (2.0 * rise + m) * growth
        x = lam.reshape(len(d), -1)
        stretch, change = self.curve.scale.stretch(x)
        mass, density, slope = self.curve.mass.at(self.curve.scale.v(x))
        slope, density = (slope - density * change) / stretch**2, density / stretch
        mass, density, slope = (part.reshape(lam.shape) for part in (mass, density, slope))
        return mass @ w, (density / per) @ w, ((slope - density * bend / per) / per**2) @ w, ok

    def expectations(self, lam: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Of the control's mean and of its square, given log ratios of shape (row, any)."""
        t = np.clip((lam - self.low[:, None]) / self.half[:, None] - 1.0, -1.0, 1.0)
        out = np.zeros((2, *lam.shape))
        for term in self.expected[::-1]:
            out *= t
            out += term[..., None]
        return out[0], out[1]

    def _mean(self, lam: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The control's mean at each Normal score and its slope; lam has shape (row, any, score)."""
        t = (lam - self.low[:, None, None]) / self.half[:, None, None] - 1.0
        value, slope = np.zeros_like(t), np.zeros_like(t)
        for term in self.mean[::-1]:
            slope *= t
            slope += value
            value *= t
            value += term[:, None]
        return value, slope / self.half[:, None, None]

    def _roots(self, d: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, BoolArray]:
        """The log ratio at which each Normal score gives the effect d, the control's mean there and its slope; and where they were found, by Newton's method from where the mean hardly depends on it."""
        low, half = self.low[:, None, None], self.half[:, None, None]
        start = self.curve.scale.of(self.curve.mean[:, None])[..., None]
        lam = np.broadcast_to(start, (len(d), 1, len(self.rule.scores)))  # one for all d
        for _ in range(_ROOT_STEPS):
            m, rise = self._mean(lam)
            share = np.maximum(d[..., None] / m, -1.0 + 1e-12)
            step = (np.log1p(share) - lam) / np.clip(1.0 + share / (1.0 + share) * rise / m, 0.1, 2.0)
            last, lam = lam, np.clip(lam + step, low, low + 2.0 * half)
            close = step**2 < _SMALL * half
            if close.all():
                break
        arrived: BoolArray = (close | (lam == low) | (lam == low + 2.0 * half)).all(axis=2)
        return lam, m + rise * (lam - last), np.broadcast_to(rise, lam.shape), arrived


def _that_matter(terms: FloatArray) -> FloatArray:
    """The terms of polynomials between -1 and 1, shape (power, …), without the highest, where those add nothing to any of them."""
    share = np.abs(terms / terms[0]).reshape(len(terms), -1).max(axis=1)
    return terms[: np.flatnonzero(share > _NEGLIGIBLE)[-1] + 1]


def of_curve(
    control: Arm, treatment: Arm, curve: Curve, given: Quantity | None, cuts: FloatArray, *, chart: bool
) -> tuple[Quantity, BoolArray]:
    """Summary of the absolute effect under a prior on the relative one, and in which rows it was found.

    Parameters
    ----------
    curve : Curve
        Of the log ratio.
    given : Quantity, optional
        The relative effect; needed where the prior has a point at no effect.
    cuts : ndarray, shape (row, cut) or (cut,)
        Metric unit.
    """
    cuts = np.broadcast_to(cuts, (len(curve.mean), cuts.shape[-1]))
    null = None if given is None else given.null
    about = np.broadcast_to([-1.96, 1.96], (len(cuts), 2))
    if given is not None and null is None:
        about = (np.stack([given.hdi_low, given.hdi_high], axis=1) - given.mean[:, None]) / given.sd[:, None]
    found, parts = np.zeros(len(cuts), dtype=np.bool_), []
    for rows, rule in _rules(control, treatment, curve):
        points = None if null is None else null[rows]
        own = control.take(rows), treatment.take(rows), curve.take(rows)
        part, found[rows] = _of_rule(*own, about[rows], cuts[rows], points, rule, chart=chart)
        parts.append((rows, part))
    return collect(len(cuts), cuts.shape[1], parts, chart=chart), found


def _rules(control: Arm, treatment: Arm, curve: Curve) -> Iterator[tuple[IntArray, _Rule]]:
    """Every row at most once: few counts need exact quantiles, and the less the control's mean blurs the effect, the fewer scores do."""
    count = np.full(len(curve.mean), np.inf)
    if not isinstance(control, NormalMean):
        count = np.minimum(size_of(control), size_of(treatment))
    known, other = (mean / sd for mean, sd in map(peak_of, (control, treatment)))
    narrow = 1.0 / np.hypot(known, other)  # relative error of the control's mean given the ratio
    centre = curve.scale.of(curve.mean[:, None])[:, 0]
    spread = np.abs(curve.scale.of((curve.mean + curve.sd)[:, None])[:, 0] - centre)
    # what the mean takes from or gives to the effect, over what the log ratio does, which moves the mean too
    share = -np.expm1(-centre)
    blur = narrow * np.abs(share / (1.0 - share * (other * narrow) ** 2)) / spread
    further = blur + _FAR * narrow  # in the tails
    many, served = count >= _MANY, blur <= _LOST
    for rule, chosen in (
        (_RARE, served & (count < _FEW)),
        (_FEW_COUNTS, served & (count >= _FEW) & ~many),
        (_BLURRED, served & many & (further > _ROUGH)),
        (_USUAL, served & many & (further > _CALM) & (further <= _ROUGH)),
        (_QUIET, served & many & (further <= _CALM)),
    ):
        most = _GRID_ROWS if rule in {_RARE, _FEW_COUNTS} else len(chosen)
        for rows in chunks(np.flatnonzero(chosen), most):
            yield rows, rule


def _of_rule(
    control: Arm,
    treatment: Arm,
    curve: Curve,
    about: FloatArray,
    cuts: FloatArray,
    null: FloatArray | None,
    rule: _Rule,
    *,
    chart: bool,
) -> tuple[Quantity, BoolArray]:
    these = curve.these
    mixed = _Mixed.of(control, treatment, curve, rule)
    mean, square = mixed.expectations(curve.x)
    share = curve.effect
    effect = share * mean
    average = these.integrate(effect)
    spread = np.sqrt(np.maximum(these.integrate(share * share * square) - average**2, 0.0))
    loss = np.maximum(-curve.below_none(effect), 0.0)
    near = average[:, None] + spread[:, None] * about
    ends, ok = even_ends(mixed, _look, near, spread, small=_CLOSE, steps=_NEWTON_STEPS)
    low, high = ends.T
    none = cuts == 0
    below = curve.at(np.zeros((len(average), 1)))[0]
    if not none.all():
        elsewhere, _, _, found = mixed.with_slope(np.where(none, average[:, None], cuts))
        below = np.where(none, below, elsewhere)
        ok &= (found | none).all(axis=1)
    points = average[:, None] + spread[:, None] * np.linspace(-6.0, 6.0, CHART_POINTS if chart else 0)
    quantity = Quantity(
        mean=average,
        sd=spread,
        hdi_low=low,
        hdi_high=high,
        p_above=np.broadcast_to(np.clip(1.0 - below, 0.0, 1.0), cuts.shape),
        loss=loss,
        gain=np.maximum(average + loss, 0.0),
        grid=points,
        density=mixed.at(points)[1] if chart else points,
    )
    if null is not None:
        quantity = with_point(quantity, mixed, np.zeros_like(average), null, cuts, log_scale=False)
    # of several intervals with even ends only a search tells the shortest: panels do that
    return quantity, ok & curve.single


def _look(some: _Mixed, d: FloatArray) -> Looked:
    mass, density, slope, ok = some.with_slope(d)
    density = np.maximum(density, 1e-200)  # a slope over it must not overflow, whatever the unit
    height: FloatArray = np.log(density)
    return mass, density, height, slope / density, np.asarray(ok.all(axis=1))
