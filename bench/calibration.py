"""How often the exact engine is right when it says so: truths from the prior, data from the truths, and 20,000 posteriors of every model [1]_.

A 95 % HDI has to hold the truth 95 % of the time, the rank of the truth in its posterior has to be even, and P(improvement) has to be right as often as it says. All of it is one vectorised call per model.
Absolute effects of few units and of weak ratios cost a tenth of a second each: 1,000 of them have to lie inside wider bands, and do not count for the figures.

References
----------
.. [1] Talts et al. (2018), Validating Bayesian inference algorithms with simulation-based calibration.
.. [2] Massart (1990), The tight constant in the Dvoretzky-Kiefer-Wolfowitz inequality: a band around the distribution of ranks that holds for all of them together.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.figure import Figure
from expnb.posterior.exact.arms import Arm, Binomial, NormalMean, Poisson, RatioMean, StudentMean
from expnb.posterior.exact.engine import absolute_effect, relative_effect
from expnb.spec.prior import FLAT, Prior

Floats = NDArray[np.float64]

REPLICATIONS = int(os.environ.get("EXPNB_BENCH_EXACT_REPLICATIONS", "20000"))
ENOUGH = 20_000
PRIOR = Prior(scale=0.1)  # of the width of the data, so that neither of them decides alone
BAND = 1e-3  # how often a right engine leaves the band of ranks
LARGEST_Z = 4.0


@dataclass(frozen=True)
class World:
    """Experiments whose truth is known.

    Parameters
    ----------
    arms : tuple of Arm
        Control and treatment, one row per experiment.
    truth : ndarray, shape (2, row)
        Their means.
    """

    arms: tuple[Arm, Arm]
    truth: Floats


Maker = Callable[[np.random.Generator, int], World]


# --- worlds --------------------------------------------------------------------------------------


def _growth(rng: np.random.Generator, n: int) -> Floats:
    return np.exp(PRIOR.scale * rng.standard_t(PRIOR.df, n))


def _pairs(control: Floats, rng: np.random.Generator) -> Floats:
    return np.stack([control, control * _growth(rng, len(control))])


def shares_alone(rng: np.random.Generator, n: int) -> World:
    """Both rates uniform; 400 units per arm."""
    return _shares(rng, rng.uniform(size=(2, n)), 400)


def shares(rng: np.random.Generator, n: int) -> World:
    """A uniform rate of control, and a treatment whose rate stays below 1; 3,000 units per arm."""
    kept: list[Floats] = []
    while sum(len(part) for part in kept) < n:
        pair = _pairs(rng.uniform(size=n), rng)
        kept.append(pair[:, pair[1] < 1].T)
    return _shares(rng, np.concatenate(kept)[:n].T, 3000)


def _shares(rng: np.random.Generator, truth: Floats, units: int) -> World:
    all_of = np.full(truth.shape[1], float(units))
    control, treatment = (Binomial(rng.binomial(units, rate).astype(float), all_of) for rate in truth)
    return World((control, treatment), truth)


def counts_alone(rng: np.random.Generator, n: int) -> World:
    """Both rates uniform over far more than their errors."""
    return _counts(rng, rng.uniform(0.5, 1.5, (2, n)))


def counts(rng: np.random.Generator, n: int) -> World:
    """A rate of control that is uniform over far more than its error; 400 units per arm."""
    return _counts(rng, _pairs(rng.uniform(0.5, 1.5, n), rng))


def _counts(rng: np.random.Generator, truth: Floats) -> World:
    units = np.full(truth.shape[1], 400.0)
    control, treatment = (Poisson(rng.poisson(400 * rate).astype(float), units) for rate in truth)
    return World((control, treatment), truth)


def means_alone(rng: np.random.Generator, n: int) -> World:
    """Both means uniform over far more than their errors."""
    return _means(rng, rng.uniform(8.0, 12.0, (2, n)))


def means(rng: np.random.Generator, n: int) -> World:
    """A mean of control that is uniform over far more than its error of 3 %."""
    return _means(rng, _pairs(rng.uniform(8.0, 12.0, n), rng))


def _means(rng: np.random.Generator, truth: Floats) -> World:
    errors = [np.full(truth.shape[1], se) for se in (0.3, 0.4)]
    control, treatment = (NormalMean(rng.normal(mean, se), se) for mean, se in zip(truth, errors, strict=True))
    return World((control, treatment), truth)


def means_of_few(rng: np.random.Generator, n: int) -> World:
    """24 and 40 Normal values, whose standard deviations are as uncertain as their reference prior says."""
    truth = _pairs(rng.uniform(8.0, 12.0, n), rng)
    control, treatment = (_few(rng, mean, size) for mean, size in zip(truth, (24, 40), strict=True))
    return World((control, treatment), truth)


def _few(rng: np.random.Generator, mean: Floats, size: int) -> StudentMean:
    n = len(mean)
    sd = np.exp(rng.uniform(math.log(0.5), math.log(2.0), n))
    se = sd * np.sqrt(rng.chisquare(size - 1, n) / (size - 1) / size)
    return StudentMean(rng.normal(mean, sd / math.sqrt(size)), se, np.full(n, size - 1.0))


def weak_ratios(rng: np.random.Generator, n: int) -> World:
    """Sums over sums, the lower one 15 to 20 standard errors above 0."""
    truth = _pairs(rng.uniform(8.0, 12.0, n), rng)
    control, treatment = (_weak(rng, value) for value in truth)
    return World((control, treatment), truth)


def _weak(rng: np.random.Generator, value: Floats) -> RatioMean:
    n, covariance = len(value), np.array([[0.25, 0.02], [0.02, 0.0036]])
    lower = rng.uniform(0.92, 1.2, n)
    noise = rng.multivariate_normal([0, 0], covariance, n)
    parts = [np.full(n, part) for part in (0.25, 0.0036, 0.02)]
    return RatioMean(value * lower + noise[:, 0], lower + noise[:, 1], *parts)


@dataclass(frozen=True)
class Model:
    """What is calibrated: worlds, the prior on their effects, the scale of the effect, and which share of the replications is affordable."""

    make: Maker
    prior: Prior
    relative: bool
    share: float = 1.0


MODELS = {
    "conversion without a prior, relative": Model(shares_alone, FLAT, relative=True),
    "conversion without a prior, absolute": Model(shares_alone, FLAT, relative=False),
    "conversion, relative": Model(shares, PRIOR, relative=True),
    "conversion, absolute": Model(shares, PRIOR, relative=False),
    "count without a prior, relative": Model(counts_alone, FLAT, relative=True),
    "count, relative": Model(counts, PRIOR, relative=True),
    "count, absolute": Model(counts, PRIOR, relative=False),
    "mean without a prior, relative": Model(means_alone, FLAT, relative=True),
    "mean, relative": Model(means, PRIOR, relative=True),
    "mean, absolute": Model(means, PRIOR, relative=False),
    "mean of few, relative": Model(means_of_few, PRIOR, relative=True),
    "mean of few, absolute": Model(means_of_few, PRIOR, relative=False, share=0.05),
    "weak ratio, relative": Model(weak_ratios, PRIOR, relative=True),
    "weak ratio, absolute": Model(weak_ratios, PRIOR, relative=False, share=0.05),
}


# --- calibration -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """How one model did.

    Parameters
    ----------
    coverage : float
        Share of 95 % HDI that hold the truth.
    gap : float
        Largest distance of the distribution of ranks from an even one.
    z : float
        How far improvements are from as many as P(improvement) promised, in standard deviations.
    """

    coverage: float
    gap: float
    z: float


def calibrated(model: Model, n: int, *, seed: int = 7) -> Found:
    """Coverage, ranks and promises of one model."""
    world = model.make(np.random.default_rng(seed), n)
    control, treatment = world.truth
    effect = treatment / control - 1 if model.relative else treatment - control
    verb = relative_effect if model.relative else absolute_effect
    found = verb(*world.arms, model.prior, np.stack([np.zeros(n), effect], axis=1), chart=False)
    rank = np.sort(1 - found.p_above[:, 1])
    promised = found.p_above[:, 0]
    even = (np.arange(n) + 0.5) / n
    return Found(
        coverage=float(((found.hdi_low <= effect) & (effect <= found.hdi_high)).mean()),
        gap=float(np.abs(rank - even).max()),
        z=float(((effect > 0) - promised).sum() / math.sqrt((promised * (1 - promised)).sum())),
    )


def figures() -> Iterator[Figure]:
    """The lowest and the highest coverage of all models."""
    enough, covered = REPLICATIONS >= ENOUGH, {}
    for name, model in MODELS.items():
        n = max(20, round(REPLICATIONS * model.share))
        found, band = calibrated(model, n), _band(n)
        print(
            f"  {name}: {found.coverage:.2%} of {n:,} covered, ranks within {found.gap:.4f} (band {band:.4f}), z {found.z:+.1f}",
            flush=True,
        )
        if enough:
            _refuse(name, found, n)
        if model.share == 1:
            covered[name] = found.coverage
    for side, choose in (("min", min), ("max", max)):
        name = choose(covered, key=lambda name: covered[name])
        yield Figure(
            f"sbc_hdi_coverage_{side}",
            covered[name],
            "share",
            f"0.95: {side}imum over {len(covered)} exact models, {REPLICATIONS:,} experiments each whose truth is drawn from the prior; it is that of {name}. All ranks lie inside their simultaneous band",
            kept=enough,
        )


def _band(n: int) -> float:
    return math.sqrt(math.log(2 / BAND) / (2 * n)) + 0.5 / n


def _refuse(name: str, found: Found, n: int) -> None:
    """Stop where a model is wrong by more than chance."""
    chance = LARGEST_Z * math.sqrt(0.95 * 0.05 / n)
    if abs(found.coverage - 0.95) > max(0.01, chance):
        sys.exit(
            f"{name}: 95 % intervals hold the truth {found.coverage:.1%} of the time; {0.95 - max(0.01, chance):.1%} to {0.95 + max(0.01, chance):.1%} is right."
        )
    if found.gap > _band(n) or abs(found.z) > LARGEST_Z:
        sys.exit(
            f"{name}: ranks are {found.gap:.4f} from even, where {_band(n):.4f} is chance, or P(improvement) is {found.z:+.1f} standard deviations from what came true."
        )
