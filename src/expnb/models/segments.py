"""One treatment in all segments of a kind as a PyMC model, partially pooled: the one that `posterior.pooling` integrates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from expnb.models.belief import Data, Tensor, belief_data, log_belief
from expnb.models.environment import prepare
from expnb.posterior.exact.arms import Binomial, FloatArray, NormalMean, Poisson, StudentMean
from expnb.posterior.pooling.segments import around_none
from expnb.spec.prior import Prior

if TYPE_CHECKING:
    import pymc as pm

Likelihood: TypeAlias = Binomial | NormalMean | Poisson | StudentMean

_WALL = 1e6  # per unit of log rate above 0


def segments_model(
    control: Likelihood, treatment: Likelihood, prior: Prior, segments: Sequence[str], *, tau_scale: float | None = None
) -> pm.Model:
    """The hierarchical model of one treatment's effect by segment.

    ``log_ratio = mu + tau * deviation`` with ``deviation ~ Normal(0, 1)`` in every segment (non-centred [1]_), ``mu ~ prior``, ``tau ~ HalfNormal(tau_scale)``. The control's means are not
    pooled: each has its reference prior, by the potential `change_of_variables`, and the sampler moves in its log odds or its logarithm. Arms are Binomial, Poisson, Normal or Student-t as in the models
    without pooling.

    Of a learnt prior the share at exactly no effect lies around none instead (`around_none`), because a pooled effect of exactly 0 is not what anybody believes of segments that differ.

    Parameters
    ----------
    control, treatment : Binomial, Poisson, NormalMean or StudentMean
        One row per segment, both of one kind.
    prior : Prior
        On the pooled log ratio; not flat.
    segments : sequence of str
    tau_scale : float, optional
        That of the prior when left out.

    Returns
    -------
    pymc.Model
        Coordinate `segment`; all numbers are `pm.Data`. Variables: `mu`, `tau`, `effect_pooled` (``exp(mu) - 1``) and, by segment, `log_ratio`, `effect_rel` and `mean_control`; observed
        `control` and `treatment`.

    References
    ----------
    .. [1] Papaspiliopoulos, Roberts, Sköld (2007), A general framework for the parametrization of hierarchical models.
    """
    prepare()
    import pymc as pm  # noqa: PLC0415 - seconds, and flags come first
    import pytensor.tensor as pt  # noqa: PLC0415

    numbers = segments_data(control, treatment, prior, tau_scale=tau_scale)
    prior = around_none(prior)
    with pm.Model(coords={"segment": list(segments)}) as model:
        mu = _pooled(prior, numbers)
        tau = pm.HalfNormal("tau", pm.Data("tau_scale", numbers["tau_scale"]))
        deviation = pm.Normal("deviation", 0.0, 1.0, dims="segment")
        log_ratio = pm.Deterministic("log_ratio", mu + tau * deviation, dims="segment")
        pm.Deterministic("effect_pooled", pt.expm1(mu))
        pm.Deterministic("effect_rel", pt.expm1(log_ratio), dims="segment")

        centre = pm.Data("centre", numbers["centre"], dims="segment")
        spread = pm.Data("spread", numbers["spread"], dims="segment")
        place = centre + spread * pm.Flat("standardised", dims="segment")
        if isinstance(control, Binomial):
            log_mean, log_miss = -pt.softplus(-place), -pt.softplus(place)
            pm.Potential("change_of_variables", (log_mean + log_miss).sum())
            above_one = pt.maximum(log_mean + log_ratio, 0.0)
            pm.Potential("rates_below_one", -_WALL * above_one.sum())
        else:
            log_mean = place
            pm.Potential("change_of_variables", log_mean.sum())
        pm.Deterministic("mean_control", pt.exp(log_mean), dims="segment")
        _observed("control", control, log_mean, numbers)
        _observed("treatment", treatment, log_mean + log_ratio, numbers)
    return model


def segments_data(control: Likelihood, treatment: Likelihood, prior: Prior, *, tau_scale: float | None = None) -> Data:
    """Every number of the model, by the name of its `pm.Data`."""
    centre, spread = _place(control)
    numbers: Data = {
        "centre": centre,
        "spread": spread,
        "tau_scale": np.array(prior.scale if tau_scale is None else tau_scale),
    }
    numbers |= belief_data(around_none(prior))
    for name, arm in (("control", control), ("treatment", treatment)):
        numbers |= {f"{name}_{field}": getattr(arm, field) for field in arm.__slots__}
    return numbers


def _place(control: Likelihood) -> tuple[FloatArray, FloatArray]:
    """About where the control's log odds or log means lie, and how widely."""
    if isinstance(control, Binomial):
        hits, misses = control.successes + 0.5, control.failures + 0.5
        return np.log(hits / misses), np.sqrt(1.0 / hits + 1.0 / misses)
    if isinstance(control, Poisson):
        return np.log((control.total + 0.5) / control.units), 1.0 / np.sqrt(control.total + 0.5)
    return np.log(control.mean), control.se / control.mean


def _pooled(prior: Prior, numbers: Data) -> Tensor:
    """The pooled log ratio, with its prior."""
    import pymc as pm  # noqa: PLC0415

    if prior.family == "normal":
        return pm.Normal("mu", 0.0, pm.Data("prior_scale", numbers["prior_scale"]))
    if prior.family == "student_t":
        scale, df = (pm.Data(name, numbers[name]) for name in ("prior_scale", "prior_df"))
        return pm.StudentT("mu", nu=df, mu=0.0, sigma=scale)
    mu = pm.Flat("mu")
    pm.Potential("prior_on_mu", log_belief(prior, numbers, mu))
    return mu


def _observed(name: str, arm: Likelihood, log_mean: Tensor, numbers: Data) -> None:
    """What was seen of one arm in all segments."""
    import pymc as pm  # noqa: PLC0415
    import pytensor.tensor as pt  # noqa: PLC0415

    given = {field: pm.Data(f"{name}_{field}", numbers[f"{name}_{field}"], dims="segment") for field in arm.__slots__}
    if isinstance(arm, Binomial):
        rate = pt.exp(pt.minimum(log_mean, -1e-12))
        pm.Binomial(name, n=given["units"], p=rate, observed=given["successes"], dims="segment")
    elif isinstance(arm, Poisson):
        pm.Poisson(name, mu=given["units"] * pt.exp(log_mean), observed=given["total"], dims="segment")
    elif isinstance(arm, NormalMean):
        pm.Normal(name, mu=pt.exp(log_mean), sigma=given["se"], observed=given["mean"], dims="segment")
    else:
        pm.StudentT(
            name, nu=given["df"], mu=pt.exp(log_mean), sigma=given["se"], observed=given["mean"], dims="segment"
        )
