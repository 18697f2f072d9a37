"""Rows that are sums over units already: one per arm, or per arm and day or segment."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from expnb.cohorts.engine import ask
from expnb.cohorts.reduce import Reduced, rounded
from expnb.cohorts.sources import Source
from expnb.cohorts.statement import MAX_CELLS
from expnb.cohorts.units import MISSING_SEGMENT
from expnb.errors import CohortError, ColumnNotFoundError, EmptyCohortError, MetricValuesError
from expnb.spec.experiment import Experiment
from expnb.spec.metric import Metric, TotalsColumns
from expnb.stats import checks
from expnb.stats.arrays import FloatArray, IntArray
from expnb.stats.cells import Cells, MetricCells
from expnb.stats.checks import Check

if TYPE_CHECKING:
    import pyarrow as pa


def totals_cells(experiment: Experiment, source: Source) -> Reduced:
    """Cells of a table of totals.

    Raises
    ------
    EmptyCohortError, ColumnNotFoundError, MetricValuesError, CohortError
        If a total cannot be one, such as more conversions than units.
    """
    assert experiment.totals is not None  # noqa: S101 - the specification has checked it
    wanted = {metric.name: _columns(experiment, metric) for metric in experiment.metrics}
    keys = [name for name in (experiment.experiment_column, experiment.variant, *experiment.segments, experiment.exposed_at) if name]
    names = [*keys, experiment.totals.units]
    names += [name for part in wanted.values() for name in (part.units, part.sum, part.squares, part.mean, part.variance)]
    known = source.table.schema().names
    for name in filter(None, names):
        if name not in known:
            raise ColumnNotFoundError(name, known)
    table = source.table.select(list(dict.fromkeys(filter(None, names))))
    if experiment.experiment_column:
        table = table.filter(table[experiment.experiment_column].cast("string") == experiment.name)
    rows = ask(source.engine, table.limit(MAX_CELLS + 1), cost=experiment.cost, what=experiment.name)
    if rows.num_rows == 0:
        raise EmptyCohortError(source.name)
    if rows.num_rows > MAX_CELLS:
        raise CohortError(f'{source.name} has more than {MAX_CELLS:,} rows, which are hardly totals. Use shape = "unit".')
    found: list[Check] = []
    if experiment.totals.cumulative:
        rows, fallen = _last(experiment, rows)
        found += fallen
    else:
        found += _cumulative(experiment, rows)
    return _reduced(experiment, wanted, rows, source, tuple(found))


def _columns(experiment: Experiment, metric: Metric) -> TotalsColumns:
    """Where the totals of a metric are; conversions are counted in its own column."""
    assert experiment.totals is not None  # noqa: S101 - the specification has checked it
    if metric.kind in {"ratio", "quantile"}:
        raise MetricValuesError(
            metric.name,
            f"a {metric.kind} cannot be made from totals: its error needs the single units. Load the units, or leave the metric out.",
        )
    given = metric.totals or TotalsColumns(sum=metric.column)
    moments = bool(given.mean) and bool(given.variance) and not (given.sum or given.squares)
    sums = bool(given.sum) and not (given.mean or given.variance) and (metric.is_share or bool(given.squares))
    if not (moments or sums):
        raise MetricValuesError(
            metric.name,
            f'its totals name {given}; give the columns sum and squares, or mean and variance; conversions need a sum alone. Write totals = {{ mean = "mean", variance = "variance" }}.',
        )
    units = given.units or experiment.totals.units
    return TotalsColumns(units, given.sum, given.squares, given.mean, given.variance)


def _key_rows(experiment: Experiment, rows: pa.Table, *, day: bool) -> list[tuple[str, ...]]:
    names = [experiment.variant, *experiment.segments, *([experiment.exposed_at] if day and experiment.exposed_at else [])]
    return list(zip(*(map(str, rows.column(name).to_pylist()) for name in names), strict=True))


def _last(experiment: Experiment, rows: pa.Table) -> tuple[pa.Table, list[Check]]:
    """The last row of each arm and segment, which counts all before it."""
    assert experiment.totals is not None  # noqa: S101 - the specification has checked it
    if not experiment.exposed_at:
        raise CohortError(
            "cumulative totals need a time, to tell which row is the last. Name its column: exposed_at."
        )
    order = np.argsort(rows.column(experiment.exposed_at).to_numpy(zero_copy_only=False), kind="stable")
    rows = rows.take(order)
    newest: dict[tuple[str, ...], int] = {}
    falls: dict[str, int] = {}
    units = _numbers(rows, experiment.totals.units)
    for place, key in enumerate(_key_rows(experiment, rows, day=False)):
        if key in newest and units[place] < units[newest[key]]:
            falls[key[0]] = falls.get(key[0], 0) + 1
        newest[key] = place
    found = [
        Check(
            "cumulative",
            float(sum(falls.values())),
            "warn",
            f"Totals that should only grow fall from one row to the next: {', '.join(f'{arm} {n} times' for arm, n in falls.items())}. Units were removed or counted anew: ask where the table is made.",
        )
    ]
    return rows.take(sorted(newest.values())), found if falls else []


def _cumulative(experiment: Experiment, rows: pa.Table) -> list[Check]:
    """Refuse two rows for one thing; warn of totals that look like running ones."""
    assert experiment.totals is not None  # noqa: S101 - the specification has checked it
    keys = _key_rows(experiment, rows, day=True)
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise CohortError(
            f"{' on '.join(twice)} has more than one row; a table of totals has one per arm, and per segment and day where there are any. Add the rows up, or name the column that tells them apart in segments or exposed_at."
        )
    if not experiment.exposed_at:
        return []
    order = np.argsort(rows.column(experiment.exposed_at).to_numpy(zero_copy_only=False), kind="stable")
    units, arms = _numbers(rows, experiment.totals.units), rows.column(experiment.variant).to_pylist()
    by_arm: dict[str, list[float]] = {}
    for place in order:
        by_arm.setdefault(str(arms[place]), []).append(float(units[place]))
    check = checks.cumulative(experiment.totals.units, by_arm) if not experiment.segments else None
    return [check] if check else []


def _reduced(
    experiment: Experiment, wanted: dict[str, TotalsColumns], rows: pa.Table, source: Source, found: tuple[Check, ...]
) -> Reduced:
    assert experiment.totals is not None  # noqa: S101 - the specification has checked it
    size = rows.num_rows
    days = (
        np.array([str(day)[:10] for day in rows.column(experiment.exposed_at).to_pylist()], dtype="datetime64[D]")
        if experiment.exposed_at
        else np.full(size, np.datetime64("NaT", "D"))
    )
    cells = Cells(
        variant=np.array([str(arm) for arm in rows.column(experiment.variant).to_pylist()], dtype=np.str_),
        segments={
            name: np.array(
                [MISSING_SEGMENT if value is None else str(value) for value in rows.column(name).to_pylist()], dtype=np.str_
            )
            for name in experiment.segments
        },
        day=days,
        n=_counts(rows, experiment.totals.units, experiment.totals.units),
        metrics={metric.name: _metric_cells(metric, wanted[metric.name], rows) for metric in experiment.metrics},
        checks=found,
        source=source.name,
        broken={},
        epochs=tuple(epoch.start for epoch in experiment.epochs),
    )
    return Reduced(cells, np.full(size, ""), None, np.zeros(size, dtype=np.int64), {})


def _metric_cells(metric: Metric, columns: TotalsColumns, rows: pa.Table) -> MetricCells:
    units = _counts(rows, columns.units, metric.name)
    first = _numbers(rows, columns.sum or columns.mean)
    second = first if metric.is_share and columns.sum else _numbers(rows, columns.squares or columns.variance)
    known = np.isfinite(first) & np.isfinite(second)
    n = np.where(known, units, 0)
    first, second = np.where(known, first, 0.0), np.where(known, second, 0.0)
    none = np.zeros_like(units)
    if columns.sum:
        shift, s1, s2 = 0.0, first, second
    else:
        spread = math.sqrt(max(0.0, float(second.max(initial=0.0))))
        shift = rounded(float(np.average(first, weights=n)), spread) if n.sum() else 0.0
        s1 = n * (first - shift)
        s2 = np.maximum(n - 1, 0) * second + n * (first - shift) ** 2
    if metric.is_share:
        s1, s2, shift = _conversions(metric, n, s1 + n * shift)
        low, high = np.where(s1 < n, 0.0, 1.0), np.where(s1 > 0, 1.0, 0.0)
    else:
        if (s2 < s1**2 / np.maximum(n, 1) * (1 - 1e-9)).any():
            raise MetricValuesError(
                metric.name,
                f"a sum of squares is smaller than the squared sum allows, which no values have. Check the columns {columns.sum or columns.mean!r} and {columns.squares or columns.variance!r}.",
            )
        low, high = np.full(n.size, -np.inf), np.full(n.size, np.inf)
    return MetricCells(shift, n, none, none, none, units - n, s1, s2, low, high)


def _conversions(metric: Metric, n: IntArray, found: FloatArray) -> tuple[FloatArray, FloatArray, float]:
    whole = np.round(found)
    if (np.abs(found - whole) > 1e-6 * np.maximum(1.0, found)).any() or (whole < 0).any() or (whole > n).any():
        worst = int(np.argmax(np.maximum(whole - n, np.maximum(-whole, np.abs(found - whole)))))
        raise MetricValuesError(
            metric.name,
            f"{found[worst]:,.6g} conversions of {n[worst]:,} units; conversions are whole numbers from 0 to the number of units. Check both columns.",
        )
    return whole, whole, 0.0


def _counts(rows: pa.Table, column: str, owner: str) -> IntArray:
    values = _numbers(rows, column)
    if not np.isfinite(values).all() or (values < 0).any() or (values != np.round(values)).any():
        raise MetricValuesError(
            owner, f"column {column!r} counts units and holds something else than whole numbers from 0. Repair the table."
        )
    return values.astype(np.int64)


def _numbers(rows: pa.Table, name: str) -> FloatArray:
    return np.asarray(rows.column(name).cast("float64", safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
