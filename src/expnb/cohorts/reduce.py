"""One statement per source: rows in, cells out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce as fold
from typing import TYPE_CHECKING

import numpy as np

from expnb.cohorts.sources import Engine, ask
from expnb.errors import (
    ArmsError,
    CohortError,
    ColumnNotFoundError,
    EmptyCohortError,
    MetricValuesError,
    NullArmError,
    UnitError,
)
from expnb.spec.experiment import ROW_UNIT, Experiment
from expnb.spec.metric import Metric
from expnb.stats.cells import Cells, MetricCells
from expnb.stats.checks import Check, lost_by_arm, outlier, sample_ratio, unusable_values
from expnb.stats.moments import EMPTY, Moments

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import pyarrow as pa

PILOT_ROWS = 1000
MISSING_SEGMENT = "(none)"
# Beyond this, sums around the shift have lost half of their digits.
SHIFT_TOO_FAR = 1e6


def reduce(experiment: Experiment, table: ir.Table, engine: Engine, source: str) -> Cells:
    """Cells of a table: the additive statistics of every metric per variant x segment x day.

    Parameters
    ----------
    experiment : Experiment
    table : ibis Table
        One row per unit; its columns have been checked.
    engine : Engine
        Runs the statement where the data is.
    source : str
        Name of the source, for display.

    Raises
    ------
    EmptyCohortError, ArmsError, NullArmError, UnitError, MetricValuesError
        Before any effect is computed.
    """
    check_units(experiment, table, engine, source)
    shifts = _pilot(experiment, table, engine)
    rows = ask(engine, _statement(experiment, table, shifts))
    far = _far_shifts(experiment, rows, shifts)
    if far:
        shifts |= far
        rows = ask(engine, _statement(experiment, table, shifts))
    _check_arms(experiment, rows)
    cells = _cells(experiment, rows, shifts, source)
    checks = tuple(_checks(experiment, cells))
    return Cells(cells.variant, cells.segments, cells.day, cells.n, cells.metrics, checks, source)


def check_units(experiment: Experiment, table: ir.Table, engine: Engine, source: str) -> None:
    """Refuse a table without rows, and one whose rows are not one per unit.

    Raises
    ------
    EmptyCohortError, UnitError
    """
    if experiment.unit == ROW_UNIT:
        if _scalar(engine, table.count()) == 0:
            raise EmptyCohortError(source)
        return
    unit = table[experiment.unit]
    found = ask(
        engine, table.aggregate(rows=table.count(), units=unit.nunique(), null=unit.isnull().sum())
    ).to_pylist()[0]
    if found["rows"] == 0:
        raise EmptyCohortError(source)
    if found["null"]:
        raise UnitError(
            f"{found['null']:,} rows have no value in the unit column {experiment.unit!r}; every row needs the unit that was randomised. Find out where the ids were lost."
        )
    if found["units"] < found["rows"]:
        arms = table.group_by(one_unit=table[experiment.unit]).aggregate(
            unit_arms=table[experiment.variant].nunique(), unit_rows=table.count()
        )
        seen = ask(
            engine, arms.aggregate(repeated=(arms.unit_rows > 1).sum(), crossed=(arms.unit_arms > 1).sum())
        ).to_pylist()[0]
        crossed = f", {seen['crossed']:,} of them in two arms" if seen["crossed"] else ""
        raise UnitError(
            f"{seen['repeated']:,} units of column {experiment.unit!r} occur more than once{crossed} ({found['rows']:,} rows, {found['units']:,} units); "
            'a cohort has one row per unit. Sum each unit to one row, or set unit = "row" if each row was randomised by itself.'
        )


def _statement(experiment: Experiment, table: ir.Table, shifts: Mapping[str, float]) -> ir.Table:
    keys = {"variant": table[experiment.variant].cast("string")}
    keys |= {f"segment_{name}": table[name].cast("string").fill_null(MISSING_SEGMENT) for name in experiment.segments}
    if experiment.exposed_at:
        keys["day"] = table[experiment.exposed_at].cast("date")
    sums: dict[str, ir.Scalar] = {"n": table.count()}
    for number, metric in enumerate(experiment.metrics):
        sums |= {
            f"{name}_{number}": value
            for name, value in _sums(table[metric.column], shifts[metric.name], metric).items()
        }
    return table.group_by(**keys).aggregate(**sums)


def _sums(column: ir.Column, shift: float, metric: Metric) -> dict[str, ir.Scalar]:
    """Sums of one metric. Values are cleaned inside the aggregates: engines order NaN differently and prune rows by it."""
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    raw = column.cast("float64")
    nan, infinite = raw.isnan().fill_null(False), raw.isinf().fill_null(False)
    value = ibis.cases((nan | infinite, ibis.null("float64")), else_=raw)
    gap = value - ibis.literal(shift, "float64")
    sums = {
        "ok": value.count(),
        "null": column.isnull().sum(),
        "nan": nan.sum(),
        "infinite": infinite.sum(),
        "s1": gap.sum(),
        "s2": (gap * gap).sum(),
        "low": value.min(),
        "high": value.max(),
    }
    if metric.kind == "conversion":
        sums["other"] = ((value != 0) & (value != 1)).sum()
    return sums


def _pilot(experiment: Experiment, table: ir.Table, engine: Engine) -> dict[str, float]:
    """A pinned constant near each mean, from the first rows; conversions count from 0, which keeps them whole numbers."""
    means = [metric for metric in experiment.metrics if metric.kind == "mean"]
    shifts = {metric.name: 0.0 for metric in experiment.metrics}
    if not means:
        return shifts
    columns = list(dict.fromkeys(metric.column for metric in means))
    rows = ask(engine, table.select(columns).limit(PILOT_ROWS))
    for metric in means:
        values = rows.column(metric.column).to_pandas().astype("float64").to_numpy()
        values = values[np.isfinite(values)]
        if values.size:
            shifts[metric.name] = float(f"{values.mean():.3g}")
    return shifts


def _far_shifts(experiment: Experiment, rows: pa.Table, shifts: Mapping[str, float]) -> dict[str, float]:
    """Better shifts for metrics whose pilot lies far from the mean of a cell, in standard deviations of that cell."""
    far = {}
    for number, metric in enumerate(experiment.metrics):
        if metric.kind != "mean":
            continue
        n, s1, s2 = (np.nan_to_num(_numbers(rows, f"{name}_{number}")) for name in ("ok", "s1", "s2"))
        gap = s1 / np.maximum(n, 1)
        variance = np.maximum(s2 / np.maximum(n, 1) - gap**2, 0.0)
        shift = shifts[metric.name]
        lost = (gap**2 > SHIFT_TOO_FAR * variance) & (np.abs(gap) > 1e-9 * abs(shift))
        if lost.any():
            far[metric.name] = shift + float(np.average(gap[lost], weights=n[lost]))
    return far


def _cells(experiment: Experiment, rows: pa.Table, shifts: Mapping[str, float], source: str) -> Cells:
    size = rows.num_rows
    days = (
        rows.column("day").to_numpy(zero_copy_only=False).astype("datetime64[D]")
        if experiment.exposed_at
        else np.full(size, np.datetime64("NaT", "D"))
    )
    return Cells(
        variant=_texts(rows, "variant"),
        segments={name: _texts(rows, f"segment_{name}") for name in experiment.segments},
        day=days,
        n=_integers(rows, "n"),
        metrics={
            metric.name: _metric_cells(rows, number, metric, shifts[metric.name])
            for number, metric in enumerate(experiment.metrics)
        },
        checks=(),
        source=source,
    )


def _metric_cells(rows: pa.Table, number: int, metric: Metric, shift: float) -> MetricCells:
    cells = MetricCells(
        shift=shift,
        n_ok=_integers(rows, f"ok_{number}"),
        n_null=_integers(rows, f"null_{number}"),
        n_nan=_integers(rows, f"nan_{number}"),
        n_infinite=_integers(rows, f"infinite_{number}"),
        s1=np.nan_to_num(_numbers(rows, f"s1_{number}")),
        s2=np.nan_to_num(_numbers(rows, f"s2_{number}")),
        low=_numbers(rows, f"low_{number}"),
        high=_numbers(rows, f"high_{number}"),
    )
    if not cells.n_ok.sum():
        raise MetricValuesError(
            metric.name, f"column {metric.column!r} has no usable value in any row. Check how the column is filled."
        )
    if metric.kind == "conversion":
        other = int(_integers(rows, f"other_{number}").sum())
        if other:
            raise MetricValuesError(
                metric.name,
                f"{other:,} values of column {metric.column!r} are neither 0 nor 1; "
                'a conversion is 0 or 1 per unit. Use kind = "mean", or make it 0 or 1.',
            )
    return cells


def _check_arms(experiment: Experiment, rows: pa.Table) -> None:
    found = rows.column("variant").to_pylist()
    lost = sum(n for name, n in zip(found, _integers(rows, "n").tolist(), strict=True) if name is None)
    if lost:
        raise NullArmError(experiment.variant, lost)
    if set(found) != set(experiment.variants):
        raise ArmsError(experiment.variant, sorted(set(found)), list(experiment.weights))


def _checks(experiment: Experiment, cells: Cells) -> list[Check]:
    checks = [sample_ratio({name: cells.count(name) for name in experiment.variants}, experiment.weights)]
    undated = int(cells.n[np.isnat(cells.day)].sum()) if experiment.exposed_at else 0
    if undated:
        checks.append(
            Check(
                "exposed_at",
                undated / cells.units,
                "warn",
                f"{undated:,} units have no value in {experiment.exposed_at!r} and belong to no day.",
            )
        )
    for metric in experiment.metrics:
        column = cells.metrics[metric.name]
        found = unusable_values(
            metric.name,
            null=int(column.n_null.sum()),
            nan=int(column.n_nan.sum()),
            infinite=int(column.n_infinite.sum()),
            total=cells.units,
        )
        by_arm = {name: int(column.n_ok[cells.variant == name].sum()) for name in experiment.variants}
        units = {name: cells.count(name) for name in experiment.variants}
        uneven = lost_by_arm(metric.name, {name: units[name] - n for name, n in by_arm.items()}, units)
        checks += [check for check in (found, uneven) if check]
        if metric.kind == "mean":
            checks += _outliers(experiment, cells, metric)
    return checks


def _outliers(experiment: Experiment, cells: Cells, metric: Metric) -> list[Check]:
    found = []
    for variant in experiment.variants:
        chosen = np.flatnonzero(cells.variant == variant)
        moments: Moments = fold(
            Moments.__add__, (cells.metrics[metric.name].moments(int(cell)) for cell in chosen), EMPTY
        )
        if moments.n:
            farthest = max(moments.low, moments.high, key=lambda value: abs(value - moments.mean))
            found.append(outlier(metric.name, value=farthest, mean=moments.mean, m2=moments.m2))
    return [check for check in found if check]


def check_columns(experiment: Experiment, table: ir.Table) -> None:
    """Refuse a table whose columns cannot hold what the experiment asks for.

    Raises
    ------
    ColumnNotFoundError, UnitError, MetricValuesError, CohortError
    """
    schema = table.schema()
    folded = [name.casefold() for name in schema.names]
    twins = [name for name in schema.names if folded.count(name.casefold()) > 1]
    if twins:
        raise CohortError(
            f"columns {twins} differ only in upper and lower case; engines take one for the other. Rename one of them."
        )
    wanted = [experiment.variant, *experiment.segments, *(metric.column for metric in experiment.metrics)]
    wanted += [experiment.exposed_at] if experiment.exposed_at else []
    wanted += [experiment.unit] if experiment.unit != ROW_UNIT else []
    for name in wanted:
        if name not in schema.names:
            raise ColumnNotFoundError(name, schema.names)
    for metric in experiment.metrics:
        dtype = schema[metric.column]
        if not (dtype.is_numeric() or dtype.is_boolean()):
            raise MetricValuesError(
                metric.name, f"column {metric.column!r} holds {dtype}, not numbers. Convert it, or name another column."
            )
    if experiment.unit != ROW_UNIT and (schema[experiment.unit].is_floating() or schema[experiment.unit].is_decimal()):
        raise UnitError(
            f"unit column {experiment.unit!r} holds decimal numbers ({schema[experiment.unit]}); an id is text or a whole number, because 7 and 7.0 would hash to different variants. "
            "Cast it to integer or text where the data is made."
        )
    if experiment.exposed_at and not (
        schema[experiment.exposed_at].is_timestamp() or schema[experiment.exposed_at].is_date()
    ):
        raise CohortError(
            f"column {experiment.exposed_at!r} holds {schema[experiment.exposed_at]}, not times; days cannot be counted. Convert it to a timestamp or a date."
        )


def _scalar(engine: Engine, expr: ir.Scalar) -> int:
    return int(ask(engine, expr).as_py())


def _numbers(rows: pa.Table, name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.asarray(rows.column(name).to_numpy(zero_copy_only=False), dtype=np.float64)


def _integers(rows: pa.Table, name: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.nan_to_num(_numbers(rows, name)).astype(np.int64)


def _texts(rows: pa.Table, name: str) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    return np.array([str(value) for value in rows.column(name).to_pylist()], dtype=np.str_)
