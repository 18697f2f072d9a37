"""One measured figure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its unit and what it was compared with in the same run."""

    name: str
    value: float
    unit: str
    compared_with: str
    kept: bool = True  # a quick run is printed and not written
