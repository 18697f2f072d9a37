"""Units in, cells out: pilot, statement, histograms, and again with masks or better shifts for the metrics that need them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from expnb.cohorts.engine import ask
from expnb.cohorts.sources import Source
from expnb.cohorts.statement import (
    MAX_CELLS,
    Group,
    Shift,
    Shifts,
    bins_statement,
    cells_statement,
    groups_of,
    keys_of,
    sample_statement,
)
from expnb.cohorts.units import ODD_TRIGGER, TRIGGERED, Measure, Units, broken_columns
from expnb.errors import CohortError, EmptyCohortError, MetricValuesError
from expnb.spec.experiment import TRIGGER_KEY, Experiment
from expnb.stats.arrays import BoolArray, FloatArray, IntArray, TextArray
from expnb.stats.bins import Bins
from expnb.stats.cells import Cells, Logs, MetricCells
from expnb.stats.joint import Joint

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import pyarrow as pa

PILOT_ROWS = 1000
# A segment with more values than this among the pilot's rows is looked at before units are grouped by it.
MANY_VALUES = 100
IDS = 0.5  # and one with more values than this share of those rows is refused
FEW_VALUES = "a segment is a column with few values. Leave it out, or group its values where the data is made."
MISSING_SEGMENT = "(none)"
NO_ARM = "\uffff"  # what an arm that is NULL reads as: no letter, so that no text is one
# Beyond this many squared standard deviations sums around the shift have lost three of their sixteen digits.
SHIFT_TOO_FAR = 1e3
# So many groups of cells may lie far from the others, and have a shift of their own.
MOST_SHIFTS = 100
# Cells of fewer units do not move a shift by themselves.
LEAST_TO_JUDGE = 20
# Of a square, in a number of 16 digits.
ROUNDING = 1e-15
NOTHING_IN_COMMON = "no unit of the events is among the assignments. Check that column {unit!r} holds the same ids in both, and that the events are of the days of the experiment."
CHANGED = (
    "the data changed while they were read: two statements found different arms, segments or days. Read them again."
)
Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Reduced:
    """What the statements gave: cells, and what only the checks read.

    Parameters
    ----------
    cells : Cells
        Of all experiments in the statement, one after the other.
    experiment : ndarray of str, shape (cell,)
        Name of the experiment; empty where the table holds only one.
    sample : Sample or None
        Units that were looked at more closely; None where every unit is one row by construction, or the engine has no hashes.
    crossed : ndarray of int, shape (cell,)
        Units seen in two arms, where rows were summed to units.
    odd : mapping of str to int
        Values of a share that are neither 0 nor 1, by metric, and of the trigger, by its key; at least 1 where there are any.
    note : str
        How the cells were come by, where that is worth a sentence.
    nameless : int
        Rows without a unit, where rows were summed to units.
    outside : int
        Rows dated outside of the agreed days, where they were counted.
    strangers : mapping of str to int
        Units outside of the audience that carry an arm, per arm.
    unchecked : tuple of str
        Attributes of the audience that are no column of the data.
    """

    cells: Cells
    experiment: TextArray
    sample: Sample | None
    crossed: IntArray
    odd: Mapping[str, int]
    note: str = ""
    nameless: int = 0
    outside: int = 0
    strangers: Mapping[str, int] = field(default_factory=dict)
    unchecked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """Hashes of one unit in 257, with arm and experiment; one entry per row.

    Parameters
    ----------
    unit : ndarray of int, shape (row,)
    arm, experiment : ndarray of str, shape (row,)
    """

    unit: IntArray
    arm: TextArray
    experiment: TextArray


def reduce(experiment: Experiment, units: Units, source: Source) -> Reduced:
    """Cells of a unit table: the additive statistics of every metric per variant x segment x day.

    Raises
    ------
    EmptyCohortError
        If there is no row.
    CohortError
        If the segments have so many values that a cell is no statistic any more.
    MetricValuesError
        If the squares of a metric are too large for a number.
    """

    def run(statement: ir.Table) -> pa.Table:
        return ask(source.engine, statement, cost=experiment.cost, what=experiment.name)

    _check_segments(experiment, units, run)
    shifts, gaps = _pilot(units, run)
    # Whether a unit is late is a mask of its own; in grouped tables a missing value is common.
    masked = [one for one in units.measures if one.immature or gaps & {one.value, one.other, one.covariate}]
    complete = [one for one in units.measures if one not in masked]
    rows = run(cells_statement(units, shifts, complete, masked))
    _check_size(experiment, rows, source)
    if "broken_quiet" in rows.column_names and _count(rows, "broken_quiet") == _count(rows, "n"):
        raise CohortError(NOTHING_IN_COMMON.format(unit=experiment.unit))
    keys = _key_rows(units, rows)
    groups = list(zip(*(rows.column(name).to_pylist() for name in groups_of(units)), strict=True))
    placed = {name: shift.at(groups) for name, shift in shifts.items()}
    columns = {one.metric.name: _complete_cells(rows, one, placed) for one in complete}
    columns |= {one.metric.name: _masked_cells(rows, one, placed, number) for number, one in enumerate(masked)}
    odd = _odd(rows, complete, masked)
    again = [one for one in complete if not _was_complete(columns[one.metric.name], one)]
    for _ in range(2):  # where a value was missing, whether the shift is near shows only in the second sums
        better = _better_shifts(units.measures, columns, shifts, groups)
        again += [
            one for one in units.measures if one not in again and better.keys() & {one.value, one.other, one.covariate}
        ]
        if not again:
            break
        shifts = {**shifts, **better}
        more = run(cells_statement(units, shifts, [], again))
        more = more.take(_order(_key_rows(units, more), keys))
        placed |= {name: shift.at(groups) for name, shift in better.items()}
        columns |= {one.metric.name: _masked_cells(more, one, placed, number) for number, one in enumerate(again)}
        odd |= _odd(more, [], again)
        again = []
    places = {key: place for place, key in enumerate(keys)}
    for one in units.measures:
        column = columns[one.metric.name]
        pairs = [part for part in (column.denominator, column.covariate) if part]
        if not all(np.isfinite(part).all() for part in (column.s2, *(pair.s2 for pair in pairs))):
            low, high = np.nan_to_num(column.low), np.nan_to_num(column.high)
            raise MetricValuesError(
                one.metric.name,
                f"values reach {max(np.abs(low).max(), np.abs(high).max()):.3g}{', or those of its other column more' if pairs else ''}, and their squares are too large for a number. Change the unit, or set such values to empty where the data is made.",
            )
        if one.binned:
            found = run(bins_statement(units, one, shifts[one.value]))
            columns[one.metric.name] = replace(column, bins=_bins(units, found, places))
    if f"broken_{ODD_TRIGGER}" in rows.column_names:
        odd[TRIGGER_KEY] = _count(rows, f"broken_{ODD_TRIGGER}")
    cells = _cells(experiment, units, rows, columns, source)
    return Reduced(
        cells=cells,
        experiment=_texts(rows, "experiment") if "experiment" in rows.column_names else np.full(rows.num_rows, ""),
        sample=_sample(run(sample_statement(units))) if _can_sample(units, source) else None,
        crossed=_integers(rows, "broken_crossed") if units.grouped else np.zeros(rows.num_rows, dtype=np.int64),
        odd=odd,
        nameless=int(_integers(rows, "broken_nameless").sum()) if units.grouped else 0,
    )


def _can_sample(units: Units, source: Source) -> bool:
    import ibis.expr.operations as ops  # noqa: PLC0415 - 0.8 s, only when rows are needed

    return not units.grouped and "unit" in units.table.columns and bool(source.engine.has_operation(ops.Hash))


def _check_size(experiment: Experiment, rows: pa.Table, source: Source) -> None:
    if rows.num_rows == 0:
        raise EmptyCohortError(source.name)
    if rows.num_rows > MAX_CELLS:
        values = {
            name: len(rows.column(f"segment_{number}").unique()) for number, name in enumerate(experiment.segments)
        }
        most = max(values, key=lambda name: values[name], default="")
        which = f"; segment {most!r} alone has {values[most]:,} values or more" if most else ""
        raise CohortError(
            f"the segments {list(experiment.segments)} with arms and days make more than {MAX_CELLS:,} cells{which}. A segment is a column with few values: leave it out, or group its values where the data is made."
        )


def _check_segments(experiment: Experiment, units: Units, run: Callable[[ir.Table], pa.Table]) -> None:
    """Refuse a segment that holds ids before anything is grouped by it; only one with many values in the first rows is counted."""
    if units.segments is None:
        return
    if experiment.unit in experiment.segments:
        raise CohortError(f"segment {experiment.unit!r} is the unit column; {FEW_VALUES}")
    first = run(units.segments.limit(PILOT_ROWS))
    values = {name: len(first.column(name).unique()) for name in first.column_names}
    many = [name for name in first.column_names if values[name] > MANY_VALUES]
    if not many:
        return
    counts = run(units.segments.aggregate(**{name: units.segments[name].approx_nunique() for name in many}))
    for number, name in enumerate(experiment.segments):
        found = int(counts.column(f"segment_{number}")[0].as_py()) if f"segment_{number}" in many else 0
        if found * len(experiment.variants) > MAX_CELLS:
            raise CohortError(
                f"segment {name!r} has about {found:,} values, which with {len(experiment.variants)} arms make about {found * len(experiment.variants):,} cells; {MAX_CELLS:,} are the most. A segment is a column with few values: leave it out, or group its values where the data is made."
            )
    for number, name in enumerate(experiment.segments):
        found = values[f"segment_{number}"]
        if first.num_rows >= PILOT_ROWS and found > IDS * first.num_rows:
            raise CohortError(
                f"segment {name!r} has {found:,} values in the first {first.num_rows:,} rows, as ids have; {FEW_VALUES}"
            )


# --- pilot and shifts -------------------------------------------------------------------------


def _pilot(units: Units, run: Callable[[ir.Table], pa.Table]) -> tuple[dict[str, Shift], set[str]]:
    """A constant near each mean from the first units, by column, and the columns in which some of them have no usable value.

    Shares count from 0, which keeps them whole numbers. Summed rows have no cheap first units: they start from 0, and are done again where that is far off.
    """
    shares = {one.value for one in units.measures if one.is_share}
    wanted = [name for one in units.measures for name in (one.value, one.other, one.covariate) if name]
    wanted = list(dict.fromkeys(wanted))
    if units.grouped:
        return dict.fromkeys(wanted, Shift(0.0)), set(wanted)
    rows = run(units.table.select(wanted).limit(PILOT_ROWS))
    shifts, gaps = {}, set()
    for name in wanted:
        values = rows.column(name).cast("float64", safe=False).to_numpy()
        finite = values[np.isfinite(values)]
        with np.errstate(over="ignore", invalid="ignore"):  # values whose squares are no numbers are refused later
            mean, spread = (float(finite.mean()), float(finite.std())) if finite.size else (0.0, 0.0)
        near = rounded(mean, spread) if name not in shares and math.isfinite(spread) else 0.0
        shifts[name] = Shift(near)
        if finite.size < values.size:
            gaps.add(name)
    return shifts, gaps


def rounded(mean: float, spread: float) -> float:
    """A mean to few digits, but within an eighth of a spread."""
    if not spread > 0:
        return mean
    step = 2.0 ** (math.floor(math.log2(spread)) - 3)
    return round(mean / step) * step


def _better_shifts(
    measures: Sequence[Measure], columns: Mapping[str, MetricCells], shifts: Shifts, groups: Sequence[Group]
) -> dict[str, Shift]:
    """By column: a shift that lies far from the mean of a cell, in standard deviations of that cell, is replaced."""
    better: dict[str, Shift] = {}
    shares = {one.value for one in measures if one.is_share}  # counted from 0, also where another metric reads them
    for one in measures:
        cells = columns[one.metric.name]
        n = cells.n_ok
        sums = Sums(cells.shifts, cells.low < cells.high, n, cells.s1, cells.s2)
        found = {one.value: _better(shifts[one.value], sums, groups)}
        for name, second in ((one.other, cells.denominator), (one.covariate, cells.covariate)):
            if second:
                there = n - second.n_missing
                found[name] = _better(shifts[name], Sums(second.shifts, there > 0, there, second.s1, second.s2), groups)
        better |= {name: shift for name, shift in found.items() if shift is not None and name not in shares}
    return better


@dataclass(frozen=True, slots=True)
class Sums:
    """Power sums of one column around the shift of each cell, all of shape (cell,)."""

    shift: FloatArray
    varies: BoolArray
    n: IntArray
    s1: FloatArray
    s2: FloatArray

    @property
    def gap(self) -> FloatArray:
        """Mean less shift."""
        return self.s1 / np.maximum(self.n, 1)

    def loss(self, by: float = 0.0) -> FloatArray:
        """Squared distance of a shift from the mean, in variances; 0 where that is not judged."""
        judged = self.varies & (self.n >= LEAST_TO_JUDGE)
        variance = np.maximum(self.s2 / np.maximum(self.n, 1) - self.gap**2, ROUNDING * self.gap**2)
        return np.divide((self.gap - by) ** 2, variance, out=np.zeros_like(self.gap), where=judged & (variance > 0))

    def added(self, place: IntArray, size: int) -> Sums:
        """Of groups of cells that have one shift each, by the position of each cell's group."""
        n = np.bincount(place, self.n, size).astype(np.int64)
        s1, s2 = (np.bincount(place, part, size).astype(np.float64) for part in (self.s1, self.s2))
        shift, varies = np.zeros(size), np.zeros(size, dtype=np.bool_)
        shift[place] = self.shift
        np.logical_or.at(varies, place, self.varies)
        several = np.bincount(place, self.n > 0, size) > 1
        return Sums(shift, varies | several, n, s1, s2)


def _better(shift: Shift, sums: Sums, groups: Sequence[Group]) -> Shift | None:
    """A shift nearer to the means of cells that have lost digits; None where none has, or where no other serves all better.

    Small cells are judged together with the others: to a few units that happen to be alike any shift looks far away. A constant has no spread to lose. Where no one shift serves all, groups of cells get their own.
    """
    if not (np.isfinite(sums.s1).all() and np.isfinite(sums.s2).all()):
        return None
    usual = None if shift.own else _one_better(shift, sums)
    if usual is not None and usual[1] <= SHIFT_TOO_FAR:
        return usual[0]
    places: dict[Group, int] = {}
    place = np.array([places.setdefault(group, len(places)) for group in groups], dtype=np.int64)
    together = sums.added(place, len(places))
    loss = together.loss()
    far = [int(group) for group in np.argsort(-loss, kind="stable")[:MOST_SHIFTS] if loss[group] > SHIFT_TOO_FAR]
    if not far:
        return usual[0] if usual else None
    names = list(places)
    own = {
        names[group]: rounded(float(together.shift[group] + together.gap[group]), _spread(together, group))
        for group in far
    }
    return Shift(shift.usual, {**shift.own, **own})


def _one_better(shift: Shift, sums: Sums) -> tuple[Shift, float] | None:
    """One shift that serves all cells better, and how far the worst of them then is."""
    whole = sums.added(np.zeros(sums.n.size, dtype=np.int64), 1)
    parts = (sums.loss(), whole.loss())
    if not (far := np.concatenate(parts) > SHIFT_TOO_FAR).any():
        return None
    gap, n = (np.concatenate([getattr(sums, name), getattr(whole, name)]) for name in ("gap", "n"))
    by = float(np.average(gap[far], weights=n[far]))
    after = max(float(sums.loss(by).max()), float(whole.loss(by).max()))
    before = max(float(part.max()) for part in parts)
    return (Shift(shift.usual + by), after) if after < before else None


def _spread(sums: Sums, place: int) -> float:
    return math.sqrt(max(0.0, float(sums.s2[place]) / max(1, int(sums.n[place])) - float(sums.gap[place]) ** 2))


# --- rows to cells ----------------------------------------------------------------------------


def _cells(
    experiment: Experiment, units: Units, rows: pa.Table, columns: Mapping[str, MetricCells], source: Source
) -> Cells:
    days = (
        rows.column("day").to_numpy(zero_copy_only=False).astype("datetime64[D]")
        if "day" in rows.column_names
        else np.full(rows.num_rows, np.datetime64("NaT", "D"))
    )
    for number, name in enumerate(experiment.segments):
        _check_missing(name, rows.column(f"segment_{number}"))
    segments = {
        name: _texts(rows, f"segment_{number}", missing=MISSING_SEGMENT)
        for number, name in enumerate(experiment.segments)
    }
    if experiment.trigger:
        segments[TRIGGER_KEY] = np.array(["true" if yes else "false" for yes in rows.column(TRIGGERED).to_pylist()])
    return Cells(
        variant=_texts(rows, "arm", missing=NO_ARM),
        segments=segments,
        day=days,
        n=_integers(rows, "n"),
        metrics={one.metric.name: columns[one.metric.name] for one in units.measures},
        checks=(),
        source=source.name,
        broken={name: _integers(rows, f"broken_{column}") for name, column in broken_columns(experiment).items()},
        epochs=tuple(epoch.start for epoch in experiment.epochs),
    )


def _check_missing(name: str, values: pa.ChunkedArray) -> None:
    """Refuse a value that would pass for a missing one."""
    if values.null_count and MISSING_SEGMENT in values.unique().to_pylist():
        raise CohortError(
            f"segment {name!r} has units without a value and others with the value {MISSING_SEGMENT!r}, under which the first are shown. Give one of them another name where the data is made."
        )


def _complete_cells(rows: pa.Table, one: Measure, shifts: Mapping[str, FloatArray]) -> MetricCells:
    n, ok = _integers(rows, "n"), _integers(rows, f"ok_{one.value}")
    none = np.zeros_like(n)

    def joint(name: str) -> Joint | None:
        if not name:
            return None
        parts = (f"s1_{name}", f"s2_{name}", f"cross_{one.value}_{name}", f"s1_{one.value}")
        return Joint(shifts[name], n - _integers(rows, f"ok_{name}"), *(_sums(rows, part) for part in parts))

    return MetricCells(
        shift=shifts[one.value],
        n_ok=ok,
        n_null=n - ok,
        n_nan=none,
        n_infinite=none,
        n_immature=none,
        s1=_sums(rows, f"s1_{one.value}"),
        s2=_sums(rows, f"s2_{one.value}"),
        low=_numbers(rows, f"low_{one.value}"),
        high=_numbers(rows, f"high_{one.value}"),
        logs=_logs(rows, one.value) if one.logs else None,
        denominator=joint(one.other),
        covariate=joint(one.covariate),
        q=one.metric.q,
    )


def _was_complete(cells: MetricCells, one: Measure) -> bool:
    """Whether sums without a mask are the right ones: all finite, and of a pair every value there."""
    finite = [cells.s1, cells.s2]
    pairs = [part for part in (cells.denominator, cells.covariate) if part]
    finite += [part for pair in pairs for part in (pair.s1, pair.s2, pair.cross)]
    if not all(np.isfinite(part).all() for part in finite):
        return False
    if one.is_share and _outside(cells):
        return False
    return not pairs or (not cells.n_null.any() and not any(pair.n_missing.any() for pair in pairs))


def _outside(cells: MetricCells) -> bool:
    """Whether some value of a share is surely neither 0 nor 1: those are 0 or 1 whose squares add up to their sum."""
    low, high = np.nan_to_num(cells.low, nan=0.0), np.nan_to_num(cells.high, nan=1.0)
    return bool(((low < 0) | (high > 1) | (cells.s1 != cells.s2)).any())


def _masked_cells(rows: pa.Table, one: Measure, shifts: Mapping[str, FloatArray], number: int) -> MetricCells:
    own = f"m{number}"
    n, ok, shift = _integers(rows, "n"), _integers(rows, f"ok_{own}"), shifts[one.value]
    late = _integers(rows, f"late_{own}") if one.immature else np.zeros_like(n)

    def joint(part: str, name: str) -> Joint | None:
        if not name:
            return None
        sums = (_sums(rows, f"{part}_{what}_{own}") for what in ("s1", "s2", "cross", "own"))
        return Joint(shifts[name], ok - _integers(rows, f"{part}_ok_{own}"), *sums)

    return MetricCells(
        shift=shift,
        n_ok=ok,
        n_null=n - late - _integers(rows, f"present_{own}"),
        n_nan=_integers(rows, f"nan_{own}"),
        n_infinite=_integers(rows, f"infinite_{own}"),
        n_immature=late,
        s1=_sums(rows, f"s1_{own}"),
        s2=_sums(rows, f"s2_{own}"),
        low=_numbers(rows, f"low_{own}") + shift,
        high=_numbers(rows, f"high_{own}") + shift,
        logs=_logs(rows, own) if one.logs else None,
        denominator=joint("other", one.other),
        covariate=joint("covariate", one.covariate),
        q=one.metric.q,
    )


def _odd(rows: pa.Table, complete: Sequence[Measure], masked: Sequence[Measure]) -> dict[str, int]:
    found = {one.metric.name: 0 for one in complete if one.is_share}
    found |= {one.metric.name: _count(rows, f"odd_m{number}") for number, one in enumerate(masked) if one.is_share}
    return found | {one.metric.name: _count(rows, f"broken_{one.odd}") for one in [*complete, *masked] if one.odd}


def _logs(rows: pa.Table, name: str) -> Logs:
    return Logs(_integers(rows, f"log_n_{name}"), _sums(rows, f"log_s1_{name}"), _sums(rows, f"log_s2_{name}"))


def _order(found: Sequence[Key], wanted: Sequence[Key]) -> list[int]:
    """Positions of the wanted keys among those found."""
    place = {key: number for number, key in enumerate(found)}
    if place.keys() != set(wanted):
        raise CohortError(CHANGED)
    return [place[key] for key in wanted]


def _bins(units: Units, found: pa.Table, places: Mapping[Key, int]) -> Bins:
    keys = _key_rows(units, found)
    if not places.keys() >= set(keys):
        raise CohortError(CHANGED)
    cell = np.array([places[key] for key in keys], dtype=np.int64)
    return Bins(cell, _integers(found, "bin"), _integers(found, "n"), _numbers(found, "s1"), _numbers(found, "s2"))


def _key_rows(units: Units, rows: pa.Table) -> list[tuple[object, ...]]:
    return list(zip(*(rows.column(name).to_pylist() for name in keys_of(units)), strict=True))


def _sample(rows: pa.Table) -> Sample:
    experiments = _texts(rows, "experiment") if "experiment" in rows.column_names else np.full(rows.num_rows, "")
    return Sample(rows.column("unit_hash").to_numpy().astype(np.int64), _texts(rows, "arm"), experiments)


def _numbers(rows: pa.Table, name: str) -> FloatArray:
    return np.asarray(rows.column(name).to_numpy(zero_copy_only=False), dtype=np.float64)


def _sums(rows: pa.Table, name: str) -> FloatArray:
    """A column of sums; an engine's sum of nothing is NULL and means 0, a sum that is NaN stays one."""
    column = rows.column(name)
    return np.asarray(column.fill_null(0.0).to_numpy(zero_copy_only=False), dtype=np.float64)


def _integers(rows: pa.Table, name: str) -> IntArray:
    return np.nan_to_num(_numbers(rows, name)).astype(np.int64)


def _count(rows: pa.Table, name: str) -> int:
    return int(_integers(rows, name).sum())


def _texts(rows: pa.Table, name: str, *, missing: str = "None") -> TextArray:
    return np.array(
        [missing if value is None else str(value) for value in rows.column(name).to_pylist()], dtype=np.str_
    )
