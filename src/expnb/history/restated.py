"""What became of days that were known: units that came late or went, values that were restated. Counts only, none of fewer units than may be shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from expnb.spec.experiment import Experiment
from expnb.stats.cells import Cells
from expnb.stats.checks import count_of, hidden

MOST_DAYS = 10  # that are named
NO_DAY = "NaT"


def units_restated(then: Mapping[str, int], now: Mapping[str, int], *, min_cell: int) -> Iterator[str]:
    """Units per arm that changed, a sentence for each arm."""
    changed = {name: abs(n - then.get(name, 0)) for name, n in now.items() if n != then.get(name, 0)}
    unknown = hidden(changed, min_cell=min_cell)
    for name in changed:
        yield f"Units of {_change(name, then.get(name, 0), now[name], min_cell=min_cell, shown=name not in unknown)}."


def days_restated(
    experiment: Experiment, then: Cells, now: Cells, *, metrics: Sequence[str] | None = None
) -> Iterator[str]:
    """Days on which units or values changed, a sentence for each.

    Parameters
    ----------
    then, now : Cells
        Of the same days.
    metrics : sequence of str, optional
        Whose values are compared; all when left out.
    """
    counts = [units_by_day(cells, experiment.variants) for cells in (then, now)]
    days = sorted({day for both in counts for own in both.values() for day in own})
    if days == [NO_DAY]:  # units are then compared as a whole
        days_of_units: list[str] = []
    else:
        changes = list(_changes(experiment, *counts))
        days_of_units = list(dict.fromkeys(sorted(day for day, _ in changes)))
        for day in days_of_units[:MOST_DAYS]:
            yield f"{_day(day)}: {'; '.join(words for other, words in changes if other == day)}."
        if len(days_of_units) > MOST_DAYS:
            yield f"Units changed on {len(days_of_units) - MOST_DAYS} more days."
    same = [day for day in days if day not in days_of_units]
    of_values = [_day(day) for day in same if _sums(then, day, metrics) != _sums(now, day, metrics)]
    if days == [NO_DAY] and of_values:
        yield "Units or values changed; the data carry no days, so it is not known when."
    elif of_values:
        more = f" and {len(of_values) - MOST_DAYS} more" if len(of_values) > MOST_DAYS else ""
        yield f"Values changed while the number of units did not, on {len(of_values)} day{'s' if len(of_values) > 1 else ''}: {', '.join(of_values[:MOST_DAYS])}{more}."


def units_by_day(cells: Cells, variants: Sequence[str]) -> dict[str, dict[str, int]]:
    """Units of each arm on each day."""
    days, place = np.unique(cells.day.astype("datetime64[D]").astype(str), return_inverse=True)
    out = {}
    for name in variants:
        n = np.bincount(place, np.where(cells.variant == name, cells.n, 0), days.size)
        out[name] = {str(day): int(units) for day, units in zip(days.tolist(), n.tolist(), strict=True)}
    return out


def _changes(
    experiment: Experiment, then: Mapping[str, Mapping[str, int]], now: Mapping[str, Mapping[str, int]]
) -> Iterator[tuple[str, str]]:
    """Days and arms whose number of units changed, in words."""
    for name in experiment.variants:
        before, after = then[name], now[name]
        changed = {
            day: abs(after.get(day, 0) - before.get(day, 0))
            for day in before.keys() | after.keys()
            if after.get(day, 0) != before.get(day, 0)
        }
        unknown = hidden(changed, min_cell=experiment.min_cell)
        for day in changed:
            shown = day not in unknown
            yield day, _change(name, before.get(day, 0), after.get(day, 0), min_cell=experiment.min_cell, shown=shown)


def _change(name: str, then: int, now: int, *, min_cell: int, shown: bool) -> str:
    """One number and another, unless their difference would tell of fewer units than may be shown."""
    if shown:
        return f"{name} {count_of(then, min_cell=min_cell)} then, {count_of(now, min_cell=min_cell)} now"
    way = "more" if now > then else "less"
    return f"{name} {way} by fewer than {min_cell}" if abs(now - then) < min_cell else f"{name} {way} (not shown)"


def _day(day: str) -> str:
    return "Without a day" if day == NO_DAY else day


def _sums(cells: Cells, day: str, metrics: Sequence[str] | None) -> str:
    own = cells.day.astype("datetime64[D]").astype(str) == day
    return cells.where(own, metrics).fingerprint if own.any() else ""
