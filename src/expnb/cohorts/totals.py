"""Rows that are sums over units already: one per arm, or per arm and day or segment."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from expnb.cohorts.engine import ask
from expnb.cohorts.reduce import MISSING_SEGMENT, NO_ARM, Reduced, rounded
from expnb.cohorts.sources import Source
from expnb.cohorts.statement import MAX_CELLS
from expnb.cohorts.times import day_of
from expnb.errors import CohortError, ColumnNotFoundError, EmptyCohortError, MetricValuesError
from expnb.spec.experiment import Experiment, Totals
from expnb.spec.metric import NEVER_NEGATIVE, Metric, TotalsColumns
from expnb.stats import checks
from expnb.stats.arrays import BoolArray, FloatArray, IntArray
from expnb.stats.cells import Cells, MetricCells
from expnb.stats.checks import Check

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import pyarrow as pa

DAY = "expnb_day"  # day of a row, in the time zone of the experiment
# Conversions worked out from a mean may miss a whole number by this share: means are often written with few digits.
WHOLE = 1e-6
Wanted = dict[str, TotalsColumns]


def totals_cells(experiment: Experiment, source: Source) -> Reduced:
    """Cells of a table of totals.

    Raises
    ------
    EmptyCohortError, ColumnNotFoundError, MetricValuesError, CohortError
        If a total cannot be one, such as more conversions than units.
    """
    totals = experiment.totals
    assert totals is not None  # noqa: S101 - the specification has checked it
    _check_experiment(experiment, totals)
    wanted = {metric.name: _columns(metric, totals) for metric in experiment.metrics}
    rows = _read(experiment, totals, wanted, source)
    _check_rows(experiment, rows)
    if totals.cumulative:
        rows, found = _last(experiment, totals, rows)
    else:
        found = _running(experiment, totals, rows)
    for metric in experiment.metrics:
        found += _gaps(experiment, metric, wanted[metric.name], rows)
    return _reduced(experiment, totals, wanted, rows, source, found)


# --- what the specification may ask for -------------------------------------------------------


def _check_experiment(experiment: Experiment, totals: Totals) -> None:
    """Refuse what only single units can answer, or what running totals have mixed."""
    if experiment.expect:
        raise CohortError(
            f"expectation {experiment.expect[0].name!r} looks at single units, and a table of totals has none. Remove [[expect]], or load the units."
        )
    if experiment.trigger:
        raise CohortError(
            f"trigger = {experiment.trigger!r} says of single units whether they met the change, and a table of totals has none. Remove it, or load the units."
        )
    if totals.cumulative and not experiment.exposed_at:
        raise CohortError("cumulative totals need a time, to tell which row is the last. Name its column: exposed_at.")
    if totals.cumulative and experiment.epochs:
        raise CohortError(
            "cumulative totals add up units from before and after the weights changed, which cannot be told apart again. Load totals per day, with cumulative = false."
        )


def _columns(metric: Metric, totals: Totals) -> TotalsColumns:
    """Where the totals of a metric are; conversions are counted in its own column."""
    if metric.kind in {"ratio", "quantile"}:
        raise MetricValuesError(
            metric.name,
            f"a {metric.kind} cannot be made from totals: its error needs the single units. Load the units, or leave the metric out.",
        )
    for field, value in (
        ("sql", metric.sql),
        ("ibis", metric.ibis),
        ("cap", metric.cap),
        ("covariate", metric.covariate),
    ):
        if value:
            raise MetricValuesError(
                metric.name,
                f"{field} = {value!r} is read from single units, and a table of totals has none. Remove it, or load the units.",
            )
    given = metric.totals or TotalsColumns(sum=metric.column)
    moments = bool(given.mean) and bool(given.variance) and not (given.sum or given.squares)
    sums = bool(given.sum) and not (given.mean or given.variance) and (metric.is_share or bool(given.squares))
    if not (moments or sums):
        named = {name: getattr(given, name) for name in ("sum", "squares", "mean", "variance") if getattr(given, name)}
        raise MetricValuesError(
            metric.name,
            f'its totals name {named}; give the columns sum and squares, or mean and variance; conversions need a sum alone. Write totals = {{ mean = "mean", variance = "variance" }}.',
        )
    return replace(given, units=given.units or totals.units)


def _numeric(totals: Totals, wanted: Wanted) -> list[str]:
    """Columns that hold numbers, each once."""
    parts = [(part.units, part.sum, part.squares, part.mean, part.variance) for part in wanted.values()]
    return list(dict.fromkeys(name for part in [(totals.units,), *parts] for name in part if name))


# --- rows -------------------------------------------------------------------------------------


def _read(experiment: Experiment, totals: Totals, wanted: Wanted, source: Source) -> pa.Table:
    """The rows of the experiment, with their day where they have a time."""
    schema = source.table.schema()
    keys = [experiment.experiment_column, experiment.variant, *experiment.segments, experiment.exposed_at]
    numeric = _numeric(totals, wanted)
    for name in [*filter(None, keys), *numeric]:
        if name not in schema.names:
            raise ColumnNotFoundError(name, schema.names)
    for name in numeric:
        if not (schema[name].is_numeric() or schema[name].is_boolean()):
            raise CohortError(
                f"column {name!r} holds {schema[name]}, and totals are numbers. Convert it, or name another column."
            )
    table = source.table.select(list(dict.fromkeys([*filter(None, keys), *numeric])))
    if experiment.experiment_column:
        table = table.filter(table[experiment.experiment_column].cast("string") == experiment.name)
    if experiment.exposed_at:
        table = _dated(experiment, totals, table, source)
    rows = ask(source.engine, table.limit(MAX_CELLS + 1), cost=experiment.cost, what=experiment.name)
    if rows.num_rows == 0:
        raise EmptyCohortError(source.name)
    if rows.num_rows > MAX_CELLS:
        raise CohortError(
            f'{source.name} has more than {MAX_CELLS:,} rows, which are hardly totals. Use shape = "unit".'
        )
    return rows


def _dated(experiment: Experiment, totals: Totals, table: ir.Table, source: Source) -> ir.Table:
    """Rows from the first to the last day that was agreed, with their day; running totals may count time in numbers."""
    time = table[experiment.exposed_at]
    if totals.cumulative and time.type().is_numeric():
        return table
    if not (time.type().is_timestamp() or time.type().is_date()):
        raise CohortError(
            f"column {experiment.exposed_at!r} holds {time.type()}, not times; days cannot be counted. Convert it to a timestamp or a date, such as with pandas.to_datetime."
        )
    table = table.mutate(**{DAY: day_of(time, experiment.timezone, source)})
    if experiment.start is None or experiment.end is None:
        return table
    return table.filter(table[DAY] >= experiment.start, table[DAY] <= experiment.end)


def _key_names(experiment: Experiment, *, with_time: bool) -> list[str]:
    return [
        experiment.variant,
        *experiment.segments,
        *([experiment.exposed_at] if with_time and experiment.exposed_at else []),
    ]


def _key_rows(experiment: Experiment, rows: pa.Table, *, with_time: bool) -> list[tuple[str, ...]]:
    names = _key_names(experiment, with_time=with_time)
    return list(zip(*(map(str, rows.column(name).to_pylist()) for name in names), strict=True))


def _check_rows(experiment: Experiment, rows: pa.Table) -> None:
    """Refuse two rows for one thing."""
    counted = Counter(_key_rows(experiment, rows, with_time=True))
    twice = [key for key, n in counted.items() if n > 1]
    if twice:
        names = _key_names(experiment, with_time=True)
        one = ", ".join(f"{name} {value}" for name, value in zip(names, twice[0], strict=True))
        raise CohortError(
            f"{one} has more than one row; a table of totals has one per arm, and per segment and day where there are any. Add the rows up, or name the column that tells them apart in segments or exposed_at."
        )


def _in_time(experiment: Experiment, rows: pa.Table) -> pa.Table:
    return rows.sort_by(experiment.exposed_at)


def _last(experiment: Experiment, totals: Totals, rows: pa.Table) -> tuple[pa.Table, list[Check]]:
    """The last row of each arm and segment, which counts all before it."""
    import pyarrow.compute as pc  # noqa: PLC0415 - 0.3 s, only when rows are needed

    undated = pc.sum(rows.column(experiment.exposed_at).is_null(nan_is_null=True)).as_py()
    if undated:
        raise CohortError(
            f"{undated:,} rows have no value in {experiment.exposed_at!r}, so nobody can tell which row of a running total is the last. Remove them where the table is made."
        )
    rows = _in_time(experiment, rows)
    units, times = _counts(rows, totals.units, totals.units), rows.column(experiment.exposed_at).to_pylist()
    newest: dict[tuple[str, ...], int] = {}
    falls: Counter[str] = Counter()
    for place, key in enumerate(_key_rows(experiment, rows, with_time=False)):
        if key in newest and units[place] < units[newest[key]]:
            falls[key[0]] += 1
        newest[key] = place
    found = []
    if falls:
        words = ", ".join(f"{arm} {n:,} {'time' if n == 1 else 'times'}" for arm, n in falls.items())
        found.append(
            Check(
                "cumulative",
                float(falls.total()),
                "warn",
                f"Totals that should only grow fall from one row to the next: {words}. Units were removed or counted anew: ask where the table is made.",
            )
        )
    ends: dict[tuple[str, ...], dict[str, str]] = {}
    for key, place in newest.items():
        ends.setdefault(key[1:], {})[key[0]] = str(times[place])
    uneven = next((arms for arms in ends.values() if len(set(arms.values())) > 1), None)
    if uneven:
        words = ", ".join(f"{arm} {time}" for arm, time in uneven.items())
        found.append(
            Check(
                "cumulative:end",
                None,
                "warn",
                f"The last rows of the arms are of different times: {words}. Arms are then compared over different days; end all at the same time.",
            )
        )
    return rows.take(sorted(newest.values())), found


def _running(experiment: Experiment, totals: Totals, rows: pa.Table) -> list[Check]:
    """A warning of totals that look like running ones."""
    if not experiment.exposed_at:
        return []
    rows = _in_time(experiment, rows)
    streams: dict[str, list[float]] = {}
    units = _numbers(rows, totals.units).tolist()
    for key, n in zip(_key_rows(experiment, rows, with_time=False), units, strict=True):
        streams.setdefault(" ".join(key), []).append(n)
    check = checks.cumulative(totals.units, streams)
    return [check] if check else []


def _gaps(experiment: Experiment, metric: Metric, columns: TotalsColumns, rows: pa.Table) -> Iterator[Check]:
    """What is said of rows without a total, where not all arms lack it, or nobody can say how many units they hold."""
    known = _known(metric, columns, rows)
    keys = _key_rows(experiment, rows, with_time=not (experiment.totals and experiment.totals.cumulative))
    places: dict[tuple[str, ...], set[bool]] = {}
    for key, there in zip(keys, known.tolist(), strict=True):
        places.setdefault(key[1:], set()).add(there)
    uneven = sum(len(found) > 1 for found in places.values())
    if uneven:
        yield Check(
            f"gaps:{metric.name}",
            float(uneven),
            "warn",
            f"{metric.name}: in {uneven:,} of {len(places):,} days or segments some arms have a total and others have none, so arms are compared over different units. Fill the gaps, or leave those rows out for all arms.",
        )
    uncounted = int((~np.isfinite(_numbers(rows, columns.units))).sum())
    if uncounted:
        yield Check(
            f"uncounted:{metric.name}",
            float(uncounted),
            "warn" if 2 * uncounted > known.size else "ok",
            f"{metric.name}: {uncounted:,} of {known.size:,} rows do not say how many units they hold ({columns.units!r} is empty); they are left out.",
        )


# --- cells ------------------------------------------------------------------------------------


def _reduced(
    experiment: Experiment, totals: Totals, wanted: Wanted, rows: pa.Table, source: Source, found: Sequence[Check]
) -> Reduced:
    size = rows.num_rows
    # Units of a running total came on many days, and nobody can tell which.
    days = (
        rows.column(DAY).to_numpy(zero_copy_only=False).astype("datetime64[D]")
        if DAY in rows.column_names and not totals.cumulative
        else np.full(size, np.datetime64("NaT", "D"))
    )
    cells = Cells(
        variant=np.array(
            [NO_ARM if arm is None else str(arm) for arm in rows.column(experiment.variant).to_pylist()], dtype=np.str_
        ),
        segments={
            name: np.array(
                [MISSING_SEGMENT if value is None else str(value) for value in rows.column(name).to_pylist()],
                dtype=np.str_,
            )
            for name in experiment.segments
        },
        day=days,
        n=_counts(rows, totals.units, totals.units),
        metrics={metric.name: _metric_cells(metric, wanted[metric.name], rows) for metric in experiment.metrics},
        checks=tuple(found),
        source=source.name,
        broken={},
        epochs=tuple(epoch.start for epoch in experiment.epochs),
    )
    return Reduced(cells, np.full(size, ""), None, np.zeros(size, dtype=np.int64), {})


def _metric_cells(metric: Metric, columns: TotalsColumns, rows: pa.Table) -> MetricCells:
    units = _counts(rows, columns.units, metric.name, empty=True)
    known = _known(metric, columns, rows)
    n = np.where(known, units, 0)
    first = np.where(known, _finite(rows, columns.sum or columns.mean, metric), 0.0)
    if metric.is_share:
        shift, s1 = 0.0, _conversions(metric, n, first if columns.sum else n * first, rounded_mean=not columns.sum)
        s2 = s1
    elif columns.sum:
        shift, s1, s2 = 0.0, first, np.where(known, _finite(rows, columns.squares, metric), 0.0)
    else:
        variance = np.where(known & (n > 1), _finite(rows, columns.variance, metric), 0.0)
        shift = (
            rounded(float(np.average(first, weights=n)), math.sqrt(max(0.0, variance.max(initial=0.0))))
            if n.any()
            else 0.0
        )
        gap = np.where(n > 0, first - shift, 0.0)
        s1, s2 = n * gap, np.maximum(n - 1, 0) * variance + n * gap**2
        _check_variance(metric, columns, variance)
    if not metric.is_share:
        _check_sums(metric, columns, n, s1, s2, first)
    low, high = _bounds(metric, n, s1, s2, shift)
    none = np.zeros_like(units)
    return MetricCells(shift, n, none, none, none, units - n, s1, s2, low, high)


def _known(metric: Metric, columns: TotalsColumns, rows: pa.Table) -> BoolArray:
    """Rows that hold the totals of a metric; the variance of one unit is none, and that of a share follows from its mean."""
    units = _numbers(rows, columns.units)
    known = np.isfinite(units) & ~np.isnan(_numbers(rows, columns.sum or columns.mean))
    if not metric.is_share:
        needs = units > 1 if columns.variance else np.ones(units.size, dtype=np.bool_)
        known &= ~(needs & np.isnan(_numbers(rows, columns.variance or columns.squares)))
    return np.asarray(known, dtype=np.bool_)


def _bounds(metric: Metric, n: IntArray, s1: FloatArray, s2: FloatArray, shift: float) -> tuple[FloatArray, FloatArray]:
    """Between which all values lie, as far as totals tell; NaN where there is no unit."""
    if metric.is_share:
        low, high = np.where(s1 < n, 0.0, 1.0), np.where(s1 > 0, 1.0, 0.0)
    else:
        low = np.full(n.size, 0.0 if metric.kind in NEVER_NEGATIVE else -np.inf)
        high = np.full(n.size, np.inf)
        mean = shift + s1 / np.maximum(n, 1)
        equal = (s2 == 0) | (n == 1)
        low, high = np.where(equal, mean, low), np.where(equal, mean, high)
    return np.where(n > 0, low, np.nan), np.where(n > 0, high, np.nan)


# --- what totals cannot be --------------------------------------------------------------------


def _conversions(metric: Metric, n: IntArray, found: FloatArray, *, rounded_mean: bool) -> FloatArray:
    """Conversions as whole numbers."""
    whole = np.round(found)
    off = np.abs(found - whole)
    near = WHOLE * np.maximum(1.0, found) if rounded_mean else 0.0
    wrong = (off > near) | (whole < 0) | (whole > n)
    if wrong.any():
        worst = int(np.flatnonzero(wrong)[0])
        raise MetricValuesError(
            metric.name,
            f"{found[worst]:,.10g} conversions of {n[worst]:,} units; conversions are whole numbers from 0 to the number of units. Check both columns.",
        )
    return whole


def _check_variance(metric: Metric, columns: TotalsColumns, variance: FloatArray) -> None:
    if (variance < 0).any():
        raise MetricValuesError(
            metric.name,
            f"column {columns.variance!r} holds {variance.min():,.6g}; a variance is never below 0. Check how it is made.",
        )


def _check_sums(
    metric: Metric, columns: TotalsColumns, n: IntArray, s1: FloatArray, s2: FloatArray, first: FloatArray
) -> None:
    """Refuse sums that no values have."""
    total = columns.sum or columns.mean
    if metric.kind in NEVER_NEGATIVE and (first < 0).any():
        raise MetricValuesError(
            metric.name,
            f'column {total!r} goes down to {first.min():,.6g}; a {metric.kind} is never below 0. Use kind = "mean", or repair the values.',
        )
    if ((n == 0) & ((s1 != 0) | (s2 != 0))).any():
        raise MetricValuesError(
            metric.name, f"column {total!r} holds a total of 0 units. Check it and {columns.units!r}."
        )
    if (s2 < s1**2 / np.maximum(n, 1) * (1 - 1e-9)).any():
        raise MetricValuesError(
            metric.name,
            f"a sum of squares is smaller than the squared sum allows, which no values have. Check the columns {total!r} and {columns.squares or columns.variance!r}.",
        )


def _counts(rows: pa.Table, column: str, owner: str, *, empty: bool = False) -> IntArray:
    """Whole numbers from 0; with `empty` an empty one counts as 0."""
    values = _numbers(rows, column)
    if empty:
        values = np.where(np.isnan(values), 0.0, values)
    wrong = ~np.isfinite(values) | (values < 0) | (values != np.round(values))
    if wrong.any():
        raise MetricValuesError(
            owner,
            f"column {column!r} counts units and holds {values[wrong][0]:g}; units are whole numbers from 0. Repair the table.",
        )
    return values.astype(np.int64)


def _finite(rows: pa.Table, column: str, metric: Metric) -> FloatArray:
    values = _numbers(rows, column)
    if np.isinf(values).any():
        raise MetricValuesError(
            metric.name,
            f"column {column!r} holds an infinite total, so one value in it was. Find it, and leave it out where the table is made.",
        )
    return values


def _numbers(rows: pa.Table, name: str) -> FloatArray:
    return np.asarray(rows.column(name).cast("float64", safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
