"""Effects by segment with partial pooling: every segment borrows from the others, as much as the data say they are alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from expnb.errors import PosteriorError
from expnb.posterior.arms import Arm, Binomial, FloatArray, IntArray, Poisson
from expnb.posterior.bells import log_table
from expnb.posterior.grid import first_breaks, resolve, support
from expnb.posterior.joint import Joint, joint_posterior, predictive, tau_curve, typical
from expnb.posterior.quantity import Quantity, collect, of_log_ratio
from expnb.posterior.two_scales import Evidence, evidence
from expnb.spec.prior import Prior

_TINY = 1e-300
_QUANTILES = (0.025, 0.5, 0.975)
_TAU_POINTS = 400
_LEFT_OUT = 2e-8  # of the mass, where an integrand between 0 and 1 is not looked at
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(10)
_EVEN = np.array([0.0, 0.2, 0.45, 1.0])  # of a stretch
_PARTS = np.array([0.002, 0.1, 0.5, 0.9, 0.998])  # of the mass
_SCAN = np.linspace(0.0, 1.0, 25)
_FARTHEST = 7.0  # standard deviations
_ROOT = math.sqrt(2.0 * math.pi)
_NONE, _ALL = -23.0, -1e-9  # logs of a chance that is as good as 0, or 1
_AROUND = np.linspace(-8.0, 8.0, 19)  # standard deviations


@dataclass(frozen=True, slots=True)
class Pooled:
    """Effects of one treatment in all segments of one kind, partially pooled.

    Parameters
    ----------
    effect : Quantity
        ``exp(mu) - 1``: the effect in the typical segment, one row. Half of all segments, seen or not, lie above it.
    segments : Quantity
        ``effect_rel`` of each segment, shape (segment,), in the order of the arms.
    raw : ndarray, shape (segment,)
        Treatment mean / control mean - 1, nothing borrowed; NaN where the control mean is not above 0.
    shrinkage : ndarray, shape (segment,)
        0-1: the weight of the pooled effect in the segment's estimate, ``spread**2 / (spread**2 + tau**2)`` averaged over the posterior of tau; 0.8 means four fifths of the way from raw to pooled.
        `spread` is the standard error of the segment's log ratio.
    tau_mean : float
        Posterior mean of the standard deviation of the segments' log ratios around the pooled one.
    tau_quantiles : tuple of float
        Its 2.5 %, 50 % and 97.5 % points; a first one close to 0 means that segments may not differ at all.
    tau_grid, tau_density : ndarray, shape (point,)
        For charts.
    p_any_harmed : float or None
        P(the effect is worse than -margin in at least one of these segments), 0-1; None without a margin.
    p_all_improve : float
        P(the effect is an improvement in every one of these segments), 0-1.
    """

    effect: Quantity
    segments: Quantity
    raw: FloatArray
    shrinkage: FloatArray
    tau_mean: float
    tau_quantiles: tuple[float, float, float]
    tau_grid: FloatArray
    tau_density: FloatArray
    p_any_harmed: float | None
    p_all_improve: float


def pool(
    control: Arm,
    treatment: Arm,
    prior: Prior,
    cuts: FloatArray,
    *,
    sign: int = 1,
    margin: float | None = None,
    tau_scale: float | None = None,
) -> Pooled:
    """Posterior of the effect in each segment, of the pooled effect and of how much segments differ; no sampling.

    ``delta_s = log(mean_t / mean_c)`` in segment s; ``delta_s ~ Normal(mu, tau)``, ``mu ~ prior``, ``tau ~ half-Normal(tau_scale)``. The control means of the segments are not pooled; each has the
    reference prior of the unpooled engine and is integrated out exactly, so that segments without a conversion need no correction.

    Parameters
    ----------
    control, treatment : Arm
        One row per segment, as in `relative_effect`.
    prior : Prior
        On the pooled log ratio mu; not flat.
    cuts : ndarray, shape (cut,)
        Relative effects; 0.02 means +2 %.
    sign : int
        +1 where more is better, -1 where less is.
    margin : float, optional
        Relative harm that is tolerated in a segment.
    tau_scale : float, optional
        Scale of the half-Normal prior of tau; that of `prior` when left out: segments are then expected to differ about as much as experiments do.

    Raises
    ------
    PosteriorError
        If there are no segments, the prior is flat, or the arms do not go together.

    References
    ----------
    .. [1] Gelman (2006), Prior distributions for variance parameters in hierarchical models.
    .. [2] Gelman, Hill, Yajima (2012), Why we (usually) don't have to worry about multiple comparisons.

    Examples
    --------
    >>> import numpy as np
    >>> from expnb.posterior.arms import Binomial
    >>> control = Binomial(np.array([200.0, 180.0, 20.0]), np.array([2000.0, 2000.0, 200.0]))
    >>> treatment = Binomial(np.array([206.0, 185.0, 30.0]), np.array([2000.0, 2000.0, 200.0]))
    >>> pooled = pool(control, treatment, Prior(), np.array([0.0]), margin=0.02)
    >>> np.round(pooled.raw, 2).tolist()
    [0.03, 0.03, 0.5]
    >>> np.round(pooled.segments.mean, 3).tolist()
    [0.012, 0.012, 0.015]
    """
    cuts = _checked(control, treatment, prior, cuts)
    data = evidence(control, treatment)
    joint = joint_posterior(data, prior, prior.scale if tau_scale is None else tau_scale)
    effects = _effects(data, joint, cuts)
    grid, density, below = tau_curve(joint, _TAU_POINTS)
    low, median, high = np.interp(_QUANTILES, below, grid)
    return Pooled(
        effect=effects.take(np.array([len(data)])),
        segments=effects.take(np.arange(len(data))),
        raw=_raw(control, treatment),
        shrinkage=_shrinkage(data, joint),
        tau_mean=float(joint.share @ joint.tau),
        tau_quantiles=(float(low), float(median), float(high)),
        tau_grid=grid,
        tau_density=density,
        p_any_harmed=None if margin is None else 1.0 - _all_above(data, joint, -sign * margin, sign),
        p_all_improve=_all_above(data, joint, 0.0, sign),
    )


def _checked(control: Arm, treatment: Arm, prior: Prior, cuts: FloatArray) -> FloatArray:
    if len(control) != len(treatment) or len(control) == 0:
        raise PosteriorError(
            f"the control has {len(control)} segments and the treatment {len(treatment)}; pooling needs the same ones in both, at least one."
        )
    if prior.family == "flat":
        raise PosteriorError(
            "segments cannot be pooled under the flat prior, which believes nothing about the effect. Use the default prior, or state the segments unpooled."
        )
    cuts = np.atleast_1d(np.asarray(cuts, dtype=np.float64))
    if not np.isfinite(cuts).all():
        raise PosteriorError(
            f"cuts are {cuts.tolist()}; each must be a finite effect. Leave out the ones that are not set."
        )
    return cuts


def _raw(control: Arm, treatment: Arm) -> FloatArray:
    mean_c, mean_t = _mean(control), _mean(treatment)
    out: FloatArray = np.where(mean_c > 0, mean_t / np.where(mean_c > 0, mean_c, 1.0) - 1.0, np.nan)
    return out


def _mean(arm: Arm) -> FloatArray:
    if isinstance(arm, Binomial):
        return arm.successes / arm.units
    return arm.total / arm.units if isinstance(arm, Poisson) else arm.mean


def _shrinkage(data: Evidence, joint: Joint) -> FloatArray:
    var = data.spread**2
    out: FloatArray = joint.share @ (var / (var + joint.tau[:, None] ** 2))
    return out


# --- densities ---------------------------------------------------------------------------------


def _effects(data: Evidence, joint: Joint, cuts: FloatArray) -> Quantity:
    """The effect in each segment and, last, in the typical one: what is believed about a log ratio, times the likelihood of the segment's own data."""
    known, ends = joint.stretch.data, joint.stretch.ends
    segments = np.arange(len(data))

    def factor(x: FloatArray) -> FloatArray:
        gap = x - data.centre[:, None]
        inside = (gap >= ends[:, :1]) & (gap <= ends[:, 1:])
        return np.where(inside, known.log_likelihood(segments, np.clip(gap, ends[:, :1], ends[:, 1:])), -np.inf)

    own, all_ = log_table(*predictive(joint), factor), log_table(*typical(joint))
    centre, moment = np.append(data.centre, all_.centre), np.append(data.moment, 2.0)

    def log_density(rows: IntArray, x: FloatArray) -> FloatArray:
        out, some = np.empty_like(x), rows < len(data)
        if some.any():
            of = rows[some]
            out[some] = own.at(of, data.centre[of, None] + x[some]) + known.log_likelihood(of, x[some])
        if not some.all():
            out[~some] = all_.at(np.zeros(1, dtype=np.intp), all_.centre[:, None] + x[~some])
        return out

    low = np.append(np.maximum(ends[:, 0], own.breaks[0] - data.centre), all_.breaks[0] - all_.centre)
    high = np.append(np.minimum(ends[:, 1], own.breaks[-1] - data.centre), all_.breaks[-1] - all_.centre)
    near = np.append(data.spread, all_.spread)[:, None] * _AROUND
    believed = np.append(own.centre - data.centre, 0.0)[:, None] + np.append(own.spread, all_.spread)[:, None] * _AROUND
    even = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, 19)
    start = np.clip(np.concatenate([near, believed, even], axis=1), low[:, None], high[:, None])
    start.sort(axis=1)
    rows = np.arange(len(centre))
    breaks = first_breaks(support(log_density, rows, start, moment), -centre[:, None])
    parts = (
        (where, of_log_ratio(these, centre[where], moment[where], cuts))
        for where, these in resolve(log_density, rows, breaks, moment)
    )
    return collect(len(centre), len(cuts), parts)


# --- all segments at once ----------------------------------------------------------------------


def _all_above(data: Evidence, joint: Joint, cut: float, sign: int) -> float:
    """P(``sign * effect_rel > sign * cut`` in every segment), 0-1.

    Given mu and tau the segments are independent; the product of their shares is integrated over mu where it is neither 0 nor 1. What remains of mu there counts in full.
    """
    if cut <= -1.0:
        return 1.0 if sign > 0 else 0.0
    from scipy import special  # noqa: PLC0415 - half a second, only when segments are pooled

    at = float(np.log1p(cut))
    kept = np.flatnonzero(joint.share > 1e-9)
    tau, width, pooled = joint.tau[kept], joint.width[kept, None], joint.pooled[kept]
    low, high = _stretch_of_change(data, joint, kept, at, sign)
    area = pooled * width * _ROOT
    breaks = np.concatenate([_quantiles(joint.mu[kept], area), low[:, None] + (high - low)[:, None] * _EVEN], axis=1)
    breaks = np.sort(np.clip(breaks, low[:, None], high[:, None]), axis=1)
    half = 0.5 * np.diff(breaks, axis=1)[..., None]
    mu = (breaks[:, :-1, None] + half * (1.0 + _NODES)).reshape(len(kept), -1)
    gap = (mu[..., None] - joint.mu[kept][:, None]) / width[..., None]
    mass = (half * _WEIGHTS).reshape(len(kept), -1) * np.einsum("gpj,gj->gp", np.exp(-0.5 * gap**2), pooled)
    sure = (area * special.ndtr(sign * (joint.mu[kept] - (high if sign > 0 else low)[:, None]) / width)).sum()
    ordered = np.sort(mass, axis=None)
    least = ordered[min(np.searchsorted(np.cumsum(ordered), _LEFT_OUT * area.sum()), len(ordered) - 1)]
    node, point = np.nonzero(mass >= least)
    log_all = np.zeros(len(node))
    for group in joint.bells:
        above = group.share_above(mu[node, point], tau[node], at)
        log_all += np.log(np.maximum(above if sign > 0 else 1.0 - above, _TINY)).sum(axis=0)
    return float(np.clip((mass[node, point] @ np.exp(log_all) + sure) / area.sum(), 0.0, 1.0))


def _quantiles(mu: FloatArray, area: FloatArray) -> FloatArray:
    """Rough quantiles of mu for each tau, where its density is cut into panels."""
    running = np.maximum.accumulate(np.cumsum(area, axis=1) / area.sum(axis=1, keepdims=True), axis=1)
    return np.stack([np.interp(_PARTS, below, at) for below, at in zip(running, mu, strict=True)])


def _stretch_of_change(
    data: Evidence, joint: Joint, kept: IntArray, cut: float, sign: int
) -> tuple[FloatArray, FloatArray]:
    """Where, for each tau, the chance that all segments lie beyond the cut rises from 0 to 1 as mu does (falls, where less is better); by Normal likelihoods."""
    from scipy import special  # noqa: PLC0415 - half a second, only when segments are pooled

    mu = np.where(joint.used[kept], joint.mu[kept], np.nan)
    ends = np.nanmin(mu, axis=1), np.nanmax(mu, axis=1)
    tau, var = joint.tau[kept, None], data.spread**2
    unit = tau * np.sqrt(1.0 + tau**2 / var)  # of mu, for a segment's distance from the cut in standard deviations
    even = cut + (cut - data.centre) * tau**2 / var
    first, last = (even + side * _FARTHEST * unit for side in (-1.0, 1.0))
    low, high = (first.max(axis=1), last.max(axis=1)) if sign > 0 else (first.min(axis=1), last.min(axis=1))
    low, high = (np.clip(end, *ends) for end in (low, high))
    at = low[:, None] + (high - low)[:, None] * _SCAN
    log_all = special.log_ndtr(sign * (at[..., None] - even[:, None]) / unit[:, None]).sum(axis=2)
    open_ = (log_all > _NONE) & (log_all < _ALL)
    some = open_.any(axis=1)
    before = np.where(some, np.maximum(open_.argmax(axis=1) - 1, 0), 0)
    after = np.where(some, np.minimum(len(_SCAN) - open_[:, ::-1].argmax(axis=1), len(_SCAN) - 1), len(_SCAN) - 1)
    row = np.arange(len(at))
    return at[row, before], at[row, after]
