"""How long to sample: an option of the PyMC engine only."""

from __future__ import annotations

from dataclasses import dataclass, fields
from numbers import Integral

from expnb.errors import PosteriorError, SpecError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Length of a run.

    Parameters
    ----------
    draws, tune : int
        Kept and thrown away, per chain.
    chains : int
        At least 2: r-hat compares chains.
    progress : bool
        Show a bar while a model is compiled, and when sampling takes longer than two seconds; never in static mode (``EXPNB_STATIC=1``).

    Raises
    ------
    SpecError
        If a number is not whole.
    PosteriorError
        If it is too small.
    """

    draws: int = 1000
    tune: int = 1000
    chains: int = 4
    progress: bool = True

    def __post_init__(self) -> None:
        defaults = {field.name: field.default for field in fields(self)}
        for name, least in (("draws", 4), ("tune", 1), ("chains", 2)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise SpecError(
                    f"sampling has {name} = {value!r}; it is a whole number. Write {name}={defaults[name]}, or leave it out for the default."
                )
            if value < least:
                raise PosteriorError(
                    f"sampling has {name} = {value}; it must be at least {least} for the diagnostics to exist. Leave it out for the default."
                )
