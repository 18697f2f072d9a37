"""The one statement that turns units into cells, and those that fill histograms and sample units.

Values are first taken as complete: sums without a mask cost half as much. Whether that held is seen in their result, and metrics for which it did not are asked for again with masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING

import numpy as np

from expnb.cohorts.units import Measure, Units, as_number, comparable, infinite, usable
from expnb.stats.arrays import FloatArray
from expnb.stats.bins import LOG_BASE, OFFSET

if TYPE_CHECKING:
    import ibis.expr.types as ir

# Cells over this are no statistics any more: somebody grouped by an id.
MAX_CELLS = 1_000_000
# One unit in so many is looked at, to find units that occur twice; a prime, so that ids in steps are met too.
SAMPLE_ONE_IN = 257
Group = tuple[object, ...]  # values of the keys of a cell but its day


@dataclass(frozen=True, slots=True)
class Shift:
    """A constant near the values of a column, which is subtracted before they are summed.

    Parameters
    ----------
    usual : float
    own : mapping of tuple to float
        Of groups of cells that lie far from the others, by the values of their keys.
    """

    usual: float
    own: Mapping[Group, float] = field(default_factory=dict)

    def at(self, groups: Sequence[Group]) -> FloatArray:
        """The shift of each cell, from its group."""
        if not self.own:
            return np.full(len(groups), self.usual)
        return np.array([self.own.get(group, self.usual) for group in groups], dtype=np.float64)


Shifts = Mapping[str, Shift]  # by column of the unit table
NONE = Shift(0.0)


def keys_of(units: Units) -> list[str]:
    """Columns that name a cell."""
    known = units.table.columns
    segments = [name for name in known if name.startswith("segment_")]
    first = [name for name in ("experiment", "arm") if name in known]
    return [*first, *segments, *(name for name in ("triggered", "day") if name in known)]


def groups_of(units: Units) -> list[str]:
    """Columns that name a group of cells: all that name a cell but the day."""
    return [name for name in keys_of(units) if name != "day"]


def cells_statement(units: Units, shifts: Shifts, complete: Sequence[Measure], masked: Sequence[Measure]) -> ir.Table:
    """Every additive statistic of the given metrics, per cell.

    Parameters
    ----------
    shifts : mapping of str to Shift
        By column; 0 where none is given.
    complete : sequence of Measure
        Whose values are taken to be there and finite; sums carry the names of columns, and are shared between metrics.
    masked : sequence of Measure
        Whose values are cleaned first; sums carry the name of the metric's value and its position.
    """
    table = units.table
    keys = keys_of(units)
    flags = [
        name
        for name in table.columns
        if name.startswith(("expect_", "early_", "odd_", "blank_", "varied_", "empty_", "quiet"))
        or name in {"crossed", "nameless"}
    ]
    prepared = {name: table[name] for name in [*keys, *flags]}
    for measure in complete:
        prepared |= _gaps(units, measure, shifts)
    for number, measure in enumerate(masked):
        prepared |= _masked_gaps(units, measure, shifts, number)
    flat = table.select(**prepared)
    sums: dict[str, ir.Value] = {"n": flat.count()}
    sums |= {f"broken_{name}": flat[name].sum() for name in flags}
    for measure in complete:
        sums |= _sums(flat, measure)
    for number, measure in enumerate(masked):
        sums |= _masked_sums(flat, measure, number)
    return flat.group_by(keys).aggregate(**sums).limit(MAX_CELLS + 1)


def bins_statement(units: Units, measure: Measure, shift: Shift) -> ir.Table:
    """Units and sums of one metric per cell and logarithmic bin."""
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    keys = keys_of(units)
    value = _usable(units.table, measure)
    size = (value.abs().nullif(0.0).ln() / LOG_BASE).floor().cast("int64") + OFFSET
    size = size.clip(lower=1)  # smaller values than any bin's
    number = ibis.cases((value > 0, size), (value < 0, -size), else_=0)
    flat = units.table.select(
        **{name: units.table[name] for name in keys}, bin=number, gap=value - _constant(units, shift)
    )
    flat = flat.filter(flat.gap.notnull())
    sums = {"n": flat.count(), "s1": flat.gap.sum(), "s2": (flat.gap * flat.gap).sum()}
    return flat.group_by([*keys, "bin"]).aggregate(**sums)


def sample_statement(units: Units) -> ir.Table:
    """Hash and arm of one unit in `SAMPLE_ONE_IN`, a row for each of its rows, and of rows without a unit; no id.

    Whole numbers are chosen by their remainder, which costs a third of a hash.
    """
    table = units.table
    keys = [name for name in ("experiment", "arm") if name in table.columns]
    number = table.unit if table.unit.type().is_integer() else table.unit.hash()
    chosen = table.filter((number % SAMPLE_ONE_IN == 0) | table.unit.isnull())
    return chosen.select(*keys, unit_hash=chosen.unit.hash().fill_null(0))


def repeated_statement(units: Units) -> ir.Table:
    """How many rows and units there are, how many have no id, and how many units occur twice or in two arms."""
    keys = [name for name in ("experiment",) if name in units.table.columns]
    seen = units.table.group_by([*keys, "unit"]).aggregate(
        rows=lambda t: t.count(), arms=lambda t: t.arm.min() != t.arm.max()
    )
    sums = {
        "rows": seen.rows.sum(),
        "units": seen.count(),
        "null": seen.rows.sum(where=seen.unit.isnull()),
        "repeated": (seen.rows > 1).sum(),
        "crossed": seen.arms.sum(),
    }
    return seen.group_by(keys).aggregate(**sums) if keys else seen.aggregate(**sums)


# --- values taken as complete -----------------------------------------------------------------


def _gaps(units: Units, measure: Measure, shifts: Shifts) -> dict[str, ir.Value]:
    table = units.table
    columns: dict[str, ir.Value] = {f"raw_{measure.value}": comparable(table[measure.value])}
    for name in (measure.value, measure.other, measure.covariate):
        if name:
            columns[f"gap_{name}"] = as_number(table[name]) - _constant(units, shifts.get(name, NONE))
    if measure.logs:
        value = as_number(table[measure.value])
        columns[f"log_{measure.value}"] = _log(value)
    return columns


def _sums(flat: ir.Table, measure: Measure) -> dict[str, ir.Scalar]:
    gap, raw = flat[f"gap_{measure.value}"], flat[f"raw_{measure.value}"]
    # Of the column as it is: the range of a computed one costs three times as much.
    sums: dict[str, ir.Scalar] = {f"low_{measure.value}": raw.min(), f"high_{measure.value}": raw.max()}
    for name in (measure.value, measure.other, measure.covariate):
        if name:
            own = flat[f"gap_{name}"]
            sums |= {f"ok_{name}": own.count(), f"s1_{name}": own.sum(), f"s2_{name}": (own * own).sum()}
    for name in (measure.other, measure.covariate):
        if name:
            sums[f"cross_{measure.value}_{name}"] = (gap * flat[f"gap_{name}"]).sum()
    if measure.logs:
        sums |= _log_sums(flat[f"log_{measure.value}"], measure.value)
    return sums


# --- values cleaned first ---------------------------------------------------------------------


def _usable(table: ir.Table, measure: Measure) -> ir.Column:
    """Usable values of mature units; of a ratio only where the denominator is usable too."""
    value = usable(table[measure.value])
    if measure.other:
        value = _unless(usable(table[measure.other]).isnull(), value)
    if measure.immature:
        value = _unless(table[measure.immature], value)
    return value


def _masked_gaps(units: Units, measure: Measure, shifts: Shifts, number: int) -> dict[str, ir.Value]:
    """Columns that the sums read: gaps from the shifts, and the raw value where its kind of missing matters."""
    table = units.table
    value, raw = _usable(table, measure), as_number(table[measure.value])
    columns: dict[str, ir.Value] = {
        "gap": value - _constant(units, shifts.get(measure.value, NONE)),
        "raw": _unless(table[measure.immature], raw) if measure.immature else raw,
    }
    if measure.immature:
        columns["late"] = table[measure.immature]
    if measure.logs:
        columns["log"] = _log(value)
    for part, name in (("other", measure.other), ("covariate", measure.covariate)):
        if name:
            columns[part] = usable(table[name]) - _constant(units, shifts.get(name, NONE))
    return {f"{name}_m{number}": column for name, column in columns.items()}


def _masked_sums(flat: ir.Table, measure: Measure, number: int) -> dict[str, ir.Scalar]:
    """Sums of one metric. Values are cleaned before they are compared or added: engines order NaN differently and prune rows by it."""
    own = f"m{number}"
    gap, raw = flat[f"gap_{own}"], flat[f"raw_{own}"]
    sums = {
        "ok": gap.count(),
        "present": raw.count(),
        "nan": raw.isnan().sum(),
        "infinite": (infinite(raw) & ~raw.isnan()).sum(),
        "s1": gap.sum(),
        "s2": (gap * gap).sum(),
        "low": gap.min(),
        "high": gap.max(),
    }
    if measure.immature:
        sums["late"] = flat[f"late_{own}"].sum()
    if measure.is_share:
        sums["odd"] = ((gap != 0) & (gap != 1)).sum()
    there = gap.notnull()
    for part, name in (("other", measure.other), ("covariate", measure.covariate)):
        if name:
            second = flat[f"{part}_{own}"]
            sums |= {
                f"{part}_ok": second.count(where=there),
                f"{part}_s1": second.sum(where=there),
                f"{part}_s2": (second * second).sum(where=there),
                f"{part}_cross": (gap * second).sum(),
                f"{part}_own": gap.sum(where=second.notnull()),
            }
    logs = _log_sums(flat[f"log_{own}"], own) if measure.logs else {}
    return {f"{name}_{own}": value for name, value in sums.items()} | logs


# --- parts ------------------------------------------------------------------------------------


def _log_sums(log: ir.Column, name: str) -> dict[str, ir.Scalar]:
    return {f"log_n_{name}": log.count(), f"log_s1_{name}": log.sum(), f"log_s2_{name}": (log * log).sum()}


def _log(value: ir.Column) -> ir.Column:
    """The logarithm of a value above 0; inside the case, because engines refuse or fear the logarithm of 0."""
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    return ibis.cases((value > 0, value.ln()), else_=ibis.null("float64"))


def _unless(condition: ir.BooleanValue, value: ir.Column) -> ir.Column:
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    return ibis.cases((condition, ibis.null("float64")), else_=value)


def _constant(units: Units, shift: Shift) -> ir.Value:
    """The shift of a row, which is that of its group."""
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    if not shift.own:
        return _number(shift.usual)
    names = groups_of(units)
    return ibis.cases(
        *((_is(units.table, names, group), _number(value)) for group, value in shift.own.items()),
        else_=_number(shift.usual),
    )


def _is(table: ir.Table, names: Sequence[str], group: Group) -> ir.BooleanValue:
    """Whether a row belongs to a group."""
    parts = [
        table[name].isnull() if value is None else table[name] == value
        for name, value in zip(names, group, strict=True)
    ]
    return reduce(and_, parts)


def _number(value: float) -> ir.Scalar:
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    return ibis.literal(value, "float64")  # a bare number would be a DECIMAL, at a third more of the cost
