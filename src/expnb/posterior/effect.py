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

    def __repr__(self) -> str:
        return f"Density({len(self.x)} points from {self.x[0]:.4g} to {self.x[-1]:.4g})"


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
        `p_harm` without a prior on the effect.
    p_harm_wide : float in [0, 1]
        `p_harm` under `HARM_PRIOR`, by which harm is judged: a sceptical prior would hide a disaster, none would see one in the noise of the first days. None where no relative effect exists.
    expected_loss_abs, expected_loss_rel : float >= 0
        Posterior mean of max(0, -improvement).
    p_best : float in [0, 1]
        Over all arms.
    p_null : float in [0, 1]
        P(exactly no effect); None unless the prior was learnt. All posterior figures hold that point: it is neither an improvement nor harm, and it lies inside the rope. The densities leave it out.
    works : float in (0, 0.5]
        Share of ideas that improve the metric, as a learnt prior has it; None unless the prior was learnt.
    log_bayes_factor : float
        Log of how many times likelier the data are under the effects that the prior expects than under none; None without a prior.
    shrinkage : float in [0, 1]
        Of a segment that was pooled: how far its estimate was moved from the raw effect towards the pooled one. Its posterior is that of the relative effect alone; absolute posterior figures are None.
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
    p_harm_wide: float | None = None
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
    p_null: float | None = None
    works: float | None = None
    log_bayes_factor: float | None = None
    shrinkage: float | None = None

    def row(self) -> dict[str, object]:
        """The figures of the summary table, by name."""
        return {name: getattr(self, name) for name in SUMMARY_COLUMNS}


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledEffect:
    """What all segments of one kind say together about one treatment and metric.

    Parameters
    ----------
    column : str
        By which units are told apart, such as ``"platform"``.
    segments : tuple of str
        Those that were pooled, as in `Effect.segment`; one whose relative effect does not exist is left out.
    effect_rel_post, hdi_rel_low, hdi_rel_high : float
        Posterior mean and 95 % HDI of the effect in the typical segment.
    p_improvement : float in [0, 1]
        Of that effect.
    spread, spread_low, spread_high : float
        Posterior mean and 95 % interval of the standard deviation of the segments' log ratios around the pooled one; 0.02 means that segments differ by about 2 %.
    p_any_harmed : float in [0, 1], optional
        P(at least one of these segments is harmed beyond the margin); None without a relative margin.
    p_all_improve : float in [0, 1]
        P(the effect is an improvement in each of them).
    margin : float, optional
        Relative harm that is tolerated.
    prior : str
        On the pooled effect.
    """

    metric: str
    role: Role
    direction: Direction
    variant: str
    column: str
    segments: tuple[str, ...]
    effect_rel_post: float
    hdi_rel_low: float
    hdi_rel_high: float
    p_improvement: float
    spread: float
    spread_low: float
    spread_high: float
    p_any_harmed: float | None
    p_all_improve: float
    margin: float | None
    prior: str


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
    "p_null",
    "expected_loss_abs",
    "expected_loss_rel",
    "p_best",
    "p_value",
    "ci_low",
    "ci_high",
    "cs_low",
    "cs_high",
    "shrinkage",
    "prior",
    "engine",
    "note",
)
TEXT_COLUMNS = frozenset({"metric", "kind", "role", "variant", "segment", "estimate", "prior", "engine", "note"})
