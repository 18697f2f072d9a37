"""What is wrong with the data, named before anyone looks at an effect."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from expnb.cohorts.reduce import NO_ARM, Reduced, Sample
from expnb.cohorts.statement import repeated_statement
from expnb.cohorts.units import NO_ANSWER, TYPICAL, Units, before_exposure, blank_rows, varied_segment, varies
from expnb.errors import ArmsError, CohortError, MetricValuesError, NullArmError, UnitError
from expnb.spec.experiment import TRIGGER_KEY, Experiment
from expnb.spec.metric import NEVER_NEGATIVE, Metric
from expnb.stats import checks
from expnb.stats.arrays import BoolArray, IntArray
from expnb.stats.cells import Cells, MetricCells
from expnb.stats.checks import Check
from expnb.stats.sample_ratio import SAMPLE_RATIO_BLOCK, Strata, sample_ratio, sample_ratio_by, sample_ratio_triggered

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import pyarrow as pa

# So far a sum of whole numbers may be from one, per unit of the sum of squares.
FRACTION = 1e-12
# Up to here counting every unit costs less than a second.
EXACT_UP_TO = 4_000_000


def check_arms(experiment: Experiment, cells: Cells) -> None:
    """Refuse data whose arms are not those of the experiment.

    Raises
    ------
    NullArmError, ArmsError, CohortError
    """
    found = sorted(set(cells.variant.tolist()))
    if NO_ARM in found:
        raise NullArmError(experiment.variant, cells.count(NO_ARM))
    drifted = checks.drifting_names(experiment.variant, checks.drifted_names(found, list(experiment.weights)))
    if drifted:
        raise CohortError(drifted.sentence)
    if set(found) != set(experiment.variants):
        raise ArmsError(experiment.variant, found, list(experiment.weights))


def check_units(
    experiment: Experiment, units: Units, reduced: Reduced, run: Callable[[ir.Table], pa.Table], *, exact: bool
) -> None:
    """Refuse a table in which a unit has two rows, two arms, or no id.

    Parameters
    ----------
    exact : bool
        Whether every unit is counted, however many there are; else one in 257 is looked at where there are millions, and every one if that finds anything.

    Raises
    ------
    UnitError
    """
    crossed = int(reduced.crossed.sum())
    if crossed:
        raise UnitError(
            f"{crossed:,} units of column {experiment.unit!r} were seen in two arms; a unit belongs to one. Find out why the assignment moved before you drop them: those who move are not like the others."
        )
    if reduced.nameless:
        raise UnitError(
            f"{reduced.nameless:,} rows have no value in the unit column {experiment.unit!r}; every row needs the unit that was randomised. Find out where the ids were lost."
        )
    if units.grouped or "unit" not in units.table.columns:
        return
    if reduced.sample is not None and not exact and reduced.cells.units > EXACT_UP_TO and not _repeats(reduced.sample):
        return
    found = _added(run(repeated_statement(units)))
    if found["null"]:
        raise UnitError(
            f"{found['null']:,} rows have no value in the unit column {experiment.unit!r}; every row needs the unit that was randomised. Find out where the ids were lost."
        )
    if found["repeated"]:
        words, occur = ("unit", "occurs") if found["repeated"] == 1 else ("units", "occur")
        arms = f", {found['crossed']:,} of them in two arms" if found["crossed"] else ""
        raise UnitError(
            f"{found['repeated']:,} {words} of column {experiment.unit!r} {occur} more than once{arms} ({found['rows']:,} rows, {found['units']:,} units); "
            'a cohort has one row per unit. Set shape = "rows" to sum the rows of a unit, or unit = "row" if each row was randomised by itself.'
        )


def _repeats(sample: Sample) -> bool:
    """Whether a sampled unit has two rows in one experiment, or no id."""
    one = not sample.experiment.view(np.uint32).any()  # all empty: of one experiment alone
    code = np.zeros(sample.unit.size) if one else np.unique(sample.experiment, return_inverse=True)[1]
    order = np.lexsort((sample.unit, code))  # np.unique takes forty times as long
    unit, code = sample.unit[order], code[order]
    return bool(((unit[1:] == unit[:-1]) & (code[1:] == code[:-1])).any())


def _added(rows: pa.Table) -> dict[str, int]:
    names = [name for name in rows.column_names if name != "experiment"]
    return {name: sum(value or 0 for value in rows.column(name).to_pylist()) for name in names}


def check_values(experiment: Experiment, reduced: Reduced) -> None:
    """Refuse metrics without a usable value, values that their kind cannot have, and a trigger that is neither yes nor no.

    Raises
    ------
    MetricValuesError, CohortError
    """
    odd = reduced.odd.get(TRIGGER_KEY, 0)
    if odd:
        raise CohortError(
            f"{odd:,} units have a value in the trigger column {experiment.trigger!r} that is neither 0 nor 1. Make it yes or no, or 0 and 1, where the data is made."
        )
    for metric in experiment.metrics:
        cells = reduced.cells.metrics[metric.name]
        if not cells.n_ok.sum():
            late = int(cells.n_immature.sum())
            why = (
                "no row has its totals yet. Wait for the first ones, or leave the metric out."
                if experiment.totals
                else f"the window of all {late:,} units is still open. Wait until it is over, or say up to when the data are complete: load_cohort(…, as_of=…)."
                if late
                else f"{_where(metric)} has no usable value in any row. Check how the column is filled."
            )
            raise MetricValuesError(metric.name, why)
        odd = reduced.odd.get(metric.name, 0)
        if odd:
            raise MetricValuesError(
                metric.name,
                f"{odd:,} values of {_where(metric)} are neither 0 nor 1; "
                f'a {metric.kind} is 0 or 1 per unit. Use kind = "mean", or make it 0 or 1.',
            )
        if metric.kind == "count" and not experiment.totals and not _whole(cells):
            raise MetricValuesError(
                metric.name,
                f'{_where(metric)} holds fractions; a count is 0, 1, 2 … per unit. Use kind = "mean", or "revenue" for amounts.',
            )
        low = float(np.nanmin(cells.low))
        if metric.kind in NEVER_NEGATIVE and low < 0:
            raise MetricValuesError(
                metric.name,
                f'{_where(metric)} goes down to {low:,.6g}; a {metric.kind} is never below 0. Use kind = "mean", or repair the values.',
            )


def _whole(cells: MetricCells) -> bool:
    """Whether values may be whole numbers, as their bounds, sums and squares tell."""
    around = cells.reshift(np.round(cells.shifts))  # a whole number, which leaves whole sums whole
    s2 = around.s2
    parts = [cells.low, cells.high, around.s1, s2]
    return all(
        bool((np.abs(part - np.round(part)) <= FRACTION * (1 + np.abs(s2)))[cells.n_ok > 0].all()) for part in parts
    )


def _where(metric: Metric) -> str:
    if metric.event:
        return f"event {metric.event!r}"
    return (
        f"column {metric.column!r}"
        if metric.column
        else f"expression {metric.sql or metric.ibis or metric.numerator!r}"
    )


def quality(experiment: Experiment, cells: Cells, *, as_of: datetime | None = None) -> tuple[Check, ...]:
    """Every check on the cells of an experiment, the sample ratio first.

    Parameters
    ----------
    as_of : datetime, optional
        Up to when the data are complete, where a metric has a window.
    """
    found: list[Check | None] = [*_ratios(experiment, cells)]
    found += sample_ratio_by(_views(experiment, cells), min_cell=experiment.min_cell)
    found += _of_days(experiment, cells)
    found += _of_units(experiment, cells)
    for part in experiment.expect:
        broken = {arm: int(cells.broken[part.name][cells.variant == arm].sum()) for arm in experiment.variants}
        found.append(
            checks.expectation(
                part.name, broken, _units(experiment, cells), part.tolerate, min_cell=experiment.min_cell
            )
        )
    groups = _groups(cells)
    for metric in experiment.metrics:
        found += _of_metric(experiment, cells, metric, groups, as_of)
    return tuple(check for check in found if check is not None)


def _ratios(experiment: Experiment, cells: Cells) -> Iterator[Check]:
    """The sample ratio of all units, and of triggered ones, whose effect is the main one; both share the error of one test."""
    every, small = _strata(experiment, cells), experiment.min_cell
    if not experiment.trigger:
        yield sample_ratio(every, min_cell=small)
        return
    triggered = _strata(experiment, cells, cells.segments[TRIGGER_KEY] == "true")
    yield sample_ratio(every, min_cell=small, blocks=SAMPLE_RATIO_BLOCK / 2)
    yield from sample_ratio_triggered(triggered, every, min_cell=small)


def _units(experiment: Experiment, cells: Cells) -> dict[str, int]:
    return {arm: cells.count(arm) for arm in experiment.variants}


def _strata(experiment: Experiment, cells: Cells, where: BoolArray | None = None) -> Strata:
    """Units per arm with the weights of their time."""
    where = np.ones(cells.n.size, dtype=np.bool_) if where is None else where
    weights = [experiment.weights, *(epoch.weights for epoch in experiment.epochs)]
    return [
        (
            {
                arm: int(cells.n[where & (cells.variant == arm) & (cells.epoch == number)].sum())
                for arm in experiment.variants
            },
            weights[number],
        )
        for number in sorted(set(cells.epoch[where].tolist()))
    ]


def _views(experiment: Experiment, cells: Cells) -> dict[str, dict[str, Strata]]:
    views = {
        name: {value: _strata(experiment, cells, cells.segments[name] == value) for value in cells.segment_values(name)}
        for name in experiment.segments
    }
    days = cells.day[~np.isnat(cells.day)]
    if np.unique(days).size > 1:
        views["day"] = {str(day): _strata(experiment, cells, cells.day == day) for day in np.unique(days)}
    return views


def _of_days(experiment: Experiment, cells: Cells) -> Iterator[Check | None]:
    if not experiment.exposed_at and experiment.events is None:
        return
    if experiment.totals and experiment.totals.cumulative:  # units of a running total belong to no single day
        return
    undated = int(cells.n[np.isnat(cells.day)].sum())
    if undated:
        yield Check(
            "exposed_at",
            undated / cells.units,
            "warn",
            f"{checks.count_of(undated, min_cell=experiment.min_cell)} units have no value in {experiment.exposed_at!r} and belong to no day{_left_out_undated(experiment)}.",
        )
    known = np.unique(cells.day[~np.isnat(cells.day)])
    yield checks.days_missing(
        {
            day.item(): {
                arm: int(cells.n[(cells.day == day) & (cells.variant == arm)].sum()) for arm in experiment.variants
            }
            for day in known
        },
        experiment.weights,
        later={
            cells.day[place].item(): experiment.epochs[number - 1].weights
            for place, number in enumerate(cells.epoch.tolist())
            if number and not np.isnat(cells.day[place])
        },
        min_cell=experiment.min_cell,
    )


def _of_units(experiment: Experiment, cells: Cells) -> Iterator[Check | None]:
    """Units whose segment or trigger is not clear."""
    for name in experiment.segments if varies(experiment) else ():
        n = int(cells.broken[varied_segment(name)].sum())
        yield checks.varied_segment(name, n, cells.units, min_cell=experiment.min_cell)
    if experiment.trigger:
        yield checks.no_answer(experiment.trigger, int(cells.broken[NO_ANSWER].sum()), min_cell=experiment.min_cell)


def _left_out_undated(experiment: Experiment) -> str:
    if experiment.events is not None:
        return "; what came after their exposure is not known, and every metric leaves them out"
    windows = any(metric.window_days is not None for metric in experiment.metrics) and experiment.totals is None
    return "; metrics with a window leave them out" if windows else ""


def _groups(cells: Cells) -> dict[str, IntArray]:
    """Number of the group of each cell: of its arm, by "", and of its arm and segment value, by segment."""
    arms, arm = np.unique(cells.variant, return_inverse=True)
    groups = {"": arm.astype(np.int64)}
    for name, values in cells.segments.items():
        _, place = np.unique(values, return_inverse=True)
        groups[name] = (place * arms.size + arm).astype(np.int64)
    return groups


def _lost_digits(cells: Cells, column: MetricCells, groups: Mapping[str, IntArray], min_cell: int) -> dict[str, float]:
    """Digits of the variance that sums around the shifts of cells have lost, in the group of each kind that lost most."""
    lost = {}
    for segment, place in groups.items():
        summed, size = np.bincount(place, column.s2), int(place.max()) + 1
        together = replace(column, bins=None, logs=None, denominator=None, covariate=None).merged(place, size)
        n, s1, s2 = together.n_ok, together.s1, together.s2
        low, high = np.full(n.size, np.inf), np.full(n.size, -np.inf)
        np.fmin.at(low, place, column.low)
        np.fmax.at(high, place, column.high)
        judged = np.flatnonzero((n >= max(min_cell, 2)) & (low < high) & (summed > 0))
        if not judged.size:
            continue
        left = np.maximum(s2 - s1**2 / np.maximum(n, 1), summed * 10.0**-checks.DIGITS)[judged]
        digits = np.log10(summed[judged] / left)
        worst = int(np.argmax(digits))
        cell = int(np.flatnonzero(place == judged[worst])[0])
        where = (
            f" in {'trigger' if segment == TRIGGER_KEY else segment} {cells.segments[segment][cell]}" if segment else ""
        )
        lost[f"{cells.variant[cell]}{where}"] = float(digits[worst])
    return lost


def _of_metric(
    experiment: Experiment, cells: Cells, metric: Metric, groups: Mapping[str, IntArray], as_of: datetime | None
) -> Iterator[Check | None]:
    if metric.at:
        early = int(cells.broken[before_exposure(metric)].sum())
        yield checks.outcome_before_exposure(metric.name, early, cells.units, min_cell=experiment.min_cell)
    if experiment.shape == "rows":
        blank = int(cells.broken[blank_rows(metric)].sum())
        yield checks.blank_rows(
            metric.name, blank, summed=metric.kind in {"count", "revenue"}, min_cell=experiment.min_cell
        )
    yield from _of_missing(experiment, cells, metric, as_of)
    column, small = cells.metrics[metric.name], experiment.min_cell
    if not metric.is_share and column.q is None:  # shares are whole numbers, quantiles come from histograms
        yield checks.lost_digits(metric.name, _lost_digits(cells, column, groups, small))
    if column.denominator is None:
        yield checks.constant(metric.name, float(np.nanmin(column.low)), float(np.nanmax(column.high)))
    if column.covariate is not None:
        arms = {arm: cells.covariate_moments(metric.name, arm) for arm in experiment.variants}
        yield checks.pre_period_imbalance(metric.name, arms, min_cell=small)
    if not metric.is_share and column.denominator is None and column.q is None:
        for arm in experiment.variants:
            moments = column.moments(cells.variant == arm)
            if moments.n and math.isfinite(moments.low) and math.isfinite(moments.high):  # totals do not know them
                farthest = max(moments.low, moments.high, key=lambda value: abs(value - moments.mean))
                yield checks.outlier(metric.name, value=farthest, mean=moments.mean, m2=moments.m2, arm=arm)


def _of_missing(experiment: Experiment, cells: Cells, metric: Metric, as_of: datetime | None) -> Iterator[Check | None]:
    """Units that a metric leaves out, by cause and by arm."""
    column, units, small = cells.metrics[metric.name], _units(experiment, cells), experiment.min_cell
    if experiment.totals:  # a metric may count other units than the experiment
        late = int(column.n_immature.sum())
        yield checks.without_total(metric.name, late, late + int(column.n_ok.sum()), min_cell=small)
    else:  # units without a date are said by themselves
        dated = ~np.isnat(cells.day) if experiment.exposed_at else np.ones(cells.n.size, dtype=np.bool_)
        late = int(column.n_immature[dated].sum())
        yield checks.immature(metric.name, late, int(cells.n[dated].sum()), as_of=as_of, min_cell=small)
    yield checks.unusable_values(
        metric.name,
        null=int(column.n_null.sum()),
        nan=int(column.n_nan.sum()),
        infinite=int(column.n_infinite.sum()),
        total=cells.units,
        min_cell=small,
    )
    by_arm = {arm: cells.variant == arm for arm in experiment.variants}
    closed = {arm: units[arm] - int(column.n_immature[own].sum()) for arm, own in by_arm.items()}
    if not experiment.totals:
        lost = {arm: max(0, closed[arm] - int(column.n_ok[own].sum())) for arm, own in by_arm.items()}
        chosen = experiment.events is not None and metric.kind in TYPICAL
        yield (checks.chosen_by_arm if chosen else checks.lost_by_arm)(metric.name, lost, closed, min_cell=small)
