"""A mean as a PyMC model: Normal by the central limit theorem, Student's t where units are few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from expnb.models.environment import prepare
from expnb.models.tied import Data, Slope, coords_of, standard, standardised, tie, tied_data
from expnb.posterior.exact.arms import FloatArray, NormalMean, StudentMean
from expnb.spec.prior import Prior

if TYPE_CHECKING:
    import pymc as pm

_NORMAL_DF = 1e12  # as good as a Normal


def mean_model(arms: NormalMean | StudentMean, prior: Prior, variants: Sequence[str]) -> pm.Model:
    """The model of one mean: what revenue per user, durations and counts that vary more than Poisson ones come down to.

    ``estimate ~ Normal(mean, se)``, or Student's t with the degrees of freedom of `se`; ``control mean ~ Uniform``, above 0, and ``log_ratio ~ prior`` for each
    treatment. The sampler moves in the logarithms of the means; `change_of_variables` is the control's mean, the derivative by its logarithm.

    With ``prior.family == "flat"`` every mean is uniform over all numbers, and there is no `log_ratio`: means may have any sign, and `effect_rel` means something only
    where both are above 0.

    Parameters
    ----------
    arms : NormalMean or StudentMean
        One row per variant, control first.
    prior : Prior
        On the log ratio.
    variants : sequence of str

    Returns
    -------
    pymc.Model
        Coordinates `variant` and `treatment`; all numbers are `pm.Data`. Variables: `mean`, `log_ratio`, `effect_rel`,
        `effect_abs`, and observed `estimate`.
    """
    prepare()
    import pymc as pm  # noqa: PLC0415 - seconds, and flags come first
    import pytensor.tensor as pt  # noqa: PLC0415

    numbers = mean_data(arms, prior)
    flat = prior.family == "flat"
    with pm.Model(coords=coords_of(variants)) as model:
        observed = pm.Data("observed", numbers["observed"], dims="variant")
        se = pm.Data("se", numbers["se"], dims="variant")
        place = standardised(numbers)
        mean = pm.Deterministic("mean", place, dims="variant") if flat else pt.exp(place)
        if isinstance(arms, StudentMean):
            df = pm.Data("df", numbers["df"], dims="variant")
            pm.StudentT("estimate", nu=df, mu=mean, sigma=se, observed=observed, dims="variant")
        else:
            pm.Normal("estimate", mu=mean, sigma=se, observed=observed, dims="variant")
        if flat:
            pm.Deterministic("effect_rel", mean[1:] / mean[0] - 1.0, dims="treatment")
            pm.Deterministic("effect_abs", mean[1:] - mean[0], dims="treatment")
            return model

        pm.Potential("change_of_variables", place[0])
        own, same = (((observed[1:] - at) / se[1:]) ** 2 for at in (mean[1:], mean[0]))
        if isinstance(arms, StudentMean):
            gain = -0.5 * (df[1:] + 1.0) * (pt.log1p(same / df[1:]) - pt.log1p(own / df[1:]))
        else:
            gain = -0.5 * (same - own)
        tie("mean", place, prior, numbers, without_effect=gain)
    return model


def mean_data(arms: NormalMean | StudentMean, prior: Prior) -> Data:
    """Every number of the model, by the name of its `pm.Data`."""
    numbers: Data = {"observed": arms.mean, "se": arms.se}
    df = arms.df if isinstance(arms, StudentMean) else np.full(len(arms), _NORMAL_DF)
    if isinstance(arms, StudentMean):
        numbers["df"] = df
    if prior.family == "flat":
        return numbers | tied_data(prior, arms.mean, np.diag(arms.se), np.ones(len(arms)), np.zeros(len(arms)))
    own = np.where(np.arange(len(arms)) == 0, 1.0, 0.0)  # of the change of variables

    def at(log_mean: FloatArray) -> Slope:
        mean = np.exp(log_mean)
        z = (mean - arms.mean) / arms.se
        weight = (df + 1.0) / (df + z * z) * (mean / arms.se) ** 2
        return Slope(own - weight * (mean - arms.mean) / mean, weight, log_mean, np.ones(len(arms)))

    return numbers | standard(at, np.log(arms.mean), prior)
