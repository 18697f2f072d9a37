"""Effects by segment with partial pooling: every segment borrows from the others, as much as the data say they are alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from expnb.errors import PosteriorError
from expnb.posterior.exact.arms import Arm, Binomial, FloatArray, IntArray, Poisson
from expnb.posterior.exact.grid import resolve, support
from expnb.posterior.exact.quantity import Quantity, collect, of_log_ratio
from expnb.posterior.pooling.bells import log_table
from expnb.posterior.pooling.joint import Joint, joint_posterior, predictive, tau_curve, typical
from expnb.posterior.pooling.two_scales import Evidence, evidence
from expnb.spec.prior import Prior

_TINY = 1e-300
_QUANTILES = (0.025, 0.5, 0.975)
_TAU_POINTS = 400
_RARE = 5e-10  # of the mass
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
_EVEN = np.linspace(0.0, 1.0, 9)  # of a stretch
_PARTS = np.array([1e-4, 0.005, 0.1, 0.5, 0.9, 0.995, 0.9999])  # of the mass
_FARTHEST = 7.0  # standard deviations
_ROOT = math.sqrt(2.0 * math.pi)
_ALL = -1e-9  # log of a chance that is as good as 1
_AROUND = np.linspace(-8.0, 8.0, 19)  # standard deviations
_STEPS = np.array([1.2, 2.6, 4.5, 8.0, 15.0, 30.0, 60.0])
_LADDER = np.concatenate([-_STEPS[::-1], [0.0], _STEPS])  # the same: breaks between panels


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
    >>> from expnb.posterior.exact.arms import Binomial
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
    precision = np.append(own.spread, all_.spread) ** -2.0
    spread = (np.append(data.spread, np.inf) ** -2.0 + precision) ** -0.5
    middle = np.append(own.centre - data.centre, 0.0) * precision * spread**2
    ladder = np.concatenate([-centre[:, None], middle[:, None] + spread[:, None] * _LADDER], axis=1)
    ends = support(log_density, rows, start, moment)
    breaks = np.sort(np.concatenate([ends, np.clip(ladder, ends[:, :1], ends[:, 1:])], axis=1), axis=1)
    parts = (
        (where, of_log_ratio(these, centre[where], moment[where], cuts))
        for where, these in resolve(log_density, rows, breaks, moment)
    )
    return collect(len(centre), len(cuts), parts)


# --- all segments at once ----------------------------------------------------------------------


def _all_above(data: Evidence, joint: Joint, cut: float, sign: int) -> float:
    """P(``sign * effect_rel > sign * cut`` in every segment), 0-1.

    Given mu and tau the segments are independent: the product of their shares is integrated over mu, panel by panel. Panels where it is as good as 1 count in full, those where it is as good as 0 are left out.
    """
    if cut <= -1.0:
        return 1.0 if sign > 0 else 0.0
    at = float(np.log1p(cut))
    kept = np.flatnonzero(joint.share > _RARE)
    tau, width, pooled = joint.tau[kept], joint.width[kept, None], joint.pooled[kept]
    breaks, mass, least, most = _panels(data, joint, kept, at, sign)
    node, panel = np.nonzero(joint.share[kept, None] * mass * np.exp(most) > _RARE)
    half = 0.5 * (breaks[node, panel + 1] - breaks[node, panel])[:, None]
    mu = breaks[node, panel, None] + half * (1.0 + _NODES)
    gap = (mu[..., None] - joint.mu[kept][node, None]) / width[node, :, None]
    mass = half * _WEIGHTS * (np.exp(-0.5 * gap**2) @ pooled[node, :, None])[..., 0] / (pooled * width * _ROOT).sum()
    open_ = least[node, panel] < _ALL
    sure = mass[~open_].sum()
    mu, mass, tau = mu[open_].ravel(), mass[open_].ravel(), np.repeat(tau[node[open_]], len(_NODES))
    found = np.zeros(len(mu))
    for group in joint.bells:
        above = group.share_above(mu, tau, at)
        found += np.log(np.maximum(above if sign > 0 else 1.0 - above, _TINY)).sum(axis=0)
    return float(np.clip(mass @ np.exp(found) + sure, 0.0, 1.0))


def _panels(data: Evidence, joint: Joint, kept: IntArray, cut: float, sign: int) -> tuple[FloatArray, ...]:
    """Breaks of panels of mu for each tau; for each panel roughly its mass, and the least and the greatest log chance in it that all segments lie beyond the cut.

    Panels are short where that chance changes, by Normal likelihoods, and where mu is likely.
    """
    from scipy import special  # noqa: PLC0415 - half a second, only when segments are pooled

    used, tau, var = joint.used[kept], joint.tau[kept, None], data.spread**2
    grid, below = joint.mu[kept], np.cumsum(np.where(used, joint.pooled[kept], 0.0), axis=1)
    below = np.maximum.accumulate(below / below[:, -1:], axis=1)
    likely = np.stack([np.interp(_PARTS, *one) for one in zip(below, grid, strict=True)])
    low, high = (np.where(used, grid, end) for end in (np.inf, -np.inf))
    ends = np.stack([low.min(axis=1), high.max(axis=1)], axis=1)
    unit = tau * np.sqrt(1.0 + tau**2 / var)  # of mu, for a segment's distance from the cut in standard deviations
    even = cut + (cut - data.centre) * tau**2 / var
    first, last = (sign * (sign * even + side * _FARTHEST * unit).max(axis=1, keepdims=True) for side in (-1.0, 1.0))
    breaks = np.concatenate([first + (last - first) * _EVEN, likely, ends], axis=1)
    breaks = np.sort(np.clip(breaks, ends[:, :1], ends[:, 1:]), axis=1)
    log_all = special.log_ndtr(sign * (breaks[..., None] - even[:, None]) / unit[:, None]).sum(axis=2)
    mass = np.diff(np.stack([np.interp(*one) for one in zip(breaks, grid, below, strict=True)]), axis=1)
    return breaks, mass, np.minimum(log_all[:, 1:], log_all[:, :-1]), np.maximum(log_all[:, 1:], log_all[:, :-1])
