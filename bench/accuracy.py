"""The largest error of P(improvement), against nested adaptive quadrature that shares nothing with the exact engine: neither its code nor its method.

The model is the one that the documentation states. The mean of control is m, its likelihood L_c; without a prior both means have flat reference priors, else ``L_c(m) L_t(m exp(lam)) prior(lam)`` is the joint density of m and of the log ratio
lam. Where control has a likelihood around an estimate, m is above 5 % of it. QUADPACK integrates over both, on either side of no effect [1]_.

References
----------
.. [1] Piessens et al. (1983), QUADPACK.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy import integrate, special

from bench.figure import Figure

if TYPE_CHECKING:
    import pandas as pd

PRIORS = ("flat", "default")
SCALE, DF = 0.03, 4.0  # of the default prior
FLOOR = 0.05  # of its estimate, below which a control mean is left out
BELL, HEAVY = 60.0, 1e5  # widths after which a likelihood is nothing
STEPS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 20.0, 100.0, 1e3, 1e4)  # widths at which intervals are broken
LOWEST = -60.0  # log ratio
MANY, FEW = 1000, 200


@dataclass(frozen=True)
class Arm:
    """What one arm says about its mean.

    Parameters
    ----------
    log : callable
        Log likelihood of a mean, about 0 at `peak`.
    peak, width : float
        Where it is largest, and how wide it is.
    low, high : float
        Between which means exist.
    far : float
        Widths after which it is nothing.
    """

    log: Callable[[float], float]
    peak: float
    width: float
    low: float = -math.inf
    high: float = math.inf
    far: float = BELL

    @property
    def ends(self) -> tuple[float, float]:
        """Means that have to be looked at."""
        return max(self.low, self.peak - self.far * self.width), min(self.high, self.peak + self.far * self.width)

    @property
    def breaks(self) -> list[float]:
        """Means near which it bends."""
        return [self.peak + sign * step * self.width for step in STEPS for sign in (-1, 1)]


@dataclass(frozen=True)
class Case:
    """One comparison: what the engine is given, and what follows from it.

    Parameters
    ----------
    kind : str
        As `xb.compare` names it, or "ratio".
    numbers : tuple
        Of a table: units, mean and variance of each arm. Of a ratio: rows of numerator and denominator of each arm.
    arms : tuple of Arm
    relative : bool
        Whether there is a relative effect; without one the arms are independent, and means may have any sign.
    """

    kind: str
    numbers: tuple
    arms: tuple[Arm, Arm]
    relative: bool = True


# --- likelihoods -------------------------------------------------------------------------------


def share(conversions: int, units: int) -> Arm:
    """Binomial."""
    peak, rest = conversions / units, units - conversions
    width = math.sqrt((conversions + 1) * (rest + 1) / (units + 2) ** 3)

    def log(rate: float) -> float:
        if not 0 <= rate <= 1:
            return -math.inf
        hits = (
            conversions * _log_growth(rate - peak, peak) if conversions and rate else -math.inf if conversions else 0.0
        )
        misses = rest * _log_growth(peak - rate, 1 - peak) if rest and rate < 1 else -math.inf if rest else 0.0
        return hits + misses

    return Arm(log, peak, width, low=0.0, high=1.0)


def rate(events: int, units: int) -> Arm:
    """Poisson."""
    peak = events / units

    def log(mean: float) -> float:
        if mean <= 0:
            return -math.inf if events or mean < 0 else 0.0
        return (events * _log_growth(mean - peak, peak) if events else 0.0) - units * (mean - peak)

    return Arm(log, peak, math.sqrt(events + 1) / units, low=0.0)


def _log_growth(change: float, start: float) -> float:
    """``log((start + change) / start)``; 1 less a rate would lose the digits of small rates."""
    return math.log1p(max(change / start, -1 + 1e-16))


def normal(mean: float, se: float) -> Arm:
    """A mean by the central limit theorem."""
    return Arm(lambda m: -0.5 * ((m - mean) / se) ** 2, mean, se)


def student(mean: float, se: float, df: float) -> Arm:
    """A mean of few units."""
    return Arm(lambda m: -0.5 * (df + 1) * math.log1p(((m - mean) / se) ** 2 / df), mean, se, far=HEAVY)


def ratio(rows: np.ndarray) -> Arm:
    """A ratio of two means that are Normal together: the mean of the denominator, above 0, is integrated out of ``x N((r x, x); means, covariance)``.

    The exponent is quadratic in x; with ``a x^2 - 2 b x + c`` the integral is that of a Normal's first moment above 0.
    """
    means, (yy, yx, xx) = rows.mean(axis=0), np.linalg.inv(np.cov(rows.T) / len(rows))[np.triu_indices(2)]
    upper, lower = means
    c = float(yy * upper**2 + 2 * yx * upper * lower + xx * lower**2)
    spread = np.cov(rows[:, 0] - upper / lower * rows[:, 1]) / len(rows)

    def log(r: float) -> float:
        a = yy * r * r + 2 * yx * r + xx
        b = r * (yy * upper + yx * lower) + yx * upper + xx * lower
        z = b / math.sqrt(a)
        mass = z * special.ndtr(z) + math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        return float(0.5 * (z * z - c) + math.log(mass) - math.log(a))

    peak = float(upper / lower)
    top = log(peak)
    return Arm(lambda r: log(r) - top, peak, float(math.sqrt(spread) / lower), far=8.0)


def delta(rows: np.ndarray) -> Arm:
    """A ratio whose denominator is known well."""
    upper, lower = rows.mean(axis=0)
    spread = np.var(rows[:, 0] - upper / lower * rows[:, 1], ddof=1) / len(rows)
    return normal(float(upper / lower), float(math.sqrt(spread) / lower))


# --- the answer ----------------------------------------------------------------------------------


def reference(case: Case, prior: str) -> float:
    """P(the mean of the treatment is larger)."""
    control, treatment = case.arms
    floor = control.low if math.isfinite(control.low) else FLOOR * control.peak if case.relative else -math.inf
    inner = _with_prior if prior == "default" and case.relative else _independent
    low, high = max(floor, control.ends[0]), control.ends[1]
    above, below = (
        _integral(
            lambda m, side=side: math.exp(control.log(m)) * inner(case, m, above=side),
            low,
            high,
            [*control.breaks, *treatment.breaks],
            control.width * (treatment.width if inner is _independent else _log_width(treatment)),
        )
        for side in (True, False)
    )
    return above / (above + below)


def _independent(case: Case, m: float, *, above: bool) -> float:
    """Mass of the treatment's likelihood on one side of m."""
    treatment = case.arms[1]
    low, high = treatment.ends
    if case.relative:
        low = max(low, 0.0)
    low, high = (max(low, m), high) if above else (low, min(high, m))
    return _integral(lambda x: math.exp(treatment.log(x)), low, high, treatment.breaks, treatment.width)


def _with_prior(case: Case, m: float, *, above: bool) -> float:
    """Mass of treatment and prior on one side of no effect, given the mean of control."""
    treatment = case.arms[1]
    if m <= 0:
        return 0.0
    top = math.log(treatment.ends[1] / m) if treatment.ends[1] > 0 else LOWEST
    low, high = (0.0, top) if above else (LOWEST, min(0.0, top))

    def density(lam: float) -> float:
        return math.exp(treatment.log(m * math.exp(lam))) * (1 + (lam / SCALE) ** 2 / DF) ** (-0.5 * (DF + 1))

    humps = [math.log(x / m) for x in treatment.breaks if x > 0]
    flanks = [sign * SCALE * 3.0**step for step in range(-1, 6) for sign in (-1, 1)]
    return _integral(density, low, high, [*humps, *flanks], _log_width(treatment))


def _log_width(arm: Arm) -> float:
    return min(SCALE, arm.width / max(arm.peak, arm.width))


def _integral(f: Callable[[float], float], low: float, high: float, breaks: Sequence[float], size: float) -> float:
    """Over (low, high), broken where f bends, to some ten digits or 1e-14 of `size`; what QUADPACK is not sure of is an error."""
    if not low < high:
        return 0.0
    inside = sorted({low, high, *(point for point in breaks if low < point < high)})
    with warnings.catch_warnings():
        warnings.simplefilter("error", integrate.IntegrationWarning)
        return math.fsum(
            integrate.quad(f, *ends, epsabs=1e-14 * size, epsrel=1e-10, limit=200)[0] for ends in pairwise(inside)
        )


# --- cases ---------------------------------------------------------------------------------------


def cases() -> list[Case]:
    """All comparisons."""
    return [*conversions(), *counts(), *means(), *few(), *ratios()]


def conversions() -> Iterator[Case]:
    """None, few, many, and all; effects of every size; and at random."""
    draw = np.random.default_rng(1)
    listed = [
        (300, 30_000, 330, 30_000),
        (15, 100, 12, 100),
        (0, 30, 0, 30),
        (0, 200, 3, 200),
        (3, 200, 0, 200),
        (1, 30, 0, 30),
        (30, 30, 30, 30),
        (29, 30, 30, 30),
        (30, 30, 28, 30),
        (9_998, 10_000, 9_990, 10_000),
        (950, 19_000, 40, 1_000),
        (3, 100, 330, 10_000),
        (500, 1_000, 50, 1_000),
        (50, 1_000, 86, 1_000),
        (100, 10_000_000, 120, 10_000_000),
        (5_000_000, 10_000_000, 5_003_000, 10_000_000),
        (44_700 - 36_198, 44_700, 45_489 - 37_210, 45_489),
    ]
    for units in np.round(np.exp(draw.uniform(np.log(20), np.log(200_000), 15))).astype(int).tolist():
        base = float(np.exp(draw.uniform(np.log(0.005), np.log(0.9))))
        k_c, k_t = draw.binomial(units, np.clip([base, base * np.exp(0.03 * draw.standard_t(4))], 0, 1)).tolist()
        listed.append((k_c, units, k_t, units))
    for k_c, n_c, k_t, n_t in listed:
        numbers = ((n_c, k_c / n_c, 0.0), (n_t, k_t / n_t, 0.0))
        yield Case("conversion", numbers, (share(k_c, n_c), share(k_t, n_t)), relative=k_c > 0)


def counts() -> Iterator[Case]:
    """Events that come one by one."""
    for k_c, n_c, k_t, n_t in [
        (400, 1_000, 440, 1_000),
        (0, 50, 2, 50),
        (2, 50, 0, 50),
        (7, 40, 12, 45),
        (30_000, 20_000, 30_600, 20_000),
        (90, 1_000_000, 130, 900_000),
        (2_500, 500, 2_000, 500),
    ]:
        numbers = ((n_c, k_c / n_c, k_c / n_c), (n_t, k_t / n_t, k_t / n_t))
        yield Case("count", numbers, (rate(k_c, n_c), rate(k_t, n_t)), relative=k_c > 0)


def means() -> Iterator[Case]:
    """Means of many units: precise, vague, far apart, and of the other sign."""
    for m_c, s_c, m_t, s_t in [
        (10.0, 0.1, 10.2, 0.1),
        (10.0, 1.0, 17.2, 1.0),
        (10.0, 0.05, 1.0, 0.02),
        (10.0, 0.02, 9.0, 2.0),
        (10.0, 1.1, 3.0, 2.0),
        (10.0, 1.9, 12.0, 0.4),
        (10.0, 0.3, 10.0, 0.1),
        (1e-6, 1e-8, 1.02e-6, 3e-8),
        (1e6, 900.0, 1.004e6, 1_100.0),
        (-2.0, 0.5, -1.1, 0.4),
        (0.3, 0.4, 0.9, 0.4),
    ]:
        numbers = ((MANY, m_c, MANY * s_c**2), (MANY, m_t, MANY * s_t**2))
        yield Case("mean", numbers, (normal(m_c, s_c), normal(m_t, s_t)), relative=m_c > 5 * s_c)


def few() -> Iterator[Case]:
    """Means of 4 to 150 units."""
    for n_c, m_c, sd_c, n_t, m_t, sd_t in [
        (24, 10.0, 3.0, 40, 10.5, 3.3),
        (150, 10.0, 9.0, 150, 12.0, 11.0),
        (8, 100.0, 5.0, 9, 98.0, 4.0),
        (12, 10.0, 0.8, 60, 9.0, 6.0),
        (6, 1.0, 2.0, 7, 3.0, 1.5),
        (30, -4.0, 3.0, 30, -3.0, 3.0),
        (4, 10.0, 0.02, 4, 10.05, 0.03),
    ]:
        arms = student(m_c, sd_c / math.sqrt(n_c), n_c - 1), student(m_t, sd_t / math.sqrt(n_t), n_t - 1)
        relative = (n_c, m_c) not in {(6, 1.0), (30, -4.0)}
        yield Case("mean", ((n_c, m_c, sd_c**2), (n_t, m_t, sd_t**2)), arms, relative=relative)


def ratios() -> Iterator[Case]:
    """Sums over sums: weak denominators, which are bivariate, and strong ones, where the delta method holds."""
    draw = np.random.default_rng(2)
    for units, gain in ((FEW + 50, 1.05), (FEW + 200, 0.97), (FEW + 600, 1.01), (6_000, 1.02), (8_000, 1.0)):
        rows = []
        for growth in (1.0, gain):
            below = draw.gamma(1 / 1.1**2, 1.1**2 * 4.0, units)
            rows.append(
                np.stack([below * growth * draw.gamma(4.0, 0.1, units) + draw.gamma(1.0, 0.2, units), below], 1)
            )
        strength = min(float(part[:, 1].mean() / part[:, 1].std(ddof=1) * math.sqrt(units)) for part in rows)
        make = ratio if strength < 30 else delta
        yield Case("ratio", tuple(rows), (make(rows[0]), make(rows[1])))


# --- the engine ----------------------------------------------------------------------------------


def engine(listed: Sequence[Case], prior: str) -> list[float]:
    """P(improvement) as expnb states it."""
    import expnb as xb

    chosen = xb.Prior() if prior == "default" else xb.Prior(family="flat")
    tabled = xb.compare(_table([case for case in listed if case.kind != "ratio"]), prior=chosen)
    found = iter(tabled["p_improvement"].tolist())
    return [_of_ratio(case, chosen) if case.kind == "ratio" else next(found) for case in listed]


def _table(listed: Sequence[Case]) -> pd.DataFrame:
    import pandas as pd

    rows = [
        (place, "m", case.kind, variant, *numbers)
        for place, case in enumerate(listed)
        for variant, numbers in zip(("control", "new"), case.numbers, strict=True)
    ]
    return pd.DataFrame(rows, columns=["experiment", "metric", "kind", "variant", "n", "mean", "variance"])


def _of_ratio(case: Case, prior: object) -> float:
    import pandas as pd

    import expnb as xb

    frame = pd.concat(
        pd.DataFrame(rows, columns=["above", "below"]).assign(arm=arm)
        for arm, rows in zip(("old", "new"), case.numbers, strict=True)
    )
    metric = xb.Metric(name="each", kind="ratio", numerator="above", denominator="below", role="goal", rope=0.01)
    experiment = xb.Experiment(
        name="e", hypothesis="h", owner="o", flag="f", unit="row", variant="arm", control="old",
        weights={"old": 1, "new": 1}, metrics=(metric,), policy=xb.Policy(min_days=0),
    )  # fmt: skip
    return xb.fit(experiment, xb.load_cohort(experiment, frame), prior=prior).effect("each", "new").p_improvement


def errors(listed: Sequence[Case]) -> list[tuple[float, str, Case]]:
    """The error of every case under every prior."""
    return [
        (abs(ours - reference(case, prior)), prior, case)
        for prior in PRIORS
        for case, ours in zip(listed, engine(listed, prior), strict=True)
    ]


def figures() -> Iterator[Figure]:
    """The largest error of all."""
    listed = cases()
    found = errors(listed)
    worst, prior, case = max(found, key=lambda one: (math.isnan(one[0]), one[0]))
    kinds = ", ".join(
        f"{kind} {sum(one.kind == kind for one in listed)}" for kind in dict.fromkeys(c.kind for c in listed)
    )
    numbers = "" if case.kind == "ratio" else f" of {case.numbers}"
    yield Figure(
        "exact_max_error_p",
        worst,
        "probability",
        f"nested adaptive quadrature (QUADPACK) of the same model, {len(found)} comparisons: {kinds}, each without a prior and with the default one; the largest error is that of a {case.kind}{numbers}, prior {prior}",
    )
