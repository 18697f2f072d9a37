"""Joint posterior of the pooled effect mu and of the spread tau of segment effects around it.

``delta_s ~ Normal(mu, tau)``, ``mu ~ prior``, ``tau ~ half-Normal``, and what the data of segment s say about delta_s enters as it is: no Gaussian stands in for it. For each tau of a quadrature rule mu has an even grid of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from expnb.errors import PosteriorError
from expnb.posterior.arms import (
    Arm,
    Binomial,
    BoolArray,
    FloatArray,
    IntArray,
    NormalMean,
    Poisson,
    RatioMean,
    StudentMean,
)
from expnb.posterior.bells import FADE, STEPS_PER_SD, WIDTH, bell_weights, fade
from expnb.posterior.counts import locate_poisson, poisson_marginal
from expnb.posterior.grid import LogDensity, support
from expnb.posterior.located import located_marginal
from expnb.posterior.ratio import binomial_marginal, locate_binomial, locate_normal, normal_marginal
from expnb.posterior.routes import mixed_kinds, require_log_scale
from expnb.spec.prior import Prior

_DROP = 21.0  # exp(-21) = 8e-10: what lies below that share of the peak is left out
_REACH = 6.5  # the same, in standard deviations of a Normal
_LONGEST_STEP = 0.25  # of a log ratio: likelihoods of few conversions bend on the scale of 1
_STEPS_PER_POLE = 6.0  # distance of a Student-t's poles from the real line
_NODES = 20
_NODES_PER_FOLD = 6.0  # of tau, per e-fold of its range
_MOST_NODES = 80
_MOST_POINTS = 4000
_OUTLIER = 3.5
_NULL = 0.1
_TINY = 1e-300
_NOTHING = 1e-16  # of a bell
_SURE = 7.0  # standard deviations
_CACHED = 16_000
_ROUNDS = 6


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the data of each segment say about its log ratio, shape (segment,) throughout.

    Parameters
    ----------
    centre, spread : ndarray
        Rough place of the log ratio and its standard deviation.
    moment : ndarray
        How many moments the ratio has, at most 2.
    log_likelihood : callable
        ``log_likelihood(rows, x)`` at log ratio ``centre + x``; the control's mean is integrated out.
    """

    centre: FloatArray
    spread: FloatArray
    moment: FloatArray
    log_likelihood: LogDensity

    def __len__(self) -> int:
        return len(self.centre)


def evidence(control: Arm, treatment: Arm) -> Evidence:
    """Likelihoods of the log ratio in each segment."""
    if isinstance(control, Binomial) and isinstance(treatment, Binomial):
        place = locate_binomial(control, treatment)
        moment = np.minimum(control.successes + 1.0, 2.0)
        likelihood = binomial_marginal(control, treatment, place.centre, flat=False)
    elif isinstance(control, NormalMean) and isinstance(treatment, NormalMean):
        require_log_scale(control, treatment)
        place, moment = locate_normal(control, treatment), np.full(len(control), 2.0)
        likelihood = normal_marginal(control, treatment, flat=False)
    elif isinstance(control, Poisson) and isinstance(treatment, Poisson):
        place, moment = locate_poisson(control, treatment), np.minimum(control.total + 1.0, 2.0)
        likelihood = poisson_marginal(control, treatment, flat=False)
    elif isinstance(control, StudentMean | RatioMean) and type(control) is type(treatment):
        require_log_scale(control, treatment)
        place, moment = locate_normal(control, treatment), np.full(len(control), 2.0)
        likelihood = located_marginal(control, treatment, flat=False)
    else:
        raise mixed_kinds(control, treatment)
    return Evidence(place.centre, place.spread, moment, likelihood)


# --- tau ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scales:
    """A quadrature rule for tau, and roughly where mu lies for each, shape (node,) throughout.

    Parameters
    ----------
    tau : ndarray
    log_weight : ndarray
        Of the rule times the prior of tau.
    low, high : ndarray
        Stretch of mu that matters.
    step : ndarray
        Of the grid of mu.
    """

    tau: FloatArray
    log_weight: FloatArray
    low: FloatArray
    high: FloatArray
    step: FloatArray


@dataclass(frozen=True, slots=True)
class Tuning:
    """How far to look, and how closely; grows until nothing is missed."""

    tau_low: float = 0.0
    tau_high: float = 0.0
    bend: float = 1.0
    reach: float = 1.1
    fineness: float = 1.0

    @property
    def folds(self) -> tuple[float, float]:
        """The range of ``asinh(tau / bend)``, in which the nodes are spread."""
        return math.asinh(self.tau_low / self.bend), math.asinh(self.tau_high / self.bend)


def first_look(data: Evidence, prior: Prior, tau_scale: float) -> Tuning:
    """Range of tau that matters, by Normal likelihoods; checked later."""
    least = 1e-3 * min(float(data.spread.min()), tau_scale)
    tau = np.geomspace(least, 7.0 * tau_scale, 64)
    mean, var, log_f = _normal_means(data, tau)
    # Profile over mu instead of an integral: only the range is wanted.
    between = mean[:, None] * np.linspace(0.0, 1.0, 17)
    best = (log_prior_of_mu(prior, between) - 0.5 * (between - mean[:, None]) ** 2 / var[:, None]).max(axis=1)
    log_f = log_f + best - 0.5 * (tau / tau_scale) ** 2
    log_mass = log_f + np.log(tau)
    kept = np.flatnonzero(log_mass > log_mass.max() - 19.0)
    low = 0.0 if log_f[0] > log_f.max() - 24.0 else float(tau[max(kept[0] - 1, 0)])
    running = np.cumsum(np.exp(log_mass - log_mass.max()))
    bend = float(tau[np.searchsorted(running, 0.1 * running[-1])])
    return Tuning(low, float(tau[min(kept[-1] + 1, len(tau) - 1)]), bend)


def _normal_means(data: Evidence, tau: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean and variance of mu given tau from Normal likelihoods, and their log density there; shape (len(tau),)."""
    precision = 1.0 / (data.spread**2 + tau[:, None] ** 2)
    var = 1.0 / precision.sum(axis=1)
    mean = var * (precision @ data.centre)
    miss = (precision * (data.centre - mean[:, None]) ** 2).sum(axis=1)
    return mean, var, 0.5 * (np.log(precision).sum(axis=1) - miss + np.log(var))


def scales(data: Evidence, prior: Prior, tau_scale: float, tuning: Tuning) -> Scales:
    """Gauss-Legendre nodes in ``asinh(tau / bend)``, and the grid of mu for each."""
    first, last = tuning.folds
    nodes = min(_MOST_NODES, max(_NODES, math.ceil(_NODES_PER_FOLD * tuning.fineness * (last - first))))
    x, weight = np.polynomial.legendre.leggauss(nodes)
    v = first + 0.5 * (last - first) * (x + 1.0)
    tau = tuning.bend * np.sinh(v)
    log_weight = np.log(weight * np.cosh(v)) - 0.5 * (tau / tau_scale) ** 2
    mean, var, _ = _normal_means(data, tau)
    low, high = _reach(mean, tuning.reach * np.sqrt(var), prior)
    step = np.minimum(np.sqrt(var) / STEPS_PER_SD, _finest(prior)) / tuning.fineness
    return Scales(tau, log_weight, low, high, step)


def log_prior_of_mu(prior: Prior, mu: FloatArray) -> FloatArray:
    """Log density of the prior on the pooled log ratio, up to a constant.

    The share of a learnt prior that lies at exactly no effect becomes a Normal of a tenth of its smallest scale, because a pooled effect of exactly 0 is not what anybody believes of segments that differ.
    """
    if prior.family == "normal":
        return -0.5 * (mu / prior.scale) ** 2
    scales, weights = (np.array(column) for column in zip(*prior.parts, strict=True))
    t = mu[..., None] / scales
    density = (1.0 + t * t / prior.df) ** (-0.5 * (prior.df + 1.0)) @ (weights / scales)
    if prior.null_share > 0:
        density *= 1.0 - prior.null_share
        narrow = _NULL * scales.min()
        peak = math.exp(math.lgamma(0.5 * prior.df) - math.lgamma(0.5 * (prior.df + 1.0))) * math.sqrt(0.5 * prior.df)
        density += prior.null_share * peak / narrow * np.exp(-0.5 * (mu / narrow) ** 2)
    out: FloatArray = np.log(density)
    return out


def _finest(prior: Prior) -> float:
    """Step of mu that resolves the prior."""
    if prior.family == "normal":
        return prior.scale / STEPS_PER_SD
    least = min(scale for scale, _ in prior.parts)
    if prior.null_share > 0:
        return _NULL * least / STEPS_PER_SD
    return least * min(0.5, math.sqrt(prior.df) / _STEPS_PER_POLE)


def _reach(mean: FloatArray, sd: FloatArray, prior: Prior) -> tuple[FloatArray, FloatArray]:
    """Where a Normal times the prior matters, shape (node,) each."""
    around = np.linspace(-_REACH, _REACH, 53)
    points = np.concatenate(
        [mean[:, None] + sd[:, None] * around, np.broadcast_to(prior.scale * around, (len(mean), len(around)))], axis=1
    )
    points = np.sort(points, axis=1)
    log_f = log_prior_of_mu(prior, points) - 0.5 * ((points - mean[:, None]) / sd[:, None]) ** 2
    keep = log_f > log_f.max(axis=1, keepdims=True) - _DROP
    first = np.maximum(keep.argmax(axis=1) - 1, 0)
    last = np.minimum(keep.shape[1] - keep[:, ::-1].argmax(axis=1), keep.shape[1] - 1)
    row = np.arange(len(mean))
    return points[row, first], points[row, last]


# --- likelihoods as bells ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bells:
    """Likelihoods of some segments as sums of bells of one width, on points that they share.

    Parameters
    ----------
    rows : ndarray, shape (segment,)
    points : ndarray, shape (point,)
        Log ratios.
    width : float
    weight : ndarray, shape (segment, point)
    log_scale : ndarray, shape (segment,)
        Log of what the likelihoods were divided by.
    tilt : float
        The sum of bells is the likelihood times ``exp(tilt * (x - points[0]))``; 0 unless the part that matters lies in the tail of the likelihood, where it would drown in the rounding errors of the peak.
    """

    rows: IntArray
    points: FloatArray
    width: float
    weight: FloatArray
    log_scale: FloatArray
    tilt: float

    def blurred(self, mu: FloatArray, tau: FloatArray) -> FloatArray:
        """``log int L(d) Normal(d; mu, tau) dd``, shape (segment, len(mu)); one tau per mu."""
        return self._logs(np.concatenate([self._kernel(*part)[0] for part in self._parts(mu, tau)]))

    def share_above(self, mu: FloatArray, tau: FloatArray, cut: float) -> FloatArray:
        """``P(d > cut)`` where the density of d is ``L(d) Normal(d; mu, tau)``, shape (segment, len(mu))."""
        from scipy.special import ndtr  # noqa: PLC0415 - half a second, only when segments are pooled

        sums = []
        for part_mu, part_tau in self._parts(mu, tau):
            whole, kernel, gap, share = self._kernel(part_mu, part_tau)
            # a product of two bells is a bell, with its middle between theirs
            z = gap
            z *= -share
            z += part_mu[:, None] - cut
            z /= self.width * np.sqrt(share)
            kernel[z < -_SURE] = 0.0
            open_ = (np.abs(z) <= _SURE) & (kernel > _NOTHING)
            kernel[open_] *= ndtr(z[open_])
            sums.append(np.clip(kernel @ self._weight.T / np.maximum(whole, _TINY), 0.0, 1.0))
        out: FloatArray = np.concatenate(sums).T
        return out

    @property
    def _weight(self) -> FloatArray:
        """Weights without the tilt."""
        if not self.tilt:
            return self.weight
        out: FloatArray = self.weight * np.exp(
            -self.tilt * (self.points - self.points[0]) + 0.5 * (self.tilt * self.width) ** 2
        )
        return out

    def _parts(self, mu: FloatArray, tau: FloatArray) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Some points at a time, so that their kernel stays in the processor's cache."""
        size = max(16, _CACHED // len(self.points))
        for first in range(0, len(mu), size):
            yield mu[first : first + size], tau[first : first + size]

    def _kernel(self, mu: FloatArray, tau: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Blurred likelihoods, what each bell adds to them, mu minus the bells' places, and how near to mu the middle of both lies."""
        var = (self.width**2 + tau**2)[:, None]
        gap = mu[:, None] - (self.points - self.tilt * self.width**2)  # a tilted bell is a bell elsewhere
        kernel = gap * gap
        kernel *= -0.5 / var
        np.exp(kernel, out=kernel)
        kernel *= self.width / np.sqrt(var)
        return kernel @ self._weight.T, kernel, gap, tau[:, None] ** 2 / var

    def _logs(self, sums: FloatArray) -> FloatArray:
        out: FloatArray = np.log(np.maximum(sums.T, _TINY)) + self.log_scale[:, None]
        return out


def as_bells(data: Evidence, grid: Scales) -> list[Bells]:
    """The likelihoods where they matter, in groups of about equal width."""
    low, high, likely = _stretches(data, grid)
    outlier = np.abs(likely - data.centre) > _OUTLIER * data.spread
    step = np.minimum(data.spread / STEPS_PER_SD, _LONGEST_STEP)
    octave = np.floor(np.log2(step)).astype(int)
    groups: dict[tuple[int, int], list[int]] = {}
    for row in range(len(data)):
        groups.setdefault((int(octave[row]), row if outlier[row] else -1), []).append(row)
    return [
        _group(data, np.array(rows), 2.0 ** key[0], low[rows], high[rows], likely[rows] if key[1] >= 0 else None)
        for key, rows in groups.items()
    ]


def _stretches(data: Evidence, grid: Scales) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Log ratios of each segment that matter, from and to, and a likely one; shape (segment,) each."""
    tau = grid.tau[:, None]
    own = tau**2 / (data.spread**2 + tau**2)  # weight of the segment's own data
    sd = _REACH * data.spread * np.sqrt(own)
    low = (own * data.centre + (1.0 - own) * grid.low[:, None] - sd).min(axis=0)
    high = (own * data.centre + (1.0 - own) * grid.high[:, None] + sd).max(axis=0)
    outer = (grid.low - _REACH * grid.tau).min(), (grid.high + _REACH * grid.tau).max()
    points = np.concatenate(
        [
            np.broadcast_to(outer[0] + (outer[1] - outer[0]) * np.linspace(0, 1, 12), (len(data), 12)),
            data.centre[:, None] + data.spread[:, None] * np.linspace(-9.0, 9.0, 19),
        ],
        axis=1,
    )
    points = np.sort(points - data.centre[:, None], axis=1)
    ends = support(data.log_likelihood, np.arange(len(data)), points, np.zeros(len(data))) + data.centre[:, None]
    low, high = np.minimum(np.maximum(ends[:, 0], outer[0]), low), np.maximum(np.minimum(ends[:, 1], outer[1]), high)
    middle = own * data.centre + (1.0 - own) * (0.5 * (grid.low + grid.high))[:, None]
    return low, high, middle[np.argmax(grid.log_weight + _normal_means(data, grid.tau)[2])]


def _group(
    data: Evidence, rows: IntArray, step: float, low: FloatArray, high: FloatArray, likely: FloatArray | None
) -> Bells:
    """Bells on the points ``step * whole number``, as far as any of the segments needs them."""
    first = np.floor(low / step).astype(int)
    inside = np.ceil(high / step) - first
    count = int(inside.max()) + 2 * FADE + 1
    if count > _MOST_POINTS:
        raise PosteriorError(
            f"the segments' effects range from {low.min():+.3g} to {high.max():+.3g} in steps of {step:.3g}, too many for a grid. Please report the counts of the segments: this is a gap in expnb."
        )
    place = np.arange(-FADE, count - FADE, dtype=np.float64)
    x = (first[:, None] + place) * step
    log_f = data.log_likelihood(rows, x - data.centre[rows, None])
    start, tilt = int(first.min()) - FADE, 0.0
    if likely is not None:
        ends = likely - data.centre[rows] + step * np.array([-0.5, 0.5])
        sides = data.log_likelihood(rows, ends[None, :])
        tilt = -float(sides[0, 1] - sides[0, 0]) / step
        log_f = log_f + tilt * (x - start * step)
    whole = (place >= 0) & (place <= inside[:, None])
    top = np.where(whole, log_f, -np.inf).max(axis=1)
    values = np.exp(np.minimum(log_f - top[:, None], 30.0)) * fade(place, inside[:, None])
    # Only points that some segment needs: segments may lie far apart.
    index = (first[:, None] - FADE - start) + np.arange(count)
    used, where = np.unique(index, return_inverse=True)
    weight = np.zeros((len(rows), len(used)))
    np.put_along_axis(weight, where.reshape(index.shape), bell_weights(values), axis=1)
    return Bells(rows, (start + used).astype(np.float64) * step, WIDTH * step, weight, top, tilt)


# --- the joint posterior -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Joint:
    """Posterior of mu and tau, and what the other segments say about each one.

    Parameters
    ----------
    tau, share : ndarray, shape (node,)
        Nodes of tau and their posterior weights, which add up to 1.
    tuning : Tuning
        The range of tau.
    mu : ndarray, shape (node, point)
    width : ndarray, shape (node,)
        Of the bells on `mu`.
    pooled : ndarray, shape (node, point)
        Weights of the bells that make the posterior of mu.
    others : ndarray, shape (segment, node, point)
        The same for mu given all other segments, times the weight of the node.
    used : ndarray of bool, shape (node, point)
        Points that carry weight.
    bells : list of Bells
        Likelihoods of the segments.
    """

    tau: FloatArray
    share: FloatArray
    tuning: Tuning
    mu: FloatArray
    width: FloatArray
    pooled: FloatArray
    others: FloatArray
    used: BoolArray
    bells: list[Bells]


def joint_posterior(data: Evidence, prior: Prior, tau_scale: float) -> Joint:
    """The joint posterior on a grid wide and fine enough.

    Raises
    ------
    PosteriorError
        If no grid will do, which would be a gap in expnb.
    """
    tuning = first_look(data, prior, tau_scale)
    for _ in range(_ROUNDS):
        made, better = _attempt(data, prior, tau_scale, tuning)
        if better is None:
            return made
        tuning = better
    raise PosteriorError(
        f"the effects of {len(data)} segments could not be pooled on a grid. Please report their counts or means: this is a gap in expnb."
    )


def _attempt(data: Evidence, prior: Prior, tau_scale: float, tuning: Tuning) -> tuple[Joint, Tuning | None]:
    """The joint posterior on one grid, and a better tuning where it is not good enough."""
    grid = scales(data, prior, tau_scale, tuning)
    inside = np.ceil((grid.high - grid.low) / grid.step)
    place = np.arange(-FADE, int(inside.max()) + FADE + 1, dtype=np.float64)
    mu = grid.low[:, None] + place * grid.step[:, None]
    bells = as_bells(data, grid)
    log_l = np.empty((len(data), *mu.shape))
    tau_each = np.repeat(grid.tau, mu.shape[1])
    for group in bells:
        log_l[group.rows] = group.blurred(mu.ravel(), tau_each).reshape(len(group.rows), *mu.shape)
    log_f = log_l.sum(axis=0) + log_prior_of_mu(prior, mu) + grid.log_weight[:, None]
    whole = (place >= 0) & (place <= inside[:, None])
    peak = np.where(whole, log_f, -np.inf).max(axis=1)
    top = peak.max()
    density = np.where(whole, np.exp(np.minimum(log_f - top, 0.0)), 0.0)
    share = density.sum(axis=1) * grid.step
    soft = fade(place, inside[:, None])
    best = np.unravel_index(np.argmax(np.where(whole, log_f, -np.inf)), log_f.shape)
    others = np.exp(np.minimum(log_f - log_l - (top - log_l[:, best[0], best[1]])[:, None, None], 300.0)) * soft
    width = WIDTH * grid.step
    pooled = bell_weights(np.exp(np.minimum(log_f - top, 30.0)) * soft)
    better = _better(tuning, grid, mu, density, share, whole)
    used = (density > 1e-12) & (share > 1e-13 * share.sum())[:, None]
    made = Joint(grid.tau, share / share.sum(), tuning, mu, width, pooled, bell_weights(others), used, bells)
    return made, better


def _better(
    tuning: Tuning, grid: Scales, mu: FloatArray, density: FloatArray, share: FloatArray, whole: BoolArray
) -> Tuning | None:
    """A tuning that misses less, or None."""
    reach, fineness, low, high = tuning.reach, tuning.fineness, tuning.tau_low, tuning.tau_high
    matters = share > 1e-7 * share.sum()
    peak = density.max(axis=1)
    row = np.arange(len(mu))
    edges = np.maximum(density[row, FADE], density[row, FADE + whole.sum(axis=1) - 1])
    if (matters & (edges > 1e-7 * peak.max())).any():
        reach *= 1.5
    total = np.maximum(density.sum(axis=1), _TINY)
    mean = (density * mu).sum(axis=1) / total
    sd = np.sqrt((density * (mu - mean[:, None]) ** 2).sum(axis=1) / total)
    narrow = (grid.step / np.maximum(sd, _TINY))[matters].max()
    if narrow > 0.55:
        fineness *= 1.5
    per_node = share / np.gradient(np.arcsinh(grid.tau / tuning.bend))
    if per_node[-1] > 1e-7 * per_node.max():
        high *= 1.6
    if low > 0 and per_node[0] > 1e-7 * per_node.max():
        low /= 2.0
    changed = Tuning(low, high, tuning.bend, reach, fineness)
    return None if changed == tuning else changed


def tau_curve(joint: Joint, points: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Values of tau, the density and the mass below each, shape (points,)."""
    nodes = len(joint.tau)
    x = np.polynomial.legendre.leggauss(nodes)[0]
    first, last = joint.tuning.folds
    order = np.arange(nodes)
    series = (order + 0.5) * (np.polynomial.legendre.legvander(x, nodes - 1).T @ joint.share)
    t = np.linspace(-1.0, 1.0, points)
    below = np.polynomial.legendre.legval(t, np.polynomial.legendre.legint(series, lbnd=-1))
    v = first + 0.5 * (last - first) * (t + 1.0)
    slope = 0.5 * (last - first) * joint.tuning.bend * np.cosh(v)
    density = np.maximum(np.polynomial.legendre.legval(t, series), 0.0) / slope
    return joint.tuning.bend * np.sinh(v), density, np.clip(np.maximum.accumulate(below), 0.0, 1.0)


def predictive(joint: Joint, *, pooled: bool) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Bells of the log ratio of each segment given all others, or of mu: points, variances and weights."""
    used = joint.used
    var = np.broadcast_to((joint.width**2)[:, None], joint.mu.shape)[used]
    if pooled:
        return joint.mu[used], var, joint.pooled[used][None]
    wide = var + np.broadcast_to((joint.tau**2)[:, None], joint.mu.shape)[used]
    return joint.mu[used], wide, joint.others[:, used] * np.sqrt(var / wide)
