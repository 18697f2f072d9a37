"""Data quality as values: what was checked, what was found, and whether it blocks a step up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

CheckOutcome = Literal["ok", "warn", "block"]

SAMPLE_RATIO_WARN = 0.01
SAMPLE_RATIO_BLOCK = 0.001  # in total, over all looks


@dataclass(frozen=True, slots=True)
class Check:
    """One quality check of the data.

    Parameters
    ----------
    name : str
        Such as ``"sample_ratio"``.
    value : float or None
        What was measured; its meaning belongs to the check.
    outcome : {"ok", "warn", "block"}
    sentence : str
        In words, with numbers.
    """

    name: str
    value: float | None
    outcome: CheckOutcome
    sentence: str


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


def sample_ratio_p(counts: Mapping[str, int], weights: Mapping[str, float]) -> float:
    """Two-sided p-value of Pearson's chi-square test of the split against its weights.

    Parameters
    ----------
    counts : mapping of str to int
        Units per arm.
    weights : mapping of str to float
        Relative weight per arm, as the flag had them.

    Returns
    -------
    float in [0, 1]

    References
    ----------
    .. [1] Fabijan et al. (2019), Diagnosing Sample Ratio Mismatch in Online Controlled Experiments, KDD.
    """
    total, weight = sum(counts.values()), sum(weights.values())
    if total == 0:
        return 1.0
    expected = {name: total * weights[name] / weight for name in weights}
    statistic = sum((counts.get(name, 0) - mean) ** 2 / mean for name, mean in expected.items())
    return chi_square_tail(statistic, len(weights) - 1)


def sample_ratio(counts: Mapping[str, int], weights: Mapping[str, float], *, look: int = 1) -> Check:
    """Whether the arms have the sizes that the flag's weights promise.

    Parameters
    ----------
    look : int
        Number of this look; the blocking threshold is 0.001 over all looks together.
    """
    p = sample_ratio_p(counts, weights)
    total = sum(weights.values())
    sizes = ", ".join(
        f"{name} {counts.get(name, 0):,} (expected {sum(counts.values()) * weights[name] / total:,.0f})"
        for name in weights
    )
    if p < spend(SAMPLE_RATIO_BLOCK, look):
        return Check(
            "sample_ratio",
            p,
            "block",
            f"The arms do not have the promised sizes: {sizes}; p = {p:.2g}. Effects cannot be trusted: find where units are lost before any step up.",
        )
    if p < SAMPLE_RATIO_WARN:
        return Check(
            "sample_ratio",
            p,
            "warn",
            f"The sizes of the arms are unusual: {sizes}; p = {p:.2g}. This warns and does not block; look for lost units.",
        )
    return Check("sample_ratio", p, "ok", f"The arms have the promised sizes: {sizes}; p = {p:.2g}.")


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


def unusable_values(metric: str, *, null: int, nan: int, infinite: int, total: int) -> Check | None:
    """How many values of a metric could not be used, by cause; None when all could."""
    causes = [f"{count:,} {name}" for count, name in ((null, "empty"), (nan, "NaN"), (infinite, "infinite")) if count]
    if not causes:
        return None
    lost = null + nan + infinite
    return Check(
        f"values:{metric}", lost / total, "warn", f"{metric}: {' and '.join(causes)} of {total:,} values were left out."
    )


def lost_by_arm(metric: str, lost: Mapping[str, int], units: Mapping[str, int]) -> Check | None:
    """Whether values of a metric are missing more often in one arm than in another.

    Parameters
    ----------
    lost, units : mapping of str to int
        Units without a usable value, and all units, per arm.

    Returns
    -------
    Check or None
        Blocks when Pearson's chi-square test of independence gives p below 0.001: an effect on the survivors is no effect of the variant. None when nothing is lost.

    References
    ----------
    .. [1] Fabijan et al. (2019), Diagnosing Sample Ratio Mismatch in Online Controlled Experiments, KDD.
    """
    share = sum(lost.values()) / max(1, sum(units.values()))
    if not 0 < share < 1:
        return None
    statistic = sum((lost[name] - n * share) ** 2 / (n * share * (1 - share)) for name, n in units.items() if n)
    p = chi_square_tail(statistic, len(units) - 1)
    if p >= SAMPLE_RATIO_BLOCK:
        return None
    parts = ", ".join(f"{name} {lost[name] / max(1, n):.1%}" for name, n in units.items())
    return Check(
        f"lost:{metric}",
        p,
        "block",
        f"{metric}: values are missing unevenly ({parts}; p = {p:.2g}). Effects on the units that are left cannot be trusted: find out why values are lost before any step up.",
    )


OUTLIER_SHARE = 0.1


def outlier(metric: str, *, value: float, mean: float, m2: float) -> Check | None:
    """Whether one unit carries more than a tenth of the squared deviations of a metric.

    Parameters
    ----------
    value : float
        The value farthest from the mean.
    mean, m2 : float
        Of the arm that holds it.

    Returns
    -------
    Check or None
        None when no unit does.
    """
    share = (value - mean) ** 2 / m2 if m2 > 0 else 0.0
    if share <= OUTLIER_SHARE:
        return None
    return Check(
        f"outlier:{metric}",
        share,
        "warn",
        f"{metric}: one unit has {value:,.6g} (mean {mean:,.4g}) and carries {share:.0%} of the variance of its arm. The mean hangs on it: check that it is real.",
    )


def worst(checks: Sequence[Check]) -> CheckOutcome:
    """The worst outcome among checks; ``"ok"`` for none."""
    order: tuple[CheckOutcome, ...] = ("ok", "warn", "block")
    return max((check.outcome for check in checks), key=order.index, default="ok")
