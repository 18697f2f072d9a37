"""What a log of exposures says about a flag, in words and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from typing import TYPE_CHECKING

from expnb.flags.generations import GENERATIONS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class DayCheck:
    """The exposures of one day.

    Parameters
    ----------
    day : date or None
        UTC; None for a log without times.
    exposures : int or None
        Rows of the log; None for fewer than may be shown, and then nothing else is said of the day.
    agree : mapping of str to float
        Share of them, 0 to 1, that got what the flag gives under each hash generation.
    fits : tuple of str
        The generation that explains the day, or the two that do together; empty for none.
    outside : int or None
        Exposures that the flag could not have made then; None for some, but fewer than may be shown.
    """

    day: date | None
    exposures: int | None
    agree: dict[str, float]
    fits: tuple[str, ...]
    outside: int | None


@dataclass(frozen=True, slots=True, repr=False)
class ExposureCheck:
    """What a log of exposures says about a flag; counts only, no unit is named.

    Parameters
    ----------
    generation : str
        Hash generation that the flag is made for.
    exposures : int
        Rows of the log with a variant.
    outside : int or None
        Exposures that the flag could not have made at their time; None for some, but fewer than `min_cell`.
    several : int or None
        Units that got more than one variant while the split was on; None as above.
    unknown : int or None
        Exposures to a variant that the flag does not have; None as above.
    min_cell : int
        Smaller counts are not shown.
    """

    flag: str
    generation: str
    days: tuple[DayCheck, ...]
    exposures: int
    outside: int | None
    several: int | None
    unknown: int | None
    min_cell: int

    @property
    def judged(self) -> tuple[DayCheck, ...]:
        """Days with enough exposures to be judged."""
        return tuple(day for day in self.days if day.exposures is not None)

    @property
    def changed_on(self) -> date | None:
        """First day that is explained otherwise than the days before it; None if there is none."""
        judged = self.judged
        return next((day.day for day in judged if day.fits != judged[0].fits), None)

    @property
    def ok(self) -> bool:
        """Whether enough was logged, and all of it is what the flag served."""
        fit = [day.fits == (self.generation,) for day in self.judged]
        return bool(fit) and all(fit) and self.outside == self.several == self.unknown == 0

    def sentences(self) -> Iterator[str]:
        """What was found, in words."""
        yield self._bucketing()
        if self.unknown != 0:
            yield f"{self._count(self.unknown)} exposures are to variants that the flag does not have."
        if self.outside == 0:
            yield "No exposure lies outside the gate."
        else:
            yield f"{self._count(self.outside)} exposures could not have come from this flag at their time: the unit was outside the gate, the audience or the layer, or the flag was off."
        if self.several != 0:
            yield f"{self._count(self.several)} units got more than one variant while the split was on."

    def _bucketing(self) -> str:
        judged = self.judged
        if not judged:
            return f"Too few exposures were logged to be judged; a day needs {self.min_cell}."
        first, last = judged[0], judged[-1]
        if self.changed_on:
            return f"Re-bucketed on {self.changed_on}: the exposures before it are those of {_generations(first.fits)}, the newest are those of {_generations(last.fits)}. The units of each arm are no longer the same: analyse the days before, or start again under a new flag."
        if first.fits == (self.generation,):
            return f"The exposures are those of hash generation {self.generation}, for which the flag is made."
        if first.fits:
            return f"The exposures are those of {_generations(first.fits)}, but the flag is made for generation {self.generation}. Install SDKs of that generation, and start again under a new flag."
        near = max(first.agree, key=lambda name: first.agree[name])
        return f"The exposures are those of no known hash generation; nearest is {near}, with {first.agree[near]:.1%} of them. Check that the log's units are the targeting keys, and that the flag is {self.flag!r}."

    def _count(self, count: int | None) -> str:
        return f"Fewer than {self.min_cell}" if count is None else f"{count:,}"

    def __str__(self) -> str:
        return f"{self.flag}: {self.exposures:,} logged exposures. {' '.join(self.sentences())}"

    def __repr__(self) -> str:
        return str(self)

    def table(self) -> pd.DataFrame:
        """A row for each day: exposures, share explained by each generation, what fits, exposures outside the gate."""
        import pandas as pd  # noqa: PLC0415 - only for the table

        rows = [
            {
                "day": day.day,
                "exposures": day.exposures,
                **{f"generation {name}": day.agree.get(name) for name in GENERATIONS},
                "fits": " and ".join(day.fits),
                "outside": day.outside if day.exposures is not None else None,
            }
            for day in self.days
        ]
        return pd.DataFrame(rows).astype({"exposures": "Int64", "outside": "Int64"})

    def _repr_html_(self) -> str:
        said = "".join(f"<li>{escape(sentence)}</li>" for sentence in self.sentences())
        title = f"<p>{escape(self.flag)}: {self.exposures:,} logged exposures</p>"
        return f"{title}<ul>{said}</ul>{self.table().to_html(index=False, na_rep='', float_format='{:.1%}'.format)}"


def _generations(names: Sequence[str]) -> str:
    if not names:
        return "no known hash generation"
    return f"hash generation{'s' if len(names) > 1 else ''} {' and '.join(names)}"
