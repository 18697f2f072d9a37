"""Where the pooled effect mu and the spread tau of segment effects around it are looked at: a quadrature rule for tau, and an even grid of mu for each of its nodes.

``delta_s ~ Normal(mu, tau)``, ``mu ~ prior``, ``tau ~ half-Normal``, and what the data of segment s say about delta_s enters as it is: no Gaussian stands in for it (`likelihood_bells`, `joint`). Gaussians
only say where to look.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from expnb.posterior.exact.arms import (
    Arm,
    Binomial,
    FloatArray,
    NormalMean,
    Poisson,
    RatioMean,
    StudentMean,
)
from expnb.posterior.exact.counts import locate_poisson, poisson_marginal
from expnb.posterior.exact.grid import LogDensity
from expnb.posterior.exact.located import located_marginal
from expnb.posterior.exact.ratio import binomial_marginal, locate_binomial, locate_normal, normal_marginal
from expnb.posterior.exact.routes import mixed_kinds, require_log_scale
from expnb.posterior.pooling.bells import STEPS_PER_SD
from expnb.spec.prior import Prior

REACH = 6.5  # standard deviations of a Normal that are looked at
_AROUND = np.linspace(-8.0, 8.0, 65)  # the same, where the end of what matters is looked for
_DROP = 18.0  # what lies below exp(-18) = 2e-8 of the peak is left out
_DOUBT = 4.0  # of the Gaussians that say where the peak is, in logs
_STEPS_PER_POLE = 6.0  # distance of a Student-t's poles from the real line
_STEP_CLASSES = 4.0  # per octave: nodes of tau whose steps are equal have grid points in common
_NODES = (16, 18, 20, 23, 26, 32, 40, 56, 80)  # of tau
_BEND = 0.7  # of the mass of tau lies below the value at which nodes begin to be spread by its logarithm
_LAST = 1e-4  # coefficients of the density of tau, beside 0.5 of the first; sums over the nodes are exact to about its square
_NULL = 0.1


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
    low, likely, high : ndarray
        Stretch of mu that matters, and its likeliest point.
    step : ndarray
        Of the grid of mu.
    """

    tau: FloatArray
    log_weight: FloatArray
    low: FloatArray
    likely: FloatArray
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
    tau = np.geomspace(least, 6.2 * tau_scale, 64)
    log_f = _profile(data, prior, tau) - 0.5 * (tau / tau_scale) ** 2
    log_mass = log_f + np.log(tau)
    kept = np.flatnonzero(log_mass > log_mass.max() - 18.0)
    low = 0.0 if log_f[0] > log_f.max() - 24.0 else float(tau[max(kept[0] - 1, 0)])
    running = np.cumsum(np.exp(log_mass - log_mass.max()))
    bend = float(tau[np.searchsorted(running, _BEND * running[-1])])
    return Tuning(low, float(tau[min(kept[-1] + 1, len(tau) - 1)]), bend)


def _profile(data: Evidence, prior: Prior, tau: FloatArray) -> FloatArray:
    """Log density of tau but for its prior, by Normal likelihoods and a rough sum over mu: only its range and smoothness are wanted."""
    mean, var, log_f = normal_means(data, tau)
    between = mean[:, None] * np.linspace(0.0, 1.0, 17)
    log_sum = np.logaddexp.reduce(
        log_prior_of_mu(prior, between) - 0.5 * (between - mean[:, None]) ** 2 / var[:, None], axis=1
    )
    out: FloatArray = log_f + log_sum
    return out


@cache
def _legendre(nodes: int) -> tuple[FloatArray, FloatArray]:
    x, weight = np.polynomial.legendre.leggauss(nodes)
    return x, weight


def legendre_series(x: FloatArray, share: FloatArray) -> FloatArray:
    """Coefficients of the density whose masses at the Gauss-Legendre nodes x are these."""
    out: FloatArray = (np.arange(len(x)) + 0.5) * (np.polynomial.legendre.legvander(x, len(x) - 1).T @ share)
    return out


def normal_means(data: Evidence, tau: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean and variance of mu given tau from Normal likelihoods, and their log density there; shape (len(tau),)."""
    precision = 1.0 / (data.spread**2 + tau[:, None] ** 2)
    var = 1.0 / precision.sum(axis=1)
    mean = var * (precision @ data.centre)
    miss = (precision * (data.centre - mean[:, None]) ** 2).sum(axis=1)
    return mean, var, 0.5 * (np.log(precision).sum(axis=1) - miss + np.log(var))


def scales(data: Evidence, prior: Prior, tau_scale: float, tuning: Tuning) -> Scales:
    """Gauss-Legendre nodes in ``asinh(tau / bend)``, and the grid of mu for each: whole multiples of a step."""
    first, last = tuning.folds
    for nodes in _NODES:
        x, weight = _legendre(nodes)
        v = first + 0.5 * (last - first) * (x + 1.0)
        tau = tuning.bend * np.sinh(v)
        log_weight = np.log(weight * np.cosh(v)) - 0.5 * (tau / tau_scale) ** 2
        log_mass = _profile(data, prior, tau) + log_weight
        mass = np.exp(log_mass - log_mass.max())
        if np.abs(legendre_series(x, mass / mass.sum())[-2:]).max() < _LAST / tuning.fineness:
            break
    mean, var, log_f = normal_means(data, tau)
    low, likely, high = _reach(mean, tuning.reach * np.sqrt(var), log_f + log_weight, prior)
    step = np.minimum(np.sqrt(var) / STEPS_PER_SD, _finest(prior)) / tuning.fineness
    step = 2.0 ** (np.floor(_STEP_CLASSES * np.log2(step)) / _STEP_CLASSES)
    return Scales(tau, log_weight, np.floor(low / step) * step, likely, high, step)


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


def _reach(
    mean: FloatArray, sd: FloatArray, height: FloatArray, prior: Prior
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Where a Normal times the prior begins to matter among all others, peaks, and ends, shape (node,) each; `height` is the log of each Normal's peak."""
    points = np.concatenate(
        [mean[:, None] + sd[:, None] * _AROUND, np.broadcast_to(prior.scale * _AROUND, (len(mean), len(_AROUND)))],
        axis=1,
    )
    points = np.sort(points, axis=1)
    log_f = log_prior_of_mu(prior, points) - 0.5 * ((points - mean[:, None]) / sd[:, None]) ** 2
    best = log_f.max(axis=1)
    least = np.minimum((best + height).max() - height - _DROP, best) - _DOUBT
    keep = log_f > least[:, None]
    first = np.maximum(keep.argmax(axis=1) - 1, 0)
    last = np.minimum(keep.shape[1] - keep[:, ::-1].argmax(axis=1), keep.shape[1] - 1)
    row = np.arange(len(mean))
    return points[row, first], points[row, log_f.argmax(axis=1)], points[row, last]
