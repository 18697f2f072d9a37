"""Flags as values: which flag, what it serves to whom, and which state was read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from expnb.errors import PercentError, SpecError


@dataclass(frozen=True, slots=True)
class FlagRef:
    """One flag in one environment."""

    flag: str
    environment: str

    def __str__(self) -> str:
        return f"{self.flag} in {self.environment}"


@dataclass(frozen=True, slots=True)
class Exposure:
    """What a flag serves, and to which share of the eligible units.

    Parameters
    ----------
    weights : mapping of str to float
        Relative weight of each variant inside the gate; fixed during a ramp.
    control : str
        The variant that means "nothing new".
    enrolled : float
        Percent of eligible units inside the gate, 0 to 100.
    serve : str
        The variant that everybody gets after it was shipped; empty while the split is on.
    holdback : float
        Percent of eligible units that stay on control after shipping, 0 to 100.
    dropped : tuple of str
        Treatments that were taken out: their units are served nothing new, as those outside the gate, and everybody else keeps the variant.

    Raises
    ------
    PercentError
        If a percentage is not between 0 and 100.
    SpecError
        If a weight is no number from 0 on, all are 0, a named variant has none, or control or all treatments are dropped.
    """

    weights: Mapping[str, float]
    control: str
    enrolled: float = 0.0
    serve: str = ""
    holdback: float = 0.0
    dropped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # The same plan has the same id, whether it was written with 50 or read back as 50.0.
        for name in ("enrolled", "holdback"):
            object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "weights", {name: float(weight) for name, weight in self.weights.items()})
        object.__setattr__(self, "dropped", tuple(sorted(set(self.dropped))))
        check_percent(self.enrolled)
        check_percent(self.holdback, "holdback")
        check_weights(self.weights)
        for name in (self.control, self.serve or self.control, *self.dropped):
            if name not in self.weights:
                raise SpecError(
                    f"variant {name!r} has no weight; the weights name {list(self.weights)}. Add it to `weights`."
                )
        if self.dropped and (
            {self.control, self.serve} & set(self.dropped) or len(self.dropped) == len(self.weights) - 1
        ):
            raise SpecError(
                f"dropped is {list(self.dropped)} of {list(self.weights)} with control {self.control!r}{f' and {self.serve!r} served' if self.serve else ''}; at least one treatment stays, and what is served. Close the gate instead: enrolled = 0."
            )

    def shares(self) -> dict[str, float]:
        """Share of eligible units that get each variant, 0 to 1; the rest is outside the gate."""
        if self.serve:
            held = self.holdback / 100 if self.serve != self.control else 0.0
            served = {self.control: held} | {self.serve: 1 - held}
            return {name: served.get(name, 0.0) for name in self.weights}
        total = sum(self.weights.values())
        return {
            name: 0.0 if name in self.dropped else self.enrolled / 100 * weight / total
            for name, weight in self.weights.items()
        }

    @property
    def arms(self) -> tuple[str, ...]:
        """Variants that were not dropped, in the order of the weights."""
        return tuple(name for name in self.weights if name not in self.dropped)

    @property
    def treated(self) -> float:
        """Percent of eligible units that get a treatment."""
        return 100 * sum(share for name, share in self.shares().items() if name != self.control)

    def __str__(self) -> str:
        if self.serve:
            kept = f", {self.holdback:g} % held back on {self.control}" if self.holdback else ""
            return f"serves {self.serve} to everybody{kept}"
        out = f", without {', '.join(self.dropped)}" if self.dropped else ""
        return f"enrolled {self.enrolled:g} %, treated {self.treated:.4g} %{out}"


@dataclass(frozen=True, slots=True)
class FlagSpec:
    """A flag to be created, at 0 percent."""

    ref: FlagRef
    weights: Mapping[str, float]
    control: str


@dataclass(frozen=True, slots=True)
class FlagState:
    """A flag as it was read from its backend.

    Parameters
    ----------
    version : str
        Changes with every change of the flag, whoever makes it.
    enabled : bool
        False after a kill: callers get the default in their code.
    changed_at : datetime
        When the flag was last written by expnb, UTC.
    """

    ref: FlagRef
    exposure: Exposure
    version: str
    enabled: bool
    changed_at: datetime


def check_percent(percent: float, what: str = "enrolled") -> None:
    """Raise `PercentError` unless `percent` is a number from 0 to 100."""
    if not (math.isfinite(percent) and 0 <= percent <= 100):
        raise PercentError(
            percent, "a percentage lies between 0 and 100. Write 25 for a quarter of the eligible units.", what
        )


def check_weights(weights: Mapping[str, float]) -> None:
    """Raise `SpecError` unless the weights are numbers from 0 on, at least one of them above 0."""
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise SpecError(
                f"variant {name!r} has the weight {weight:g}; a weight is a number from 0 on. Write 50 and 50 for equal arms."
            )
    if not any(weights.values()):
        raise SpecError(
            f"the weights {dict(weights)} give nobody a variant; at least one weight is above 0. Write 50 and 50 for equal arms."
        )
