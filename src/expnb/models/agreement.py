"""Two engines, one answer: how far sampling is from quadrature, in Monte Carlo errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from expnb.stats.checks import Check

MOST_ERRORS = 4.0


@dataclass(frozen=True, slots=True)
class Gap:
    """One probability from both engines.

    Parameters
    ----------
    label : str
        Which one, in words.
    sampled, exact : float in [0, 1]
    ess : float
        Effective number of draws behind `sampled`.
    """

    label: str
    sampled: float
    exact: float
    ess: float

    @property
    def errors(self) -> float:
        """Difference in Monte Carlo errors ``sqrt(max(p (1 - p), 1 / ess) / ess)``, with p from the exact engine.

        The variance of a share of independent draws is ``p (1 - p) / n``; 1 / ess keeps it from vanishing where no
        draw, or every draw, lies on one side.
        """
        return abs(self.sampled - self.exact) / math.sqrt(max(self.exact * (1 - self.exact), 1 / self.ess) / self.ess)


def agreement(metric: str, gaps: Sequence[Gap]) -> Check:
    """Whether the engines agree on a metric; the value is the largest difference in Monte Carlo errors."""
    worst = max(gaps, key=lambda gap: gap.errors)
    figures = f"{worst.label}: {worst.sampled:.2%} sampled, {worst.exact:.2%} exact"
    name = f"engines:{metric}"
    if worst.errors <= MOST_ERRORS:
        return Check(
            name,
            worst.errors,
            "ok",
            f"{metric}: both engines agree; the largest difference is {worst.errors:.1f} Monte Carlo errors ({figures}).",
        )
    return Check(
        name,
        worst.errors,
        "warn",
        f"{metric}: the engines differ by {worst.errors:.1f} Monte Carlo errors ({figures}); more than {MOST_ERRORS:g} is not chance. "
        "Do not decide on these figures: sample longer chains, and report the counts if the difference stays.",
    )
