"""Flags as values: which flag, what it serves to whom, and which state was read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from expnb.errors import PercentError, SpecError

UNIT: Final = "targetingKey"  # the attribute that names a unit itself, as OpenFeature calls it


@dataclass(frozen=True, slots=True)
class FlagRef:
    """One flag in one environment."""

    flag: str
    environment: str

    def __str__(self) -> str:
        return f"{self.flag} in {self.environment}"


@dataclass(frozen=True, slots=True)
class Eligibility:
    """Who can be exposed at all: everybody, unless it is narrowed. Fixed while a flag lives.

    Parameters
    ----------
    audience : mapping of str to tuple of str
        Attribute of a unit and the values that are let in, such as ``{"country": ("DE", "AT")}``; all named attributes must match. `UNIT` names units themselves: an allow-list.
    layer : str
        Experiments of one layer never share a unit; empty for an experiment in none.
    slice : tuple of float
        The percent of the layer, from and to, that belong to this experiment.
    holdout : float
        Percent of all units that are kept out of every experiment; the same units for every flag.

    Raises
    ------
    PercentError
        If a percentage is not between 0 and 100.
    SpecError
        If the slice is empty or has no layer, or an attribute lets nobody in.
    """

    audience: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    layer: str = ""
    slice: tuple[float, float] = (0.0, 100.0)
    holdout: float = 0.0

    def __post_init__(self) -> None:
        # The same eligibility has the same text, in whatever order it was written.
        audience = {name: tuple(sorted(set(self.audience[name]))) for name in sorted(self.audience)}
        object.__setattr__(self, "audience", audience)
        start, end = (float(edge) for edge in self.slice)
        object.__setattr__(self, "slice", (start, end))
        object.__setattr__(self, "holdout", float(self.holdout))
        check_percent(self.holdout, "holdout")
        for edge in (start, end):
            check_percent(edge, "slice")
        if start >= end:
            raise SpecError(
                f"the slice is {start:g} to {end:g} % of layer {self.layer!r}; it ends above its start. Write [0, 50] for the lower half."
            )
        if not self.layer and (start, end) != (0.0, 100.0):
            raise SpecError(f"a slice of {start:g} to {end:g} % names no layer. Add `layer`, or leave `slice` out.")
        for name, values in audience.items():
            if not name or not values or "" in values:
                raise SpecError(
                    f'the audience lets in {list(values)} of the attribute {name!r}; an attribute has a name, and values that are not empty. Write audience = {{ country = ["DE"] }}.'
                )

    def admits(self, attributes: Mapping[str, str]) -> bool:
        """Whether the audience lets a unit with these attributes in."""
        return all(attributes.get(name, "") in values for name, values in self.audience.items())

    @property
    def needs(self) -> tuple[str, ...]:
        """What a backend has to be able to do for it: of ``"audience"``, ``"layer"`` and ``"holdout"``."""
        asked = {"audience": self.audience, "layer": self.layer, "holdout": self.holdout}
        return tuple(name for name, value in asked.items() if value)

    def __str__(self) -> str:
        # Ids of units never stand in an output.
        parts = [
            f"{len(values)} named units" if name == UNIT else f"{name} {' or '.join(values)}"
            for name, values in self.audience.items()
        ]
        if self.layer:
            parts.append(f"{self.slice[0]:g} to {self.slice[1]:g} % of layer {self.layer}")
        if self.holdout:
            parts.append(f"without the holdout of {self.holdout:g} %")
        return ", ".join(parts) or "everybody"


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
    eligibility : Eligibility
        Who can be exposed at all; the percentages are of these. Everybody by default.

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
    eligibility: Eligibility = field(default_factory=Eligibility)

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

    def treats_more_than(self, other: Exposure) -> bool:
        """Whether any treatment reaches more of the eligible units than under another exposure."""
        there = other.shares()
        return any(share > there.get(name, 0.0) + 1e-9 for name, share in self.shares().items() if name != self.control)

    def closed(self) -> Exposure:
        """The same with nobody exposed, neither through the gate nor by a shipped variant."""
        return replace(self, enrolled=0.0, serve="", holdback=0.0)

    @property
    def arms(self) -> tuple[str, ...]:
        """Variants that were not dropped, in the order of the weights."""
        return tuple(name for name in self.weights if name not in self.dropped)

    @property
    def treated(self) -> float:
        """Percent of eligible units that get a treatment."""
        return 100 * sum(share for name, share in self.shares().items() if name != self.control)

    def __str__(self) -> str:
        among = f" (among {self.eligibility})" if self.eligibility.needs else ""
        if self.serve:
            kept = f", {self.holdback:g} % held back on {self.control}" if self.holdback else ""
            return f"serves {self.serve} to everybody{among}{kept}"
        out = f", without {', '.join(self.dropped)}" if self.dropped else ""
        return f"enrolled {self.enrolled:g} %{among}, treated {self.treated:.4g} %{out}"


@dataclass(frozen=True, slots=True)
class FlagSpec:
    """A flag to be created, at 0 percent."""

    ref: FlagRef
    weights: Mapping[str, float]
    control: str
    eligibility: Eligibility = field(default_factory=Eligibility)

    @property
    def exposure(self) -> Exposure:
        """What the new flag serves: nobody is enrolled."""
        return Exposure(self.weights, self.control, eligibility=self.eligibility)


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
    bucketing : str
        How units are put into buckets: hash, salts, stickiness. It must never change while a flag is open: other people would be exposed.
    plan_id : str
        Id of the plan that was pushed last, as the flag itself says; empty where it says none.
    """

    ref: FlagRef
    exposure: Exposure
    version: str
    enabled: bool
    changed_at: datetime
    bucketing: str = ""
    plan_id: str = ""


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
