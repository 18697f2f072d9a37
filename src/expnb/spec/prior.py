"""The prior on an effect: what was believed before the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from expnb.errors import SpecError, check_choice

PriorFamily = Literal["student_t", "normal", "flat"]


@dataclass(frozen=True, slots=True)
class Prior:
    """Prior on ``log(1 + effect_rel)``, centred at no effect.

    Parameters
    ----------
    family : {"student_t", "normal", "flat"}
        ``"flat"`` means each arm's own reference prior and none on the effect.
    scale : float
        Scale of the family on the log scale; 0.03 means that effects of about 3 % are usual.
    df : float
        Degrees of freedom of the Student-t; small values let a large true effect through.
    """

    family: PriorFamily = "student_t"
    scale: float = 0.03
    df: float = 4.0

    def __post_init__(self) -> None:
        check_choice("prior family", self.family, get_args(PriorFamily))
        if self.scale <= 0:
            raise SpecError(f"prior scale is {self.scale}; it must be above 0. Write 0.03 for effects of about 3 %.")
        if self.df <= 0:
            raise SpecError(f"prior df is {self.df}; it must be above 0. Write 4 for the default.")

    @property
    def id(self) -> str:
        """Short text that names the prior in every output."""
        if self.family == "flat":
            return "flat"
        if self.family == "normal":
            return f"normal(0, {self.scale:g})"
        return f"student_t({self.df:g}, 0, {self.scale:g})"


FLAT = Prior(family="flat")
