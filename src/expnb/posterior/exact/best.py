"""Which of many arms has the best mean, with one control for all.

Without a prior on the effects the arms are independent: ``P(v best) = int f_v prod_u F_u``. With one they are independent given the control's mean m, so the same integral is taken over the log ratios for each m, and then over m.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from expnb.posterior.exact import lattice
from expnb.posterior.exact.arms import (
    Arm,
    Binomial,
    BoolArray,
    FloatArray,
    IntArray,
    Located,
    NormalMean,
    Poisson,
    RatioMean,
    StudentMean,
)
from expnb.posterior.exact.grid import LogDensity, Panels, panels, resolve, support
from expnb.posterior.exact.point import log_bayes_factor, null_probability
from expnb.posterior.exact.ratio import CONTROL_FLOOR, log_prior
from expnb.posterior.exact.routes import flanks, mixed_kinds, require_log_scale
from expnb.spec.prior import Prior

_EVEN = np.linspace(0.0, 1.0, 13)
_LADDER = np.concatenate([[0.0], np.geomspace(1e-3, 1.0, 24)])
_CHUNK = 16  # rows at a time; each holds a whole grid of control means
_NONE = -1e9  # log density of what cannot be


def share_best(arms: Sequence[Arm], prior: Prior, *, largest: bool) -> FloatArray:
    """P(an arm's mean is the best of all), shape (row, variant); rows sum to 1.

    Parameters
    ----------
    arms : sequence of Binomial or NormalMean
        All of one kind; the first is the control.
    prior : Prior
        On the log ratio of each treatment to the control.
    largest : bool
        Whether the largest mean is the best.

    Raises
    ------
    PosteriorError
        If there is a prior and the means have no ratio.
    """
    out = np.full((len(arms[0]), len(arms)), np.nan)
    for rows, found in lattice.shares(arms, prior, largest=largest):
        out[rows] = found
    left = np.flatnonzero(np.isnan(out[:, 0]))
    for first in range(0, len(left), _CHUNK):
        rows = left[first : first + _CHUNK]
        some = [arm.take(rows) for arm in arms]
        out[rows] = (
            _independent(some, largest=largest) if prior.family == "flat" else _tied(some, prior, largest=largest)
        )
    total: FloatArray = out.sum(axis=1, keepdims=True)
    shares: FloatArray = np.clip(out / total, 0.0, 1.0)  # rounding leaves less than nothing of a share that is nothing
    return shares


# --- independent arms --------------------------------------------------------------------------


def _independent(arms: Sequence[Arm], *, largest: bool) -> FloatArray:
    rows = np.arange(len(arms[0]))
    densities, starts = _own_posteriors(arms)
    moment = np.zeros(len(rows))
    ends = [support(density, rows, start, moment) for density, start in zip(densities, starts, strict=True)]
    even = [end[:, :1] + (end[:, 1:] - end[:, :1]) * np.linspace(0.0, 1.0, 21) for end in ends]
    breaks = np.sort(np.concatenate(even, axis=1), axis=1)
    return _shares([panels(density, rows, breaks) for density in densities], largest=largest)


def _own_posteriors(arms: Sequence[Arm]) -> tuple[list[LogDensity], list[FloatArray]]:
    """Posterior of each arm's mean on one scale for all, and points that find it: log odds of rates, distance to the control's estimate of means."""
    densities: list[LogDensity] = []
    starts: list[FloatArray] = []
    reference = arms[0]
    for arm in arms:
        if isinstance(arm, Binomial):
            up, down = arm.successes[:, None] + 1.0, arm.failures[:, None] + 1.0
            middle, spread = np.log(up / down), np.sqrt(1.0 / up + 1.0 / down)
            densities.append(_log_odds(up, down, middle))
            starts.append(middle + np.concatenate([-60.0 * _LADDER[:0:-1], 60.0 * _LADDER]) * spread)
        elif isinstance(arm, Poisson) and isinstance(reference, Poisson):
            own = (arm.total + 1.0) / arm.units * reference.units / (reference.total + 1.0)
            middle, spread = np.log(own)[:, None], 1.0 / np.sqrt(arm.total[:, None] + 1.0)
            densities.append(_log_events(arm.total[:, None] + 1.0, middle))
            starts.append(middle + np.concatenate([-60.0 * _LADDER[:0:-1], 60.0 * _LADDER]) * spread)
        elif isinstance(arm, StudentMean | RatioMean) and isinstance(reference, StudentMean | RatioMean):
            middle, spread = (arm.mean - reference.mean)[:, None], arm.se[:, None]
            densities.append(_hump(arm, middle, spread))
            reach = arm.reach(40.0)[:, None]
            starts.append(middle + np.concatenate([-reach * _LADDER[:0:-1], reach * _LADDER], axis=1) * spread)
        elif isinstance(arm, NormalMean) and isinstance(reference, NormalMean):
            middle, spread = (arm.mean - reference.mean)[:, None], arm.se[:, None]
            densities.append(_bell(middle, spread))
            starts.append(middle + np.linspace(-9.0, 9.0, 37) * spread)
    return densities, starts


def _log_odds(up: FloatArray, down: FloatArray, middle: FloatArray) -> LogDensity:
    share = up / (up + down)

    def log_density(rows: IntArray, y: FloatArray) -> FloatArray:
        x = y - middle[rows]
        inside = np.where(
            x > 0,
            x + np.log1p((1.0 - share[rows]) * np.expm1(-np.abs(x))),
            np.log1p(share[rows] * np.expm1(np.minimum(x, 0.0))),
        )
        return up[rows] * x - (up + down)[rows] * inside

    return log_density


def _log_events(shape: FloatArray, middle: FloatArray) -> LogDensity:
    """Log of a Gamma rate with that shape, around `middle`."""

    def log_density(rows: IntArray, y: FloatArray) -> FloatArray:
        x = y - middle[rows]
        out: FloatArray = shape[rows] * (x - np.expm1(np.minimum(x, 300.0)))
        return out

    return log_density


def _hump(arm: Located, middle: FloatArray, spread: FloatArray) -> LogDensity:
    return lambda rows, x: arm.log_likelihood(rows, (x - middle[rows]) / spread[rows])


def _bell(middle: FloatArray, spread: FloatArray) -> LogDensity:
    return lambda rows, x: -0.5 * ((x - middle[rows]) / spread[rows]) ** 2


def _shares(
    arms: Sequence[Panels], *, largest: bool, where: BoolArray | None = None, points: Sequence[FloatArray] = ()
) -> FloatArray:
    """``int f_v prod_u F_u`` for each arm over the panels `where`; all arms are on the same panels. Shape (row, arm).

    With `points`, the probability of each arm to equal control, shape (row, 1) each, an arm that does is beaten by all that count.
    """
    lower = [arm.ladder()[1].reshape(arm.x.shape) for arm in arms]
    beaten = lower if largest else [1.0 - below for below in lower]
    if points:
        beaten = [own[..., None] + (1.0 - own[..., None]) * part for part, own in zip(beaten, points, strict=True)]
    out = np.empty((len(arms[0].x), len(arms)))
    for v, arm in enumerate(arms):
        others = np.ones_like(arm.x)
        for u, share in enumerate(beaten):
            if u != v:
                others = others * share
        parts = arm.integrate(others)
        out[:, v] = (parts if where is None else np.where(where, parts, 0.0)).sum(axis=1)
        if points:
            out[:, v] *= 1.0 - points[v][:, 0]
    return out


# --- arms tied to the control by a prior -------------------------------------------------------


def _tied(arms: Sequence[Arm], prior: Prior, *, largest: bool) -> FloatArray:
    """Shares given the control mean, averaged over its posterior. u is the log odds of a rate or the log of a mean over its estimate."""
    rows = np.arange(len(arms[0]))
    control, middle, spread = _control(arms[0])
    treatments = [_treatment(arms[0], arm) for arm in arms[1:]]

    def inner(some: IntArray, u: FloatArray) -> tuple[FloatArray, FloatArray]:
        flat_rows, flat_u = np.repeat(some, u.shape[1]), u.reshape(-1, 1)
        log_size, shares = _given_control(treatments, prior, flat_rows, flat_u, largest=largest)
        return log_size.reshape(u.shape), shares.reshape(*u.shape, -1)

    def log_density(some: IntArray, u: FloatArray) -> FloatArray:
        return control(some, u) + inner(some, u)[0]

    moment = np.zeros(len(rows))
    start = middle + np.concatenate([-40.0 * _LADDER[:0:-1], 40.0 * _LADDER]) * spread
    if isinstance(arms[0], NormalMean | StudentMean | RatioMean):
        start = np.sort(np.maximum(start, np.log(CONTROL_FLOOR)), axis=1)
    ends = support(log_density, rows, start, moment)
    out = np.empty((len(rows), len(arms)))
    for where, these in resolve(
        log_density, rows, ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * np.linspace(0.0, 1.0, 8), moment
    ):
        shares = inner(where, these.x.reshape(len(where), -1))[1].reshape(*these.x.shape, -1)
        for v in range(len(arms)):
            out[where, v] = these.integrate(shares[..., v]).sum(axis=1)
    return out


def _control(arm: Arm) -> tuple[LogDensity, FloatArray, FloatArray]:
    """Posterior of u from the control alone, its middle and spread, each of shape (row, 1)."""
    if isinstance(arm, Binomial):
        up, down = arm.successes[:, None] + 1.0, arm.failures[:, None] + 1.0
        middle = np.log(up / down)
        return _log_odds(up, down, middle), middle, np.sqrt(1.0 / up + 1.0 / down)
    if isinstance(arm, Poisson):
        shape = arm.total[:, None] + 1.0
        log_gamma = _log_events(shape, np.zeros_like(shape))
        return log_gamma, np.zeros_like(shape), 1.0 / np.sqrt(shape)
    share = (arm.se / arm.mean)[:, None]
    zero = np.zeros_like(share)
    if isinstance(arm, NormalMean):
        return (lambda rows, u: u - 0.5 * (np.expm1(u) / share[rows]) ** 2), zero, share
    return (lambda rows, u: u + arm.log_likelihood(rows, np.expm1(u) / share[rows])), zero, share


@dataclass(frozen=True, slots=True)
class _Treatment:
    """Likelihood of one treatment as a function of the control's u and the log ratio.

    Parameters
    ----------
    log_likelihood : callable
        Of (rows, u, lam), up to a constant per row.
    middle : callable
        Of (rows, u): where the likelihood of lam peaks, roughly.
    spread : ndarray, shape (row, 1)
        Width of the likelihood, roughly.
    bound : callable
        Of u: the largest log ratio that exists.
    """

    log_likelihood: Callable[[IntArray, FloatArray, FloatArray], FloatArray]
    middle: Callable[[IntArray, FloatArray], FloatArray]
    spread: FloatArray
    bound: Callable[[FloatArray], FloatArray]


def _treatment(control: Arm, arm: Arm) -> _Treatment:
    if isinstance(arm, Binomial):
        return _rate(arm)
    if isinstance(arm, Poisson) and isinstance(control, Poisson):
        return _events(control, arm)
    if not isinstance(control, Binomial | Poisson) and not isinstance(arm, Poisson):
        require_log_scale(control, arm)
        return _mean(control, arm)
    raise mixed_kinds(control, arm)


def _rate(arm: Binomial) -> _Treatment:
    k, f = arm.successes[:, None], arm.failures[:, None]
    at = np.log((k + 0.5) / (k + f + 1.0))

    def log_likelihood(rows: IntArray, u: FloatArray, lam: FloatArray) -> FloatArray:
        log_p = np.minimum(lam + _log_share(u), -1e-300)
        out: FloatArray = k[rows] * (log_p - at[rows]) + f[rows] * (
            np.log(-np.expm1(log_p)) - np.log(-np.expm1(at[rows]))
        )
        return out

    return _Treatment(
        log_likelihood,
        lambda rows, u: at[rows] - _log_share(u),
        np.sqrt((f + 0.5) / ((k + 0.5) * (k + f + 1.0))),
        lambda u: -_log_share(u),
    )


def _log_share(u: FloatArray) -> FloatArray:
    out: FloatArray = -np.logaddexp(0.0, -u)
    return out


def _events(control: Poisson, arm: Poisson) -> _Treatment:
    """Likelihood where u is the log of the control's rate over that of its own posterior's peak."""
    total = arm.total[:, None]
    at = np.log((arm.total + 0.5) / arm.units * control.units / (control.total + 1.0))[:, None]

    def log_likelihood(rows: IntArray, u: FloatArray, lam: FloatArray) -> FloatArray:
        x = np.minimum(lam + u - at[rows], 300.0)
        out: FloatArray = total[rows] * x - (total[rows] + 0.5) * np.expm1(x)
        return out

    return _Treatment(
        log_likelihood, lambda rows, u: at[rows] - u, 1.0 / np.sqrt(total + 0.5), lambda u: np.full_like(u, 300.0)
    )


def _mean(control: NormalMean | Located, arm: NormalMean | Located) -> _Treatment:
    at, share = np.log(arm.mean / control.mean)[:, None], (arm.se / arm.mean)[:, None]

    def log_likelihood(rows: IntArray, u: FloatArray, lam: FloatArray) -> FloatArray:
        z = np.expm1(np.minimum(lam + u - at[rows], 300.0)) / share[rows]
        return -0.5 * z**2 if isinstance(arm, NormalMean) else arm.log_likelihood(rows, np.minimum(z, 1e150))

    return _Treatment(
        log_likelihood, lambda rows, u: at[rows] - u, np.minimum(share, 1.0), lambda u: np.full_like(u, 300.0)
    )


def _given_control(
    treatments: Sequence[_Treatment], prior: Prior, rows: IntArray, u: FloatArray, *, largest: bool
) -> tuple[FloatArray, FloatArray]:
    """Log probability of the treatments' data given u, and each arm's share of being best; `u` has shape (len(rows), 1)."""
    everyone, none = np.arange(len(rows)), np.zeros(len(rows))
    densities = [_with_prior(treatment, prior, rows, u) for treatment in treatments]
    breaks = [np.zeros_like(u)]
    for treatment, density in zip(treatments, densities, strict=True):
        bound = treatment.bound(u)
        ends = support(density, everyone, _starts(treatment, prior, rows, u, bound), none)
        even = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * _EVEN
        marks = np.concatenate([flanks(prior), -prior.scale * 4.0 ** np.arange(1, 14)]) + np.zeros_like(u)
        breaks += [even, np.clip(marks, ends[:, :1], ends[:, 1:])]
    together = np.sort(np.concatenate(breaks, axis=1), axis=1)
    arms = [panels(density, everyone, together) for density in densities]
    at_zero = np.stack([arm.at(np.zeros_like(u))[0][:, 0] for arm in arms], axis=1)
    beats_control = (together[:, 1:] + together[:, :-1] > 0) if largest else (together[:, 1:] + together[:, :-1] < 0)
    log_masses = np.stack([arm.log_mass for arm in arms], axis=1)
    if not prior.null_share:
        control = np.prod(at_zero if largest else 1.0 - at_zero, axis=1, keepdims=True)
        return log_masses.sum(axis=1), np.concatenate(
            [control, _shares(arms, largest=largest, where=beats_control)], axis=1
        )
    factors = _log_factors(densities, prior, log_masses)
    points = null_probability(prior, factors)
    worse = at_zero if largest else 1.0 - at_zero
    control = np.prod(points + (1.0 - points) * worse, axis=1, keepdims=True)
    own = [points[:, [v]] for v in range(len(arms))]
    shares = np.concatenate([control, _shares(arms, largest=largest, where=beats_control, points=own)], axis=1)
    log_odds = np.log(prior.null_share) - np.log1p(-prior.null_share) - factors
    return (log_masses + np.logaddexp(0.0, log_odds)).sum(axis=1), shares


def _log_factors(densities: Sequence[LogDensity], prior: Prior, log_masses: FloatArray) -> FloatArray:
    """Log Bayes factors of each treatment's effect against none, given the control's mean; shape (row, treatment)."""
    rows = np.arange(len(log_masses))
    at_none = [density(rows, np.zeros((len(rows), 1)))[:, 0] for density in densities]
    return np.stack([log_bayes_factor(prior, log_masses[:, v], one) for v, one in enumerate(at_none)], axis=1)


def _with_prior(treatment: _Treatment, prior: Prior, rows: IntArray, u: FloatArray) -> LogDensity:
    bound = treatment.bound(u)

    def log_density(some: IntArray, lam: FloatArray) -> FloatArray:
        value = treatment.log_likelihood(rows[some], u[some], lam) + log_prior(prior, lam)
        return np.where(lam > bound[some] + 1e-12, _NONE, value)

    return log_density


def _starts(treatment: _Treatment, prior: Prior, rows: IntArray, u: FloatArray, bound: FloatArray) -> FloatArray:
    """Points that find the posterior of the log ratio given u."""
    middle, spread = treatment.middle(rows, u), treatment.spread[rows]
    both = np.concatenate([-_LADDER[:0:-1], _LADDER])
    far = -prior.scale * 4.0 ** np.arange(14)
    points = np.concatenate(
        [middle + 12.0 * both * spread, 12.0 * both * prior.scale + np.zeros_like(u), far + np.zeros_like(u)], axis=1
    )
    return np.sort(np.minimum(points, bound), axis=1)
