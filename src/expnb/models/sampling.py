"""How long to sample: an option of the PyMC engine only."""

from __future__ import annotations

from dataclasses import dataclass

from expnb.errors import PosteriorError


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
    PosteriorError
        If a number is too small.
    """

    draws: int = 1000
    tune: int = 1000
    chains: int = 4
    progress: bool = True

    def __post_init__(self) -> None:
        for name, least in (("draws", 4), ("tune", 1), ("chains", 2)):
            value = getattr(self, name)
            if value < least:
                raise PosteriorError(
                    f"sampling has {name} = {value}; it must be at least {least} for the diagnostics to exist. Leave it out for the default."
                )
