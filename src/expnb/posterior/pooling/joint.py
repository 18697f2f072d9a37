"""Joint posterior of the pooled effect mu and of the spread tau of segment effects around it, on a grid of mu for each node of tau."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from expnb.errors import PosteriorError
from expnb.posterior.exact.arms import BoolArray, FloatArray
from expnb.posterior.pooling.bells import FADE, WIDTH, bell_weights, fade
from expnb.posterior.pooling.likelihood_bells import Bells, Stretch, as_bells
from expnb.posterior.pooling.two_scales import (
    Evidence,
    Scales,
    Tuning,
    first_look,
    legendre_series,
    log_prior_of_mu,
    scales,
)
from expnb.spec.prior import Prior

_TINY = 1e-300
_NOTHING = 1e-10  # of the density at its peak, or of a node's weight in the sum
_BLUNT = 2.0  # steps
_ROOT = math.sqrt(2.0 * math.pi)
_ROUNDS = 6


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
        Areas of the bells of sd `wide` that make each segment's log ratio given all other segments; their sum over a node is its weight.
    wide : ndarray, shape (node,)
    used : ndarray of bool, shape (node, point)
        Points that carry weight.
    bells : list of Bells
        Likelihoods of the segments.
    stretch : Stretch
        The same, not blurred.
    """

    tau: FloatArray
    share: FloatArray
    tuning: Tuning
    mu: FloatArray
    width: FloatArray
    pooled: FloatArray
    others: FloatArray
    wide: FloatArray
    used: BoolArray
    bells: list[Bells]
    stretch: Stretch


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
    whole = (place >= 0) & (place <= inside[:, None])
    node, point = np.nonzero(whole)
    bells, stretch = as_bells(data, grid)
    log_l = np.zeros((len(data), *mu.shape))
    for group in bells:
        log_l[group.rows[:, None], node, point] = group.blurred(mu[node, point], grid.tau[node])
    # Outside only smoothness counts. No slope goes on there: far from a segment's data it may be noise.
    nearest = np.clip(place, 0, inside[:, None]).astype(int) + FADE
    log_l = np.take_along_axis(log_l, nearest[None], axis=2)
    log_f = log_l.sum(axis=0) + log_prior_of_mu(prior, mu) + grid.log_weight[:, None]
    inner = np.where(whole, log_f, -np.inf)
    best = np.unravel_index(np.argmax(inner), inner.shape)
    top = inner[best]
    density = np.exp(inner - top)
    share = density.sum(axis=1) * grid.step
    soft = np.where(place <= inside[:, None] + FADE, fade(place, inside[:, None]), 0.0)
    log_f -= top
    others = np.exp(np.minimum(log_f - log_l + log_l[:, best[0], best[1]][:, None, None], 300.0)) * soft
    pooled = bell_weights(np.exp(np.minimum(log_f, 30.0)) * soft)
    better = _better(tuning, grid, mu, density, share, whole)
    used = (density > _NOTHING) & (share > _NOTHING * share.sum())[:, None]
    areas, wide = _blurred(others, grid)
    made = Joint(
        tau=grid.tau,
        share=share / share.sum(),
        tuning=tuning,
        mu=mu,
        width=WIDTH * grid.step,
        pooled=pooled,
        others=areas,
        wide=wide,
        used=used,
        bells=bells,
        stretch=stretch,
    )
    return made, better


def _blurred(others: FloatArray, grid: Scales) -> tuple[FloatArray, FloatArray]:
    """Areas and sds of the bells that make mu, blurred by tau, from the densities of mu.

    Where tau is twice the step or more, every second point is enough, and no bell has to stand for what lies between: the trapezoidal rule converges exponentially.
    """
    blunt = grid.tau >= _BLUNT * grid.step
    width = WIDTH * grid.step[:, None]
    areas = np.where(blunt[:, None], 0.0, bell_weights(others) * (width * _ROOT))
    areas[:, blunt, ::2] = others[:, blunt, ::2] * (2.0 * grid.step[blunt, None])
    return areas, np.where(blunt, grid.tau, np.hypot(grid.tau, width[:, 0]))


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
    series = legendre_series(x, joint.share)
    t = np.linspace(-1.0, 1.0, points)
    below = np.polynomial.legendre.legval(t, np.polynomial.legendre.legint(series, lbnd=-1))
    v = first + 0.5 * (last - first) * (t + 1.0)
    slope = 0.5 * (last - first) * joint.tuning.bend * np.cosh(v)
    density = np.maximum(np.polynomial.legendre.legval(t, series), 0.0) / slope
    return joint.tuning.bend * np.sinh(v), density, np.clip(np.maximum.accumulate(below), 0.0, 1.0)


def predictive(joint: Joint) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Bells of the log ratio of each segment given all others: points, variances and weights."""
    used = joint.used & (joint.others != 0.0).any(axis=0)
    wide = np.broadcast_to(joint.wide[:, None], joint.mu.shape)[used]
    return joint.mu[used], wide**2, joint.others[:, used] / wide


def typical(joint: Joint) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Bells of mu: points, variances and weights; bells of one place and width, of several nodes of tau, are one."""
    used = joint.used
    width = np.broadcast_to(joint.width[:, None], joint.mu.shape)[used]
    place = np.round(joint.mu[used] * (WIDTH / width))
    (width, place), where = np.unique(np.stack([width, place]), axis=1, return_inverse=True)
    weight: FloatArray = np.bincount(where.ravel(), joint.pooled[used], minlength=len(width)).astype(np.float64)
    return place * width / WIDTH, width**2, weight[None]
