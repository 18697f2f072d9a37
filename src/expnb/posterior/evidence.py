"""Cells to comparisons: the main estimate of every metric, and beside it the ones that explain it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from expnb.errors import PosteriorError
from expnb.posterior.comparison import Comparison
from expnb.posterior.effect import Estimate
from expnb.spec.experiment import TRIGGER_KEY, Experiment
from expnb.spec.metric import Metric
from expnb.stats.arrays import BoolArray
from expnb.stats.cells import ALL, NOISE, Cells, MetricCells
from expnb.stats.joint import JointMoments
from expnb.stats.moments import Moments

TRIGGERED = "true"
CAP_FIRST = "the cap is applied and the covariate is not: adjusted values were not summed below the cap"


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to estimate the effect on a metric.

    Parameters
    ----------
    metric : Metric
        What the rows say of it.
    cells : Cells
        In which the metric, under its name, is what is estimated.
    adjust : bool
        Whether the covariate is used.
    """

    estimate: Estimate
    metric: Metric
    cells: Cells
    adjust: bool = False
    remark: str = ""

    @property
    def column(self) -> MetricCells | None:
        """Its power sums."""
        return self.cells.metrics.get(self.metric.name)

    def arms(self, where: BoolArray | None, variants: tuple[str, ...]) -> Mapping[str, Moments]:
        """Moments of every arm."""
        if self.adjust:
            return self.cells.adjusted(self.metric.name, where)
        found = {variant: self.cells.moments(self.metric.name, variant, where) for variant in variants}
        if self.estimate == "per payer":  # whether all pay the same is seen in sums only, down to their rounding
            return {
                name: replace(arm, m2=0.0) if arm.m2 <= NOISE * arm.n * arm.mean**2 else arm
                for name, arm in found.items()
            }
        return found

    def joints(self, where: BoolArray | None, variants: tuple[str, ...]) -> Mapping[str, JointMoments]:
        """Numerator and denominator of every arm; empty where values are no ratios."""
        column = self.column
        if column is None or column.denominator is None:
            return {}
        chosen = np.ones(self.cells.n.size, dtype=np.bool_) if where is None else where
        return {
            name: column.joint_moments(column.denominator, chosen & (self.cells.variant == name)) for name in variants
        }

    @property
    def events(self) -> bool:
        """Whether values are whole numbers of events, added up as they are."""
        column = self.column
        return (
            self.metric.kind == "count"
            and not self.adjust
            and not self.cells.epochs
            and (column is None or (column.cap is None and column.denominator is None))
        )


def comparisons(experiment: Experiment, cells: Cells, metric: Metric) -> Iterator[Comparison]:
    """Every treatment against control by the main estimate: all units first, then the segments that are large enough to show."""
    return (pair for pair in estimates(experiment, cells, metric) if pair.estimate == "main")


def estimates(experiment: Experiment, cells: Cells, metric: Metric) -> Iterator[Comparison]:
    """The same, each followed by the estimates that explain it, as far as enough units are behind them."""
    main, *others = _ways(cells, metric)
    planned = planned_units(experiment)
    for segment, where in selections(experiment, cells):
        arms = main.arms(where, experiment.variants)
        if segment != ALL and min(arm.n for arm in arms.values()) < experiment.min_cell:
            continue
        made = [(main, arms), *((way, way.arms(where, experiment.variants)) for way in others)]
        joints = [way.joints(where, experiment.variants) for way, _ in made]
        for variant in experiment.treatments:
            for (way, found), joint in zip(made, joints, strict=True):
                control, treatment = found[experiment.control], found[variant]
                if way is not main and min(control.n, treatment.n) < max(experiment.min_cell, 2):
                    continue
                yield Comparison(
                    way.metric,
                    variant,
                    segment,
                    control,
                    treatment,
                    experiment.min_cell,
                    estimate=way.estimate,
                    joint=(joint[experiment.control], joint[variant]) if joint else None,
                    events=way.events,
                    planned=planned,
                    remark=way.remark,
                )


def planned_units(experiment: Experiment) -> float:
    """Units of all arms at the first verdict that the policy allows: `min_units` per arm, or `min_days` of the expected traffic if that is more."""
    least = float(len(experiment.variants) * max(experiment.policy.min_units, 1))
    if experiment.traffic is None:
        return least
    return max(least, experiment.traffic.units_per_day * experiment.policy.min_days)


def selections(experiment: Experiment, cells: Cells) -> Iterator[tuple[str, BoolArray | None]]:
    """Cells of all units, or of all that were triggered, then those of each segment."""
    if experiment.trigger and TRIGGER_KEY not in cells.segments:
        raise PosteriorError(
            f"the experiment has trigger = {experiment.trigger!r}, and its cells do not say which units were triggered, so the effect on them is not known. Load the cohort again."
        )
    triggered = cells.segments[TRIGGER_KEY] == TRIGGERED if TRIGGER_KEY in cells.segments else None
    yield ALL, triggered
    for name in experiment.segments:
        for value in cells.segment_values(name):
            own = cells.segments[name] == value
            yield f"{name}={value}", own if triggered is None else own & triggered


def _ways(cells: Cells, metric: Metric) -> Iterator[_Way]:
    """The main estimate of a metric, then the others."""
    column = cells.metrics.get(metric.name)
    shown = replace(metric, role="info")
    if column is None:
        yield _Way("main", metric, cells)
        return
    covariate = column.covariate is not None
    capped = column.cap is not None and column.bins is not None
    yield _Way("main", metric, cells, adjust=covariate and not capped, remark=CAP_FIRST if covariate and capped else "")
    if capped:
        bare = replace(cells, metrics={**cells.metrics, metric.name: replace(column, cap=None)})
        yield _Way("uncapped", replace(shown, cap=None), bare)
        if covariate:
            yield _Way("adjusted, uncapped", replace(shown, cap=None), bare, adjust=True)
    elif covariate:
        yield _Way("unadjusted", shown, cells)
    if metric.kind == "revenue" and column.logs is not None and column.denominator is None:
        of_units = replace(shown, cap=None, covariate="", rope=None, margin=None, rope_abs=None, margin_abs=None)
        payers = replace(cells, metrics={**cells.metrics, metric.name: _payers(column)})
        yield _Way("payers", replace(of_units, kind="conversion", unit=""), payers)
        each = _per_payer(column)
        if each is not None:
            own = replace(cells, metrics={**cells.metrics, metric.name: each})
            yield _Way("per payer", replace(of_units, kind="mean"), own)


def _payers(column: MetricCells) -> MetricCells:
    """Whether a value is above 0, as a share of units."""
    assert column.logs is not None  # noqa: S101 - asked only where there are any
    n = column.logs.n.astype(np.float64)
    return replace(
        column,
        shift=0.0,
        s1=n,
        s2=n,
        low=np.where(column.n_ok > 0, np.where(column.logs.n < column.n_ok, 0.0, 1.0), np.nan),
        high=np.where(column.n_ok > 0, np.where(column.logs.n > 0, 1.0, 0.0), np.nan),
        logs=None,
        covariate=None,
        bins=None,
        cap=None,
    )


def _per_payer(column: MetricCells) -> MetricCells | None:
    """The values above 0 alone; None where there are refunds, whose sums cannot be told from those of the others.

    Zeros add nothing to a sum, so that sum and sum of squares of the positive values are those of all values.
    """
    assert column.logs is not None  # noqa: S101 - asked only where there are any
    if (column.low < 0).any():
        return None
    n = column.logs.n
    zeros = (column.n_ok - n).astype(np.float64)
    some = n > 0
    bins = None if column.bins is None else column.bins.at(column.bins.bin > 0)
    # The smallest positive value is not known where there are zeros; that values differ shows in their squares.
    low = np.where(some, np.where(column.low > 0, column.low, np.where(n > 1, 0.0, column.high)), np.nan)
    return replace(
        column,
        n_ok=n,
        s1=column.s1 + zeros * column.shift,
        s2=column.s2 - zeros * column.shift**2,
        low=low,
        high=np.where(some, column.high, np.nan),
        logs=None,
        covariate=None,
        bins=bins,
    )
