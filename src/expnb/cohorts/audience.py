"""Units of the audience, and those outside of it that carry an arm all the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING

from expnb.cohorts.engine import ask
from expnb.cohorts.sources import Source
from expnb.errors import CohortError, nearest
from expnb.spec.experiment import Experiment
from expnb.spec.flag import Eligibility
from expnb.stats import checks
from expnb.stats.cells import Cells
from expnb.stats.checks import Check

if TYPE_CHECKING:
    import ibis.expr.types as ir

# Share of exposed units that may lie outside before a step up is blocked, as of any expectation.
TOLERATED = 0.001


def in_audience(experiment: Experiment, table: ir.Table) -> ir.Table:
    """The rows of units in the audience; of a unit with many rows all of them, when one is in: who left it later was exposed in it."""
    inside = _admitted(experiment, table)
    if inside is None:
        return table
    if experiment.shape not in {"rows", "events"}:
        return table.filter(inside)
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    own = ibis.window(group_by=[name for name in (experiment.experiment_column, experiment.unit) if name])
    marked = table.mutate(expnb_inside=inside)
    marked = marked.mutate(expnb_inside=marked.expnb_inside.any().over(own))
    return marked.filter(marked.expnb_inside).drop("expnb_inside")


def unchecked(experiment: Experiment, table: ir.Table) -> tuple[str, ...]:
    """Attributes of the audience that are no column of the data."""
    return tuple(name for name in experiment.audience if name not in table.schema().names)


def strangers(
    experiment: Experiment, source: Source, table: ir.Table, exposures: ir.Table | None = None
) -> dict[str, int]:
    """Units outside of the audience that carry an arm, per arm; empty where nobody can tell.

    Parameters
    ----------
    table : ibis Table
        Rows of the agreed days.
    exposures : ibis Table, optional
        Column `log_unit`: units that were exposed, where an assignment alone is no exposure.
    """
    if _admitted(experiment, table) is None:
        return {}
    if experiment.experiment_column:
        table = table.filter(table[experiment.experiment_column].cast("string") == experiment.name)
    columns = {"arm": table[experiment.variant].cast("string"), "inside": _is_in(experiment, table)}
    many = experiment.shape in {"rows", "events"}
    flat = table.select(**columns, **({"unit": table[experiment.unit]} if many else {}))
    flat = flat.filter(flat.arm.isin(list(experiment.variants)))
    if exposures is not None:
        flat = flat.semi_join(exposures, flat.unit == exposures.log_unit)
    if many:
        flat = flat.group_by("unit").aggregate(arm=flat.arm.min(), inside=flat.inside.any())
    out = flat.filter(~flat.inside)
    rows = ask(source.engine, out.group_by("arm").aggregate(n=out.count()), cost=experiment.cost, what=experiment.name)
    return dict(zip(rows.column("arm").to_pylist(), rows.column("n").to_pylist(), strict=True))


def audience_checks(
    experiment: Experiment, cells: Cells, found: Mapping[str, int], missing: tuple[str, ...]
) -> Iterator[Check]:
    """What is said of the audience: whom it left out, and what nobody could check.

    Parameters
    ----------
    found : mapping of str to int
        As `strangers` gives it.
    missing : tuple of str
        As `unchecked` gives it.
    """
    small = experiment.min_cell
    if len(missing) < len(experiment.audience):
        outside = {arm: int(found.get(arm, 0)) for arm in experiment.variants}
        exposed = {arm: cells.count(arm) + n for arm, n in outside.items()}
        check = checks.expectation(f"audience ({words(experiment)})", outside, exposed, TOLERATED, min_cell=small)
        left_out = " Those outside were left out." if sum(outside.values()) else ""
        yield replace(check, name="audience", sentence=f"{check.sentence}{left_out}")
    for name in missing:
        hint = nearest(name, [*cells.segments])
        yield Check(
            f"audience:{name}",
            None,
            "warn",
            f"Whether units are in the audience is not checked by {name!r}: the data have no such column.{hint} The flag alone decides that. Add the column, with its value at the exposure.",
        )


def explain_nobody(experiment: Experiment, found: Mapping[str, int]) -> None:
    """Say that everybody is outside of the audience, where that is why nobody is left.

    Raises
    ------
    CohortError
    """
    lost = sum(found.values())
    if lost:
        raise CohortError(
            f"all units with an arm, {checks.count_of(lost, min_cell=experiment.min_cell)}, are outside of the audience ({words(experiment)}). Check that the columns hold its values as they are written, upper and lower case included."
        )


def check_totals(experiment: Experiment, source: Source) -> tuple[str, ...]:
    """Refuse totals that hold rows of others; the attributes that are no column of them, which nobody can check.

    Raises
    ------
    CohortError
    """
    table = source.table
    inside = _admitted(experiment, table)
    if inside is not None:
        if experiment.experiment_column:
            inside |= table[experiment.experiment_column].cast("string") != experiment.name
        rows = ask(source.engine, table.filter(~inside).limit(1), cost=experiment.cost, what=experiment.name)
        if rows.num_rows:
            names = [name for name in experiment.audience if name in rows.column_names and name != experiment.unit]
            held = ", ".join(f"{name} {rows.column(name)[0].as_py()!r}" for name in names)
            raise CohortError(
                f"the table of totals has a row{f' with {held}' if held else ''} outside of the audience ({words(experiment)}); totals are of the audience alone. Filter it where the table is made."
            )
    return unchecked(experiment, table)


def words(experiment: Experiment) -> str:
    """The audience in words; units are counted, not named."""
    return str(Eligibility(audience=experiment.eligibility.audience))


def _admitted(experiment: Experiment, table: ir.Table) -> ir.BooleanColumn | None:
    """Whether a row is in the audience, by the attributes that are columns; None where none is."""
    names = [name for name in experiment.audience if name in table.schema().names]
    for name in names:
        kind = table.schema()[name]
        if kind.is_floating() or kind.is_decimal():
            raise CohortError(
                f"audience column {name!r} holds decimal numbers ({kind}); the audience compares text, and 49 would be '49.0'. Cast it to integer or text where the data is made."
            )
    return _is_in(experiment, table) if names else None


def _is_in(experiment: Experiment, table: ir.Table) -> ir.BooleanColumn:
    """Whether a row has every attribute; one without a value has it not, as at the flag."""
    parts = [
        table[name].cast("string").isin(list(values)).fill_null(False)
        for name, values in experiment.audience.items()
        if name in table.schema().names
    ]
    return reduce(and_, parts)
