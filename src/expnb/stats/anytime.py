"""Tests that stay valid at any number of looks (e-values), and the adjustments for many of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from expnb.stats.moments import Moments

# Of Dirichlet and Normal alternatives, in units: 100 looks for differences of a tenth of a standard deviation, a million for those of a thousandth.
CONCENTRATIONS = (1e2, 1e3, 1e4, 1e5, 1e6)


# Where few units are counted, only large differences can be seen.
CONCENTRATIONS_RARE = (1e1, 1e2, 1e3, 1e4, 1e5)


def spend(alpha: float, look: int) -> float:
    """The part of `alpha` that may be spent at one look, so that all looks together spend no more.

    Parameters
    ----------
    alpha : float
        In total, over any number of looks.
    look : int
        1 for the first.

    Returns
    -------
    float
        ``alpha * 6 / (pi**2 * look**2)``; the sum over all looks is `alpha` (Basel problem, Euler 1735; union bound).
    """
    return alpha * 6 / (math.pi**2 * look**2)


def chi_square_tail(statistic: float, df: int) -> float:
    """P(chi-square with `df` degrees of freedom > `statistic`).

    References
    ----------
    .. [1] Abramowitz and Stegun (1964), 26.4.4 and 26.4.5: finite sums for whole degrees of freedom.
    """
    half = statistic / 2
    if df % 2:
        tail, term, step = math.erfc(math.sqrt(half)), math.sqrt(half / math.pi) * 2 * math.exp(-half), 1.5
    else:
        tail, term, step = math.exp(-half), half * math.exp(-half), 2.0
    for _ in range((df - 1) // 2):
        tail += term
        term *= half / step
        step += 1
    return min(1.0, tail)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted so that any of them below alpha is a false alarm with probability alpha at most.

    Parameters
    ----------
    p_values : sequence of float
        Each in [0, 1]; they may depend on each other.

    Returns
    -------
    list of float
        In the same order.

    References
    ----------
    .. [1] Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    adjusted, most = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        most = max(most, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = most
    return adjusted


def log_multinomial_e(counts: Sequence[int], shares: Sequence[float], concentration: float) -> float:
    """Log of the Bayes factor of Dirichlet(concentration x shares) against the shares themselves.

    It is a martingale with mean 1 while units come in, if the shares are true; so it exceeds 1 / alpha at any look with probability alpha at most (Ville 1939).

    Parameters
    ----------
    counts : sequence of int
        Units per arm.
    shares : sequence of float
        Above 0, with sum 1.
    concentration : float
        Above 0, in units; the size of imbalance that is looked for is about ``1 / sqrt(concentration)``.

    References
    ----------
    .. [1] Lindon and Malek (2022), Anytime-Valid Inference for Multinomial Count Data, NeurIPS, equation 5.
    """
    log_e = math.lgamma(concentration) - math.lgamma(concentration + sum(counts))
    for count, share in zip(counts, shares, strict=True):
        prior = concentration * share
        log_e += math.lgamma(prior + count) - math.lgamma(prior) - count * math.log(share)
    return log_e


def anytime_p(log_e_values: Sequence[float]) -> float:
    """The p-value, valid at any number of looks, of the average of e-values: ``min(1, 1 / mean)``.

    References
    ----------
    .. [1] Ramdas et al. (2023), Game-theoretic statistics and safe anytime-valid inference: a mean of e-processes is one.
    """
    top = max(log_e_values)
    log_mean = top + math.log(sum(math.exp(value - top) for value in log_e_values) / len(log_e_values))
    return math.exp(min(0.0, -log_mean))


def uneven_p(hits: Mapping[str, int], units: Mapping[str, int]) -> float:
    """The p-value, valid at any number of looks, of a share being the same in every arm.

    Given their total, hits fall on the arms as units do; the arms' shares of all units take the place of the true ones. The rarer of hits and misses is counted, and they may change places between looks. So this
    is no exact martingale; it errs on the safe side, because hits drawn without replacement vary less than multinomial ones, by the factor ``1 - share``. In simulations with 200 looks, two or five arms, and shares
    from 2 to 50 %, at most 3 in 10,000 healthy experiments came to 0.001.

    Parameters
    ----------
    hits, units : mapping of str to int
        Units that have something, and all units, per arm.

    References
    ----------
    .. [1] Lindon and Malek (2022), Anytime-Valid Inference for Multinomial Count Data, NeurIPS.
    """
    arms = [name for name, n in units.items() if n > 0]
    total = sum(units[name] for name in arms)
    found = [hits.get(name, 0) for name in arms]
    if 2 * sum(found) > total:
        found = [units[name] - count for name, count in zip(arms, found, strict=True)]
    shares = [units[name] / total for name in arms]
    return anytime_p([log_multinomial_e(found, shares, concentration) for concentration in CONCENTRATIONS_RARE])


def above_p(hits: int, total: int, share: float) -> float:
    """The p-value, valid at any number of looks, of units having something with at most that probability.

    The likelihood ratio of a larger probability is a supermartingale for all smaller ones; ratios from 1.1 to 1024 times the share are averaged.

    Parameters
    ----------
    hits, total : int
        Units that have it, and all units.
    share : float
        From 0 to below 1.

    References
    ----------
    .. [1] Wald (1945), Sequential Tests of Statistical Hypotheses.
    """
    if share == 0:
        return 0.0 if hits else 1.0
    ratios = [ratio for ratio in (1.1, 1.25, 1.5, *(2.0**power for power in range(1, 11))) if ratio * share < 1]
    return anytime_p(
        [
            hits * math.log(ratio) + (total - hits) * (math.log1p(-ratio * share) - math.log1p(-share))
            for ratio in ratios or [1.0]
        ]
    )


def log_normal_e(z: float, n: float, concentration: float) -> float:
    """Log of the Bayes factor of an effect ~ Normal(0, 1 / concentration), in standard deviations, against none.

    Parameters
    ----------
    z : float
        Standard Normal under no effect.
    n : float
        Units that `z` is worth, ``n_a * n_b / (n_a + n_b)`` for two arms.

    References
    ----------
    .. [1] Robbins (1970), Statistical Methods Related to the Law of the Iterated Logarithm.
    .. [2] Johari et al. (2017), Peeking at A/B Tests, KDD, equation 5.
    """
    ratio = n / concentration
    return (z * z * ratio / (1 + ratio) - math.log1p(ratio)) / 2


def unlike_z(a: Moments, b: Moments) -> float | None:
    """How unlike two means are, as a standard Normal deviate; None without a variance.

    Of Welch's t and Student's t with the pooled variance the one nearer to 0. Alike arms have one variance, so both hold; with skewed values and arms of unequal size each alone is too sure on one side: Welch's when the small arm
    lacks the large values, Student's when it has one.

    References
    ----------
    .. [1] Welch (1947), The generalization of Student's problem.
    .. [2] Wallace (1959), Bounds on normal approximations to Student's and the chi-square distributions: correct to 0.02 deviates.
    """
    if min(a.n, b.n) < 2:
        return None
    left, right = a.variance / a.n, b.variance / b.n
    if left + right == 0:
        return None
    freedom = (left + right) ** 2 / (left**2 / (a.n - 1) + right**2 / (b.n - 1))
    pooled = (a.m2 + b.m2) / (a.n + b.n - 2) * (1 / a.n + 1 / b.n)
    gap = b.mean - a.mean
    deviates = (_deviate(gap / math.sqrt(left + right), freedom), _deviate(gap / math.sqrt(pooled), a.n + b.n - 2))
    return min(deviates, key=abs)


def _deviate(t: float, df: float) -> float:
    """The standard Normal deviate with the p-value of Student's t (Wallace 1959)."""
    return math.copysign((8 * df + 1) / (8 * df + 3) * math.sqrt(df * math.log1p(t * t / df)), t)
