"""What is drawn of each treatment, and the stretch of the axis that holds it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from expnb.charts.words import Measure, measure
from expnb.posterior.effect import Density, Effect, FloatArray, Scale

POINTS = 400  # at most, per density
_FLOOR = 2e-3  # of the peak; below it nothing can be seen
_SQUEEZE = 0.12  # least share of the axis that the densities keep when a margin lies far away
_ROOM = 0.04  # of the axis, beyond what is drawn at either end
_LABEL_SHARE = 0.17  # of the axis, for a label such as "margin −0.5 %"
FIGURES = (
    "mean",
    "hdi_low",
    "hdi_high",
    "raw",
    "rope",
    "margin",
    "p_improvement",
    "p_above_rope",
    "p_harm",
    "p_rope",
    "p_null",
    "expected_loss",
    "p_best",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One treatment as it is drawn, all of it on one scale.

    Parameters
    ----------
    x, y : ndarray, shape (point,)
        Effect, and density as a share of its peak; empty without a posterior.
    mean, low, high : float, optional
        Posterior mean, and ends of the 95 % HDI.
    raw, rope, margin : float, optional
        Raw effect, smallest difference that matters, tolerated harm; the last two as distances from 0.
    """

    effect: Effect
    scale: Scale
    x: FloatArray
    y: FloatArray
    mean: float | None
    low: float | None
    high: float | None
    raw: float | None
    rope: float | None
    margin: float | None
    loss: float | None

    @property
    def sign(self) -> int:
        """+1 where more is better, -1 where less is."""
        return 1 if self.effect.direction == "increase" else -1

    @property
    def harm(self) -> float | None:
        """The effect beyond which the harm is no longer tolerated."""
        return None if self.margin is None else -self.sign * self.margin

    @property
    def measure(self) -> Measure:
        """How its effects are written."""
        return measure(self.effect, self.scale)

    @property
    def known(self) -> bool:
        """Whether there is a posterior to draw."""
        return len(self.x) > 0

    @property
    def figures(self) -> dict[str, float | None]:
        """The summary figures that are drawn or told, by the names in `FIGURES`."""
        effect = self.effect
        return {
            "mean": self.mean,
            "hdi_low": self.low,
            "hdi_high": self.high,
            "raw": self.raw,
            "rope": self.rope,
            "margin": self.margin,
            "p_improvement": effect.p_improvement,
            "p_above_rope": effect.p_above_rope,
            "p_harm": effect.p_harm,
            "p_rope": effect.p_rope,
            "p_null": effect.p_null,
            "expected_loss": self.loss,
            "p_best": effect.p_best,
        }


def shared_scale(effects: Sequence[Effect]) -> Scale:
    """Relative where every treatment that has a posterior has a relative one and is judged on it."""
    drawn = [effect for effect in effects if effect.relative is not None or effect.absolute is not None]
    relative = all(effect.relative is not None and effect.scale == "relative" for effect in drawn)
    return "relative" if drawn and relative else "absolute"


def make_row(effect: Effect, scale: Scale) -> Row:
    """A treatment on the scale that all rows share; rope and margin only where they were given on it."""
    relative = scale == "relative"
    x, y = outline(effect.relative if relative else effect.absolute)
    return Row(
        effect=effect,
        scale=scale,
        x=x,
        y=y,
        mean=finite(effect.effect_rel_post if relative else effect.effect_abs_post),
        low=finite(effect.hdi_rel_low if relative else effect.hdi_abs_low),
        high=finite(effect.hdi_rel_high if relative else effect.hdi_abs_high),
        raw=finite(effect.effect_rel if relative else effect.effect_abs)
        if effect.n_treatment and effect.n_control
        else None,
        rope=effect.rope if effect.scale == scale else None,
        margin=effect.margin if effect.scale == scale else None,
        loss=finite(effect.expected_loss_rel if relative else effect.expected_loss_abs),
    )


def finite(value: float | None) -> float | None:
    """A number that can be placed on an axis; a mean may diverge where its density does not."""
    return value if value is not None and math.isfinite(value) else None


def outline(density: Density | None) -> tuple[FloatArray, FloatArray]:
    """The visible part of a density, as a share of its peak, with a point at exactly 0 and at most `POINTS` points."""
    if density is None or not len(density.y) or not np.max(density.y) > 0:
        return np.empty(0), np.empty(0)
    visible = np.flatnonzero(density.y > _FLOOR * np.max(density.y))
    first, last = max(visible[0] - 1, 0), min(visible[-1] + 2, len(density.x))
    x = density.x[first:last]
    x = x[np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS - 1)).round().astype(int))]
    if x[0] < 0 < x[-1]:
        x = np.union1d(x, [0.0])  # the two areas meet here
    return x, np.interp(x, density.x, density.y) / np.max(density.y)


def domain(rows: Sequence[Row]) -> tuple[float, float]:
    """Ends of the shared axis: densities, raw effects and 0; rope and margin unless they squeeze the densities."""
    seen = [0.0, *(float(value) for row in rows if row.known for value in row.x[[0, -1]])]
    seen += [row.raw for row in rows if row.raw is not None]
    low, high = min(seen), max(seen)
    width = max((float(row.x[-1] - row.x[0]) for row in rows if row.known), default=high - low)
    for edge in sorted({edge for row in rows for edge in _edges(row)}, key=abs):
        wider = min(low, edge), max(high, edge)
        if not width or wider[1] - wider[0] <= width / _SQUEEZE:
            low, high = wider
    room = _ROOM * (high - low) or 1.0
    return _with_room_for_margin(rows, low - room, high + room)


def _with_room_for_margin(rows: Sequence[Row], low: float, high: float) -> tuple[float, float]:
    """An axis that leaves room for the label of the margin on its harmful side."""
    for harm in {row.harm for row in rows if row.harm is not None}:
        if low < harm <= 0:
            low = min(low, (harm - _LABEL_SHARE * high) / (1 - _LABEL_SHARE))
        elif 0 < harm < high:
            high = max(high, (harm - _LABEL_SHARE * low) / (1 - _LABEL_SHARE))
    return low, high


def _edges(row: Row) -> list[float]:
    rope = [] if row.rope is None else [-row.rope, row.rope]
    return rope if row.harm is None else [*rope, row.harm]


def to_table(rows: Sequence[Row]) -> pd.DataFrame:
    """Every number that is drawn or told, one per row.

    Returns
    -------
    DataFrame
        Columns `metric`, `variant`, `scale`, `quantity`, `effect` and `value`. For ``quantity == "density"``, `value` is the density at `effect` as a
        share of its peak; for every other quantity `value` is the figure itself and `effect` is missing.
    """
    records = [record for row in rows for record in _records(row)]
    frame = pd.DataFrame(records, columns=["metric", "variant", "scale", "quantity", "effect", "value"])
    return frame.astype({"effect": "float64", "value": "float64"})


def _records(row: Row) -> list[tuple[str, str, Scale, str, float | None, float | None]]:
    key = (row.effect.metric, row.effect.variant, row.scale)
    figures = row.figures
    told = [(*key, name, None, figures[name]) for name in FIGURES]
    return told + [(*key, "density", float(x), float(y)) for x, y in zip(row.x, row.y, strict=True)]
