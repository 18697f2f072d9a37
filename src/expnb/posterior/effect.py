"""The effect of one treatment on one metric, as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from expnb.spec.metric import Direction, MetricKind, Role

FloatArray = npt.NDArray[np.float64]
Scale = Literal["relative", "absolute"]
Estimate = Literal["main", "uncapped", "adjusted, uncapped", "unadjusted", "payers", "per payer", "all units"]


@dataclass(frozen=True, slots=True)
class Density:
    """Posterior density of an effect, for charts.

    Parameters
    ----------
    x : ndarray, shape (point,)
        Effect, rising.
    y : ndarray, shape (point,)
        Density; integrates to 1.
    """

    x: FloatArray
    y: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One row of a posterior summary: treatment against control.

    Parameters
    ----------
    estimate : {"main", "uncapped", "adjusted, uncapped", "unadjusted", "payers", "per payer", "all units"}
        Decisions, charts and widgets read ``"main"``; the other rows explain it and never decide. ``"uncapped"`` and ``"unadjusted"`` are the same effect without the cap and without the covariate; ``"payers"`` (share
        of units with a value above 0) and ``"per payer"`` (mean of those values) are what an effect on revenue is made of: ``1 + effect_rel`` is the product of theirs; ``"all units"`` is the effect on triggered units spread over all.
    n_control, n_treatment : int
        Units with a value; 0 where an arm has so few that nothing of it may be shown.
    mean_control, mean_treatment : float
        Raw; None, as all other figures, where one of the arms may not be shown.
    effect_abs, effect_rel : float
        Raw: treatment mean - control mean, and treatment mean / control mean - 1. The relative one is None, with the reason in `note`, where the control mean is not clearly positive.
    effect_abs_post, effect_rel_post : float
        Posterior means.
    hdi_abs_low, hdi_abs_high, hdi_rel_low, hdi_rel_high : float
        95 % highest density interval of the quantity named.
    p_improvement, p_above_rope, p_harm, p_rope : float in [0, 1]
        P(improvement > 0), P(improvement > rope), P(improvement < -margin), P(abs(effect) <= rope); None without a rope or margin on the scale that exists.
    p_harm_flat : float in [0, 1]
        `p_harm` without a prior on the effect: harm is not judged under the sceptical prior.
    expected_loss_abs, expected_loss_rel : float >= 0
        Posterior mean of max(0, -improvement).
    p_best : float in [0, 1]
        Over all arms.
    p_value, ci_low, ci_high : float
        Two-sided, pooled z (shares of independent units) or Welch (all others), uncorrected; 95 % interval of the absolute effect.
    cs_low, cs_high : float
        95 % confidence sequence of the absolute effect: it covers the truth at all looks together (`frequentist`).
    event : str
        Of a retention in events: the kind of event that counts.
    from_days, window_days : float
        Of a metric with a window: when it begins and ends, in days after the exposure.
    scale : {"relative", "absolute"}
        Scale on which rope and margin were applied.
    note : str
        Why a figure is missing; where prior and data disagree.
    """

    metric: str
    kind: MetricKind
    role: Role
    direction: Direction
    unit: str
    variant: str
    segment: str
    n_control: int
    n_treatment: int
    mean_control: float | None
    mean_treatment: float | None
    effect_abs: float | None
    effect_rel: float | None
    effect_abs_post: float | None = None
    effect_rel_post: float | None = None
    hdi_abs_low: float | None = None
    hdi_abs_high: float | None = None
    hdi_rel_low: float | None = None
    hdi_rel_high: float | None = None
    p_improvement: float | None = None
    p_above_rope: float | None = None
    p_harm: float | None = None
    p_rope: float | None = None
    p_harm_flat: float | None = None
    expected_loss_abs: float | None = None
    expected_loss_rel: float | None = None
    p_best: float | None = None
    p_value: float | None
    ci_low: float | None
    ci_high: float | None
    scale: Scale
    rope: float | None
    margin: float | None
    prior: str
    engine: str
    note: str
    relative: Density | None = None
    absolute: Density | None = None
    estimate: Estimate = "main"
    cs_low: float | None = None
    cs_high: float | None = None
    event: str = ""
    from_days: float = 0.0
    window_days: float | None = None

    def row(self) -> dict[str, object]:
        """The figures of the summary table, by name."""
        return {name: getattr(self, name) for name in SUMMARY_COLUMNS}


SUMMARY_COLUMNS = (
    "metric",
    "kind",
    "role",
    "variant",
    "segment",
    "estimate",
    "n_control",
    "n_treatment",
    "mean_control",
    "mean_treatment",
    "effect_abs",
    "effect_rel",
    "effect_abs_post",
    "effect_rel_post",
    "hdi_abs_low",
    "hdi_abs_high",
    "hdi_rel_low",
    "hdi_rel_high",
    "p_improvement",
    "p_above_rope",
    "p_harm",
    "p_rope",
    "expected_loss_abs",
    "expected_loss_rel",
    "p_best",
    "p_value",
    "ci_low",
    "ci_high",
    "cs_low",
    "cs_high",
    "prior",
    "engine",
    "note",
)
TEXT_COLUMNS = frozenset({"metric", "kind", "role", "variant", "segment", "estimate", "prior", "engine", "note"})
