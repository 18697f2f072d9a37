"""Layers: which percent of them each experiment holds, where two hold the same, and what is free."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from expnb.spec.experiment import Experiment

Slice = tuple[float, float]  # percent of a layer, from and to
Status = Literal["planned", "open", "over"]
WHOLE: Slice = (0.0, 100.0)
STEP = 0.01  # percent; a smaller slice would hold nobody, because layers are cut in 10,000 parts
COLUMNS = ("percent", "experiment", "flag", "status", "days")


@dataclass(frozen=True, slots=True)
class Claim:
    """What one experiment holds of a flag and of a layer, and for how long.

    Parameters
    ----------
    layer : str
        Empty for an experiment in none.
    slice : tuple of float
        Percent of the layer, from and to.
    first, last : date or None
        Its days; None where it has not said, or where its flag is still open after them.
    status : {"planned", "open", "over"}
        ``"open"`` while units are exposed through its flag; ``"over"`` once it shipped or concluded.
    """

    experiment: str
    flag: str
    layer: str = ""
    slice: Slice = WHOLE
    first: date | None = None
    last: date | None = None
    status: Status = "planned"

    def meets(self, other: Claim) -> bool:
        """Whether both run on some day, as far as is known."""
        if "over" in (self.status, other.status):
            return False
        begins, ends = (
            (self.first or date.min, other.first or date.min),
            (self.last or date.max, other.last or date.max),
        )
        return max(begins) <= min(ends)

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """Its row of a table."""
        days = f"{self.first or '…'} to {self.last or '…'}" if self.first or self.last else ""
        return (words(self.slice), self.experiment, self.flag, self.status, days)


def claim(experiment: Experiment, *, status: Status = "planned") -> Claim:
    """What an experiment holds; one whose flag is open holds it until the flag is closed, whatever its dates say."""
    last = None if status == "open" else experiment.end
    return Claim(experiment.name, experiment.flag, experiment.layer, experiment.slice, experiment.start, last, status)


def words(part: Slice) -> str:
    """A slice in words, such as ``"0 to 50 %"``."""
    return f"{part[0]:g} to {part[1]:g} %"


def common(first: Slice, second: Slice) -> Slice | None:
    """The percent that two slices share; None where they share nothing."""
    start, end = max(first[0], second[0]), min(first[1], second[1])
    return (start, end) if start < end else None


def free_slices(taken: Sequence[Slice]) -> list[Slice]:
    """The parts of a layer that no slice of `taken` covers, from the left; parts too small to hold anybody are left out."""
    free, reached = [], 0.0
    for start, end in sorted(taken):
        if start - reached >= STEP / 2:
            free.append((reached, start))
        reached = max(reached, end)
    if 100.0 - reached >= STEP / 2:
        free.append((reached, 100.0))
    return free


def suggested(free: Sequence[Slice], width: float) -> Slice | None:
    """The first free part that is wide enough, cut to the width; else the widest; None where nothing is free."""
    for start, end in free:
        if end - start >= width - STEP / 2:
            return start, min(end, round(start + width, 2))
    return max(free, key=lambda part: part[1] - part[0], default=None)


def collisions(own: Claim, others: Sequence[Claim]) -> Iterator[str]:
    """A sentence for every experiment that needs the flag, or units of the layer, on the days of `own`; with what is free instead."""
    met = [other for other in others if other.experiment != own.experiment and own.meets(other)]
    for other in met:
        if other.flag == own.flag:
            yield f"experiments {own.experiment!r} and {other.experiment!r} both move the flag {own.flag!r}; one experiment at a time moves a flag. Give {own.experiment!r} a flag of its own, or run it after the other."
    neighbours = [other for other in met if own.layer and other.layer == own.layer]
    for other in neighbours:
        both = common(own.slice, other.slice)
        if both is not None:
            yield f"experiments {own.experiment!r} ({words(own.slice)}) and {other.experiment!r} ({words(other.slice)}) share {both[1] - both[0]:g} % of layer {own.layer!r}, from {words(both)}, while both run; units there would be in both. {_instead(own, neighbours)}"


def _instead(own: Claim, neighbours: Sequence[Claim]) -> str:
    free = free_slices([other.slice for other in neighbours])
    found = suggested(free, own.slice[1] - own.slice[0])
    if found is None:
        return "Nothing of the layer is free: make a slice narrower, or wait until one of them is over."
    return f"Free is {' and '.join(map(words, free))}. Write slice = [{found[0]:g}, {found[1]:g}]."


@dataclass(frozen=True, slots=True, repr=False)
class LayerMap:
    """Who holds which percent of a layer.

    Parameters
    ----------
    layer : str
    claims : tuple of Claim
        Of all experiments of the layer, also those that are over.
    """

    layer: str
    claims: tuple[Claim, ...]

    @property
    def holders(self) -> tuple[Claim, ...]:
        """Experiments that are not over, from the left."""
        held = [claim for claim in self.claims if claim.status != "over"]
        return tuple(sorted(held, key=lambda claim: (*claim.slice, claim.experiment)))

    @property
    def free(self) -> tuple[Slice, ...]:
        """Parts that no experiment holds on any day."""
        return tuple(free_slices([claim.slice for claim in self.holders]))

    @property
    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """One row per experiment, in the order of slices, and one per free part."""
        held = [(claim.slice, claim.cells) for claim in self.holders]
        gaps = [(part, (words(part), "(free)", "", "", "")) for part in self.free]
        return [cells for _, cells in sorted([*held, *gaps])]

    def __str__(self) -> str:
        table = [COLUMNS, *self.rows]
        widths = [max(len(row[column]) for row in table) for column in range(len(COLUMNS))]
        lines = [
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in table
        ]
        return "\n".join([f"layer {self.layer}", *(f"  {line}" for line in lines)])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        def cells(tag: str, texts: Sequence[str]) -> str:
            return "".join(f"<{tag} style='text-align:left'>{html.escape(text)}</{tag}>" for text in texts)

        body = "".join(f"<tr>{cells('td', row)}</tr>" for row in self.rows)
        caption = f"<caption style='text-align:left;font-weight:bold;white-space:nowrap'>layer {html.escape(self.layer)}</caption>"
        return f"<table>{caption}<tr>{cells('th', COLUMNS)}</tr>{body}</table>"


def layer_maps(claims: Sequence[Claim]) -> list[LayerMap]:
    """One map per layer, by name."""
    names = sorted({claim.layer for claim in claims if claim.layer})
    return [LayerMap(name, tuple(claim for claim in claims if claim.layer == name)) for name in names]
