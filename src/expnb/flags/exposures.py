"""Logged exposures against what the flag could have served: re-bucketing in the middle of an experiment, and leakage.

A service that updates its SDK may put every unit into another bucket; each arm keeps its size, so a sample ratio check sees nothing.
Recomputing who should have got what, under each hash generation and day by day, does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import combinations
from typing import TYPE_CHECKING, Final

import numpy as np

from expnb.errors import SpecError
from expnb.flags.bucketing import GENERATION
from expnb.flags.exposure_check import DayCheck, ExposureCheck
from expnb.flags.exposure_log import DAY, ExposureLog, microseconds, read_log
from expnb.flags.generations import GENERATIONS, generation_named
from expnb.flags.vectorised import assigned
from expnb.spec.flag import UNIT, Eligibility, Exposure, FlagState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.bool_]

TOLERANCE: Final = 0.01  # share of a day's exposures that a hash generation may leave unexplained
_ALWAYS: Final = 2**62  # microseconds


@dataclass(frozen=True, slots=True)
class _Period:
    """What a flag served from one moment to another, in microseconds; services may lag behind."""

    start: int
    end: int
    exposure: Exposure

    def rows(self, log: ExposureLog, *, also_before: bool = False) -> NDArray[np.intp]:
        if log.times is None:
            return np.arange(len(log))
        start = -_ALWAYS if also_before else self.start
        return np.flatnonzero((log.times >= start) & (log.times < self.end))


def check_exposures(  # noqa: PLR0913 - the columns of a log are named by keyword
    flag: str,
    served: Exposure | Sequence[FlagState],
    frame: object,
    *,
    unit: str = "unit",
    variant: str = "variant",
    time: str = "",
    generation: str = GENERATION,
    lag_seconds: float = 60.0,
    min_cell: int = 20,
) -> ExposureCheck:
    """What a log of exposures says about re-bucketing and leakage.

    Parameters
    ----------
    served : Exposure or sequence of FlagState
        What the flag served all the time; or each state that it was put into, such as ``[receipt.after for receipt in receipts]``, which hold from their `changed_at` on.
    frame : table
        Of pandas, Polars or Arrow, or a mapping of columns; a row for each exposure, with the column of each attribute that the flag's audience names. Rows whose variant is empty or ``"off"`` are left out.
    time : str, optional
        Column with the time of exposure, UTC where it names no zone. When left out, an exposure is in order if the flag could have made it at some time.
    lag_seconds : float, optional
        How long after a change a service may still serve what was before it.
    min_cell : int, optional
        Smaller counts are not shown, and smaller days not judged.

    Raises
    ------
    SpecError
        If `served` is empty.
    ColumnNotFoundError, SourceError, UnitError, CohortError
        If the log cannot be read.
    """
    generation_named(generation)
    periods = _periods(served, round(lag_seconds * 1e6))
    names = sorted({name for period in periods for name in period.exposure.eligibility.audience} - {UNIT})
    log = read_log(frame, unit, variant, time, names)
    known = {name: place for place, name in enumerate(periods[-1].exposure.weights)}
    logged = np.fromiter((known.get(name, -1) for name in log.variants), dtype=np.intp, count=len(log))
    agree = {name: _agreeing(flag, periods, log, logged, known, name) for name in GENERATIONS}
    could = {name: _possible(flag, periods, log, name) for name in GENERATIONS}
    days = _days(log, agree, could, generation, min_cell)
    return ExposureCheck(
        flag,
        generation,
        tuple(day for day, _ in days),
        len(log),
        _shown(sum(outside for _, outside in days), min_cell),
        _shown(_several(log, logged, periods), min_cell),
        _shown(int((logged < 0).sum()), min_cell),
        min_cell,
    )


def _periods(served: Exposure | Sequence[FlagState], lag: int) -> list[_Period]:
    if isinstance(served, Exposure):
        return [_Period(-_ALWAYS, _ALWAYS, served)]
    states = sorted(served, key=lambda state: state.changed_at)
    if not states:
        raise SpecError(
            "no state of the flag is given; exposures are checked against what it served. Give its exposure, or the states of its receipts."
        )
    starts = [microseconds(state.changed_at) for state in states]
    ends = [*(start + lag for start in starts[1:]), _ALWAYS]
    return [
        _Period(start, end, state.exposure if state.enabled else state.exposure.closed())
        for start, end, state in zip(starts, ends, states, strict=True)
    ]


def _agreeing(
    flag: str,
    periods: Sequence[_Period],
    log: ExposureLog,
    logged: NDArray[np.intp],
    known: dict[str, int],
    generation: str,
) -> Rows:
    """Whether each unit got the variant of its hash, whoever was let in; a split of one arm has no other."""
    agree = np.zeros(len(log), dtype=bool)
    for place, period in enumerate(periods):
        rows = period.rows(log, also_before=not place)
        exposure = period.exposure
        opened = exposure.enrolled if len(exposure.weights) == 1 else 100.0
        whole = replace(exposure, enrolled=opened, dropped=(), eligibility=Eligibility())
        names, codes = assigned(flag, whole, log.part(rows)[0], generation=generation)
        agree[rows] |= np.array([known.get(name, -2) for name in names])[codes] == logged[rows]
    return agree


def _possible(flag: str, periods: Sequence[_Period], log: ExposureLog, generation: str) -> Rows:
    """Whether the flag could have exposed each unit at its time."""
    could = np.zeros(len(log), dtype=bool)
    for period in periods:
        rows = period.rows(log)
        units, attributes = log.part(rows)
        names, codes = assigned(flag, period.exposure, units, attributes, generation=generation)
        could[rows] |= np.array([name in period.exposure.weights for name in names])[codes]
    return could


def _days(
    log: ExposureLog, agree: dict[str, Rows], could: dict[str, Rows], generation: str, min_cell: int
) -> list[tuple[DayCheck, int]]:
    """Each day, and how many of its exposures lie outside."""
    numbers = np.zeros(len(log), dtype=np.int64) if log.times is None else log.times // DAY
    named = np.fromiter(map(bool, log.units), dtype=bool, count=len(log))
    found = []
    for number in np.unique(numbers):
        rows = numbers == number
        on = None if log.times is None else date(1970, 1, 1) + timedelta(days=int(number))
        count = int(rows.sum())
        hashed = rows & named
        fits = _fitting({name: hits[hashed] for name, hits in agree.items()}, generation)
        explained = np.logical_or.reduce([could[name][rows] for name in fits or (generation,)])
        outside = int((~explained).sum())
        if count < min_cell:
            found.append((DayCheck(on, None, {}, (), None), outside))
            continue
        shares = {name: float(hits[hashed].mean()) if hashed.any() else 0.0 for name, hits in agree.items()}
        found.append((DayCheck(on, count, shares, fits, _shown(outside, min_cell)), outside))
    return found


def _fitting(agree: dict[str, Rows], generation: str) -> tuple[str, ...]:
    """The generation that explains the exposures; or the two that do together, as while services are updated one by one."""
    if not len(agree[generation]):
        return ()
    enough = 1 - TOLERANCE
    names = sorted(agree, key=lambda name: (name != generation, name))
    for name in names:
        if agree[name].mean() >= enough:
            return (name,)
    pairs = sorted(combinations(names, 2), key=lambda pair: -(agree[pair[0]] | agree[pair[1]]).mean())
    one, other = pairs[0]
    return tuple(sorted(pairs[0])) if (agree[one] | agree[other]).mean() >= enough else ()


def _several(log: ExposureLog, logged: NDArray[np.intp], periods: Sequence[_Period]) -> int:
    """Units with more than one variant, of rows at whose time the split was on."""
    split = np.ones(len(log), dtype=bool)
    for period in periods:
        if period.exposure.serve:
            split[period.rows(log)] = False
    pairs = {(log.units[row], int(logged[row])) for row in np.flatnonzero(split) if log.units[row]}
    return sum(count > 1 for count in Counter(unit for unit, _ in pairs).values())


def _shown(count: int, min_cell: int) -> int | None:
    return count if count == 0 or count >= min_cell else None
