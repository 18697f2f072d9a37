"""Simulation-based calibration of every exact model: truths from the prior, data from the truths, and posteriors that know how often they are right.

References
----------
.. [1] Talts et al. (2018), Validating Bayesian inference algorithms with simulation-based calibration.
.. [2] Massart (1990), The tight constant in the Dvoretzky-Kiefer-Wolfowitz inequality: the band around the distribution of the ranks holds for all ranks together.
"""

import math

import numpy as np
import pytest

from expnb.posterior.exact.arms import Binomial, NormalMean, Poisson, RatioMean, StudentMean
from expnb.posterior.exact.engine import absolute_effect, relative_effect
from expnb.spec.prior import Prior

FLAT, PRIOR = Prior("flat"), Prior(scale=0.1)
MANY = 20_000


def lift(rng, n):
    return np.exp(PRIOR.scale * rng.standard_t(PRIOR.df, n))


def rates_flat(rng, n):
    truth = rng.uniform(size=(2, n))
    return [Binomial(rng.binomial(400, p).astype(float), np.full(n, 400.0)) for p in truth], truth


def rates(rng, n):
    truth = []
    while sum(map(len, truth)) < n:  # the prior ends where the treatment's rate would pass 1
        control = rng.uniform(size=n)
        pair = np.stack([control, control * lift(rng, n)])
        truth.append(pair[:, pair[1] < 1].T)
    both = np.concatenate(truth)[:n].T
    return [Binomial(rng.binomial(3000, p).astype(float), np.full(n, 3000.0)) for p in both], both


def events(rng, n):
    control = rng.uniform(0.5, 1.5, n)
    truth = np.stack([control, control * lift(rng, n)])
    return [Poisson(rng.poisson(400 * rate).astype(float), np.full(n, 400.0)) for rate in truth], truth


def means(rng, n):
    control = rng.uniform(8.0, 12.0, n)
    truth = np.stack([control, control * lift(rng, n)])
    return [NormalMean(rng.normal(m, s), np.full(n, s)) for m, s in zip(truth, (0.3, 0.4), strict=True)], truth


def few(rng, n):
    """24 and 40 Normal values, whose standard deviations are as uncertain as their reference prior says."""
    control = rng.uniform(8.0, 12.0, n)
    truth = np.stack([control, control * lift(rng, n)])
    arms = []
    for m, size in zip(truth, (24, 40), strict=True):
        sd = np.exp(rng.uniform(math.log(0.5), math.log(2.0), n))
        se = sd * np.sqrt(rng.chisquare(size - 1, n) / (size - 1) / size)
        arms.append(StudentMean(rng.normal(m, sd / math.sqrt(size)), se, np.full(n, size - 1.0)))
    return arms, truth


def weak_ratios(rng, n):
    """Sums over sums, the lower one 15 to 20 standard errors above 0."""
    control = rng.uniform(8.0, 12.0, n)
    truth = np.stack([control, control * lift(rng, n)])
    covariance, arms = np.array([[0.25, 0.02], [0.02, 0.0036]]), []
    for value in truth:
        lower = rng.uniform(0.92, 1.2, n)
        noise = rng.multivariate_normal([0, 0], covariance, n)
        parts = [np.full(n, part) for part in (0.25, 0.0036, 0.02)]
        arms.append(RatioMean(value * lower + noise[:, 0], lower + noise[:, 1], *parts))
    return arms, truth


MODELS = [
    (rates_flat, FLAT, relative_effect, 2000),
    (rates_flat, FLAT, absolute_effect, 500),
    (rates, PRIOR, relative_effect, MANY),
    (events, PRIOR, relative_effect, MANY),
    (means, PRIOR, relative_effect, MANY),
    (events, PRIOR, absolute_effect, 500),
    (means, PRIOR, absolute_effect, 300),
    (few, PRIOR, relative_effect, 500),
    (weak_ratios, PRIOR, relative_effect, 500),
]


@pytest.mark.parametrize(
    ("model", "prior", "verb", "n"),
    MODELS,
    ids=lambda part: getattr(part, "__name__", None) or getattr(part, "id", str(part)),
)
def test_intervals_cover_as_often_as_they_say_and_ranks_are_even(model, prior, verb, n):
    (control, treatment), truth = model(np.random.default_rng(7), n)
    effect = truth[1] / truth[0] - 1 if verb is relative_effect else truth[1] - truth[0]
    found = verb(control, treatment, prior, np.zeros(1))
    covered = ((found.hdi_low <= effect) & (effect <= found.hdi_high)).mean()
    assert covered == pytest.approx(0.95, abs=0.01 if n == MANY else 4 * math.sqrt(0.95 * 0.05 / n))
    # the rank of the truth, by its place in the drawn density
    rank = np.sort(
        [
            np.interp(t, x, np.concatenate([[0], np.cumsum(0.5 * (y[1:] + y[:-1]) * np.diff(x))]))
            for t, x, y in zip(effect, found.grid, found.density, strict=True)
        ]
    )
    gap = np.abs(rank - (np.arange(n) + 0.5) / n).max()
    assert gap < math.sqrt(math.log(2 / 1e-3) / (2 * n)) + 0.002  # the second part is the coarseness of the drawing
    # a probability is right as often as it says
    better = (effect > 0).astype(float)
    z = (better - found.p_above[:, 0]).sum() / math.sqrt((found.p_above[:, 0] * (1 - found.p_above[:, 0])).sum())
    assert abs(z) < 4
