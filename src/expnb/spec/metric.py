"""Metrics: what is measured, which direction is better, and how much harm is tolerated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from expnb.errors import SpecError, check_choice

MetricKind = Literal["conversion", "mean"]
Role = Literal["goal", "guardrail", "info"]
Direction = Literal["increase", "decrease"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric of an experiment.

    Parameters
    ----------
    name : str
        A catalogue name, or the name of a metric that is defined here.
    kind : {"conversion", "mean"}
        ``"conversion"`` is 0 or 1 per unit; ``"mean"`` any number.
    role : {"goal", "guardrail", "info"}
        The goal decides, guardrails can stop a ramp, info is only shown.
    direction : {"increase", "decrease"}
        What is better.
    column : str
        Column of the cohort; the metric's name when empty.
    rope, margin : float, optional
        Relative: smallest difference that matters, and harm that is tolerated; 0.005 is 0.5 %. A goal's margin defaults to its rope.
    rope_abs, margin_abs : float, optional
        The same in units of the metric, for metrics without a relative effect.
    unit : str
        Unit of the values, such as ``"USD"``; for display.
    owner, version, description : str
        Of the definition; from the catalogue.
    """

    name: str
    kind: MetricKind
    role: Role = "info"
    direction: Direction = "increase"
    column: str = ""
    rope: float | None = None
    rope_abs: float | None = None
    margin: float | None = None
    margin_abs: float | None = None
    unit: str = ""
    owner: str = ""
    version: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        for field, words in (("kind", MetricKind), ("role", Role), ("direction", Direction)):
            check_choice(f"metric {self.name!r}: {field}", getattr(self, field), get_args(words))
        self._check_distances()
        if not self.column:
            object.__setattr__(self, "column", self.name)
        if self.role == "goal":
            self._inherit_margin()
            if self.rope is None and self.rope_abs is None:
                raise SpecError(
                    f"goal {self.name!r} has no rope; say which difference matters. Write `rope = 0.005` for 0.5 %."
                )
        if self.role == "guardrail" and self.margin is None and self.margin_abs is None:
            raise SpecError(
                f"guardrail {self.name!r} has no margin; say which harm is tolerated. Write `margin = 0.01` for 1 %."
            )

    def _check_distances(self) -> None:
        distances = {"rope": self.rope, "margin": self.margin, "rope_abs": self.rope_abs, "margin_abs": self.margin_abs}
        for field, value in distances.items():
            if value is None:
                continue
            if not 0 <= value < float("inf"):
                raise SpecError(
                    f"metric {self.name!r}: {field} is {value}; it is a distance and cannot be negative. "
                    "Write 0.005 for 0.5 %."
                )
            if not field.endswith("_abs") and value >= 1:
                raise SpecError(
                    f"metric {self.name!r}: {field} is {value}, which means {value:.0%}; "
                    f"a relative {field} lies below 1. Write 0.005 for 0.5 %."
                )

    def _inherit_margin(self) -> None:
        """A goal that gets worse by more than what matters is harmed."""
        if self.margin is None:
            object.__setattr__(self, "margin", self.rope)
        if self.margin_abs is None:
            object.__setattr__(self, "margin_abs", self.rope_abs)
