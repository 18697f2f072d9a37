"""A posterior with a point: exactly no effect with some probability, else a density.

Everything that is stated is that of the mixture. No effect is neither an improvement nor harm; it lies inside every rope.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from expnb.posterior.exact.arms import BoolArray, FloatArray
from expnb.posterior.exact.hdi import PROB, Densities, newton
from expnb.posterior.exact.quantity import Quantity
from expnb.spec.prior import Prior

_STARTS = np.linspace(0.0, 1.0, 65)
_BESIDE = 4  # starts on either side of the best one, among which the very best lies: lengths are nearly equal there
_ROUGH = 1e-4  # of a length between quantiles by straight lines
_HALVINGS = 30
_QUANTILE_STEPS = 60
_ARRIVED = 1e-13  # mass
_AT_END = 1e-8  # of the stretch in which the interval may begin
_MOST_LOG_ODDS = 700.0


def log_bayes_factor(prior: Prior, log_mass: FloatArray, log_at_null: FloatArray) -> FloatArray:
    """Log of how many times likelier the data are under the effects that the prior expects than under none, shape (row,).

    Parameters
    ----------
    log_mass : ndarray, shape (row,)
        Log of the integral of likelihood times prior, as in `Panels.log_mass`.
    log_at_null : ndarray, shape (row,)
        Log of likelihood times prior at no effect, up to the same constant.

    References
    ----------
    .. [1] Dickey, Lientz (1970), The weighted likelihood ratio, sharp hypotheses about chances, the order of a Markov chain.
    """
    peak = float(prior.log_density(np.zeros(1))[0])
    log_factor: FloatArray = (log_mass - prior.log_mass) - (log_at_null - peak)
    return log_factor


def null_probability(prior: Prior, log_factor: FloatArray) -> FloatArray:
    """Posterior probability of exactly no effect, shape of `log_factor`; the many-row form of `plain.null_probability`."""
    if not prior.null_share:
        return np.zeros_like(log_factor)
    log_odds = np.log(prior.null_share) - np.log1p(-prior.null_share) - log_factor
    null: FloatArray = 1.0 / (1.0 + np.exp(-np.clip(log_odds, -_MOST_LOG_ODDS, _MOST_LOG_ODDS)))
    return null


def with_point(
    given: Quantity, these: Densities, centre: FloatArray, null: FloatArray, cuts: FloatArray, *, log_scale: bool
) -> Quantity:
    """The mixture of a point and what holds given an effect; the density stays that of the effects.

    Parameters
    ----------
    given : Quantity
        Given that there is an effect.
    these : Densities
        Densities that it was made from, of the log ratio or difference less `centre`.
    null : ndarray, shape (row,)
        Probability of exactly no effect.
    cuts : ndarray, shape (row, cut) or (cut,)
    log_scale : bool
        Whether the densities are those of a log ratio.
    """
    low, high = shortest_with_point(these, -centre, null, log_scale=log_scale)
    low, high = (
        np.where(end == -centre, 0.0, np.expm1(centre + end) if log_scale else centre + end) for end in (low, high)
    )
    return mixed(given, null, cuts, low, high)


def mixed(given: Quantity, null: FloatArray, cuts: FloatArray, low: FloatArray, high: FloatArray) -> Quantity:
    """The mixture, where the ends of its shortest interval are known already."""
    rest = 1.0 - null
    with np.errstate(invalid="ignore"):  # where a moment is infinite
        mean = np.where(rest > 0, rest * given.mean, 0.0)
        square = np.where(rest > 0, rest * (given.sd**2 + given.mean**2), 0.0)
        sd = np.where(np.isfinite(square), np.sqrt(np.maximum(square - mean**2, 0.0)), np.inf)
        gain = np.where(rest > 0, rest * given.gain, 0.0)
    return replace(
        given,
        mean=mean,
        sd=sd,
        hdi_low=low,
        hdi_high=high,
        p_above=rest[:, None] * given.p_above + null[:, None] * (cuts < 0),
        loss=rest * given.loss,
        gain=gain,
        null=null,
    )


# --- the shortest interval ----------------------------------------------------------------------


def shortest_with_point(
    these: Densities, at: FloatArray, null: FloatArray, *, log_scale: bool
) -> tuple[FloatArray, FloatArray]:
    """Ends, each of shape (row,), of the shortest interval that holds 95 % of density and point together.

    It holds the point, or does without it where the density alone has 95 %; the shorter of both is taken. A point of 95 % is the whole interval.

    Parameters
    ----------
    these : Densities
    at : ndarray, shape (row,)
        Where the point lies.
    null : ndarray, shape (row,)
        Its probability.
    log_scale : bool
        Whether length is counted in ``exp(x)``.
    """
    low, high = at.copy(), at.copy()
    rows = np.flatnonzero(null < PROB)
    if len(rows):
        some, place = these.take(rows), at[rows]
        below = some.at(place[:, None])[0][:, 0]
        mass = (PROB - null[rows]) / (1.0 - null[rows])
        first, last = np.maximum(0.0, below - mass), np.minimum(below, 1.0 - mass)
        start, low[rows], high[rows] = _shortest(some, mass, first, last, log_scale=log_scale)
        low[rows] = np.where((start == last) & (last == below), place, np.minimum(low[rows], place))
        high[rows] = np.where((start == first) & (first == below - mass), place, np.maximum(high[rows], place))
    rows = np.flatnonzero(null < 1.0 - PROB)
    if len(rows):
        mass = PROB / (1.0 - null[rows])
        _, left, right = _shortest(these.take(rows), mass, np.zeros_like(mass), 1.0 - mass, log_scale=log_scale)
        shorter = _length(left, right, log_scale=log_scale) < _length(low[rows], high[rows], log_scale=log_scale)
        low[rows], high[rows] = np.where(shorter, left, low[rows]), np.where(shorter, right, high[rows])
    return low, high


def _length(low: FloatArray, high: FloatArray, *, log_scale: bool) -> FloatArray:
    return np.exp(high) * -np.expm1(low - high) if log_scale else high - low


def _shortest(
    these: Densities, mass: FloatArray, first: FloatArray, last: FloatArray, *, log_scale: bool
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The shortest interval of `mass` whose start has between `first` and `last` below it: that share, and both ends.

    The best of many starts; from there Newton steps, which are believed if they stay near, and halving for the others.
    """
    slope = 1.0 if log_scale else 0.0
    starts = first[:, None] + (last - first)[:, None] * _STARTS
    lows, highs = _rough_quantile(these, starts), _rough_quantile(these, starts + mass[:, None])
    lengths = _length(lows, highs, log_scale=log_scale)
    best = lengths.argmin(axis=1)
    row, most = np.arange(len(best)), len(_STARTS) - 1
    left, right = starts[row, np.maximum(best - _BESIDE, 0)], starts[row, np.minimum(best + _BESIDE, most)]
    low, high, ok = newton(these, lows[row, best], highs[row, best], mass, slope)
    start = these.at(low[:, None])[0][:, 0]
    as_short = _length(low, high, log_scale=log_scale) <= lengths[row, best] * (1.0 + _ROUGH)
    slow = np.flatnonzero(~(ok & (start >= first) & (start <= last) & as_short))
    if len(slow):
        start[slow], low[slow], high[slow] = _halved(these.take(slow), mass[slow], left[slow], right[slow], slope)
    for edge, near in ((first, best <= _BESIDE), (last, best >= most - _BESIDE)):
        rows = np.flatnonzero(near)
        if not len(rows):
            continue
        ends = _quantiles(these.take(rows), np.stack([edge[rows], edge[rows] + mass[rows]], axis=1))
        shorter = _length(*ends.T, log_scale=log_scale) < _length(low[rows], high[rows], log_scale=log_scale)
        better = rows[shorter]
        start[better], low[better], high[better] = edge[better], *ends[shorter].T
    return start, low, high


def _halved(
    these: Densities, mass: FloatArray, left: FloatArray, right: FloatArray, slope: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The same between two starts: where the density is lower at the left end, a step to the right makes the interval shorter."""
    first, last = left, right
    near = _AT_END * (last - first)
    for end in (first, last):  # where a step away from an end of the stretch only makes it longer, that end is it
        step = near if end is first else -near
        shrinks = _shrinks(these, end + step, mass, slope)[0]
        stays = ~shrinks if end is first else shrinks
        left, right = np.where(stays, end, left), np.where(stays, end, right)
    for _ in range(_HALVINGS):
        if (right - left <= near).all():
            break
        middle = 0.5 * (left + right)
        shrinks = _shrinks(these, middle, mass, slope)[0]
        left, right = np.where(shrinks, middle, left), np.where(shrinks, right, middle)
    start = np.where(left == right, left, 0.5 * (left + right))
    ends = _shrinks(these, start, mass, slope)[1]
    return start, ends[:, 0], ends[:, 1]


def _shrinks(these: Densities, start: FloatArray, mass: FloatArray, slope: float) -> tuple[BoolArray, FloatArray]:
    """Whether the interval shrinks when it moves right, and its ends, shape (row, 2)."""
    ends = _quantiles(these, np.stack([start, start + mass], axis=1))
    height = np.log(np.maximum(these.at(ends)[1], 1e-300)) - slope * ends
    return height[:, 0] < height[:, 1], ends


def _rough_quantile(these: Densities, prob: FloatArray) -> FloatArray:
    """Quantiles by straight lines between nodes, shape of `prob`."""
    x, below = these.ladder()
    return np.stack([np.interp(p, np.maximum.accumulate(f), own) for p, f, own in zip(prob, below, x, strict=True)])


def _quantiles(these: Densities, prob: FloatArray) -> FloatArray:
    """Quantiles, shape of `prob`, by Newton steps kept inside a shrinking bracket."""
    left = np.broadcast_to(these.breaks[:, :1], prob.shape)
    right = np.broadcast_to(these.breaks[:, -1:], prob.shape)
    x = _rough_quantile(these, prob)
    for _ in range(_QUANTILE_STEPS):
        below, density = these.at(x)
        miss = below - prob
        done = np.abs(miss) < _ARRIVED
        if done.all():
            break
        left, right = np.where(miss > 0, left, x), np.where(miss > 0, x, right)
        aim = x - miss / np.maximum(density, 1e-300)
        x = np.where(done, x, np.where((aim > left) & (aim < right), aim, 0.5 * (left + right)))
    return x
