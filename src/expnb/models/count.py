"""A count as a PyMC model: events that come one by one (Poisson), or in bursts (negative Binomial)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from expnb.models.belief import Tensor
from expnb.models.environment import prepare
from expnb.models.tied import Data, Slope, coords_of, standard, standardised, tie
from expnb.posterior.exact.arms import FloatArray, IntArray, Poisson
from expnb.spec.prior import Prior

if TYPE_CHECKING:
    import pymc as pm


def count_model(arms: Poisson, prior: Prior, variants: Sequence[str]) -> pm.Model:
    """The model of one count whose events come one by one.

    ``control_rate ~ Uniform`` above 0, ``log_ratio ~ prior`` for each treatment, ``events ~ Poisson(units * rate)``; with ``prior.family == "flat"`` every rate is uniform
    instead. The sampler moves in the logarithms of the rates; `change_of_variables` is the derivative by them.

    Parameters
    ----------
    arms : Poisson
        One row per variant, control first.
    prior : Prior
        On the log ratio.
    variants : sequence of str

    Returns
    -------
    pymc.Model
        Coordinates `variant` and `treatment`; all numbers are `pm.Data`. Variables: `rate` (events per unit), `log_ratio`, `effect_rel`,
        `effect_abs`, and observed `events`.
    """
    prepare()
    import pymc as pm  # noqa: PLC0415 - seconds, and flags come first
    import pytensor.tensor as pt  # noqa: PLC0415

    numbers = count_data(arms, prior)
    with pm.Model(coords=coords_of(variants)) as model:
        units = pm.Data("units", numbers["units"], dims="variant")
        observed = pm.Data("observed", numbers["observed"], dims="variant")
        log_rate = standardised(numbers)
        rate = pt.exp(log_rate)
        pm.Poisson("events", mu=units * rate, observed=observed, dims="variant")
        pm.Potential("change_of_variables", log_rate.sum() if prior.family == "flat" else log_rate[0])
        same = observed[1:] * (log_rate[0] - log_rate[1:]) - units[1:] * (rate[0] - rate[1:])
        tie("rate", log_rate, prior, numbers, without_effect=same)
    return model


def count_data(arms: Poisson, prior: Prior) -> Data:
    """Every number of the model, by the name of its `pm.Data`."""
    own = np.where(np.arange(len(arms)) == 0, 1.0, 1.0 if prior.family == "flat" else 0.0)

    def at(log_rate: FloatArray) -> Slope:
        expected = arms.units * np.exp(log_rate)
        return Slope(arms.total + own - expected, expected, log_rate, np.ones(len(arms)))

    return {"units": arms.units, "observed": arms.total} | standard(at, np.log((arms.total + 0.5) / arms.units), prior)


# --- bursts ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many units of each arm had which value.

    Parameters
    ----------
    mean, se : ndarray, shape (variant,)
        Of the values; they only place the sampler.
    variant : ndarray of int, shape (entry,)
        Which arm.
    value : ndarray, shape (entry,)
    units : ndarray, shape (entry,)
    """

    mean: FloatArray
    se: FloatArray
    variant: IntArray
    value: FloatArray
    units: FloatArray


def negative_binomial_model(arms: Histogram, prior: Prior, variants: Sequence[str]) -> pm.Model:
    """The model of one count whose events come in bursts: its variance is ``rate + overdispersion * rate**2``.

    As `count_model`, but every value is ``NegativeBinomial(mu=rate, alpha=1 / overdispersion)``, and ``sqrt(overdispersion) ~ HalfNormal(1)`` in every arm [1]_. Units with the same
    value count together, so that the cost does not depend on their number.

    Returns
    -------
    pymc.Model
        As `count_model`, and `overdispersion` per variant; the likelihood is the potential `values`.

    References
    ----------
    .. [1] Simpson et al. (2017), Penalising model component complexity, section 3 (priors that prefer the simpler model).
    """
    prepare()
    import pymc as pm  # noqa: PLC0415 - seconds, and flags come first
    import pytensor.tensor as pt  # noqa: PLC0415

    numbers = negative_binomial_data(arms, prior)
    with pm.Model(coords=coords_of(variants)) as model:
        arm = pm.Data("arm", numbers["arm"])
        value = pm.Data("value", numbers["value"])
        units = pm.Data("units", numbers["units"])
        log_rate = standardised(numbers)
        root = pm.HalfNormal("root_overdispersion", 1.0, dims="variant")
        over = pm.Deterministic("overdispersion", root**2, dims="variant")
        shape = 1.0 / over

        def log_values(rate: Tensor) -> Tensor:
            return units * pm.logp(pm.NegativeBinomial.dist(mu=rate[arm], alpha=shape[arm]), value)

        own = log_values(pt.exp(log_rate))
        pm.Potential("values", own.sum())
        pm.Potential("change_of_variables", log_rate.sum() if prior.family == "flat" else log_rate[0])
        gain = pt.zeros_like(log_rate[1:])
        if prior.null_share:
            same = log_values(pt.exp(pt.zeros_like(log_rate) + log_rate[0])) - own
            gain = pt.stack([pt.switch(pt.eq(arm, number), same, 0.0).sum() for number in range(1, len(variants))])
        tie("rate", log_rate, prior, numbers, without_effect=gain)
    return model


def negative_binomial_data(arms: Histogram, prior: Prior) -> Data:
    """Every number of the model, by the name of its `pm.Data`."""
    own = np.where(np.arange(len(arms.mean)) == 0, 1.0, 1.0 if prior.family == "flat" else 0.0)

    def at(log_rate: FloatArray) -> Slope:
        rate = np.exp(log_rate)
        weight = (rate / arms.se) ** 2
        return Slope(own - weight * (rate - arms.mean) / rate, weight, log_rate, np.ones(len(rate)))

    numbers: Data = {"arm": arms.variant, "value": arms.value, "units": arms.units}
    return numbers | standard(at, np.log(arms.mean), prior)
