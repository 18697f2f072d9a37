"""Effects by segment with partial pooling: every segment borrows from the others, as much as the data say they are alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from expnb.errors import PosteriorError
from expnb.posterior.arms import Arm, Binomial, FloatArray, IntArray, Poisson
from expnb.posterior.bells import LogTable, log_table
from expnb.posterior.grid import first_breaks, resolve, support
from expnb.posterior.quantity import Quantity, collect, of_log_ratio
from expnb.posterior.two_scales import Evidence, Joint, evidence, joint_posterior, predictive, tau_curve
from expnb.spec.prior import Prior

_TINY = 1e-300
_DEEP = 22.0  # as far as the joint posterior goes
_DEEPER = 60.0  # a segment may lie far from all others
_QUANTILES = (0.025, 0.5, 0.975)
_TAU_POINTS = 400
_LEFT_OUT = 2e-8  # of the mass, where an integrand between 0 and 1 is not looked at
_PANEL = np.polynomial.legendre.leggauss(10)
_TAUS = np.array([-8.0, -2.5, 0.0, 2.5, 8.0])  # from a cut
_SDS = np.array([-8.0, -3.5, -1.2, 0.0, 1.2, 3.5, 8.0])  # from the mean


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
    grid, density, below = tau_curve(joint, _TAU_POINTS)
    low, median, high = np.interp(_QUANTILES, below, grid)
    return Pooled(
        effect=_pooled_effect(joint, cuts),
        segments=_segment_effects(data, joint, cuts),
        raw=_raw(control, treatment),
        shrinkage=_shrinkage(data, joint),
        tau_mean=float(joint.share @ joint.tau),
        tau_quantiles=(float(low), float(median), float(high)),
        tau_grid=grid,
        tau_density=density,
        p_any_harmed=None if margin is None else 1.0 - _all_above(joint, -sign * margin, sign),
        p_all_improve=_all_above(joint, 0.0, sign),
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


def _pooled_effect(joint: Joint, cuts: FloatArray) -> Quantity:
    believed = log_table(*predictive(joint, pooled=True), deep=_DEEP)
    return _summary(believed, None, np.full(1, 2.0), cuts)


def _segment_effects(data: Evidence, joint: Joint, cuts: FloatArray) -> Quantity:
    return _summary(log_table(*predictive(joint, pooled=False), deep=_DEEPER), data, data.moment, cuts)


def _summary(believed: LogTable, data: Evidence | None, moment: FloatArray, cuts: FloatArray) -> Quantity:
    """What is believed about a log ratio, times the likelihood of the segment's own data."""
    centre = believed.centre if data is None else data.centre

    def log_density(rows: IntArray, x: FloatArray) -> FloatArray:
        out = believed.at(rows, centre[rows, None] + x)
        return out if data is None else out + data.log_likelihood(rows, x)

    rows = np.arange(len(centre))
    start = believed.breaks - centre[:, None]
    if data is not None:
        near = data.spread[:, None] * np.linspace(-8.0, 8.0, 19)
        start = np.sort(np.concatenate([start, np.clip(near, start[:, :1], start[:, -1:])], axis=1), axis=1)
    ends = support(log_density, rows, start, moment)
    breaks = first_breaks(ends, -centre[:, None])
    parts = (
        (where, of_log_ratio(these, centre[where], moment[where], cuts))
        for where, these in resolve(log_density, rows, breaks, moment)
    )
    return collect(len(centre), len(cuts), parts)


# --- all segments at once ----------------------------------------------------------------------


def _all_above(joint: Joint, cut: float, sign: int) -> float:
    """P(``sign * effect_rel > sign * cut`` in every segment), 0-1.

    Given mu and tau the segments are independent; the product of their shares is integrated over mu, on panels that are narrow around the cut because small tau make the product a step there.
    """
    if cut <= -1.0:
        return 1.0 if sign > 0 else 0.0
    at = float(np.log1p(cut))
    kept = np.flatnonzero(joint.share > 1e-9)
    tau, live = joint.tau[kept, None], np.where(joint.used[kept], joint.mu[kept], np.nan)
    low, high = np.nanmin(live, axis=1, keepdims=True), np.nanmax(live, axis=1, keepdims=True)
    area = joint.pooled[kept] / joint.pooled[kept].sum(axis=1, keepdims=True)
    middle = (area * joint.mu[kept]).sum(axis=1, keepdims=True)
    sd = np.sqrt(
        np.maximum((area * (joint.mu[kept] - middle) ** 2).sum(axis=1, keepdims=True), joint.width[kept, None] ** 2)
    )
    breaks = np.clip(np.concatenate([low, middle + sd * _SDS, at + tau * _TAUS, high], axis=1), low, high)
    breaks.sort(axis=1)
    half = 0.5 * np.diff(breaks, axis=1)[..., None]
    mu = (breaks[:, :-1, None] + half * (1.0 + _PANEL[0])).reshape(len(kept), -1)
    weight = (half * _PANEL[1]).reshape(len(kept), -1)
    gap = (mu[..., None] - joint.mu[kept][:, None]) / joint.width[kept, None, None]
    mass = weight * np.einsum("gpj,gj->gp", np.exp(-0.5 * gap**2), joint.pooled[kept])
    ordered = np.sort(mass, axis=None)
    least = ordered[np.searchsorted(np.cumsum(ordered), _LEFT_OUT * ordered.sum())]
    node, point = np.nonzero(mass >= least)
    flat = mu[node, point], tau[node, 0]
    log_all = np.zeros(len(node))
    for group in joint.bells:
        above = group.share_above(*flat, at)
        log_all += np.log(np.maximum(above if sign > 0 else 1.0 - above, _TINY)).sum(axis=0)
    part = mass[node, point]
    return float(np.clip(part @ np.exp(log_all) / part.sum(), 0.0, 1.0))
