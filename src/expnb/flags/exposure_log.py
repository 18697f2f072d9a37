"""A log of exposures as columns: who got what, and when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from expnb.errors import CohortError, ColumnNotFoundError, SourceError, UnitError
from expnb.flags.base import OFF

if TYPE_CHECKING:
    from numpy.typing import NDArray

DAY: Final = 86_400_000_000  # in microseconds
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, eq=False)
class ExposureLog:
    """Rows of a log in which a unit was given a variant; rows outside the gate are left out.

    Parameters
    ----------
    units, variants : list of str
        A unit is empty where the log names none.
    times : ndarray of int or None
        Microseconds since 1970, UTC; None for a log without times.
    attributes : mapping of str to list of str
        Empty where the log has no value.
    """

    units: list[str]
    variants: list[str]
    times: NDArray[np.int64] | None
    attributes: Mapping[str, list[str]]

    def __len__(self) -> int:
        return len(self.units)

    def part(self, places: NDArray[np.intp]) -> tuple[list[str], dict[str, list[str]]]:
        """Units and attributes of some of the rows."""
        chosen = places.tolist()
        attributes = {name: [values[place] for place in chosen] for name, values in self.attributes.items()}
        return [self.units[place] for place in chosen], attributes


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970, UTC."""
    gap = moment - _EPOCH
    return (gap.days * 86_400 + gap.seconds) * 1_000_000 + gap.microseconds


def read_log(frame: object, unit: str, variant: str, time: str, attributes: Iterable[str]) -> ExposureLog:
    """The exposures in a table.

    Raises
    ------
    SourceError
        If columns cannot be taken from `frame` by name.
    ColumnNotFoundError
        If it lacks one.
    UnitError
        If a unit is neither text nor a whole number.
    CohortError
        If the table holds no exposure, or a row of it no time.
    """
    variants = [_text(value) for value in _column(frame, variant)]
    kept = [place for place, value in enumerate(variants) if value not in ("", OFF)]
    if not kept:
        raise CohortError(
            f"column {variant!r} of the log names no variant in any of its {len(variants):,} rows; a log of exposures has one in each. Check the name of the column, or the filter."
        )
    units = _column(frame, unit)
    columns = {name: _column(frame, name) for name in attributes}
    return ExposureLog(
        [_unit(units[place]) for place in kept],
        [variants[place] for place in kept],
        _times(time, _column(frame, time), kept) if time else None,
        {name: [_text(values[place]) for place in kept] for name, values in columns.items()},
    )


def _column(frame: object, name: str) -> Sequence[object]:
    table = cast("Mapping[str, object]", frame)
    names = [str(found) for found in getattr(frame, "column_names", getattr(frame, "columns", table))]
    if name not in names:
        raise ColumnNotFoundError(name, names)
    column = table[name]
    for way in ("to_pylist", "to_list", "tolist"):
        if hasattr(column, way):
            return list(getattr(column, way)())
    if isinstance(column, str) or not isinstance(column, Iterable):
        raise SourceError(
            f"column {name!r} of the log is {type(column).__name__}, not a column of values. Pass a table with a row for each exposure."
        )
    return list(column)


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value)  # noqa: PLR0124 - NaN, whoever's it is


def _unit(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(value)
    if value is None or value != value:  # noqa: PLR0124 - NaN, whoever's it is
        return ""
    raise UnitError(
        f"a unit in the log is of type {type(value).__name__}; SDKs hash text. Write it as the text that the service sends."
    )


def _times(name: str, values: Sequence[object], kept: Sequence[int]) -> NDArray[np.int64]:
    import pandas as pd  # noqa: PLC0415 - it reads times in every form that logs have

    try:
        times = pd.DatetimeIndex(pd.to_datetime(np.array([values[place] for place in kept], dtype=object), utc=True))
    except (ValueError, TypeError) as error:
        raise CohortError(
            f"column {name!r} of the log holds no times ({error}). Name the column with the time of exposure."
        ) from error
    missing = int(np.count_nonzero(times.isna()))
    if missing:
        raise CohortError(
            f"{missing:,} exposures in the log have no time in {name!r}. Leave them out, or check without times."
        )
    return np.asarray(times.as_unit("us").asi8, dtype=np.int64)
