"""The prior on an effect: what was believed before the data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Literal, cast, get_args

from expnb.errors import SpecError, check_choice
from expnb.spec.canonical import digest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PriorFamily = Literal["student_t", "normal", "flat", "learnt"]

LARGEST_LEARNT = 3.0
"""Above all scales that are learnt from past experiments."""

_LARGEST = 1.0  # a scale from here on is a number of percent
_ADVICE = {
    "scale": "Write 0.03 for effects of about 3 %.",
    "df": "Write 4 for the default.",
    "null_share": "Write 0.6 for 60 % without effect.",
}
_ROUNDING = 1e-4  # weights are written with a few digits
_USUAL_DF = 4.0  # its power is a square root and a product, five times as fast
_LEAST = 1e-300


@dataclass(frozen=True, slots=True)
class Prior:
    """Prior on ``log(1 + effect_rel)``, centred at no effect.

    Parameters
    ----------
    family : {"student_t", "normal", "flat", "learnt"}
        ``"flat"`` means each arm's own reference prior and none on the effect. ``"learnt"`` is what `learn_prior` makes of past experiments: exactly no effect with
        probability `null_share`, else a mixture of Student-t's.
    scale : float
        Scale of the family on the log scale; 0.03 means that effects of about 3 % are usual. Below 1. Of a learnt prior it follows from `scales`: their geometric mean.
    df : float
        Degrees of freedom of the Student-t; small values let a large true effect through.
    scales, weights : tuple of float
        Of a learnt prior: scales of the Student-t's and their weights, which add up to 1.
    null_share : float in [0, 1)
        Of a learnt prior: probability of exactly no effect.
    source : str
        Of a learnt prior: what it was learnt from.

    Raises
    ------
    SpecError
        If what should be a number is none, is out of range, or belongs to another family.
    """

    family: PriorFamily = "student_t"
    scale: float = 0.03
    df: float = 4.0
    scales: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    null_share: float = 0.0
    source: str = ""

    def __post_init__(self) -> None:
        check_choice("prior family", self.family, get_args(PriorFamily))
        self._check_types()
        _check_scale(self.scale, _LARGEST if self.family in {"student_t", "normal"} else math.inf)
        if not 0 < self.df < math.inf:
            raise SpecError(f"prior df is {self.df}; it must be above 0. {_ADVICE['df']}")
        if self.family == "learnt":
            self._check_mixture()
            typical = math.exp(sum(weight * math.log(scale) for scale, weight in self.parts) / sum(self.weights))
            object.__setattr__(self, "scale", float(f"{typical:.6g}"))
        elif self.scales or self.weights or self.null_share or self.source:
            raise SpecError(
                f"prior family is {self.family!r} with scales, weights, null_share or source, which only a learnt prior has. "
                'Remove them, or write family = "learnt".'
            )

    def _check_types(self) -> None:
        for name, advice in _ADVICE.items():
            if not _is_number(getattr(self, name)):
                raise SpecError(f"prior {name} is {getattr(self, name)!r}; it is a number. {advice}")
        for name in ("scales", "weights"):
            values = getattr(self, name)
            if not isinstance(values, tuple | list) or not all(map(_is_number, values)):
                raise SpecError(
                    f"prior {name} are {values!r}; they are a list of numbers. Copy them from `ws.prior()`."
                )

    def _check_mixture(self) -> None:
        if not self.scales or len(self.scales) != len(self.weights):
            raise SpecError(
                f"a learnt prior has as many scales as weights, and at least one; it has {len(self.scales)} and {len(self.weights)}. "
                "Leave [prior] out, and the workspace learns it; or copy both from `ws.prior()`."
            )
        for scale in self.scales:
            _check_scale(scale, LARGEST_LEARNT, " of a learnt prior")
        if not all(weight >= 0 for weight in self.weights) or not abs(sum(self.weights) - 1) <= _ROUNDING:
            raise SpecError(
                f"prior weights are {list(self.weights)}; they are shares that add up to 1. Copy them from `ws.prior()`."
            )
        if not 0 <= self.null_share < 1:
            raise SpecError(
                f"null_share is {self.null_share}; it is a probability from 0 to below 1. {_ADVICE['null_share']}"
            )

    @property
    def id(self) -> str:
        """Short text that names the prior in every output; equal priors have equal ones."""
        if self.family == "flat":
            return "flat"
        if self.family == "normal":
            return f"normal(0, {self.scale:g})"
        if self.family == "student_t":
            return f"student_t({self.df:g}, 0, {self.scale:g})"
        origin = self.source or "learnt"
        return f"{origin} ({100 * self.null_share:.0f} % no effect, else student_t({self.df:g}, 0, {self.scale:.2g}); {digest(self)[:8]})"

    @property
    def parts(self) -> tuple[tuple[float, float], ...]:
        """Scale and weight of every component beside the point at no effect; one, unless the prior is learnt. None of a flat prior."""
        if self.family == "learnt":
            return tuple(zip(self.scales, self.weights, strict=True))
        return () if self.family == "flat" else ((self.scale, 1.0),)

    @property
    def sd(self) -> float:
        """Prior standard deviation of the log ratio, the point at no effect included; ``inf`` of a flat prior.

        Of a Student-t with two degrees of freedom or fewer, which has none, its scale stands in.
        """
        if self.family == "flat":
            return math.inf
        widening = self.df / (self.df - 2) if self.family != "normal" and self.df > 2 else 1.0
        return math.sqrt((1 - self.null_share) * widening * sum(weight * scale**2 for scale, weight in self.parts))

    def log_density(self, lam: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Log density of the prior at log ratios, the point at no effect left out, up to a constant.

        Parameters
        ----------
        lam : ndarray, any shape
            ``log(1 + effect_rel)``.

        Returns
        -------
        ndarray, shape of `lam`
            Subtract `log_mass` for a density that integrates to 1; 0 of a flat prior.
        """
        import numpy as np  # noqa: PLC0415 - a specification is read without it

        if self.family == "flat":
            return np.zeros_like(lam)
        if self.family == "normal":
            return -0.5 * (lam / self.scale) ** 2
        if self.family == "student_t":
            return -0.5 * (self.df + 1.0) * np.log1p((lam / self.scale) ** 2 / self.df)
        log_density: npt.NDArray[np.float64] = np.log(np.maximum(self.density(lam), _LEAST))
        return log_density

    def density(self, lam: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """``exp(log_density)``, which of a Student-t or several needs no logarithm."""
        import numpy as np  # noqa: PLC0415

        if self.family in {"flat", "normal"}:
            return np.exp(self.log_density(lam))
        density = np.zeros_like(lam)
        for scale, weight in self.parts:
            stretch = 1.0 + (lam / scale) ** 2 / self.df
            fall = stretch * stretch * np.sqrt(stretch) if self.df == _USUAL_DF else stretch ** (0.5 * self.df + 0.5)
            density += weight * self.scale / scale / fall
        return density

    @property
    def log_mass(self) -> float:
        """Log of the integral of ``exp(log_density)``; 0 of a flat prior, which has none."""
        if self.family == "flat":
            return 0.0
        if self.family == "normal":
            return math.log(self.scale) + 0.5 * math.log(2 * math.pi)
        shape = math.lgamma(self.df / 2) - math.lgamma((self.df + 1) / 2) + 0.5 * math.log(self.df * math.pi)
        return math.log(self.scale) + shape + math.log(sum(weight for _, weight in self.parts))


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_scale(scale: float, largest: float, whose: str = "") -> None:
    if not 0 < scale < math.inf:
        raise SpecError(f"prior scale is {scale}; it must be above 0. {_ADVICE['scale']}")
    if scale >= largest:
        advice = f"Write {scale / 100:g} for {scale:g} %." if scale < 100 else _ADVICE["scale"]
        raise SpecError(
            f"prior scale is {scale}, which means effects of {100 * scale:g} %;{whose} it lies below {largest:g}. {advice}"
        )


FLAT = Prior(family="flat")
HARM_PRIOR = Prior(scale=0.08)
"""Under which harm is judged: wide enough not to hide a disaster, narrow enough not to take the noise of the first days for one (docs/operating_characteristics.md)."""


def as_prior(prior: Prior | str) -> Prior:
    """The prior itself, or the one of a family by its name: ``"flat"``.

    Raises
    ------
    SpecError
        If no family has that name, or it is something else.
    """
    if isinstance(prior, str):
        return Prior(family=cast("PriorFamily", prior))
    if not isinstance(prior, Prior):
        raise SpecError(
            f'prior is {prior!r}; it is an xb.Prior, or the name of a family. Write xb.Prior(scale=0.03), or "flat".'
        )
    return prior
