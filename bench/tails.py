"""What the hurdle model of revenue says where payments are not LogNormal: how far off its level is, and how often its intervals hold a true effect of zero.

Without a prior on the effect its posterior is known: the share of payers is a Beta, the spread of the logarithms a scaled inverse chi-square, their mean a Normal [1]_. Draws from those stand in for PyMC; a test holds both together.

References
----------
.. [1] Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., section 3.2.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from bench.figure import Figure

Floats = NDArray[np.float64]

REPLICATIONS = int(os.environ.get("EXPNB_BENCH_REPLICATIONS", "1000"))
ENOUGH = 500
UNITS, SHARE = 50_000, 0.05  # units per arm, and how many of them pay
DRAWS = 2_000


def _whales(rng: np.random.Generator, n: int) -> Floats:
    return np.exp(rng.normal(1, 1, n)) * np.where(rng.random(n) < 0.01, 50.0, 1.0)


PAYMENTS: dict[str, tuple[Callable[[np.random.Generator, int], Floats], float]] = {
    "lognormal": (lambda rng, n: np.exp(rng.normal(1, 1.1, n)), float(np.exp(1 + 1.1**2 / 2))),
    "gamma": (lambda rng, n: rng.gamma(0.7, 10.0, n), 7.0),
    "pareto_2.2": (lambda rng, n: 1 + rng.pareto(2.2, n), 2.2 / 1.2),
    "pareto_1.5": (lambda rng, n: 1 + rng.pareto(1.5, n), 3.0),
    "whales": (_whales, float(np.exp(1.5) * (0.99 + 0.01 * 50))),
}
"""How payments are drawn, and their true mean."""


def figures() -> Iterator[Figure]:
    """Bias of the mean per payer, and coverage of no effect."""
    rng = np.random.default_rng(5)
    for name, (draw, mean) in PAYMENTS.items():
        bias, covered = tail(draw, mean, rng, REPLICATIONS)
        words = f"{REPLICATIONS} experiments of {UNITS:,} units per arm, {SHARE:.0%} of whom pay; {name.replace('_', ' ')} payments"
        key, kept = name.replace(".", "_"), REPLICATIONS >= ENOUGH
        yield Figure(f"hurdle_bias_{key}", bias, "share", f"the true mean per payer, median; {words}", kept=kept)
        yield Figure(
            f"hurdle_coverage_{key}", covered, "share", f"0.95: intervals that hold no effect; {words}", kept=kept
        )


def tail(
    draw: Callable[[np.random.Generator, int], Floats], mean: float, rng: np.random.Generator, replications: int
) -> tuple[float, float]:
    """Median error of the mean per payer as a share of it, and share of 95 % intervals of the relative effect that hold 0."""
    bias, covered = [], 0
    for _ in range(replications):
        arms = [posterior(draw(rng, payers), rng) for payers in rng.binomial(UNITS, SHARE, 2)]
        bias += [float(np.median(per_payer)) / mean - 1 for _, per_payer in arms]
        control, treatment = (share * per_payer for share, per_payer in arms)
        low, high = np.quantile(np.log(treatment / control), [0.025, 0.975])
        covered += int(low <= 0 <= high)
    return float(np.median(bias)), covered / replications


def posterior(payments: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draws of the share of payers and of the mean per payer."""
    logs, n = np.log(payments), len(payments)
    share = rng.beta(1 + n, 1 + UNITS - n, DRAWS)
    variance = n * logs.var() / rng.chisquare(n - 1, DRAWS)
    level = rng.normal(logs.mean(), np.sqrt(variance / n))
    return share, np.exp(level + variance / 2)
